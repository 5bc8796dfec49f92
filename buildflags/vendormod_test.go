package buildflags

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A project without a go.mod, but with a vendor.mod, is built as its own scripts do.
func TestVendorModIsTakenForGoMod(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"vendor.mod":                   "module example.com/cli\n\ngo 1.25\n\nrequire example.com/lib v1.0.0\n",
		"vendor.sum":                   "",
		"cmd/tool/main.go":             "package main\n\nimport (\n\t\"example.com/cli/inner\"\n\t\"example.com/lib\"\n)\n\nfunc main() { println(lib.Name, inner.Name) }\n",
		"inner/inner.go":               "package inner\n\nconst Name = \"inner\"\n",
		"vendor/modules.txt":           "# example.com/lib v1.0.0\n## explicit; go 1.25\nexample.com/lib\n",
		"vendor/example.com/lib/l.go":  "package lib\n\nconst Name = \"lib\"\n",
		"a folder/with/no module.text": "",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b := NewBuilder(Config{Dir: dir, Program: "./cmd/tool", CGO: "off"}, nil)
	defer b.Close()
	var inputs *Inputs
	bin, err := b.Build(t.Context(), nil, func(in *Inputs) { inputs = in })
	if err != nil {
		t.Fatal(err)
	}
	if got := filepath.Base(bin.Path); !strings.HasPrefix(got, "tool") {
		t.Errorf("the program is %s", got)
	}
	for _, name := range []string{"vendor.mod", "vendor.sum"} {
		if path := filepath.Join(dir, name); !slices.Contains(inputs.Files, path) {
			t.Errorf("%s is not among what the program is built of: %q", name, inputs.Files)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
		t.Error("there is a go.mod in the sources now")
	}
	// From a folder below, too.
	if _, err := Build(t.Context(), Config{Dir: filepath.Join(dir, "cmd", "tool"), Program: ".", CGO: "off"}, nil, nil); err != nil {
		t.Error(err)
	}
}
