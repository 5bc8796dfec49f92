package buildflags

import (
	"path/filepath"
	"runtime"
	"slices"
	"testing"
)

func TestParseDiagnostics(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the paths are Unix's")
	}
	tests := []struct {
		name   string
		output string
		want   []Diagnostic
	}{
		{"nothing", "", nil},
		{"compiler", "# example.com/x\n./a.go:3:9: undefined: y\nsub/b.go:10:2: declared and not used: z\n", []Diagnostic{
			{"/w/a.go", 3, 9, "undefined: y"}, {"/w/sub/b.go", 10, 2, "declared and not used: z"}}},
		{"further lines", "# x\n./a.go:3:9: not enough arguments\n\thave (int)\n\twant (int, int)\n# y\n/r/b.go:1:1: expected 'package'\n", []Diagnostic{
			{"/w/a.go", 3, 9, "not enough arguments\n\thave (int)\n\twant (int, int)"}, {"/r/b.go", 1, 1, "expected 'package'"}}},
		{"no column", "../a.go:7: cannot use C.x\n", []Diagnostic{{"/a.go", 7, 0, "cannot use C.x"}}},
		{"import", "m.go:2:8: no required module provides package x; to add it:\n\tgo get x\n", []Diagnostic{
			{"/w/m.go", 2, 8, "no required module provides package x; to add it:\n\tgo get x"}}},
		{"C compiler", "# x\n./m.go:3:10: fatal error: no.h: No such file\n    3 | #include <no.h>\n      |          ^~~~~~\ncompilation terminated.\n", []Diagnostic{
			{"/w/m.go", 3, 10, "fatal error: no.h: No such file\n    3 | #include <no.h>\n      |          ^~~~~~"}}},
		{"linker", "# x\nlink: main.f: relocation target main.g not defined\n", nil},
		{"go command", "go: go.mod:3: unknown directive: x\ngo: updates to go.mod needed\nnote: module requires Go 1.99\ntoo many errors\n", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := parseDiagnostics("/w", tt.output); !slices.Equal(got, tt.want) {
				t.Errorf("parseDiagnostics(%q) = %+v, want %+v", tt.output, got, tt.want)
			}
		})
	}
}

func TestErrorsAreSentences(t *testing.T) {
	tests := []struct {
		name string
		err  error
		want string
	}{
		{"attribute", &ConfigError{Attr: "cgo", Message: `"maybe" is none of auto, on and off`}, `build.cgo: "maybe" is none of auto, on and off`},
		{"attribute and fix", &ConfigError{Attr: "program", Message: "there is no /x", Fix: "the programs here are ./a"}, "build.program: there is no /x; the programs here are ./a"},
		{"compiler", &CompileError{Program: "./x", Diagnostics: make([]Diagnostic, 2), Output: "# x\na\nb\n"}, "./x does not compile (2 errors):\n# x\na\nb"},
		{"go command", &GoError{Args: []string{"/bin/go", "list", "x"}, Dir: "/w", Output: "go: updates to go.mod needed"}, "go list in /w: updates to go.mod needed"},
		{"binary", &BinaryError{Path: "/b", Problems: []Problem{{"x", "it is bad", "make it good"}, {"y", "it is old", ""}}}, "/b can't be debugged: it is bad (make it good); it is old"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.err.Error(); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func FuzzParseDiagnostics(f *testing.F) {
	dir := f.TempDir()
	f.Add("# x\n./a.go:3:9: undefined: y\n\thave\n")
	f.Add("a.go:99999999999999999999:1: x\n:::\n\t\n")
	f.Fuzz(func(t *testing.T, output string) {
		for _, d := range parseDiagnostics(dir, output) {
			if !filepath.IsAbs(d.File) || d.Line < 1 || d.Col < 0 || d.Message == "" {
				t.Errorf("%q: got %+v, want an absolute file, a line and a message", output, d)
			}
		}
	})
}
