package dapserver

import (
	"cmp"
	"context"
	"encoding/json"
	"path"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/google/go-dap"
)

// Program is what this machine knows of the binary that a run runs, by the debugging
// information in the file. [github.com/kubedelve/kubedelve/internal/debuginfo] is one.
//
// Names of source files are those in the binary; the run's path rules lead to the
// files. Packages are named by their import paths, the main package "main". What a
// method returns must not be changed. Methods may be called concurrently, from the
// run's beginning until the session is over; one that has to read much may take a
// second at first, and returns when its ctx ends. The first is an exception, it
// never waits.
type Program interface {
	// BuildInfo is what the go command wrote of the modules in it.
	BuildInfo() *debug.BuildInfo
	// ModuleDirs are the root directories of modules by their paths, and under
	// "std" that of the standard library; "." is the root of trimmed paths.
	ModuleDirs(ctx context.Context) (map[string]string, error)
	// Sources are all source files, sorted.
	Sources(ctx context.Context) ([]string, error)
	// Lines are the lines of a source file on which Delve sets a breakpoint,
	// sorted; none for a file that is not in it.
	Lines(ctx context.Context, file string) ([]int, error)
	// Packages are the import paths by the packages' names, sorted.
	Packages(ctx context.Context) (map[string][]string, error)
	// Members are the functions and variables of a package, sorted.
	Members(ctx context.Context, pkg string) (functions, variables []string, err error)
	// Methods are those that a type has itself, by value or by pointer, sorted.
	// The type is written as Delve does: "example.com/a/b.T".
	Methods(ctx context.Context, typ string) ([]string, error)
	// PackageAt is the package that has code at an address, "" for none.
	PackageAt(ctx context.Context, pc uint64) (string, error)
}

// programRequests are answered from the binary, so that Delve, which lacks them,
// need not be there.
func programRequests() map[string]handler {
	return map[string]handler{
		"loadedSources":       {from: phaseInitialized, to: phaseEnded, handle: (*session).onLoadedSources, background: true},
		"breakpointLocations": {from: phaseInitialized, to: phaseEnded, handle: (*session).onBreakpointLocations, background: true},
		"modules":             {from: phaseInitialized, to: phaseEnded, handle: (*session).onModules, background: true},
	}
}

// program is what is known of a run.
type program struct {
	Program // nil if nothing is known
	paths   pathRules
}

// connected notes the run that a connection is to. Requests about its program are
// answered from here on, also when the connection is gone.
func (s *session) connected(run Run, cfg *LaunchConfig) {
	s.update(func(st *state) {
		st.program = program{run.Program, slices.Concat(cfg.SubstitutePath, run.SubstitutePath)}
		if st.onProgram != nil {
			close(st.onProgram)
			st.onProgram = nil
		}
	})
}

// latest is the program of the last run there was. While a launch or attach is
// under way it waits: an editor that asks then does not ask again.
func (s *session) latest(ctx context.Context) (program, error) {
	for {
		var p program
		var wait <-chan struct{}
		var starting *start
		s.update(func(st *state) {
			p = st.program
			if p.Program == nil && st.phase == phaseStarting {
				if st.onProgram == nil {
					st.onProgram = make(chan struct{})
				}
				wait, starting = st.onProgram, st.start
			}
		})
		if wait == nil {
			return p, nil
		}
		select {
		case <-wait:
			return s.program(), nil
		case <-starting.done:
			return s.program(), nil
		case <-ctx.Done():
			return program{}, ctx.Err()
		}
	}
}

func (s *session) program() (p program) {
	s.update(func(st *state) { p = st.program })
	return p
}

// aboutProgram answers a request with what answer makes of the last run's program;
// with empty if there is none.
func (s *session) aboutProgram(ctx context.Context, m message, empty any, answer func(program) (any, error)) {
	p, err := s.latest(ctx)
	body := empty
	if err == nil && p.Program != nil {
		body, err = answer(p)
	}
	switch {
	case err == nil:
		s.respond(ctx, &m.env, body)
	case ctx.Err() != nil:
		s.fail(context.WithoutCancel(ctx), &m.env, newError(idCancelled, ""))
	default:
		s.fail(ctx, &m.env, newError(idProgram, err.Error()))
	}
}

