package buildflags

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A Binary is a program that was built and Inspect found fit for debugging.
type Binary struct {
	Path    string     `json:"path"`    // absolute
	SHA256  string     `json:"sha256"`  // of the file, in hexadecimal
	Size    int64      `json:"size"`    // in bytes
	Cached  bool       `json:"cached"`  // it is, byte for byte, what the last build of this configuration made
	Info    *Info      `json:"info"`    // what Inspect says
	Sources []PathRule `json:"sources"` // where its source paths are on this machine; none: they are as they are here

	// Notes are decisions that the configuration left to Build, one sentence each.
	Notes []string `json:"notes"`

	Took time.Duration `json:"took"` // in nanoseconds, waiting for other builds included
}

// Same reports whether two binaries are the same program: equal but for their build
// IDs, which change with every edit of package main, be it to a comment. The last part
// of Go's build ID is a hash of all but the build IDs. (cmd/go/internal/work/buildid.go.)
func (b *Binary) Same(other *Binary) bool {
	content := func(b *Binary) string { return b.Info.BuildID[strings.LastIndexByte(b.Info.BuildID, '/')+1:] }
	return b.SHA256 == other.SHA256 || content(b) != "" && content(b) == content(other)
}

// A buildPlan is all that is decided before the compiler runs.
type buildPlan struct {
	cfg      *Config
	dir      string // of cfg, absolute; the go command may run in another
	env      *goEnv
	target   Platform
	args     []string     // of go build, without -o
	patterns []string     // what to build, after args
	main     *goPackage   // what patterns stand for
	pkgs     []*goPackage // main and all that it imports
	notes    []string
	name     string // of the executable
}

// plan decides how to build cfg, and sets g's environment to that.
func plan(ctx context.Context, cfg *Config, g *goCommand) (*buildPlan, error) {
	if cfg.Platform != (Platform{}) {
		g.setenv("GOOS", cfg.Platform.OS)
		g.setenv("GOARCH", cfg.Platform.Arch)
	}
	env, err := g.supported(ctx)
	if err != nil {
		return nil, err
	}
	p := &buildPlan{cfg: cfg, dir: g.dir, env: env, target: Platform{env.GOOS, env.GOARCH}}
	flags, err := p.combineFlags(g)
	if err != nil {
		return nil, err
	}
	if p.patterns, err = resolveProgram(ctx, cfg, g, env, flags.keep); err != nil {
		return nil, err
	}

	// Listed as if cgo were on, to see whether it is needed.
	if cfg.CGO == "off" {
		g.setenv("CGO_ENABLED", "0")
	}
	set := g.getenv("CGO_ENABLED")
	if set == "" {
		g.setenv("CGO_ENABLED", "1")
	}
	if p.pkgs, err = g.list(ctx, flags.keep, p.patterns, true); err != nil {
		return nil, err
	}
	g.setenv("CGO_ENABLED", set)
	if p.main, err = mainPackage(ctx, cfg, g, p.target, flags.keep, p.pkgs); err != nil {
		return nil, err
	}
	cgo, note, err := decideCgo(cfg, g, env, p.target, flags, p.pkgs)
	if err != nil {
		return nil, err
	}
	if note != "" {
		p.notes = append(p.notes, note)
	}
	g.setenv("CGO_ENABLED", cgo)
	if cfg.Trimpath && set == "" && cgo == "0" && usesCgo(p.pkgs) {
		// Other files may import other modules, which need their path rules.
		if p.pkgs, err = g.list(ctx, flags.keep, p.patterns, true); err != nil {
			return nil, err
		}
	}
	p.name = programName(p.main, p.patterns, p.target)
	return p, nil
}

