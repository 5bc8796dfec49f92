package buildflags

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// A goCommand is a go command, where it runs and with what environment.
type goCommand struct {
	path string
	dir  string // absolute, as the user wrote it: symbolic links are not resolved
	env  []string
	log  *slog.Logger

	vendorMod string // that is taken for a go.mod, see useVendorMod; "": none is
}

// newGoCommand finds the go command. The environment is this process's with
// cfg.Env over it and PWD set to the directory, so that Go sees the directory by
// the name that the user's editor has for it, and writes that into the binary.
func newGoCommand(cfg *Config, log *slog.Logger) (*goCommand, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, &ConfigError{Attr: "dir", Message: cfg.Dir + " has no absolute path", Err: err}
	}
	if cfg.Dir == "" {
		if dir, err = os.Getwd(); err != nil { // keeps a valid $PWD
			return nil, &ConfigError{Attr: "dir", Message: "the current directory has no name", Fix: "set build.dir", Err: err}
		}
	}
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return nil, &ConfigError{Attr: "dir", Message: fmt.Sprintf("%s is not a directory", dir), Err: err}
	}
	g := &goCommand{dir: dir, env: os.Environ(), log: log}
	for k, v := range cfg.Env {
		g.setenv(k, v)
	}
	g.setenv("PWD", dir)
	g.path, err = g.find(cfg.Go)
	return g, err
}

func (g *goCommand) setenv(key, value string) {
	g.env = slices.DeleteFunc(g.env, func(kv string) bool {
		k, _, _ := strings.Cut(kv, "=")
		return k == key || runtime.GOOS == "windows" && strings.EqualFold(k, key)
	})
	g.env = append(g.env, key+"="+value)
}

func (g *goCommand) getenv(key string) string {
	for _, kv := range g.env {
		if k, v, _ := strings.Cut(kv, "="); k == key || runtime.GOOS == "windows" && strings.EqualFold(k, key) {
			return v
		}
	}
	return ""
}

// chdir makes the go command run in dir.
func (g *goCommand) chdir(dir string) {
	g.dir = dir
	g.setenv("PWD", dir)
}

// find returns the path of the go command called name, or of "go".
func (g *goCommand) find(name string) (string, error) {
	if name != "" {
		if p, err := g.lookPath(name); err == nil {
			return p, nil
		}
		return "", &ConfigError{Attr: "go", Message: fmt.Sprintf("%q is no command that can be run", name),
			Fix: "set it to the path of the go command, or leave it out to use the one in PATH", Err: exec.ErrNotFound}
	}
	if p, err := g.lookPath("go"); err == nil {
		return p, nil
	}
	dirs := []string{"/usr/local/go/bin", "/opt/homebrew/bin", "/usr/lib/go/bin", "/snap/bin", `C:\Program Files\Go\bin`}
	if root := g.getenv("GOROOT"); root != "" {
		dirs = slices.Insert(dirs, 0, filepath.Join(root, "bin"))
	}
	for _, dir := range dirs {
		if p, err := exec.LookPath(filepath.Join(dir, "go")); err == nil {
			return p, nil
		}
	}
	return "", &ConfigError{Attr: "go", Message: "the go command is not in PATH, nor where Go's installers put it",
		Fix: fmt.Sprintf("install Go 1.%d, or set build.go to the path of the go command", maxGoMinor), Err: exec.ErrNotFound}
}

// lookPath is exec.LookPath in the PATH of the go command's environment; a path
// with a separator is relative to its directory.
func (g *goCommand) lookPath(name string) (string, error) {
	if filepath.IsAbs(name) {
		return exec.LookPath(name)
	}
	if filepath.Base(name) != name {
		return exec.LookPath(filepath.Join(g.dir, name))
	}
	for _, dir := range filepath.SplitList(g.getenv("PATH")) {
		if filepath.IsAbs(dir) {
			if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
				return p, nil
			}
		}
	}
	return "", exec.ErrNotFound
}

// maxOutput is how much of a command's standard error is kept, in bytes.
const maxOutput = 1 << 20

// run runs the go command and returns what it wrote. Each line of its standard
// error goes to line as it comes; if that returns true it is not kept. A failure
// is a *GoError; if ctx ended, it is that of ctx.
func (g *goCommand) run(ctx context.Context, args []string, line func(string) bool) (stdout []byte, stderr string, err error) {
	cmd := exec.CommandContext(ctx, g.path, args...) //nolint:gosec // the go command, with the user's flags
	cmd.Dir, cmd.Env = g.dir, g.env
	var out bytes.Buffer
	errs := &lineWriter{line: line}
	cmd.Stdout, cmd.Stderr = &out, errs
	killGroup(cmd)
	// If a grandchild outside the process group holds the pipes, don't wait for it.
	cmd.WaitDelay = 5 * time.Second

	start := time.Now()
	err = cmd.Run()
	errs.flush()
	g.log.Debug("go command ended", "stage", "build", "args", cmd.Args, "dir", g.dir, "took", time.Since(start), "err", err)
	stderr = errs.kept.String()
	switch {
	case err == nil:
		return out.Bytes(), stderr, nil
	case ctx.Err() != nil:
		awaitGroup(cmd, time.Second/10)
		return nil, stderr, context.Cause(ctx)
	}
	return out.Bytes(), stderr, &GoError{Args: cmd.Args, Dir: g.dir, Output: strings.TrimSpace(stderr), Err: err}
}

