package buildflags

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// resolveProgram returns what to say to `go build` for cfg.Program. It makes the
// go command run in the program's directory if that is a module outside the one,
// or the workspace, that cfg.Dir is in.
func resolveProgram(ctx context.Context, cfg *Config, g *goCommand, env *goEnv, flags []string) (patterns []string, err error) {
	program := cmp.Or(cfg.Program, ".")
	if files := strings.Fields(program); len(files) > 1 && !slices.ContainsFunc(files, notGoFile) {
		return files, nil
	}
	name := program
	if !filepath.IsAbs(name) {
		name = filepath.Join(g.dir, name)
	}
	st, err := os.Stat(name)
	local := filepath.IsAbs(program) || program == "." || program == ".." ||
		strings.HasPrefix(filepath.ToSlash(program), "./") || strings.HasPrefix(filepath.ToSlash(program), "../")
	switch {
	case err != nil && local && !strings.Contains(program, "..."):
		return nil, &ConfigError{Attr: "program", Message: fmt.Sprintf("there is no %s", name), Fix: suggest(ctx, g, flags), Err: err}
	case err != nil || !local && !st.IsDir() && notGoFile(name) || !local && !hasGoFiles(name):
		return []string{program}, nil //nolint:nilerr // an import path
	case st.IsDir():
		return []string{g.enter(name, env)}, nil
	case notGoFile(name):
		return nil, &ConfigError{Attr: "program", Message: fmt.Sprintf("%s is neither a directory nor a .go file", name)}
	}
	dir, file := filepath.Split(name)
	pattern := g.enter(filepath.Clean(dir), env)
	pkgs, err := g.list(ctx, flags, []string{pattern}, false)
	if err != nil {
		return nil, err
	}
	if len(pkgs) == 1 && (slices.Contains(pkgs[0].GoFiles, file) || slices.Contains(pkgs[0].CgoFiles, file)) {
		return []string{pattern}, nil
	}
	return []string{name}, nil
}

func notGoFile(name string) bool { return filepath.Ext(name) != ".go" }

func hasGoFiles(name string) bool {
	if !notGoFile(name) {
		return true
	}
	m, _ := filepath.Glob(filepath.Join(name, "*.go")) // a bad pattern is no directory of ours
	return len(m) > 0
}

// enter returns the pattern for the absolute directory dir, after changing to it if need be.
func (g *goCommand) enter(dir string, env *goEnv) string {
	if env.GOWORK == "" || env.GOWORK == "off" {
		if mod := nearest(dir, "go.mod"); mod != "" && !sameFile(mod, env.GOMOD) {
			g.chdir(dir)
			return "."
		}
	}
	rel, ok := relative(g.dir, dir)
	if !ok {
		return dir
	}
	if rel == "." {
		return rel
	}
	if !strings.HasPrefix(rel, "..") {
		rel = "." + string(filepath.Separator) + rel
	}
	return rel
}

// relative is filepath.Rel, but sees also through symbolic links that one of the
// two directories was reached by. It is not ok if dir is not below base.
func relative(base, dir string) (rel string, ok bool) {
	rel, err := filepath.Rel(base, dir)
	if err == nil && filepath.IsLocal(rel) {
		return rel, true
	}
	realBase, err1 := filepath.EvalSymlinks(base)
	realDir, err2 := filepath.EvalSymlinks(dir)
	if err1 == nil && err2 == nil {
		if r, err := filepath.Rel(realBase, realDir); err == nil && filepath.IsLocal(r) {
			return r, true
		}
	}
	return rel, err == nil
}

// nearest returns the file of that name in dir, or in the nearest directory above
// that has one, or "".
func nearest(dir, name string) string {
	for {
		file := filepath.Join(dir, name)
		if st, err := os.Stat(file); err == nil && !st.IsDir() {
			return file
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return ""
		}
		dir = parent
	}
}

func sameFile(a, b string) bool {
	if a == b {
		return true
	}
	sa, err1 := os.Stat(a)
	sb, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(sa, sb)
}

// mainPackage returns the one package among pkgs that patterns named, if it is a
// program. Source errors in it are left to the compiler, whose words are better.
func mainPackage(ctx context.Context, cfg *Config, g *goCommand, target Platform, flags []string, pkgs []*goPackage) (*goPackage, error) {
	program := cmp.Or(cfg.Program, ".")
	var roots []*goPackage
	for _, p := range pkgs {
		if !p.DepOnly {
			roots = append(roots, p)
		}
	}
	if len(roots) != 1 {
		var names []string
		for _, p := range roots {
			names = append(names, p.ImportPath)
		}
		if len(names) == 0 {
			return nil, &ConfigError{Attr: "program", Message: fmt.Sprintf("%s matches no package in %s", program, g.dir), Fix: suggest(ctx, g, flags)}
		}
		return nil, &ConfigError{Attr: "program", Message: fmt.Sprintf("%s matches %d packages (%s)", program, len(names), abridge(names, 3)), Fix: suggest(ctx, g, flags)}
	}
	p := roots[0]
	source := len(p.GoFiles)+len(p.CgoFiles)+len(p.InvalidGoFiles) > 0
	switch {
	case p.Error != nil && !source:
		fix := "its files need other build.tags or another platform"
		if len(p.IgnoredGoFiles) == 0 {
			fix = suggest(ctx, g, flags)
		}
		reason := strings.Join(strings.Fields(p.Error.Err), " ")
		return nil, &ConfigError{Attr: "program", Message: fmt.Sprintf("no package %s for %s in %s (%s)", program, target, g.dir, reason), Fix: fix}
	case p.Name != "main" && p.Name != "":
		return nil, &ConfigError{Attr: "program", Message: fmt.Sprintf("%s is package %s, not package main", program, p.Name), Fix: suggest(ctx, g, flags)}
	}
	return p, nil
}

// suggest names the main packages below the go command's directory, as the fix
// of an error; "" if there are none or finding them takes long.
func suggest(ctx context.Context, g *goCommand, flags []string) string {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	pkgs, err := g.list(ctx, flags, []string{"./..."}, false)
	if err != nil {
		return ""
	}
	var names []string
	for _, p := range pkgs {
		if rel, ok := relative(g.dir, p.Dir); ok && p.Name == "main" && p.Dir != "" {
			if rel != "." {
				rel = "./" + filepath.ToSlash(rel)
			}
			names = append(names, rel)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return "the programs here are " + abridge(names, 8)
}

var majorVersion = regexp.MustCompile(`^v[0-9]+$`)

// programName is the name that go build would give the executable.
func programName(p *goPackage, patterns []string, target Platform) string {
	name := path.Base(p.ImportPath)
	if dir := path.Dir(p.ImportPath); majorVersion.MatchString(name) && dir != "." {
		name = path.Base(dir)
	}
	if p.ImportPath == "command-line-arguments" {
		name = strings.TrimSuffix(filepath.Base(patterns[0]), ".go")
	}
	if target.OS == "windows" {
		name += ".exe"
	}
	return name
}
