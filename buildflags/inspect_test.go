package buildflags

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

func TestGoVersionsThatDelveKnows(t *testing.T) {
	tests := []struct {
		version string
		want    string // ID of the problem
	}{
		{"go1.24.9", ProblemGoTooOld},
		{"go1.25", ""},
		{"go1.25rc1", ""},
		{"go1.26.8", ""},
		{"go1.27.1 X:nodwarf5", ""},
		{"go1.28rc1", ProblemGoTooNew},
		{"devel go1.29-abcdef", ""},
		{"", ""},
	}
	for _, tt := range tests {
		t.Run(tt.version, func(t *testing.T) {
			p, ok := checkGoVersion(tt.version)
			if p.ID != tt.want || ok != (tt.want == "") {
				t.Errorf("checkGoVersion(%q) = %+v, %t, want ID %q", tt.version, p, ok, tt.want)
			}
		})
	}
}

func TestInspectFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	dir := module(t, map[string]string{"main.go": hello})
	build := func(t *testing.T, flags ...string) string {
		name := filepath.Join(t.TempDir(), "app")
		cmd := exec.Command("go", slices.Concat([]string{"build", "-o", name}, flags, []string{"."})...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
		}
		return name
	}
	tests := []struct {
		name       string
		flags      []string
		problem    string // ID, or ""
		optimized  string // one of the packages, or ""
		compressed bool
	}{
		{"release", nil, ProblemOptimized, "main", true},
		{"stripped", []string{"-ldflags=-s -w"}, ProblemStripped, "", false},
		{"without DWARF", []string{"-ldflags=-w", "-gcflags=all=-N -l"}, ProblemStripped, "", false},
		{"inlined", []string{"-gcflags=all=-N"}, ProblemOptimized, "main", true},
		{"good, compressed", []string{"-gcflags=all=-N -l"}, "", "", true},
		{"good, as PIE", []string{"-gcflags=all=-N -l", "-buildmode=pie", "-trimpath"}, "", "", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			i, err := Inspect(build(t, tt.flags...))
			if err != nil {
				t.Fatal(err)
			}
			var ids string
			for _, p := range i.Problems {
				ids += p.ID
			}
			if ids != tt.problem || i.Debuggable != (tt.problem == "") {
				t.Errorf("problems are %+v, debuggable %t, want %q", i.Problems, i.Debuggable, tt.problem)
			}
			if tt.optimized != "" && !slices.Contains(i.Optimized, tt.optimized) || tt.optimized == "" && len(i.Optimized) > 0 {
				t.Errorf("optimised are %q, want %q", i.Optimized, tt.optimized)
			}
			if i.CompressedDWARF != tt.compressed {
				t.Errorf("compressed DWARF is %t, want %t", i.CompressedDWARF, tt.compressed)
			}
			if i.GoVersion != runtime.Version() || i.Package != "example.com/app" || i.Settings["GOOS"] != "linux" || i.BuildID == "" ||
				i.Platform != (Platform{"linux", runtime.GOARCH}) {
				t.Errorf("info is %+v, want what the build was made with", i)
			}
		})
	}
}

func TestInspectOfOtherFiles(t *testing.T) {
	le := binary.LittleEndian
	macho := le.AppendUint32(nil, 0xfeedfacf)
	for _, v := range []uint32{0x100000c, 0, 2, 0, 0, 0, 0} { // arm64, executable, no commands
		macho = le.AppendUint32(macho, v)
	}
	pe := make([]byte, 512)
	copy(pe, "MZ")
	le.PutUint32(pe[0x3c:], 0x40)
	copy(pe[0x40:], "PE\x00\x00")
	le.PutUint16(pe[0x44:], 0x8664)
	other := tinyELF(section{name: ".text"})
	object := slices.Clone(other)
	object[16] = 1 // ET_REL
	tests := []struct {
		name     string
		data     []byte
		platform Platform
		ids      []string
		err      string
	}{
		{"script", []byte("#!/bin/sh\n"), Platform{}, nil, "not an executable"},
		{"empty", nil, Platform{}, nil, "not an executable"},
		{"object file", object, Platform{}, nil, "no executable"},
		{"damaged", other[:40], Platform{}, nil, "damaged executable"},
		{"another language's", other, Platform{"linux", "amd64"}, []string{ProblemNotGo}, ""},
		{"macOS", macho, Platform{"darwin", "arm64"}, []string{ProblemNotGo, ProblemFormat}, ""},
		{"Windows", pe, Platform{"windows", "amd64"}, []string{ProblemNotGo, ProblemFormat}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "file")
			writeFile(t, name, string(tt.data))
			i, err := Inspect(name)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) || !strings.Contains(err.Error(), name) {
					t.Errorf("got %+v, %v, want an error with %q and the name", i, err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var ids []string
			for _, p := range i.Problems {
				ids = append(ids, p.ID)
			}
			if !slices.Equal(ids, tt.ids) || i.Platform != tt.platform || i.Debuggable {
				t.Errorf("got %+v, want problems %q, platform %s", i, tt.ids, tt.platform)
			}
		})
	}
	if _, err := Inspect(t.TempDir()); err == nil || !strings.Contains(err.Error(), "is not a file") {
		t.Errorf("of a directory: %v, want an error", err)
	}
	if _, err := Inspect(filepath.Join(t.TempDir(), "nope")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of nothing: %v, want os.ErrNotExist", err)
	}
}

