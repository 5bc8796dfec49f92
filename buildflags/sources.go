package buildflags

import (
	"path/filepath"
	"slices"
	"strings"
)

// A PathRule says that the directory Local on this machine is called Remote in
// the binary. Remote "" stands for every path that is not absolute: Delve's
// substitutePath, whose "from" is Local and whose "to" is Remote, means the same.
// The first rule that applies counts, in both directions.
type PathRule struct {
	Local  string `json:"local"`
	Remote string `json:"remote"`
}

// sources returns the rules for the binary, computed from the packages in it.
//
// The compiler writes the absolute name of each file, through the directory that
// the go command ran in as it was named; with -trimpath (cmd/go: Action.trimpath)
// it is the import path instead of the directory, with the version after
// the module's path for modules that have one, also if they are replaced or vendored.
func (p *buildPlan) sources(dir string) []PathRule {
	if !p.cfg.Trimpath {
		return linkRules(dir)
	}
	var rules []PathRule
	add := func(local, remote string) {
		r := PathRule{filepath.Clean(local), remote}
		if !slices.Contains(rules, r) {
			rules = append(rules, r)
		}
	}
	for _, pkg := range p.pkgs {
		switch {
		case pkg.Standard || pkg.Dir == "":
			continue
		case pkg.Module == nil:
			add(pkg.Dir, pkg.ImportPath)
			continue
		}
		// Up from the package's directory to its module's, which in a vendor
		// directory is nowhere to be read.
		local, remote := pkg.Dir, pkg.ImportPath
		if sub, ok := strings.CutPrefix(pkg.ImportPath, pkg.Module.Path); ok {
			if root, ok := strings.CutSuffix(filepath.ToSlash(pkg.Dir), sub); ok {
				local, remote = filepath.FromSlash(root), pkg.Module.Path
			}
			if pkg.Module.Version != "" {
				remote = pkg.Module.Path + "@" + pkg.Module.Version + strings.TrimPrefix(remote, pkg.Module.Path)
			}
		}
		add(local, remote)
		if real, err := filepath.EvalSymlinks(local); err == nil {
			add(real, remote)
		}
	}
	sortRules(rules)
	return append(rules, PathRule{filepath.Join(p.env.GOROOT, "src"), ""})
}

// linkRules returns the rules for a directory that was reached through symbolic
// links, so that both its names mean the one that is in the binary: dir. They are
// for the directory where the names begin to differ, so that a module's other
// directories are covered too.
func linkRules(dir string) []PathRule {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil || real == dir {
		return nil
	}
	for filepath.Base(dir) == filepath.Base(real) && sameFile(filepath.Dir(dir), filepath.Dir(real)) {
		dir, real = filepath.Dir(dir), filepath.Dir(real)
	}
	return []PathRule{{dir, dir}, {real, dir}}
}

// sortRules puts a rule for a directory inside another before that one's, be it
// inside by its local or by its remote name; else the order stays.
func sortRules(rules []PathRule) {
	slices.SortStableFunc(rules, func(a, b PathRule) int {
		if n := len(b.Remote) - len(a.Remote); n != 0 {
			return n
		}
		return 0
	})
	// Longest remote name first settles what the binary's names mean. For local
	// names, move a rule up before the first one that hides it.
	for i := 1; i < len(rules); i++ {
		j := slices.IndexFunc(rules[:i], func(r PathRule) bool { return inside(rules[i].Local, r.Local) })
		if j >= 0 {
			r := rules[i]
			copy(rules[j+1:i+1], rules[j:i])
			rules[j] = r
		}
	}
}

// inside reports whether the directory name is strictly below dir.
func inside(name, dir string) bool {
	rest, ok := strings.CutPrefix(name, strings.TrimSuffix(dir, string(filepath.Separator)))
	return ok && rest != "" && rest[0] == filepath.Separator
}
