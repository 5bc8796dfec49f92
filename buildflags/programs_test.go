package buildflags

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestProgramsOfAllModulesBelow(t *testing.T) {
	const main, lib = "package main\n\nfunc main() {}\n", "package lib\n"
	dir := module(t, map[string]string{
		"lib/lib.go": lib, "cmd/web/main.go": main, "cmd/tool/main.go": "//go:build extra\n\n" + main,
		"vendor/x/main.go": main, "testdata/x/main.go": main, ".hidden/go.mod": "module hidden\n", ".hidden/main.go": main,
		"other/go.mod": "module example.com/other\n\ngo 1.25\n", "other/main.go": main,
		"broken/go.mod": "modul broken\n", "broken/main.go": main,
	})
	for _, test := range []struct {
		name, dir string
		tags      []string
		want      []string // import path, module, its folder
	}{
		{"the module and one below", "", nil, []string{"example.com/app/cmd/web example.com/app .", "example.com/other example.com/other other"}},
		{"with tags", "", []string{"extra"}, []string{
			"example.com/app/cmd/tool example.com/app .", "example.com/app/cmd/web example.com/app .", "example.com/other example.com/other other",
		}},
		{"of a folder in a module", "cmd", nil, []string{"example.com/app/cmd/web example.com/app ."}},
		{"none", "lib", nil, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			programs, err := Programs(t.Context(), Config{Dir: filepath.Join(dir, test.dir), Tags: test.tags}, nil)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, p := range programs {
				in, err := filepath.Rel(dir, p.ModuleDir)
				if err != nil || !filepath.IsAbs(p.Dir) {
					t.Errorf("%+v: %v", p, err)
				}
				got = append(got, p.ImportPath+" "+p.Module+" "+in)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestPlanTellsWithoutCompiling(t *testing.T) {
	dir := module(t, map[string]string{
		"cmd/web/main.go": "package main\n\nfunc main() { undefined() }\n", // only the compiler minds
		"lib/lib.go":      "package lib\n",
	})
	outline, err := Plan(t.Context(), Config{Dir: dir, Program: "./cmd/web", Platform: Platform{"linux", "arm64"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if outline.Program != "example.com/app/cmd/web" || outline.Platform != (Platform{"linux", "arm64"}) {
		t.Errorf("got %+v", outline)
	}
	if _, err := Plan(t.Context(), Config{Dir: dir, Program: "./lib"}, nil); err == nil || !strings.Contains(err.Error(), "./cmd/web") {
		t.Errorf("a package that is no program is planned (%v)", err)
	}
}

func TestToolchain(t *testing.T) {
	tools, err := FindToolchain(t.Context(), Config{}, nil)
	if err != nil || !filepath.IsAbs(tools.Path) || !strings.HasPrefix(tools.Version, "go1.") {
		t.Errorf("got %+v, %v", tools, err)
	}
	if _, err := FindToolchain(t.Context(), Config{Go: "./nothing"}, nil); err == nil {
		t.Error("a go command that is not there is found")
	}
}