func TestCheckNamesTheWrongPlatform(t *testing.T) {
	i := &Info{File: "/b", Format: "ELF", Platform: Platform{"linux", "amd64"}}
	err := i.check(Platform{"linux", "arm64"})
	var be *BinaryError
	if !errors.As(err, &be) || be.Problems[0].ID != ProblemPlatform || !strings.Contains(be.Error(), "it is for linux/amd64, not for linux/arm64") {
		t.Errorf("got %v, want a BinaryError that names both", err)
	}
}

func TestPlatformText(t *testing.T) {
	for _, s := range []string{"linux", "linux/", "/amd64", "linux/arm64/v8", "Linux/amd64", " linux/amd64"} {
		if p, err := ParsePlatform(s); err == nil {
			t.Errorf("ParsePlatform(%q) = %v, want an error", s, p)
		}
	}
	p, err := ParsePlatform("linux/amd64")
	if err != nil || p.String() != "linux/amd64" {
		t.Errorf("got %v, %v, want linux/amd64", p, err)
	}
}

func TestProducerFlags(t *testing.T) {
	unit := func(name, producer string) section {
		return section{name: ".debug_info", data: compileUnit(0x16, name, producer)}
	}
	good := unit("main", "Go cmd/compile go1.26.1; -N -l regabi")
	tests := []struct {
		name      string
		units     []section
		optimized []string
		problem   string
	}{
		{"good", []section{good}, nil, ""},
		{"optimised", []section{good, unit("fmt", "Go cmd/compile go1.26.1; regabi")}, []string{"fmt"}, ProblemOptimized},
		{"one of a package's units", []section{good, unit("fmt", "Go cmd/compile go1.26.1; -N -l regabi"), unit("fmt", "Go cmd/compile go1.26.1; -l regabi")}, []string{"fmt"}, ProblemOptimized},
		{"runtime", []section{good, unit("runtime", "Go cmd/compile go1.26.1; -l regabi"), unit("internal/abi", "Go cmd/compile go1.26.1; -l regabi")}, nil, ""},
		{"C", []section{good, {name: ".debug_info", data: compileUnit(0xc, "x.c", "GNU C17 -O2")}}, nil, ""},
		{"only C", []section{{name: ".debug_info", data: compileUnit(0xc, "x.c", "GNU C17 -O2")}}, nil, ProblemDamaged},
		{"assembly", []section{good, unit("asm", "Go cmd/compile go1.26.1")}, nil, ""},
		{"long name", []section{good, unit(strings.Repeat("x", 3*maxHead), "Go cmd/compile go1.26.1; regabi"), unit("fmt", "Go cmd/compile go1.26.1; regabi")}, []string{"fmt"}, ProblemOptimized},
		{"cut", []section{good, {name: ".debug_info", data: good.data[:20]}}, nil, ProblemDamaged},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := goELF(tt.units...)
			i, err := inspect(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			var ids string
			for _, p := range i.Problems {
				ids += p.ID
			}
			if ids != tt.problem || !slices.Equal(i.Optimized, tt.optimized) {
				t.Errorf("optimised are %q, problems %+v, want %q, %s", i.Optimized, i.Problems, tt.optimized, tt.problem)
			}
		})
	}
}

func TestDamagedFilesAreNoPanic(t *testing.T) {
	whole := goELF(section{name: ".debug_info", data: compileUnit(0x16, "main", "Go cmd/compile go1.26.1; -N -l regabi")})
	try := func(what string, at int, b []byte) {
		i, err := inspect(bytes.NewReader(b), int64(len(b)))
		if (i == nil) == (err == nil) {
			t.Errorf("%s at %d: got %+v and %v, want one of the two", what, at, i, err)
		}
	}
	for at := range whole {
		try("cut", at, whole[:at])
		for _, v := range []byte{0, 1, 0x7f, 0x80, 0xff} {
			b := slices.Clone(whole)
			b[at] = v
			try("changed", at, b)
		}
	}
}

