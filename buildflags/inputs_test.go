package buildflags

import (
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// inputsOf returns what cfg would be built of.
func inputsOf(t *testing.T, cfg Config) *Inputs {
	t.Helper()
	b := NewBuilder(cfg, nil)
	defer b.Close()
	if err := b.prepare(t.Context(), time.Now(), func(string) {}); err != nil {
		t.Fatal(err)
	}
	if b.plan.incomplete() {
		t.Fatalf("the packages are %+v, want all of them found", b.plan.pkgs)
	}
	return b.inputs
}

// below are the names, with slashes, of those of paths that are in dir.
func below(t *testing.T, dir string, paths []string) []string {
	t.Helper()
	var names []string
	for _, p := range paths {
		rel, err := filepath.Rel(dir, p)
		if err != nil || !filepath.IsLocal(rel) {
			t.Errorf("%s is not in %s", p, dir)
		}
		names = append(names, filepath.ToSlash(rel))
	}
	return names
}

func TestInputsAreWhatTheProgramIsBuiltOf(t *testing.T) {
	t.Parallel()
	main := func(imports string) string {
		return "package main\n\nimport (\n" + imports + ")\n\nfunc main() { println(lib.Name) }\n"
	}
	lib := func(name string) string { return "package lib\n\nconst Name = \"" + name + "\"\n" }
	for _, tt := range []struct {
		name  string
		files map[string]string
		cfg   Config
		want  []string // Files
		dirs  []string
		more  []string // new files that belong to it
		not   []string // files that don't
	}{
		{
			name: "a module",
			files: map[string]string{
				"cmd/x/main.go": main("\t\"example.com/app/lib\"\n"), "lib/lib.go": lib("a"), "lib/lib_test.go": "package lib\n",
				"lib/lib_windows.go": "package lib\n", "lib/gen.go": "//go:build ignore\n\npackage main\n", "lib/notes.txt": "",
				"other/other.go": "package other\n",
			},
			cfg:  Config{Program: "./cmd/x", Platform: Platform{"linux", runtime.GOARCH}},
			want: []string{"cmd/x/main.go", "go.mod", "go.sum", "lib/lib.go"},
			dirs: []string{"cmd/x", "lib"},
			more: []string{"lib/new.go", "lib/new_linux.go", "cmd/x/zz_generated.go", "lib/add.s"},
			not: []string{
				"lib/lib_test.go", "lib/new_test.go", "lib/lib_windows.go", "lib/new_darwin.go", "lib/gen.go", "lib/notes.txt",
				"lib/.#lib.go", "lib/#lib.go#", "lib/lib.go~", "lib/_lib.go", "lib/.lib.go.swp", "lib/4913", "other/other.go", "main.go", "lib/sub/sub.go",
			},
		},
		{
			name: "tags",
			files: map[string]string{
				"main.go": main("\t\"example.com/app/lib\"\n"), "lib/lib.go": "//go:build special\n\n" + lib("a"), "lib/other.go": "//go:build !special\n\n" + lib("b"),
			},
			cfg:  Config{Env: map[string]string{"GOFLAGS": "-tags=special"}},
			want: []string{"go.mod", "go.sum", "lib/lib.go", "main.go"},
			dirs: []string{".", "lib"},
			not:  []string{"lib/other.go"},
		},
		{
			name: "a workspace",
			files: map[string]string{
				"go.work":    "go 1.25\n\nuse (\n\t./app\n\t./lib\n\t./unused\n)\n",
				"app/go.mod": "module example.com/app\n\ngo 1.25\n", "app/main.go": main("\t\"example.com/lib\"\n"),
				"lib/go.mod": "module example.com/lib\n\ngo 1.25\n", "lib/lib.go": lib("a"),
				"unused/go.mod": "module example.com/unused\n\ngo 1.25\n", "unused/unused.go": "package unused\n",
			},
			cfg:  Config{Program: "./app"},
			want: []string{"app/go.mod", "app/go.sum", "app/main.go", "go.work", "go.work.sum", "lib/go.mod", "lib/go.sum", "lib/lib.go", "unused/go.mod", "unused/go.sum"},
			dirs: []string{"app", "lib"},
			more: []string{"lib/new.go"},
			not:  []string{"unused/unused.go"},
		},
		{
			name: "a replaced module",
			files: map[string]string{
				"app/go.mod":  "module example.com/app\n\ngo 1.25\n\nrequire example.com/lib v1.2.3\n\nreplace example.com/lib => ../lib\n",
				"app/main.go": main("\t\"example.com/lib\"\n"),
				"lib/go.mod":  "module example.com/lib\n\ngo 1.25\n", "lib/lib.go": lib("a"),
			},
			cfg:  Config{Program: "./app"},
			want: []string{"app/go.mod", "app/go.sum", "app/main.go", "lib/go.mod", "lib/go.sum", "lib/lib.go"},
			dirs: []string{"app", "lib"},
			more: []string{"lib/new.go"},
		},
		{
			name: "a vendor directory",
			files: map[string]string{
				"go.mod":                        "module example.com/app\n\ngo 1.25\n\nrequire example.com/lib v1.2.3\n",
				"main.go":                       main("\t\"example.com/lib\"\n"),
				"vendor/modules.txt":            "# example.com/lib v1.2.3\n## explicit; go 1.25\nexample.com/lib\n",
				"vendor/example.com/lib/lib.go": lib("a"),
			},
			want: []string{"go.mod", "go.sum", "main.go", "vendor/example.com/lib/lib.go", "vendor/modules.txt"},
			dirs: []string{".", "vendor/example.com/lib"},
		},
		{
			name: "embedded files and assembler",
			files: map[string]string{
				"main.go":            main("\t\"embed\"\n\t\"example.com/app/lib\"\n") + "\n//go:embed static/*.txt all:tree site\nvar files embed.FS\n",
				"static/a.txt":       "a",
				"static/b.md":        "b",
				"tree/deep/.x":       "x",
				"site/index.html":    "i",
				"site/sub/page.html": "p",
				"lib/lib.go":         lib("a") + "\nfunc add(a, b int) int\n",
				"lib/add_amd64.s":    "",
				"lib/add_arm64.s":    "",
				"lib/add.h":          "",
			},
			want: []string{
				"go.mod", "go.sum", "lib/add.h", "lib/add_" + runtime.GOARCH + ".s", "lib/lib.go", "main.go",
				"site/index.html", "site/sub/page.html", "static/a.txt", "tree/deep/.x",
			},
			dirs: []string{".", "lib"},
			more: []string{"static/c.txt", "tree/deep/.y", "tree/z", "site/sub/deep/new.html", "static/", "site/sub/deep/", "tree/deep/"},
			not:  []string{"static/b.md", "site/.hidden", "site/sub/_x/y", "other.txt", "other/", "static/sub/", "lib/static/c.txt"},
		},
		{
			name:  "files",
			files: map[string]string{"a.go": "package main\n\nfunc main() { b() }\n", "b.go": "package main\n\nfunc b() {}\n", "c.go": "package main\n"},
			cfg:   Config{Program: "a.go b.go"},
			want:  []string{"a.go", "b.go", "go.mod", "go.sum"},
			dirs:  []string{"."},
			not:   []string{"c.go", "d.go"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := module(t, tt.files)
			tt.cfg.Dir = dir
			in := inputsOf(t, tt.cfg)
			if got := below(t, dir, in.Files); !slices.Equal(got, tt.want) {
				t.Errorf("files are %q, want %q", got, tt.want)
			}
			if got := below(t, dir, in.Dirs); !slices.Equal(got, tt.dirs) {
				t.Errorf("directories are %q, want %q", got, tt.dirs)
			}
			for _, names := range []struct {
				names []string
				want  bool
			}{{tt.want, true}, {tt.more, true}, {tt.not, false}} {
				for _, name := range names.names {
					path, isDir := filepath.Join(dir, filepath.FromSlash(name)), strings.HasSuffix(name, "/")
					if _, err := os.Stat(path); err != nil && !isDir {
						writeFile(t, path, "package lib\n")
					}
					if got := in.Match(path, isDir); got != names.want {
						t.Errorf("Match(%s) = %t, want %t", name, got, names.want)
					}
				}
			}
		})
	}
}

func TestInputsWithCgo(t *testing.T) {
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("needs gcc:", err)
	}
	t.Parallel()
	dir := module(t, map[string]string{
		"main.go": "package main\n\n// #include \"f.h\"\nimport \"C\"\n\nfunc main() { println(C.f()) }\n",
		"f.c":     "#include \"f.h\"\nint f(void) { return 42; }\n", "f.h": "int f(void);\n",
	})
	in := inputsOf(t, Config{Dir: dir})
	if got, want := below(t, dir, in.Files), []string{"f.c", "f.h", "go.mod", "go.sum", "main.go"}; !slices.Equal(got, want) {
		t.Errorf("files are %q, want %q", got, want)
	}
}

