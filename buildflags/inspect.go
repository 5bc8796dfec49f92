package buildflags

import (
	"bytes"
	"debug/buildinfo"
	"debug/elf"
	"debug/macho"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

// The versions of Go whose programs Delve can debug, as "1.x": those that the
// Delve linked into the agent (1.27) accepts. (delve/pkg/goversion/compat.go.)
const (
	minGoMinor = 25
	maxGoMinor = 27
)

// An Info is what an executable says of itself. Fields that it says nothing of are zero.
type Info struct {
	File   string `json:"file"`
	Size   int64  `json:"size"`   // in bytes
	Format string `json:"format"` // "ELF", "Mach-O" or "PE"

	Platform  Platform          `json:"platform"`
	GoVersion string            `json:"goVersion"` // as in "go1.26.1"
	Package   string            `json:"package"`   // import path of the main package
	Module    string            `json:"module"`    // path of the main module
	Version   string            `json:"version"`   // of the main module, as in "v1.2.3" or "(devel)"
	Settings  map[string]string `json:"settings"`  // the flags and variables of the build, as `go version -m` lists them
	BuildID   string            `json:"buildId"`   // Go's

	Static      bool     `json:"static"`      // it needs neither an interpreter nor a library
	Interpreter string   `json:"interpreter"` // the dynamic linker, as in "/lib64/ld-linux-x86-64.so.2"
	Libraries   []string `json:"libraries"`   // those it names, as in "libc.so.6"
	Libc        string   `json:"libc"`        // "glibc" or "musl"
	MinGlibc    string   `json:"minGlibc"`    // the oldest glibc that has what it needs, as in "2.34"

	DWARF           bool     `json:"dwarf"`           // it has debugging information
	CompressedDWARF bool     `json:"compressedDwarf"` // and that is compressed
	Packages        int      `json:"packages"`        // Go packages in it
	Optimized       []string `json:"optimized"`       // those compiled with optimisation or inlining, sorted

	Debuggable bool      `json:"debuggable"` // there are no problems
	Problems   []Problem `json:"problems"`
}

// A Problem is a reason why a binary can't be debugged, or not well.
type Problem struct {
	ID      string `json:"id"`            // one of the Problem constants
	Message string `json:"message"`       // what is wrong
	Fix     string `json:"fix,omitempty"` // what to do about it
}

// String returns the message and the fix.
func (p Problem) String() string {
	if p.Fix == "" {
		return p.Message
	}
	return p.Message + " (" + p.Fix + ")"
}

// The values of Problem.ID.
const (
	ProblemNotGo     = "not-go"         // it is no Go program, or packed
	ProblemFormat    = "not-elf"        // it is an executable of another system than Linux
	ProblemGoTooOld  = "go-too-old"     // for Delve
	ProblemGoTooNew  = "go-too-new"     // for Delve
	ProblemStripped  = "stripped"       // it has no debugging information
	ProblemDamaged   = "damaged"        // the debugging information can't be read
	ProblemOptimized = "optimized"      // lines jump, variables are missing
	ProblemPlatform  = "wrong-platform" // only from Build
)

// Inspect reads the executable at path. An error says that the file can't be
// read or is no executable; all else that is wrong with it is in Info.Problems.
func Inspect(path string) (*Info, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("inspecting the binary: %w", err)
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("inspecting the binary: %w", err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("inspecting the binary: %s is not a file", path)
	}
	info, err := inspect(f, st.Size())
	if err != nil {
		return nil, fmt.Errorf("inspecting %s: %w", path, err)
	}
	info.File = path
	return info, nil
}

var errNotExecutable = errors.New("not an executable (ELF, Mach-O or PE)")

// inspect is Inspect for a file of size bytes.
func inspect(r io.ReaderAt, size int64) (info *Info, err error) {
	// The readers of the standard library have panicked on damaged files before.
	defer func() {
		if p := recover(); p != nil {
			info, err = nil, fmt.Errorf("damaged executable: %v", p)
		}
	}()
	info = &Info{Size: size}
	magic := make([]byte, 4)
	if n, _ := r.ReadAt(magic, 0); n < len(magic) {
		return nil, errNotExecutable
	}
	switch {
	case bytes.Equal(magic, []byte(elf.ELFMAG)):
		err = info.readELF(r)
	case bytes.HasPrefix(magic, []byte("MZ")):
		err = info.readPE(r)
	case isMachO(magic):
		info.readMachO(r)
	default:
		return nil, errNotExecutable
	}
	if err != nil {
		return nil, err
	}
	info.Debuggable = len(info.Problems) == 0
	return info, nil
}

func (i *Info) problem(id, message, fix string) {
	i.Problems = append(i.Problems, Problem{id, message, fix})
}

// check returns a *BinaryError if the binary can't be debugged on target.
func (i *Info) check(target Platform) error {
	problems := slices.Clone(i.Problems)
	if i.Format != "ELF" && target.OS != "linux" && target == i.Platform {
		problems = slices.DeleteFunc(problems, func(p Problem) bool { return p.ID == ProblemFormat })
	}
	if i.Platform != target {
		problems = append(problems, Problem{ProblemPlatform, fmt.Sprintf("it is for %s, not for %s", i.Platform, target), "look for GOOS and GOARCH in build.env and build.flags"})
	}
	if len(problems) == 0 {
		return nil
	}
	return &BinaryError{Path: i.File, Info: i, Problems: problems}
}

// readBuildInfo sets what `go version -m` shows, and the problems with it.
func (i *Info) readBuildInfo(r io.ReaderAt) {
	bi, err := buildinfo.Read(r)
	if err != nil {
		i.problem(ProblemNotGo, "it has no Go build information: not a Go program, or packed or cut afterwards", "build it with the go command and don't pack it")
		return
	}
	i.GoVersion, i.Package = bi.GoVersion, bi.Path
	i.Module, i.Version = bi.Main.Path, bi.Main.Version
	i.Settings = make(map[string]string, len(bi.Settings))
	for _, s := range bi.Settings {
		i.Settings[s.Key] = s.Value
	}
	if p, ok := checkGoVersion(i.GoVersion); !ok {
		i.Problems = append(i.Problems, p)
	}
}

// checkGoVersion reports whether Delve can debug what a version of Go, as in
// "go1.26.1", compiles. It takes a development version for a good one, as Delve does.
func checkGoVersion(version string) (Problem, bool) {
	minor, ok := goMinor(version)
	switch {
	case !ok:
		return Problem{}, true
	case minor < minGoMinor:
		return Problem{ProblemGoTooOld, fmt.Sprintf("Delve can't debug what Go 1.%d compiled", minor),
			fmt.Sprintf("build with Go 1.%d to 1.%d", minGoMinor, maxGoMinor)}, false
	case minor > maxGoMinor:
		return Problem{ProblemGoTooNew, fmt.Sprintf("this kubedelve's Delve doesn't know Go 1.%d yet", minor),
			fmt.Sprintf("build with Go 1.%d to 1.%d, or use a newer kubedelve", minGoMinor, maxGoMinor)}, false
	}
	return Problem{}, true
}

// goMinor is the 26 of "go1.26.1"; not ok for a development version.
func goMinor(version string) (minor int, ok bool) {
	s, ok := strings.CutPrefix(version, "go1.")
	if !ok {
		return 0, false
	}
	minor, err := strconv.Atoi(s[:len(s)-len(strings.TrimLeft(s, "0123456789"))])
	return minor, err == nil
}

func isMachO(magic []byte) bool {
	be, le := binary.BigEndian.Uint32(magic), binary.LittleEndian.Uint32(magic)
	return slices.Contains([]uint32{macho.Magic32, macho.Magic64}, le) ||
		slices.Contains([]uint32{macho.Magic32, macho.Magic64, macho.MagicFat}, be)
}

// readMachO and readPE say what the file is, no more: it runs on no node.
func (i *Info) readMachO(r io.ReaderAt) {
	i.Format = "Mach-O"
	i.readBuildInfo(r)
	f, err := macho.NewFile(r)
	if err == nil {
		arch := map[macho.Cpu]string{macho.CpuAmd64: "amd64", macho.CpuArm64: "arm64"}[f.Cpu]
		i.Platform = Platform{OS: "darwin", Arch: arch}
		i.DWARF = f.Section("__debug_info") != nil || f.Section("__zdebug_info") != nil
	} else if len(i.Settings) > 0 {
		i.Platform = Platform{OS: i.Settings["GOOS"], Arch: i.Settings["GOARCH"]}
	}
	i.otherSystem()
}

func (i *Info) readPE(r io.ReaderAt) error {
	i.Format = "PE"
	f, err := pe.NewFile(r)
	if err != nil {
		return errNotExecutable
	}
	i.readBuildInfo(r)
	arch := map[uint16]string{pe.IMAGE_FILE_MACHINE_AMD64: "amd64", pe.IMAGE_FILE_MACHINE_ARM64: "arm64", pe.IMAGE_FILE_MACHINE_I386: "386"}[f.Machine]
	i.Platform = Platform{OS: "windows", Arch: arch}
	i.DWARF = f.Section(".debug_info") != nil || f.Section(".zdebug_info") != nil
	i.otherSystem()
	return nil
}

func (i *Info) otherSystem() {
	i.problem(ProblemFormat, fmt.Sprintf("it is a %s executable for %s", i.Format, i.Platform), "build it for linux, on the architecture of the node")
}
