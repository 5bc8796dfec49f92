package buildflags

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// hangVar names a file. With it set, the test binary stands for a compiler that
// never ends: it writes its process ID there and waits to be killed.
const hangVar = "BUILDFLAGS_TEST_HANG"

func TestMain(m *testing.M) {
	if name := os.Getenv(hangVar); name != "" {
		_ = os.WriteFile(name, fmt.Appendln(nil, os.Getpid()), 0o600)
		time.Sleep(time.Minute)
		os.Exit(1)
	}
	os.Exit(testMain(m))
}

// testMain runs the tests with a cache directory of their own, but with the
// user's build cache: compiling the standard library anew takes a minute.
func testMain(m *testing.M) int {
	out, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		fmt.Fprintln(os.Stderr, "these tests run the go command:", err)
		return 1
	}
	_ = os.Setenv("GOCACHE", strings.TrimSpace(string(out)))
	dir, err := os.MkdirTemp("", "buildflags-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	_ = os.Setenv("XDG_CACHE_HOME", dir) // on Linux; elsewhere the user's is used, and pruned in time
	_ = os.Setenv("GOFLAGS", "-buildvcs=false")
	return m.Run()
}

// module writes files, which are named with slashes, into a new directory and
// returns that. Without a go.mod among them it adds one for example.com/app.
func module(t testing.TB, files map[string]string) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if files["go.mod"] == "" && files["go.work"] == "" {
		writeFile(t, filepath.Join(dir, "go.mod"), "module example.com/app\n\ngo 1.25\n")
	}
	for name, data := range files {
		writeFile(t, filepath.Join(dir, filepath.FromSlash(name)), data)
	}
	return dir
}

func writeFile(t testing.TB, name, data string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

// mustBuild builds cfg and checks what is true of every binary.
func mustBuild(t testing.TB, cfg Config) *Binary {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var lines []string
	b, err := Build(ctx, cfg, nil, func(s string) { lines = append(lines, s) })
	if err != nil {
		t.Fatalf("Build(%+v): %v\nprogress: %q", cfg, err, lines)
	}
	if !b.Info.Debuggable || len(b.Info.Optimized) > 0 || b.Info.CompressedDWARF {
		t.Errorf("info is %+v, want a debuggable binary with uncompressed DWARF", b.Info)
	}
	sum, size, err := hashFile(b.Path)
	if err != nil || sum != b.SHA256 || size != b.Size {
		t.Errorf("%s has hash %s and size %d, %v, want %s and %d", b.Path, sum, size, err, b.SHA256, b.Size)
	}
	checkSources(t, b)
	return b
}

// output runs a binary and returns what it writes to both its outputs.
func output(t testing.TB, b *Binary) string {
	t.Helper()
	out, err := exec.Command(b.Path).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", b.Path, err, out)
	}
	return strings.TrimSpace(string(out))
}

const hello = "package main\n\nfunc main() { println(\"hello\") }\n"
