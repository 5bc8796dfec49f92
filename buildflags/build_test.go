package buildflags

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestBuildPlainPackage(t *testing.T) {
	t.Parallel()
	dir := module(t, map[string]string{"cmd/x/main.go": hello})
	cfg := Config{Dir: dir, Program: "./cmd/x"}
	b := mustBuild(t, cfg)
	if got := output(t, b); got != "hello" {
		t.Errorf("the program says %q, want hello", got)
	}
	if b.Cached {
		t.Error("the first build is said to be cached")
	}
	if want := (Platform{runtime.GOOS, runtime.GOARCH}); b.Info.Platform != want {
		t.Errorf("platform is %s, want %s", b.Info.Platform, want)
	}
	if b.Info.Package != "example.com/app/cmd/x" || b.Info.Module != "example.com/app" || !b.Info.Static || len(b.Sources) > 0 || len(b.Notes) > 0 {
		t.Errorf("got %+v, info %+v, want a static example.com/app/cmd/x without rules and notes", b, b.Info)
	}

	same := mustBuild(t, cfg)
	if same.SHA256 != b.SHA256 || !same.Cached {
		t.Errorf("built again: hash %s, cached %t, want %s, true", same.SHA256, same.Cached, b.SHA256)
	}
	writeFile(t, filepath.Join(dir, "cmd/x/main.go"), strings.Replace(hello, "hello", "changed", 1))
	changed := mustBuild(t, cfg)
	if changed.SHA256 == b.SHA256 || changed.Cached || output(t, changed) != "changed" {
		t.Errorf("built after a change: hash %s, cached %t, want another hash, false", changed.SHA256, changed.Cached)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(b.Path), "tmp-*")); len(left) > 0 {
		t.Errorf("temporary directories are left: %q", left)
	}
}

func TestBuildFindsTheProgram(t *testing.T) {
	t.Parallel()
	dir := module(t, map[string]string{
		"cmd/x/main.go":      "package main\n\nfunc main() { println(name) }\n",
		"cmd/x/name.go":      "package main\n\nvar name = \"x\"\n",
		"cmd/v2/main.go":     hello,
		"scripts/gen.go":     "//go:build ignore\n\n" + strings.Replace(hello, "hello", "gen", 1),
		"scripts/doc.go":     "package scripts\n",
		"tools/go.mod":       "module example.com/tools\n\ngo 1.25\n",
		"tools/cmd/t/t.go":   strings.Replace(hello, "hello", "tool", 1),
		"deep/sub/readme.md": "",
	})
	tests := []struct {
		name, dir, program string
		wantName, want     string
	}{
		{"relative", ".", "./cmd/x", "x", "x"},
		{"relative without a dot", ".", "cmd/x", "x", "x"},
		{"import path", ".", "example.com/app/cmd/x", "x", "x"},
		{"absolute", ".", filepath.Join(dir, "cmd/x"), "x", "x"},
		{"the directory", "cmd/x", "", "x", "x"},
		{"beside the directory", "deep/sub", "../../cmd/x", "x", "x"},
		{"absolute, beside the directory", "deep/sub", filepath.Join(dir, "cmd/x"), "x", "x"},
		{"file of a package", ".", filepath.Join(dir, "cmd/x/name.go"), "x", "x"},
		{"file by itself", ".", "./scripts/gen.go", "gen", "gen"},
		{"files", ".", "cmd/x/name.go cmd/x/main.go", "name", "x"},
		{"major version", ".", "./cmd/v2", "cmd", "hello"},
		{"another module", ".", "./tools/cmd/t", "t", "tool"},
		{"from outside any module", "..", filepath.Join(dir, "tools/cmd/t"), "t", "tool"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := mustBuild(t, Config{Dir: filepath.Join(dir, tt.dir), Program: tt.program})
			if got := strings.TrimSuffix(filepath.Base(b.Path), ".exe"); got != tt.wantName {
				t.Errorf("the binary is called %s, want %s", got, tt.wantName)
			}
			if got := output(t, b); got != tt.want {
				t.Errorf("the program says %q, want %q", got, tt.want)
			}
		})
	}
}

