package buildflags

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
)

// A Program is a main package. A Config may name it by its directory.
type Program struct {
	ImportPath string `json:"importPath"`
	Dir        string `json:"dir"` // absolute
	Module     string `json:"module,omitempty"`
	ModuleDir  string `json:"moduleDir,omitempty"`
}

// mostModules bounds how many modules are looked at: each takes a go command.
const mostModules = 50

// Programs lists the main packages in cfg.Dir and below, of the module that it is in
// and of modules whose directories are below, sorted by directory. Directories that the
// go command does not look into (vendor, testdata, and names that begin with a dot or
// an underscore) are left out. log may be nil. Of cfg count Dir, Env, Go and Tags.
func Programs(ctx context.Context, cfg Config, log *slog.Logger) ([]Program, error) {
	g, _, err := newToolchain(ctx, &cfg, log)
	if err != nil {
		return nil, err
	}
	top := g.dir
	dirs, err := modulesBelow(ctx, top)
	if err != nil {
		return nil, err
	}
	var flags []string
	if len(cfg.Tags) > 0 {
		flags = []string{"-tags=" + strings.Join(cfg.Tags, ",")}
	}
	programs := []Program{}
	for _, dir := range dirs {
		g.chdir(dir)
		pkgs, err := g.list(ctx, flags, []string{"./..."}, false)
		if err != nil && (dir == top || ctx.Err() != nil) {
			return nil, err
		}
		for _, p := range pkgs { // none of a module that can't be listed
			if p.Name != "main" || p.Dir == "" {
				continue
			}
			found := Program{ImportPath: p.ImportPath, Dir: p.Dir}
			if p.Module != nil {
				found.Module, found.ModuleDir = p.Module.Path, p.Module.Dir
			}
			programs = append(programs, found)
		}
	}
	slices.SortFunc(programs, func(a, b Program) int { return cmp.Compare(a.Dir, b.Dir) })
	return slices.CompactFunc(programs, func(a, b Program) bool { return a.Dir == b.Dir }), nil
}

// modulesBelow returns dir and the directories below it that have a go.mod.
func modulesBelow(ctx context.Context, dir string) ([]string, error) {
	dirs := []string{dir}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch name := d.Name(); {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case path == dir:
			return err
		case err != nil:
			return fs.SkipDir // a directory that can't be read has nothing to build
		case d.IsDir() && (name == "vendor" || name == "testdata" || name == "node_modules" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_")):
			return fs.SkipDir
		case name == "go.mod" && filepath.Dir(path) != dir:
			if len(dirs) == mostModules {
				return fs.SkipAll
			}
			dirs = append(dirs, filepath.Dir(path))
		}
		return nil
	})
	return dirs, err
}

// Outline is how a Config would be built.
type Outline struct {
	Program  string   // the import path
	Platform Platform // that it is for
	Notes    []string // as of [Binary]
}

// Plan tells how cfg would be built, and compiles nothing. The errors are those of
// [Builder.Build], but for the compiler's.
func Plan(ctx context.Context, cfg Config, log *slog.Logger) (*Outline, error) {
	g, err := newGoCommand(&cfg, orDiscard(log))
	if err != nil {
		return nil, err
	}
	p, err := plan(ctx, &cfg, g)
	if err != nil {
		return nil, interrupted(ctx, &cfg, err)
	}
	if p.main.Error != nil {
		return nil, fmt.Errorf("%s: %s", p.main.ImportPath, p.main.Error.Err)
	}
	return &Outline{Program: p.main.ImportPath, Platform: p.target, Notes: p.notes}, nil
}

// Toolchain is a go command.
type Toolchain struct {
	Path    string
	Version string // "go1.26.8"
}

// FindToolchain finds the go command that cfg would be built with. It is an error if
// Delve can't debug what that compiles.
func FindToolchain(ctx context.Context, cfg Config, log *slog.Logger) (Toolchain, error) {
	g, env, err := newToolchain(ctx, &cfg, log)
	if err != nil {
		return Toolchain{}, err
	}
	return Toolchain{Path: g.path, Version: env.GOVERSION}, nil
}

func newToolchain(ctx context.Context, cfg *Config, log *slog.Logger) (*goCommand, *goEnv, error) {
	g, err := newGoCommand(cfg, orDiscard(log))
	if err != nil {
		return nil, nil, err
	}
	env, err := g.supported(ctx)
	return g, env, err
}

// supported reads the environment of a go command that has to be one whose programs
// can be debugged.
func (g *goCommand) supported(ctx context.Context) (*goEnv, error) {
	env, err := g.readEnv(ctx)
	if err != nil {
		return nil, err
	}
	if problem, ok := checkGoVersion(env.GOVERSION); !ok {
		return nil, &ConfigError{Attr: "go", Message: fmt.Sprintf("%s in %s is %s: %s", g.path, g.dir, env.GOVERSION, problem.Message), Fix: problem.Fix}
	}
	return env, g.useVendorMod(env)
}

func orDiscard(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}