func (s *session) onLoadedSources(ctx context.Context, m message) {
	none := dap.LoadedSourcesResponseBody{Sources: []dap.Source{}}
	s.aboutProgram(ctx, m, none, func(p program) (any, error) {
		files, err := p.Sources(ctx)
		if err != nil {
			return nil, err
		}
		modules, err := p.modules(ctx)
		if err != nil {
			return nil, err
		}
		body := dap.LoadedSourcesResponseBody{Sources: make([]dap.Source, 0, len(files))}
		for _, file := range files {
			local := p.paths.toLocal(file)
			if !strings.HasPrefix(local, "/") && !isWindowsPath(local) {
				continue // a file that only existed during the build
			}
			source := dap.Source{Name: path.Base(strings.ReplaceAll(local, `\`, "/")), Path: local}
			if i := slices.IndexFunc(modules, func(m module) bool { return m.has(file) }); i >= 0 {
				source.Origin = strings.TrimSpace(modules[i].Name + " " + modules[i].Version)
				if !modules[i].IsUserCode {
					source.PresentationHint = "deemphasize"
				}
			}
			body.Sources = append(body.Sources, source)
		}
		return body, nil
	})
}

func (s *session) onBreakpointLocations(ctx context.Context, m message) {
	var args dap.BreakpointLocationsArguments
	if body := m.env.body.in(m.raw); !empty(body) {
		_ = json.Unmarshal(body, &args) // checkRequest has done so
	}
	none := dap.BreakpointLocationsResponseBody{Breakpoints: []dap.BreakpointLocation{}}
	s.aboutProgram(ctx, m, none, func(p program) (any, error) {
		lines, err := p.Lines(ctx, p.paths.toBinary(args.Source.Path))
		if err != nil {
			return nil, err
		}
		body := none
		for _, line := range lines {
			// A breakpoint is one for a line: Delve knows no columns, as the
			// compiler writes none.
			if line >= args.Line && line <= max(args.Line, args.EndLine) {
				body.Breakpoints = append(body.Breakpoints, dap.BreakpointLocation{Line: line})
			}
		}
		return body, nil
	})
}

// module is a module of Go, as a module of DAP.
type module struct {
	dap.Module
	// Replace is what the module is replaced by. It is in a column of its own.
	Replace string `json:"replace,omitempty"`
	// dir is its root, as in the binary; "" if the program has no code of it.
	dir string
}

// moduleColumns are the columns that a client shows besides DAP's own.
func moduleColumns() []dap.ColumnDescriptor {
	return []dap.ColumnDescriptor{{AttributeName: "replace", Label: "Replaced by", Type: "string"}}
}

// has says whether a source file, named as in the binary, is the module's.
func (m *module) has(file string) bool {
	if m.dir == "." {
		return true // what has trimmed paths and is in no other
	}
	rest, ok := strings.CutPrefix(file, m.dir)
	return ok && m.dir != "" && strings.HasPrefix(rest, "/")
}

// modules are the main module, its dependencies and the standard library, in an
// order in which the first that has a file is the one that it belongs to.
func (p program) modules(ctx context.Context) ([]module, error) {
	all, err := p.listModules(ctx)
	slices.SortStableFunc(all, func(a, b module) int { return cmp.Compare(len(b.dir), len(a.dir)) })
	return all, err
}

// listModules are the same modules in the order in which a client shows them.
func (p program) listModules(ctx context.Context) ([]module, error) {
	dirs, err := p.ModuleDirs(ctx)
	if err != nil {
		return nil, err
	}
	info := p.BuildInfo()
	var all []module
	add := func(path, version, replace, status string, own bool) {
		dir := dirs[path]
		m := module{Replace: replace, dir: dir}
		m.Module = dap.Module{Id: path, Name: path, Version: version, IsUserCode: own, SymbolStatus: status}
		if dir == "" {
			m.SymbolStatus = "No code of it in the program"
		} else if local := p.paths.toLocal(dir); local != "." {
			m.Path = local
		}
		all = append(all, m)
	}
	const loaded = "Symbols loaded"
	if info.Main.Path != "" {
		add(info.Main.Path, info.Main.Version, "", loaded, true)
	}
	for _, dep := range info.Deps {
		replace, own := "", false
		if r := dep.Replace; r != nil {
			replace = strings.TrimSpace(r.Path + " " + r.Version)
			own = r.Version == "" // a directory on this machine
		}
		add(dep.Path, dep.Version, replace, loaded, own)
	}
	add("std", info.GoVersion, "", loaded, false)
	all[len(all)-1].Name = "Go standard library"
	return all, nil
}

func (s *session) onModules(ctx context.Context, m message) {
	var args dap.ModulesArguments
	if body := m.env.body.in(m.raw); !empty(body) {
		_ = json.Unmarshal(body, &args) // checkRequest has done so
	}
	type response struct {
		Modules []module `json:"modules"`
		Total   int      `json:"totalModules"`
	}
	s.aboutProgram(ctx, m, response{Modules: []module{}}, func(p program) (any, error) {
		all, err := p.listModules(ctx)
		if err != nil {
			return nil, err
		}
		body := response{Modules: all[min(max(args.StartModule, 0), len(all)):], Total: len(all)}
		if n := args.ModuleCount; n > 0 && n < len(body.Modules) {
			body.Modules = body.Modules[:n]
		}
		return body, nil
	})
}