func TestBuildKeepsTagsAndStamps(t *testing.T) {
	t.Parallel()
	dir := module(t, map[string]string{
		"main.go": "package main\n\nvar version, commit = \"none\", \"none\"\n\nfunc main() { println(version, commit, tag) }\n",
		"with.go": "//go:build special\n\npackage main\n\nconst tag = \"special\"\n",
		"wout.go": "//go:build !special\n\npackage main\n\nconst tag = \"plain\"\n",
	})
	tests := []struct {
		name string
		cfg  Config
		want string
		note string // the beginning of one
	}{
		{"attributes", Config{Tags: []string{"special", "other"}, LDFlags: "-s -w -X main.version=v1 -X 'main.commit=a b'"}, "v1 a b special", ""},
		{"flags", Config{Flags: []string{"-trimpath", "-tags", "special", "-ldflags=all=-s -w -X main.version=v2", "-a"}}, "v2 none special", "-trimpath is left out"},
		{"GOFLAGS", Config{Env: map[string]string{"GOFLAGS": "-trimpath -tags=special '-ldflags=-s -w -X main.version=v3' -gcflags=-l=0"}}, "v3 none special", "-trimpath is left out"},
		{"over GOFLAGS", Config{Tags: []string{"other"}, LDFlags: "-X main.version=v4",
			Env: map[string]string{"GOFLAGS": "-tags=special '-ldflags=-X main.version=v3 -X main.commit=c'"}}, "v4 none plain", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.cfg.Dir = dir
			b := mustBuild(t, tt.cfg)
			if got := output(t, b); got != tt.want {
				t.Errorf("the program says %q, want %q", got, tt.want)
			}
			if tt.note != "" && !slices.ContainsFunc(b.Notes, func(s string) bool { return strings.HasPrefix(s, tt.note) }) {
				t.Errorf("notes are %q, want one that begins with %q", b.Notes, tt.note)
			}
		})
	}
}

func TestBuildForAnotherPlatform(t *testing.T) {
	t.Parallel()
	target := Platform{"linux", "arm64"}
	if runtime.GOARCH == "arm64" {
		target.Arch = "amd64"
	}
	dir := module(t, map[string]string{"main.go": hello})
	b := mustBuild(t, Config{Dir: dir, Platform: target})
	if b.Info.Platform != target || !b.Info.Static {
		t.Errorf("platform is %s, static %t, want %s, true", b.Info.Platform, b.Info.Static, target)
	}
}

func TestBuildWithCgo(t *testing.T) {
	if _, err := exec.LookPath("gcc"); err != nil || runtime.GOOS != "linux" {
		t.Skip("needs gcc on Linux:", err)
	}
	t.Parallel()
	dir := module(t, map[string]string{
		"own/main.go": "package main\n\n// static int f(void) { return 42; }\nimport \"C\"\n\nfunc main() { println(C.f()) }\n",
		"std/main.go": "package main\n\nimport _ \"os/user\"\n\nfunc main() { println(42) }\n",
	})
	tests := []struct {
		name, program string
		cfg           Config
		wantCgo       bool
		note          string
	}{
		{"auto, cgo of its own", "./own", Config{}, true, "cgo is on: example.com/app/own uses cgo"},
		{"auto, only the standard library's", "./std", Config{}, false, "cgo is off: only the standard library"},
		{"auto, environment says on", "./own", Config{CGO: "auto", Env: map[string]string{"CGO_ENABLED": "1"}}, true, "cgo is on: CGO_ENABLED=1"},
		{"on", "./own", Config{CGO: "on"}, true, "cgo is on: build.cgo is on"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.cfg.Dir, tt.cfg.Program = dir, tt.program
			b := mustBuild(t, tt.cfg)
			if got := output(t, b); got != "42" {
				t.Errorf("the program says %q, want 42", got)
			}
			if b.Info.Static == tt.wantCgo || (b.Info.Interpreter != "") != tt.wantCgo {
				t.Errorf("static is %t, interpreter %q, want cgo %t", b.Info.Static, b.Info.Interpreter, tt.wantCgo)
			}
			if tt.wantCgo && b.Info.Libc == "glibc" && b.Info.MinGlibc == "" {
				t.Errorf("info is %+v, want the oldest glibc", b.Info)
			}
			if !slices.ContainsFunc(b.Notes, func(s string) bool { return strings.HasPrefix(s, tt.note) }) {
				t.Errorf("notes are %q, want one that begins with %q", b.Notes, tt.note)
			}
		})
	}
}

