package buildflags

import (
	"debug/dwarf"
	"debug/elf"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// checkSources checks that each source file in the binary's DWARF is found on
// this machine by b.Sources, and that its name here leads back to that there.
func checkSources(t testing.TB, b *Binary) {
	t.Helper()
	if b.Info.Format != "ELF" {
		return
	}
	files := dwarfFiles(t, b.Path)
	if len(files) == 0 {
		t.Error("the binary has no source files")
	}
	for _, remote := range files {
		if strings.HasPrefix(remote, "<") || strings.Contains(remote, "_cgo_") || strings.HasPrefix(remote, "_/") {
			continue // made by the compiler
		}
		local := b.local(remote)
		if _, err := os.Stat(local); err != nil {
			t.Errorf("%s in the binary is %s here: %v (rules %q)", remote, local, err, b.Sources)
			return
		}
		if back := b.remote(local); back != remote {
			t.Errorf("%s in the binary is %s here, and that is %s there (rules %q)", remote, local, back, b.Sources)
			return
		}
	}
}

// local and remote apply the rules as Delve does with substitutePath.
// (delve/pkg/locspec: SubstitutePath.)
func (b *Binary) local(name string) string {
	for _, r := range b.Sources {
		if r.Remote == "" && !filepath.IsAbs(name) {
			return filepath.Join(r.Local, name)
		}
		if rest, ok := strings.CutPrefix(name, r.Remote+"/"); ok && r.Remote != "" {
			return filepath.Join(r.Local, rest)
		}
	}
	return name
}

func (b *Binary) remote(name string) string {
	for _, r := range b.Sources {
		if rest, ok := strings.CutPrefix(name, r.Local+"/"); ok {
			if r.Remote == "" {
				return rest
			}
			return r.Remote + "/" + rest
		}
	}
	return name
}

// dwarfFiles returns the source files of Go packages in the binary.
func dwarfFiles(t testing.TB, name string) []string {
	t.Helper()
	f, err := elf.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := f.DWARF()
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for r := d.Reader(); ; r.SkipChildren() {
		e, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if e == nil {
			break
		}
		if lang, _ := e.Val(dwarf.AttrLanguage).(int64); lang != 0x16 {
			continue
		}
		lr, err := d.LineReader(e)
		if err != nil {
			t.Fatal(err)
		}
		if lr == nil {
			continue
		}
		for err == nil {
			var le dwarf.LineEntry
			if err = lr.Next(&le); err == nil {
				seen[le.File.Name] = true
			}
		}
		if !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	var files []string
	for name := range seen {
		files = append(files, name)
	}
	slices.Sort(files)
	return files
}

func TestSourcesOfTrimmedBinaries(t *testing.T) {
	t.Parallel()
	user := "package main\n\nimport \"example.com/dep/sub\"\n\nfunc main() { println(sub.Name()) }\n"
	dep := "package sub\n\n//go:noinline\nfunc Name() string { return \"dep\" }\n"
	mod := "module example.com/app\n\ngo 1.25\n\nrequire example.com/dep v1.2.3\n"
	depMod := "module example.com/dep\n\ngo 1.25\n"
	tests := []struct {
		name  string
		files map[string]string
		dir   string
		rules []PathRule // Local: relative to the module; the last one, GOROOT's, is left out
	}{
		{"plain", map[string]string{"go.mod": "module example.com/dep\n\ngo 1.25\n", "main.go": user, "sub/sub.go": dep}, "",
			[]PathRule{{"", "example.com/dep"}}},
		{"workspace", map[string]string{"go.work": "go 1.25\n\nuse ./app\nuse ./lib\n",
			"app/go.mod": strings.Replace(mod, "v1.2.3", "v0.0.0", 1), "app/main.go": user, "lib/go.mod": depMod, "lib/sub/sub.go": dep}, "app",
			[]PathRule{{"lib", "example.com/dep"}, {"app", "example.com/app"}}},
		{"vendor", map[string]string{"go.mod": mod, "main.go": user, "vendor/example.com/dep/sub/sub.go": dep,
			"vendor/modules.txt": "# example.com/dep v1.2.3\n## explicit; go 1.25\nexample.com/dep/sub\n"}, "",
			[]PathRule{{"vendor/example.com/dep", "example.com/dep@v1.2.3"}, {"", "example.com/app"}}},
		{"replaced, inside the module", map[string]string{"go.mod": mod + "\nreplace example.com/dep => ./staging\n", "main.go": user,
			"staging/go.mod": depMod, "staging/sub/sub.go": dep}, "",
			[]PathRule{{"staging", "example.com/dep@v1.2.3"}, {"", "example.com/app"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := module(t, tt.files)
			b := mustBuild(t, Config{Dir: filepath.Join(dir, tt.dir), Trimpath: true})
			for _, name := range dwarfFiles(t, b.Path) {
				if filepath.IsAbs(name) {
					t.Errorf("%s is in a trimmed binary", name)
				}
			}
			var want []PathRule
			for _, r := range tt.rules {
				want = append(want, PathRule{filepath.Join(dir, r.Local), r.Remote})
			}
			if n := len(b.Sources); n == 0 || b.Sources[n-1].Remote != "" || !slices.Equal(b.Sources[:n-1], want) {
				t.Errorf("rules are %q, want %q and GOROOT's", b.Sources, want)
			}
			// The same without -trimpath needs no rules.
			if b := mustBuild(t, Config{Dir: filepath.Join(dir, tt.dir)}); len(b.Sources) > 0 {
				t.Errorf("without -trimpath: rules are %q, want none", b.Sources)
			}
		})
	}
}

func TestSourcesBehindSymbolicLinks(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("making symbolic links needs a privilege")
	}
	t.Parallel()
	dir := module(t, map[string]string{"proj/go.mod": "module example.com/app\n\ngo 1.25\n", "proj/cmd/x/main.go": hello})
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(dir, "proj"), link); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, dir, program string }{
		{"root", ".", "./cmd/x"},
		{"below", "cmd/x", "."},
		{"absolute", ".", filepath.Join(link, "cmd", "x")},
		{"absolute, resolved", ".", filepath.Join(dir, "proj", "cmd", "x")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := mustBuild(t, Config{Dir: filepath.Join(link, tt.dir), Program: tt.program})
			main := filepath.Join(link, "cmd", "x", "main.go")
			if !slices.Contains(dwarfFiles(t, b.Path), main) {
				t.Errorf("%s is not in the binary", main)
			}
			for _, opened := range []string{main, filepath.Join(dir, "proj", "cmd", "x", "main.go")} {
				if got := b.remote(opened); got != main {
					t.Errorf("%s in the editor is %s in the binary, want %s (rules %q)", opened, got, main, b.Sources)
				}
			}
		})
	}
}

func TestSortRulesPutsTheInnerFirst(t *testing.T) {
	rules := []PathRule{{"/ws", "example.com/long/module/path"}, {"/p", "m"}, {"/ws/sub", "a"}, {"/p2", "m/sub"}, {"/ws/sub/deep", "b"}}
	sortRules(rules)
	for i, r := range rules {
		for _, before := range rules[:i] {
			if inside(r.Local, before.Local) || strings.HasPrefix(r.Remote, before.Remote+"/") {
				t.Errorf("%q comes before %q in %q", before, r, rules)
			}
		}
	}
}
