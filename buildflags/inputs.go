package buildflags

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/build"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Inputs are the files that a program is built of, as far as they can change from
// one build to the next: those of its packages in the main module, in the
// workspace, in modules that are replaced by a local directory and in vendor
// directories, and the files that choose the modules. `go list -deps` decides, for
// the platform, tags and cgo mode of the build. The standard library and the module
// cache don't change. It is not modified once it is made.
type Inputs struct {
	// Files are absolute and sorted. Not all of them need exist: go.sum, for instance.
	Files []string

	// Dirs are the directories of the packages, absolute and sorted, in which a new
	// file may belong to the build: see Match. Not all of them need exist, since a
	// package may be imported before it is written.
	Dirs []string

	files    map[string]bool
	modules  map[string]bool          // those of files that choose the modules
	packages map[string]*inputPackage // by directory
	build    build.Context
}

// An inputPackage is what is to be known of a directory with a package.
type inputPackage struct {
	open   bool     // a new source file belongs to it
	embeds []string // patterns of go:embed
}

// Match reports whether path, which is absolute, belongs to the build. A file that
// is not in Files does if it is a source file in the directory of a package that
// its name and its build constraints don't exclude, or if a go:embed pattern
// matches it. A directory does if there may be such files in it.
func (in *Inputs) Match(path string, dir bool) bool {
	if in.files[path] {
		return !dir
	}
	parent, name := filepath.Split(path)
	parent = filepath.Clean(parent)
	if p := in.packages[parent]; p != nil && p.open && !dir && !strings.HasSuffix(name, "_test.go") {
		ok, err := in.build.MatchFile(parent, name)
		// One whose constraints can't be read is for the compiler to complain about.
		if ok || err != nil && !errors.Is(err, fs.ErrNotExist) {
			return true
		}
	}
	for up, rel := parent, name; ; {
		if p := in.packages[up]; p != nil && slices.ContainsFunc(p.embeds, func(s string) bool { return embedMatch(s, rel, dir) }) {
			return true
		}
		next := filepath.Dir(up)
		if next == up {
			return false
		}
		up, rel = next, filepath.Base(up)+"/"+rel
	}
}

// embedMatch reports whether a go:embed pattern matches rel, or a directory that
// rel is in. For a directory it is enough that there may be matches below it. (Go's
// package embed: directories are embedded whole, but for names that begin with "."
// or "_", unless the pattern begins with "all:".)
func embedMatch(pattern, rel string, dir bool) bool {
	pattern, all := strings.CutPrefix(pattern, "all:")
	want, have := strings.Split(pattern, "/"), strings.Split(rel, "/")
	for i := range min(len(want), len(have)) {
		if ok, err := path.Match(want[i], have[i]); !ok || err != nil {
			return false
		}
	}
	if len(have) < len(want) {
		return dir
	}
	hidden := func(s string) bool { return s[0] == '.' || s[0] == '_' }
	return all || !slices.ContainsFunc(have[len(want):], hidden)
}

// inputs computes the Inputs of a plan. Where packages can't be found or read, files
// may be missing: see merge.
func (p *buildPlan) inputs(ctx context.Context, g *goCommand) (*Inputs, error) {
	in := newInputs(p.buildContext(g))
	var err error
	if in.modules, err = p.moduleFiles(ctx, g); err != nil {
		return nil, err
	}
	maps.Copy(in.files, in.modules)
	modules := p.localModules()
	for _, pkg := range p.pkgs {
		dir := pkg.Dir
		if dir == "" {
			dir = missingDir(pkg.ImportPath, modules)
		}
		if pkg.Standard || dir == "" || p.isFixed(dir) {
			continue
		}
		// Files that were named one by one are all that there is.
		in.packages[dir] = &inputPackage{open: pkg.ImportPath != "command-line-arguments", embeds: pkg.EmbedPatterns}
		for _, names := range [][]string{
			pkg.GoFiles, pkg.CgoFiles, pkg.InvalidGoFiles, pkg.CFiles, pkg.CXXFiles, pkg.MFiles, pkg.HFiles, pkg.FFiles,
			pkg.SFiles, pkg.SwigFiles, pkg.SwigCXXFiles, pkg.SysoFiles, pkg.EmbedFiles,
		} {
			for _, name := range names {
				in.files[filepath.Join(dir, filepath.FromSlash(name))] = true
			}
		}
	}
	in.sort()
	return in, nil
}

func newInputs(c build.Context) *Inputs {
	return &Inputs{files: map[string]bool{}, modules: map[string]bool{}, packages: map[string]*inputPackage{}, build: c}
}

func (in *Inputs) sort() {
	in.Files, in.Dirs = slices.Sorted(maps.Keys(in.files)), slices.Sorted(maps.Keys(in.packages))
}

// merge returns what is in either; of a directory in both, what in has. It is for
// packages that could not be read just now: what they import is not known, but it
// was once.
func (in *Inputs) merge(old *Inputs) *Inputs {
	merged := newInputs(in.build)
	for _, from := range []*Inputs{old, in} {
		maps.Copy(merged.files, from.files)
		maps.Copy(merged.modules, from.modules)
		maps.Copy(merged.packages, from.packages)
	}
	merged.sort()
	return merged
}