func TestBuildRefusesBadInput(t *testing.T) {
	t.Parallel()
	dir := module(t, map[string]string{
		"cmd/x/main.go":   hello,
		"lib/lib.go":      "package lib\n",
		"tagged/main.go":  "//go:build special\n\n" + hello,
		"empty/readme.md": "",
		"own/main.go":     "package main\n\nimport \"C\"\n\nfunc main() {}\n",
	})
	foreign := Platform{"linux", "arm64"}
	if runtime.GOARCH == "arm64" {
		foreign.Arch = "amd64"
	}
	tests := []struct {
		name string
		cfg  Config
		attr string
		want []string // in the message
	}{
		{"not a main package", Config{Program: "./lib"}, "program", []string{"./lib is package lib, not package main", "./cmd/x"}},
		{"no such directory", Config{Program: "./nope"}, "program", []string{"there is no", "nope", "./cmd/x"}},
		{"no such package", Config{Program: "example.com/nope"}, "program", []string{"no package example.com/nope", "./cmd/x"}},
		{"no Go files", Config{Program: "./empty"}, "program", []string{"no Go files"}},
		{"tags", Config{Program: "./tagged"}, "program", []string{"build.tags"}},
		{"several packages", Config{Program: "./..."}, "program", []string{"matches 3 packages", "./cmd/x"}},
		{"not Go", Config{Program: "./empty/readme.md"}, "program", []string{"neither a directory nor a .go file"}},
		{"no such go", Config{Go: "/nonexistent/go"}, "go", []string{`"/nonexistent/go" is no command`, "PATH"}},
		{"no such directory to work in", Config{Dir: filepath.Join(dir, "nope")}, "dir", []string{"nope is not a directory"}},
		{"foreign cgo", Config{Program: "./own", Platform: foreign}, "cgo", []string{"app/own uses cgo", "no C compiler for " + foreign.String(), `"off"`}},
		{"cgo", Config{Program: "./cmd/x", CGO: "maybe"}, "cgo", []string{`"maybe" is none of`}},
		{"no C compiler", Config{Program: "./cmd/x", CGO: "on", Env: map[string]string{"CC": "nocc -m64"}}, "cgo", []string{"nocc -m64 can't be found"}},
		{"tags twice", Config{Tags: []string{"a"}, Flags: []string{"-tags=b"}}, "tags", []string{"one place"}},
		{"linker flags twice", Config{LDFlags: "-s", Flags: []string{"-ldflags=-w"}}, "ldflags", []string{"one place"}},
		{"flag", Config{Flags: []string{"-o=x"}}, "flags", []string{"build.output"}},
		{"output", Config{Program: "./cmd/x", Output: "nope/x"}, "output", []string{"nope/x can't be written"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.cfg.Dir == "" {
				tt.cfg.Dir = dir
			}
			b, err := Build(t.Context(), tt.cfg, nil, nil)
			var ce *ConfigError
			if !errors.As(err, &ce) || ce.Attr != tt.attr {
				t.Fatalf("got %+v, %T %v, want a ConfigError about %s", b, err, err, tt.attr)
			}
			for _, s := range tt.want {
				if !strings.Contains(ce.Error(), s) {
					t.Errorf("the message is %q, want %q in it", ce, s)
				}
			}
			if strings.Contains(ce.Error(), "\n") {
				t.Errorf("the message is %q, want one line", ce)
			}
		})
	}
}

func TestBuildReportsCompileErrors(t *testing.T) {
	t.Parallel()
	dir := module(t, map[string]string{
		"types/main.go":  "package main\n\nfunc main() {\n\tundefined()\n\tvar s string = 1\n\tprintln(s)\n}\n",
		"syntax/main.go": "package main\n\nfunc main() {\n",
		"import/main.go": "package main\n\nimport \"example.com/app/broken\"\n\nfunc main() { broken.F() }\n",
		"broken/b.go":    "package broken\n\nfunc F() { return 1 }\n",
		"link/main.go":   "package main\n\nfunc missing()\n\nfunc main() { missing() }\n",
		"link/empty.s":   "",
	})
	tests := []struct {
		program string
		want    []Diagnostic // Message: the beginning
	}{
		{"./types", []Diagnostic{{"types/main.go", 4, 2, "undefined: undefined"}, {"types/main.go", 5, 17, "cannot use 1"}}},
		{"./syntax", []Diagnostic{{"syntax/main.go", 4, 1, "syntax error"}}},
		{"./import", []Diagnostic{{"broken/b.go", 3, 19, "too many return values\n\thave (number)"}}},
		{"./link", nil},
	}
	for _, tt := range tests {
		t.Run(tt.program, func(t *testing.T) {
			_, err := Build(t.Context(), Config{Dir: dir, Program: tt.program}, nil, nil)
			var ce *CompileError
			if !errors.As(err, &ce) {
				t.Fatalf("got %T %v, want a CompileError", err, err)
			}
			same := slices.EqualFunc(ce.Diagnostics, tt.want, func(got, want Diagnostic) bool {
				return got.File == filepath.Join(dir, want.File) && got.Line == want.Line && got.Col == want.Col && strings.HasPrefix(got.Message, want.Message)
			})
			if !same {
				t.Errorf("diagnostics are %+v, want %+v", ce.Diagnostics, tt.want)
			}
			if !strings.HasPrefix(ce.Error(), tt.program+" does not compile") || strings.Contains(ce.Output, "\nexample.com/") {
				t.Errorf("the message is %q, want one about %s, without progress", ce, tt.program)
			}
		})
	}
}