// A lineWriter cuts a stream into lines. It is used by one goroutine at a time.
type lineWriter struct {
	line    func(string) bool // may be nil
	partial []byte
	kept    strings.Builder
}

func (w *lineWriter) Write(p []byte) (int, error) {
	n := len(p)
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			break
		}
		w.emit(string(w.partial) + string(p[:i+1]))
		w.partial, p = w.partial[:0], p[i+1:]
	}
	w.partial = append(w.partial, p...)
	if len(w.partial) > maxOutput {
		w.flush()
	}
	return n, nil
}

func (w *lineWriter) flush() {
	if len(w.partial) > 0 {
		w.emit(string(w.partial))
		w.partial = w.partial[:0]
	}
}

func (w *lineWriter) emit(s string) {
	if w.line != nil && w.line(strings.TrimRight(s, "\r\n")) {
		return
	}
	if w.kept.Len()+len(s) <= maxOutput {
		w.kept.WriteString(s)
	}
}

// A goEnv is what `go env` says that a build depends on.
type goEnv struct {
	GOOS, GOARCH, GOHOSTOS, GOHOSTARCH string
	GOVERSION, GOROOT, GOTMPDIR        string
	GOFLAGS, GOMOD, GOWORK, GOMODCACHE string
	CGO_ENABLED, CC                    string
}

func (g *goCommand) readEnv(ctx context.Context) (*goEnv, error) {
	args := []string{"env", "-json", "GOOS", "GOARCH", "GOHOSTOS", "GOHOSTARCH", "GOVERSION", "GOROOT", "GOTMPDIR",
		"GOFLAGS", "GOMOD", "GOWORK", "GOMODCACHE", "CGO_ENABLED", "CC"}
	out, _, err := g.run(ctx, args, nil)
	if err != nil {
		return nil, err
	}
	env := new(goEnv)
	if err := json.Unmarshal(out, env); err != nil {
		return nil, &ConfigError{Attr: "go", Message: fmt.Sprintf("%s is not a go command: its answer to `env -json` is no JSON", g.path), Err: err}
	}
	return env, nil
}

// A goPackage is what `go list -json` says of a package. (cmd/go help list.)
type goPackage struct {
	ImportPath, Name, Dir                             string
	Standard, DepOnly                                 bool
	GoFiles, CgoFiles, InvalidGoFiles, IgnoredGoFiles []string
	CFiles, CXXFiles, MFiles, HFiles, FFiles, SFiles  []string
	SwigFiles, SwigCXXFiles, SysoFiles                []string
	EmbedPatterns, EmbedFiles                         []string
	Module                                            *goModule
	Error                                             *struct{ Pos, Err string }
}

// A goModule is the module that a package is in.
type goModule struct {
	Path, Version, Dir, GoMod string
	Replace                   *goModule
}

// source is the module that the files are of; nil of nil.
func (m *goModule) source() *goModule {
	if m != nil && m.Replace != nil {
		return m.Replace
	}
	return m
}

const goPackageFields = "ImportPath,Name,Dir,Standard,DepOnly,GoFiles,CgoFiles,InvalidGoFiles,IgnoredGoFiles," +
	"CFiles,CXXFiles,MFiles,HFiles,FFiles,SFiles,SwigFiles,SwigCXXFiles,SysoFiles,EmbedPatterns,EmbedFiles,Module,Error"

// list returns the packages that patterns name and all that they import.
func (g *goCommand) list(ctx context.Context, flags, patterns []string, deps bool) ([]*goPackage, error) {
	args := []string{"list", "-e", "-json=" + goPackageFields}
	if deps {
		args = append(args, "-deps")
	}
	args = append(append(append(args, flags...), "--"), patterns...)
	out, _, err := g.run(ctx, args, nil)
	if err != nil {
		return nil, err
	}
	var pkgs []*goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		p := new(goPackage)
		if err := dec.Decode(p); errors.Is(err, io.EOF) {
			return pkgs, nil
		} else if err != nil {
			return nil, fmt.Errorf("reading the answer of go list: %w", err)
		}
		pkgs = append(pkgs, p)
	}
}