// FuzzInspect looks for panics and for memory out of proportion.
func FuzzInspect(f *testing.F) {
	f.Add(tinyELF(section{name: ".text", data: []byte{1}}))
	f.Add(goELF(section{name: ".debug_info", data: compileUnit(0x16, "main", "Go cmd/compile go1.26.1; -N -l regabi")}))
	f.Add(goELF(section{name: ".debug_info", data: []byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0x80, 5, 0, 1, 8}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		i, err := inspect(bytes.NewReader(b), int64(len(b)))
		if (i == nil) == (err == nil) {
			t.Errorf("got %+v and %v, want one of the two", i, err)
		}
	})
}

func BenchmarkInspect(b *testing.B) {
	name := os.Getenv("BUILDFLAGS_BENCH_BINARY") // a big one; default: this test
	if name == "" {
		var err error
		if name, err = os.Executable(); err != nil {
			b.Fatal(err)
		}
	}
	st, err := os.Stat(name)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(st.Size())/1e6, "MB")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Inspect(name); err != nil {
			b.Fatal(err)
		}
	}
}

type section struct {
	name string
	data []byte
}

// goELF is a little ELF file with Go's build information, one abbreviation and
// the units one after the other.
func goELF(units ...section) []byte {
	info := append([]byte("\xff Go buildinf:\x08\x02"), make([]byte, 16)...)
	for _, s := range []string{"go1.26.1", strings.Repeat("0", 16) + "path\tmain\n" + strings.Repeat("0", 16)} {
		info = append(binary.AppendUvarint(info, uint64(len(s))), s...)
	}
	var all []byte
	for _, u := range units {
		all = append(all, u.data...)
	}
	// 1: compile unit without children; name, language, producer, low_pc.
	abbrev := []byte{1, 0x11, 0, 0x03, 0x08, 0x13, 0x0b, 0x25, 0x08, 0x11, 0x01, 0, 0, 0}
	return tinyELF(section{".go.buildinfo", info}, section{".debug_abbrev", abbrev}, section{".debug_info", all})
}

// compileUnit is a DWARF 5 unit that has only its first entry.
func compileUnit(language byte, name, producer string) []byte {
	b := []byte{5, 0, 1, 8, 0, 0, 0, 0, 1}
	b = append(append(b, name...), 0, language)
	b = append(append(b, producer...), 0)
	b = append(b, make([]byte, 8)...)
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b...)
}

// tinyELF is a little-endian ELF64 executable for amd64, all of it in one segment.
func tinyELF(sections ...section) []byte {
	const headerSize, progSize, sectionSize, base = 64, 56, 64, 0x400000 // base is aligned as the file is
	le := binary.LittleEndian
	names := []byte{0}
	body := make([]byte, headerSize+progSize+8) // to a multiple of 16
	headers := make([]byte, sectionSize)        // the null section
	add := func(name string, kind uint32, data []byte) {
		h := make([]byte, sectionSize)
		le.PutUint32(h, uint32(len(names)))
		le.PutUint32(h[4:], kind)
		le.PutUint64(h[16:], uint64(base+len(body)))
		le.PutUint64(h[24:], uint64(len(body)))
		le.PutUint64(h[32:], uint64(len(data)))
		headers = append(headers, h...)
		body = append(body, data...)
		body = append(body, make([]byte, -len(body)&15)...)
	}
	for _, s := range sections {
		add(s.name, 1, s.data)
		names = append(append(names, s.name...), 0)
	}
	names = append(names, ".shstrtab\x00"...)
	h := len(names) - len(".shstrtab\x00")
	add("", 3, names)
	le.PutUint32(headers[len(headers)-sectionSize:], uint32(h))

	copy(body, "\x7fELF\x02\x01\x01")
	for _, f := range []struct {
		off int
		val uint16
	}{{16, 2}, {18, 62}, {20, 1}, {52, headerSize}, {54, progSize}, {56, 1}, {58, sectionSize}, {60, uint16(len(headers) / sectionSize)}, {62, uint16(len(headers)/sectionSize - 1)}} {
		le.PutUint16(body[f.off:], f.val)
	}
	le.PutUint64(body[32:], headerSize)
	le.PutUint64(body[40:], uint64(len(body)))
	p := body[headerSize:]
	le.PutUint32(p, 1)     // PT_LOAD
	le.PutUint32(p[4:], 6) // readable, writable: where buildinfo is looked for
	le.PutUint64(p[16:], base)
	le.PutUint64(p[24:], base)
	le.PutUint64(p[32:], uint64(len(body)))
	le.PutUint64(p[40:], uint64(len(body)))
	return append(body, headers...)
}