func TestBuildPassesOnWhatElseGoSays(t *testing.T) {
	t.Parallel()
	dir := module(t, map[string]string{"go.mod": "module example.com/app\n\ngo 1.99\n", "main.go": hello})
	_, err := Build(t.Context(), Config{Dir: dir, Env: map[string]string{"GOTOOLCHAIN": "local"}}, nil, nil)
	var ge *GoError
	if !errors.As(err, &ge) || !strings.Contains(ge.Error(), "go >= 1.99") {
		t.Errorf("got %T %v, want a GoError about the version", err, err)
	}
}

func TestCancelledBuildLeavesNoProcess(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("looks at processes in /proc")
	}
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := module(t, map[string]string{"main.go": hello})
	pidFile := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { // ends with the build
		_, err := Build(ctx, Config{Dir: dir, Flags: []string{"-toolexec=" + self}, Env: map[string]string{hangVar: pidFile}}, nil, nil)
		done <- err
	}()
	var pid string
	for deadline := time.Now().Add(30 * time.Second); pid == ""; time.Sleep(10 * time.Millisecond) {
		b, _ := os.ReadFile(pidFile)
		if strings.HasSuffix(string(b), "\n") {
			pid = strings.TrimSpace(string(b))
		}
		select {
		case err := <-done:
			t.Fatalf("the build ended before it was cancelled: %v", err)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("waited 30 s for the compiler to start")
		}
	}
	start := time.Now()
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the build goes on 10 s after it was cancelled")
	}
	t.Logf("ended %v after it was cancelled", time.Since(start))
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the compiler lives on: %s", stat)
		}
	}
}

func TestBuildsOfOneProgramWaitForEachOther(t *testing.T) {
	t.Parallel()
	dir := module(t, map[string]string{"main.go": hello})
	var wg sync.WaitGroup
	var got [3]*Binary
	for i := range got {
		wg.Go(func() {
			var err error
			if got[i], err = Build(t.Context(), Config{Dir: dir}, nil, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	fresh := 0
	for _, b := range got {
		if b.SHA256 != got[0].SHA256 || b.Path != got[0].Path {
			t.Errorf("got %s %s, want %s %s", b.Path, b.SHA256, got[0].Path, got[0].SHA256)
		}
		if !b.Cached {
			fresh++
		}
	}
	if fresh != 1 {
		t.Errorf("%d of %d builds were not cached, want 1", fresh, len(got))
	}
}

func TestBuildWritesOutput(t *testing.T) {
	t.Parallel()
	dir := module(t, map[string]string{"main.go": hello, "bin/keep": ""})
	for _, tt := range []struct{ name, output, want string }{
		{"file", "prog", "prog"},
		{"directory", "bin", "bin/app"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := mustBuild(t, Config{Dir: dir, Output: tt.output})
			if want := filepath.Join(dir, tt.want); b.Path != want || b.Info.File != want {
				t.Errorf("path is %s, info's %s, want %s", b.Path, b.Info.File, want)
			}
			// Whatever happens to the file, the cache is not damaged by it.
			writeFile(t, b.Path, "x")
			if again := mustBuild(t, Config{Dir: dir, Output: tt.output}); again.SHA256 != b.SHA256 {
				t.Errorf("built again: hash %s, want %s", again.SHA256, b.SHA256)
			}
		})
	}
}

func TestOldBinariesArePruned(t *testing.T) {
	root := t.TempDir()
	now := time.Now()
	for name, age := range map[string]time.Duration{"new": time.Hour, "old": unusedFor + time.Hour, "busy": unusedFor + time.Hour, "self": unusedFor + time.Hour} {
		lock := filepath.Join(root, name, "lock")
		writeFile(t, lock, "")
		if err := os.Chtimes(lock, now, now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	lock, err := tryLock(filepath.Join(root, "busy", "lock"))
	if err != nil || lock == nil {
		t.Fatal(lock, err)
	}
	defer lock.Close()
	prune(root, filepath.Join(root, "self"), now)
	left, _ := filepath.Glob(filepath.Join(root, "*"))
	for i := range left {
		left[i] = filepath.Base(left[i])
	}
	if want := []string{"busy", "new", "self"}; !slices.Equal(left, want) {
		t.Errorf("%q are left, want %q", left, want)
	}
}