// combineFlags sets p.args from GOFLAGS and the configuration, and takes out of
// GOFLAGS what is in p.args now: the order in which Go looks at them stays.
func (p *buildPlan) combineFlags(g *goCommand) (*goFlags, error) {
	inherited, err := splitQuoted(p.env.GOFLAGS)
	if err != nil {
		return nil, &ConfigError{Attr: "env", Message: "GOFLAGS: " + err.Error()}
	}
	fromEnv, err := parseFlags(inherited, false)
	if err != nil {
		return nil, &ConfigError{Attr: "env", Message: "GOFLAGS: " + err.Error()}
	}
	flags, err := parseFlags(p.cfg.Flags, true)
	if err != nil {
		return nil, &ConfigError{Attr: "flags", Message: err.Error()}
	}
	if len(p.cfg.Tags) > 0 {
		if flags.tags {
			return nil, &ConfigError{Attr: "tags", Message: "build.flags has -tags too", Fix: "say the tags in one place"}
		}
		flags.keep = append(flags.keep, "-tags="+strings.Join(p.cfg.Tags, ","))
	}
	if p.cfg.LDFlags != "" {
		if len(flags.ldflags) > 0 {
			return nil, &ConfigError{Attr: "ldflags", Message: "build.flags has -ldflags too", Fix: "say the linker's flags in one place"}
		}
		flags.ldflags = []string{p.cfg.LDFlags}
	}
	if (fromEnv.trimpath || flags.trimpath) && !p.cfg.Trimpath {
		p.notes = append(p.notes, "-trimpath is left out, so that source paths are those of this machine")
	}
	goflags, err := joinQuoted(fromEnv.keep)
	if err != nil {
		return nil, &ConfigError{Attr: "env", Message: "GOFLAGS: " + err.Error()}
	}
	// Go takes an empty variable for one that isn't set, and then reads its file.
	g.setenv("GOFLAGS", goflags+" ")

	ld, err := debugLDFlags(slices.Concat(fromEnv.ldflags, flags.ldflags))
	if err != nil {
		return nil, &ConfigError{Attr: "ldflags", Message: err.Error()}
	}
	gc, err := debugGCFlags(slices.Concat(fromEnv.gcflags, flags.gcflags))
	if err != nil {
		return nil, &ConfigError{Attr: "flags", Message: "-gcflags: " + err.Error()}
	}
	flags.needCgo = flags.needCgo || fromEnv.needCgo
	if p.cfg.Trimpath {
		flags.keep = append(flags.keep, "-trimpath")
	}
	p.args = slices.Concat(flags.keep, []string{"-pgo=off"}, ld, gc)
	return flags, nil
}

// importPath is the form of the lines that `go build -v` writes for packages.
var importPath = regexp.MustCompile(`^[A-Za-z0-9_.~+-]+(/[A-Za-z0-9_.~+-]+)+$`)

// build runs the compiler, inspects the result and publishes it, and gives it to
// keep, if that is not nil, while nobody else can replace it.
func (p *buildPlan) build(ctx context.Context, g *goCommand, keep *keeper, progress func(string)) (*Binary, error) {
	slot, err := openSlot(ctx, p, g, progress)
	if err != nil {
		return nil, err
	}
	defer slot.close()
	tmp, err := slot.tempDir(p.env.GOTMPDIR)
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	g.setenv("GOTMPDIR", tmp)

	known := make(map[string]bool, len(p.pkgs))
	for _, pkg := range p.pkgs {
		known[pkg.ImportPath] = true
	}
	line := func(s string) bool {
		switch {
		case known[s] || importPath.MatchString(s):
			progress("compiling " + s)
		case strings.HasPrefix(s, "go: downloading "):
			progress(strings.TrimPrefix(s, "go: "))
		default:
			return false
		}
		return true
	}
	args := slices.Concat([]string{"build", "-v"}, p.args, []string{"-o", slot.work, "--"}, p.patterns)
	_, stderr, err := g.run(ctx, args, line)
	if err != nil {
		return nil, p.buildError(ctx, g, stderr, err)
	}
	info, err := Inspect(slot.work)
	if err != nil {
		return nil, err
	}
	if err := info.check(p.target); err != nil {
		return nil, err
	}
	output := p.cfg.Output
	if output != "" && !filepath.IsAbs(output) {
		output = filepath.Join(p.dir, output)
	}
	b, err := slot.publish(output)
	if err != nil {
		return nil, err
	}
	if keep != nil {
		if b.Path, err = keep.add(slot.work, b.SHA256); err != nil {
			return nil, err
		}
	}
	info.File = b.Path
	b.Info, b.Notes = info, p.notes
	b.Sources = p.sources(g.dir)
	return b, nil
}

// buildError tells the compiler's errors from the go command's.
func (p *buildPlan) buildError(ctx context.Context, g *goCommand, output string, err error) error {
	if ctx.Err() != nil {
		return err
	}
	ds := parseDiagnostics(g.dir, output)
	if len(ds) == 0 && !strings.HasPrefix(output, "# ") && !strings.Contains(output, "\n# ") {
		return err
	}
	program := p.cfg.Program
	if program == "" {
		program = p.main.ImportPath
	}
	return &CompileError{Program: program, Diagnostics: ds, Output: strings.TrimRight(output, "\n")}
}
