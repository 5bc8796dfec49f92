package buildflags

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Build builds the program that cfg names, once: see [Builder.Build]. The file at
// Binary.Path is replaced by the next build of the same configuration.
func Build(ctx context.Context, cfg Config, log *slog.Logger, progress func(line string)) (*Binary, error) {
	b := NewBuilder(cfg, log)
	b.keep = nil
	return b.Build(ctx, progress, nil)
}

// A Builder builds one configuration again and again, after each save for instance.
// It asks the go command for the program's packages only if they may have changed.
// Its methods may be called from any goroutine.
type Builder struct {
	cfg  Config
	log  *slog.Logger
	keep *keeper // nil: binaries are not kept

	mu     sync.Mutex // held by Build; guards all below
	goCmd  *goCommand // as plan left it
	plan   *buildPlan // nil before the first
	inputs *Inputs
	made   string // the plan's fingerprint; "": it must not be used again
	prints fingerprinter
}

// NewBuilder returns a Builder that has done nothing yet. log, to which the commands
// go, may be nil.
func NewBuilder(cfg Config, log *slog.Logger) *Builder {
	return &Builder{cfg: cfg, log: orDiscard(log), keep: &keeper{}}
}

// Build builds the program as its sources are now. It reports what it is doing, in
// lines for a user, to progress, from one goroutine at a time; progress may be nil.
// planned, if not nil, is told what the program is built of before any of it is
// compiled. Builds of a Builder wait for each other.
//
// The file at Binary.Path stays as it is until Release or Close. Two builds with the
// same result have one file.
//
// The error is a *ConfigError, *CompileError, *GoError or *BinaryError if the
// user can do something about it, and ctx's cause if that has ended.
func (b *Builder) Build(ctx context.Context, progress func(line string), planned func(*Inputs)) (*Binary, error) {
	if progress == nil {
		progress = func(string) {}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	start := time.Now()
	if err := b.prepare(ctx, start, progress); err != nil {
		return nil, interrupted(ctx, &b.cfg, err)
	}
	if planned != nil {
		planned(b.inputs)
	}
	bin, err := b.plan.build(ctx, b.goCmd, b.keep, progress)
	if err != nil {
		if goErr := (*GoError)(nil); errors.As(err, &goErr) {
			b.made = "" // it may be the plan's fault
		}
		return nil, interrupted(ctx, &b.cfg, err)
	}
	bin.Took = time.Since(start)
	b.log.Info("built", "stage", "build", "program", b.plan.main.ImportPath, "path", bin.Path, "size", bin.Size, "cached", bin.Cached, "took", bin.Took)
	return bin, nil
}

// prepare makes a plan, unless the last one still holds.
func (b *Builder) prepare(ctx context.Context, now time.Time, progress func(string)) error {
	if b.made != "" {
		if sum, _ := b.prints.of(b.inputs, b.goCmd.dir, now); sum == b.made {
			return nil
		}
	}
	g, err := newGoCommand(&b.cfg, b.log)
	if err != nil {
		return err
	}
	p, err := plan(ctx, &b.cfg, g)
	if err != nil {
		return err
	}
	in, err := p.inputs(ctx, g)
	if err != nil {
		return err
	}
	if b.inputs != nil && p.incomplete() {
		in = in.merge(b.inputs)
	}
	b.goCmd, b.plan, b.inputs = g, p, in
	if b.keep != nil { // else there is no next time
		sum, settled := b.prints.of(in, g.dir, now)
		if b.made = sum; !settled {
			b.made = ""
		}
	}
	for _, note := range p.notes {
		progress(note)
	}
	return nil
}

// incomplete reports whether a package could not be found or read.
func (p *buildPlan) incomplete() bool {
	for _, pkg := range p.pkgs {
		if pkg.Error != nil {
			return true
		}
	}
	return false
}

// Release removes the file at bin.Path, which Build has returned.
func (b *Builder) Release(bin *Binary) error { return b.keep.drop(bin.Path) }

// Close removes all files that Build has returned. It waits for a Build that runs.
func (b *Builder) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.keep.close()
}

// interrupted returns ctx's cause if that is why there is an error.
func interrupted(ctx context.Context, cfg *Config, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return fmt.Errorf("building %s: %w", cmp.Or(cfg.Program, "."), context.Cause(ctx))
}