// isFixed reports whether a directory is one whose files don't change.
func (p *buildPlan) isFixed(dir string) bool {
	return p.env.GOMODCACHE != "" && inside(dir, p.env.GOMODCACHE)
}

// localModules are the directories of the modules that can change, by module path.
func (p *buildPlan) localModules() map[string]string {
	dirs := map[string]string{}
	for _, pkg := range p.pkgs {
		if m := pkg.Module.source(); m != nil && m.Dir != "" && !p.isFixed(m.Dir) {
			dirs[pkg.Module.Path] = m.Dir
		}
	}
	return dirs
}

// missingDir is where a package would be that is not there, or "" if it would not be
// in one of the modules.
func missingDir(importPath string, modules map[string]string) string {
	for prefix := importPath; prefix != "."; prefix = path.Dir(prefix) {
		if dir := modules[prefix]; dir != "" {
			return filepath.Join(dir, filepath.FromSlash(strings.TrimPrefix(importPath, prefix)))
		}
	}
	return ""
}

// moduleFiles are the files that choose the modules. (go.dev/ref/mod.)
func (p *buildPlan) moduleFiles(ctx context.Context, g *goCommand) (map[string]bool, error) {
	files := map[string]bool{}
	addVendor := func(dir string) {
		if list := filepath.Join(dir, "vendor", "modules.txt"); exists(list) {
			files[list] = true
		}
	}
	add := func(goMod string) {
		dir := filepath.Dir(goMod)
		if filepath.Base(goMod) != "go.mod" || p.isFixed(dir) {
			return // os.DevNull: outside modules
		}
		files[goMod], files[filepath.Join(dir, "go.sum")] = true, true
		addVendor(dir)
	}
	for _, pkg := range p.pkgs {
		if m := pkg.Module.source(); m != nil {
			add(m.GoMod)
		}
	}
	if p.main.Module == nil {
		add(nearest(g.dir, "go.mod"))
	}
	if file := flagValue(p.args, "modfile"); file != "" {
		file = absolute(g.dir, file)
		files[file], files[strings.TrimSuffix(file, ".mod")+".sum"] = true, true
	}
	if file := g.vendorMod; file != "" {
		files[file], files[sumOf(file)] = true, true
	}
	if file := flagValue(p.args, "overlay"); file != "" {
		files[absolute(g.dir, file)] = true
	}
	work := p.env.GOWORK
	if work == "" || work == "off" {
		return files, nil
	}
	files[work], files[work+".sum"] = true, true
	addVendor(filepath.Dir(work))
	used, err := workspaceModules(ctx, g, work)
	for _, dir := range used {
		add(filepath.Join(dir, "go.mod")) // each has a say in the versions of all
	}
	return files, err
}

// workspaceModules are the directories of the modules that a go.work names.
func workspaceModules(ctx context.Context, g *goCommand, file string) ([]string, error) {
	out, _, err := g.run(ctx, []string{"work", "edit", "-json", file}, nil)
	if err != nil {
		return nil, err
	}
	var work struct{ Use []struct{ DiskPath string } }
	if err := json.Unmarshal(out, &work); err != nil {
		return nil, fmt.Errorf("reading the answer of go work edit: %w", err)
	}
	var dirs []string
	for _, use := range work.Use {
		dirs = append(dirs, absolute(filepath.Dir(file), filepath.FromSlash(use.DiskPath)))
	}
	return dirs, nil
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

func absolute(dir, name string) string {
	if filepath.IsAbs(name) {
		return filepath.Clean(name)
	}
	return filepath.Join(dir, name)
}

// buildContext says which files of a package's directory Go takes.
func (p *buildPlan) buildContext(g *goCommand) build.Context {
	c := build.Default
	c.GOOS, c.GOARCH, c.Compiler = p.target.OS, p.target.Arch, "gc"
	c.CgoEnabled = g.getenv("CGO_ENABLED") == "1"
	c.BuildTags = strings.FieldsFunc(flagValue(p.args, "tags"), func(r rune) bool { return r == ',' || r == ' ' })
	if len(c.BuildTags) == 0 { // the flag counts instead of the variable
		goflags, _ := splitQuoted(g.getenv("GOFLAGS")) // was read before
		c.BuildTags = strings.Split(flagValue(goflags, "tags"), ",")
	}
	if minor, ok := goMinor(p.env.GOVERSION); ok {
		c.ReleaseTags = nil
		for i := 1; i <= minor; i++ {
			c.ReleaseTags = append(c.ReleaseTags, "go1."+strconv.Itoa(i))
		}
	}
	return c
}

// flagValue is the value of the last of a flag in args, each "-name=value", or "".
func flagValue(args []string, name string) string {
	for _, arg := range slices.Backward(args) {
		if n, value, ok := strings.Cut(strings.TrimLeft(arg, "-"), "="); ok && n == name {
			return value
		}
	}
	return ""
}
