package buildflags

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// goCalls counts the commands of a Builder by their first word.
type goCalls struct {
	slog.Handler
	calls []string
}

func (c *goCalls) Enabled(context.Context, slog.Level) bool { return true }

func (c *goCalls) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if args, ok := a.Value.Any().([]string); ok && a.Key == "args" {
			c.calls = append(c.calls, args[1])
		}
		return true
	})
	return nil
}

// builder returns one for a module and a function that builds with it and returns
// the go command's calls.
func builder(t *testing.T, cfg Config) (*Builder, func() (*Binary, []string)) {
	t.Helper()
	calls := &goCalls{Handler: slog.DiscardHandler}
	b := NewBuilder(cfg, slog.New(calls))
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b, func() (*Binary, []string) {
		t.Helper()
		calls.calls = nil
		bin, err := b.Build(t.Context(), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		return bin, calls.calls
	}
}

// age sets the times of all files in dir to n minutes after a time in the past, as
// if the last edit had been a while ago.
func age(t *testing.T, dir string, n int) {
	t.Helper()
	when := time.Now().Add(-time.Hour).Truncate(time.Hour).Add(time.Duration(n) * time.Minute)
	for _, pattern := range []string{"*.*", "*/*.*"} {
		names, err := filepath.Glob(filepath.Join(dir, pattern))
		for _, name := range names {
			err = errors.Join(err, os.Chtimes(name, when, when))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestBuilderPlansOnlyWhenItMust(t *testing.T) {
	t.Parallel()
	main := "package main\n\nimport _ \"embed\"\n\n//go:embed text.txt\nvar text string\n\nfunc main() { println(text) }\n"
	dir := module(t, map[string]string{"main.go": main, "text.txt": "one", "lib/lib.go": "package lib\n\nfunc F() {}\n", "other.go": "//go:build special\n\npackage main\n"})
	_, build := builder(t, Config{Dir: dir})
	age(t, dir, 0)
	build()
	for i, tt := range []struct {
		name, file, content string // "": removed
		plans               bool
		says                string
	}{
		{"nothing", "", "", false, "one"},
		{"an edit below the imports", "main.go", strings.Replace(main, "println(", "println(1, ", 1), false, "1 one"},
		{"an embedded file", "text.txt", "two", false, "1 two"},
		{"a test", "main_test.go", "package main\n", false, "1 two"},
		{"a new file", "new.go", "package main\n\nfunc init() { println(\"new\") }\n", true, "new\n1 two"},
		{"an edit of it", "new.go", "package main\n\nfunc init() { println(\"old\") }\n", false, "old\n1 two"},
		{"a new import", "new.go", "package main\n\nimport \"example.com/app/lib\"\n\nfunc init() { lib.F() }\n", true, "1 two"},
		{"an edit in a package that is new", "lib/lib.go", "package lib\n\nfunc F() { println(\"lib\") }\n", false, "lib\n1 two"},
		{"a build constraint", "other.go", "package main\n\nfunc init() { println(\"other\") }\n", true, "lib\nother\n1 two"},
		{"a file that is gone", "other.go", "", true, "lib\n1 two"},
		{"the module", "go.mod", "module example.com/app\n\ngo 1.26\n", true, "lib\n1 two"},
		{"a workspace above", "go.work", "go 1.26\n\nuse .\n", true, "lib\n1 two"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if file := filepath.Join(dir, tt.file); tt.content != "" {
				writeFile(t, file, tt.content)
			} else if tt.file != "" {
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
			}
			age(t, dir, i+1)
			bin, calls := build()
			if planned := slices.Contains(calls, "list"); planned != tt.plans {
				t.Errorf("the go commands are %q, want a plan: %t", calls, tt.plans)
			}
			if got := output(t, bin); got != tt.says {
				t.Errorf("the program says %q, want %q", got, tt.says)
			}
		})
	}
}

// What a package imports is unknown while it can't be read; what it imported before
// is still looked at.
func TestInputsSurviveErrors(t *testing.T) {
	t.Parallel()
	good := "package main\n\nimport \"example.com/app/lib\"\n\nfunc main() { lib.F() }\n"
	dir := module(t, map[string]string{"main.go": good, "lib/lib.go": "package lib\n\nfunc F() {}\n"})
	b := NewBuilder(Config{Dir: dir}, nil)
	defer b.Close()
	build := func(content string) (*Inputs, error) {
		writeFile(t, filepath.Join(dir, "main.go"), content)
		var in *Inputs
		_, err := b.Build(t.Context(), nil, func(got *Inputs) { in = got })
		return in, err
	}
	if _, err := build(good); err != nil {
		t.Fatal(err)
	}
	lib, later := filepath.Join(dir, "lib", "lib.go"), filepath.Join(dir, "later")
	var compile *CompileError
	in, err := build("package main\n\nimport \"exam")
	if !errors.As(err, &compile) || !slices.Contains(in.Files, lib) {
		t.Errorf("got %v and the files %q, want a compile error and lib.go among them", err, in.Files)
	}
	// A package may be imported before it is written.
	in, err = build(strings.Replace(good, "app/lib", "app/later", 1))
	if err == nil || !slices.Contains(in.Dirs, later) || in.Match(filepath.Join(later, "x.go"), false) {
		t.Errorf("got %v and the directories %q, want an error and later among them", err, in.Dirs)
	}
	writeFile(t, filepath.Join(later, "x.go"), "package lib\n\nfunc F() {}\n")
	if !in.Match(filepath.Join(later, "x.go"), false) {
		t.Error("the package's file doesn't match when it is there")
	}
	if in, err = build(good); err != nil || slices.Contains(in.Dirs, later) {
		t.Errorf("got %v and the directories %q, want later gone", err, in.Dirs)
	}
}

func TestBuilderKeepsItsBinaries(t *testing.T) {
	t.Parallel()
	dir := module(t, map[string]string{"main.go": hello})
	write := func(word string) {
		writeFile(t, filepath.Join(dir, "main.go"), strings.Replace(hello, "hello", word, 1))
	}
	b, build := builder(t, Config{Dir: dir, Output: "out"})
	first, _ := build()
	again, _ := build()
	if again.Path != first.Path || !again.Cached {
		t.Errorf("the same binary is at %s and %s, cached %t", first.Path, again.Path, again.Cached)
	}
	write("second")
	second, _ := build()
	// Another session, in this process or not, that builds the same.
	write("third")
	if _, err := Build(t.Context(), Config{Dir: dir, Output: "out"}, nil, nil); err != nil {
		t.Fatal(err)
	}
	for bin, want := range map[*Binary]string{first: "hello", second: "second"} {
		if got := output(t, bin); got != want {
			t.Errorf("the binary of %q says %q now", want, got)
		}
		if sum, _, err := hashFile(bin.Path); err != nil || sum != bin.SHA256 || filepath.Base(bin.Path) != "app" {
			t.Errorf("%s has hash %s, %v, want %s and the program's name", bin.Path, sum, err, bin.SHA256)
		}
	}
	if err := b.Release(first); err != nil || exists(first.Path) || !exists(second.Path) {
		t.Errorf("released the first (%v): there is still the first %t, the second %t", err, exists(first.Path), exists(second.Path))
	}
	if err := b.Close(); err != nil || exists(filepath.Dir(filepath.Dir(second.Path))) {
		t.Errorf("after Close (%v) the directory of %s is still there", err, second.Path)
	}
	if third, _ := build(); output(t, third) != "third" {
		t.Error("a closed Builder does not build")
	}
}

func TestAnEditWithoutEffectMakesTheSameProgram(t *testing.T) {
	t.Parallel()
	dir := module(t, map[string]string{"main.go": hello})
	_, build := builder(t, Config{Dir: dir})
	first, _ := build()
	writeFile(t, filepath.Join(dir, "main.go"), hello+"// The end.\n")
	comment, _ := build()
	writeFile(t, filepath.Join(dir, "main.go"), "// The beginning.\n"+hello)
	lines, _ := build()
	if comment.SHA256 == first.SHA256 || !comment.Same(first) || !first.Same(first) {
		t.Error("a comment below all makes another program")
	}
	if lines.Same(first) {
		t.Error("with other lines it is the same program")
	}
}

// What a killed process has kept goes away, what a live one keeps stays.
func TestKeptBinariesOfTheDeadAreRemoved(t *testing.T) {
	root := t.TempDir()
	alive, dead := filepath.Join(root, keeperPrefix+"alive"), filepath.Join(root, keeperPrefix+"dead")
	for _, dir := range []string{alive, dead} {
		writeFile(t, filepath.Join(dir, "lock"), "")
	}
	lock, err := tryLock(filepath.Join(alive, "lock"))
	if err != nil || lock == nil {
		t.Fatal(lock, err)
	}
	defer lock.Close()
	prune(root, "", time.Now())
	if !exists(alive) || exists(dead) {
		t.Errorf("the living one's is there %t, the dead one's %t, want true, false", exists(alive), exists(dead))
	}
}

func TestHeaderIsWhatAPlanDependsOn(t *testing.T) {
	const file = "//go:build linux\n\npackage x\n\nimport (\n\t\"fmt\"\n)\n\n// F prints.\n//\n//go:embed a\nvar a string\n\nfunc F() { fmt.Println(a) }\n"
	for _, tt := range []struct {
		name, old, new string
		same           bool
	}{
		{"a body", "Println(a)", "Println(a, 1)", true},
		{"a comment", "// F prints.", "// F says.", true},
		{"an import", `"fmt"`, `"log"`, false},
		{"a constraint", "linux", "!linux", false},
		{"an embedded file", "//go:embed a", "//go:embed b", false},
		{"the package", "package x", "package y", false},
		{"an error in the imports", "import (", "import", false},
	} {
		changed := strings.Replace(file, tt.old, tt.new, 1)
		if same := bytes.Equal(header([]byte(file)), header([]byte(changed))); same != tt.same {
			t.Errorf("%s: the same %t, want %t", tt.name, same, tt.same)
		}
	}
}
