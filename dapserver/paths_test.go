package dapserver

import (
	"testing"

	"github.com/go-delve/delve/pkg/locspec"
)

func TestPathRules(t *testing.T) {
	rules := pathRules{{"/home/me/app", "example.com/app"}, {"/mod/x@v1", "x@v1"}, {"/mod", "/elsewhere/"}, {"/go/src", ""}}
	for local, binary := range map[string]string{
		"/home/me/app/main.go": "example.com/app/main.go",
		"/mod/x@v1/x.go":       "x@v1/x.go",
		"/mod/y/y.go":          "/elsewhere/y/y.go",
		"/go/src/fmt/print.go": "fmt/print.go",
	} {
		if got := rules.toBinary(local); got != binary {
			t.Errorf("%s becomes %s, want %s", local, got, binary)
		}
		if got := rules.toLocal(binary); got != local {
			t.Errorf("%s comes back as %s, want %s", binary, got, local)
		}
	}
	if got := rules.toBinary("/home/me/application/main.go"); got != "/home/me/application/main.go" {
		t.Errorf("a rule matched half a name: %s", got)
	}
}

// FuzzPathRules compares with what Delve makes of the same rules.
func FuzzPathRules(f *testing.F) {
	for _, seed := range [][5]string{
		{"/a/b/c.go", "/a/b", "x", "/a", ""},
		{"/a/bc/c.go", "/a/b", "x", "/a/", `y\`},
		{"fmt/print.go", "", "/go/src", "/a", "/b"},
		{`C:\Work\Main.go`, `c:\work`, "/src", "", "/a"},
		{`c:/work/Main.go`, `/work`, `C:\w`, `c:/WORKS`, "/a"},
		{`\\host\a`, `\\HOST`, "/h/", "a", "b"},
		{"/a", "/a", "", "", ""},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3], seed[4])
	}
	f.Fuzz(func(t *testing.T, path, from1, to1, from2, to2 string) {
		rules := pathRules{{from1, to1}, {from2, to2}}
		if got, want := rules.toBinary(path), locspec.SubstitutePath(path, [][2]string{{from1, to1}, {from2, to2}}); got != want {
			t.Errorf("to the binary: got %q, Delve %q", got, want)
		}
		if got, want := rules.toLocal(path), locspec.SubstitutePath(path, [][2]string{{to1, from1}, {to2, from2}}); got != want {
			t.Errorf("to this machine: got %q, Delve %q", got, want)
		}
	})
}