// A file that was excluded belongs to the build as soon as its constraint says so,
// and one that is excluded now doesn't until it is changed.
func TestInputsFollowBuildConstraints(t *testing.T) {
	t.Parallel()
	dir := module(t, map[string]string{"main.go": hello, "extra.go": "//go:build ignore\n\npackage main\n"})
	in := inputsOf(t, Config{Dir: dir})
	extra := filepath.Join(dir, "extra.go")
	if in.Match(extra, false) {
		t.Error("a file that is excluded matches")
	}
	writeFile(t, extra, "package main\n")
	if !in.Match(extra, false) {
		t.Error("a file whose constraint was taken away doesn't match")
	}
	writeFile(t, extra, "//go:build (\n\npackage main\n")
	if !in.Match(extra, false) {
		t.Error("a file with a broken constraint doesn't match: the compiler should say so")
	}
}

// A directory that is reached through a symbolic link keeps its name.
func TestInputsOfALinkedDirectory(t *testing.T) {
	t.Parallel()
	real := module(t, map[string]string{"main.go": hello})
	link := filepath.Join(t.TempDir(), "work")
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	in := inputsOf(t, Config{Dir: link})
	if got, want := below(t, link, in.Files), []string{"go.mod", "go.sum", "main.go"}; !slices.Equal(got, want) {
		t.Errorf("files are %q, want %q", got, want)
	}
}

// The packages of a large program, this module's own, are those of go list, and the
// module cache's are not among them.
func TestInputsOfThisModule(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	in := inputsOf(t, Config{Dir: root, Program: "./cmd/kubedelve"})
	want := map[string]bool{"go.mod": true, "go.sum": true}
	cmd := exec.Command("go", "list", "-deps", "-f", "{{if .Module}}{{if .Module.Main}}{{$d := .Dir}}{{range .GoFiles}}{{$d}}/{{.}}\n{{end}}{{end}}{{end}}", "./cmd/kubedelve")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range below(t, root, strings.Fields(string(out))) {
		want[name] = true
	}
	if got := below(t, root, in.Files); !slices.Equal(got, slices.Sorted(maps.Keys(want))) {
		t.Errorf("got %q,\nwant %q", got, slices.Sorted(maps.Keys(want)))
	}
	for _, name := range in.Files {
		if st, err := os.Stat(name); err != nil || st.Mode()&fs.ModeType != 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}
