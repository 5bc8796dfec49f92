package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/kubedelve/kubedelve/buildflags"
	"github.com/kubedelve/kubedelve/internal/feed"
	"github.com/kubedelve/kubedelve/internal/reload"
	"github.com/kubedelve/kubedelve/kubelaunch"
)

// launched is a session and what keeps its program up to date.
type launched struct {
	session  *kubelaunch.Session
	reloader *reload.Reloader
	reloads  *feed.Feed[reload.Event]
	programs programs
	node     buildflags.Platform // where it runs; zero: not known, or this machine
	name     string              // of the program's file
	// restoreFlag is what "kubedelve restore" needs besides the session.
	restoreFlag string

	stop    context.CancelFunc // ends the reloader's Run
	running sync.WaitGroup     // counts it
}

// build builds what a request asks for, for the first time. What it returns is to be
// released.
func (r *request) firstBuild(ctx context.Context, log logger, report reporter) (*launched, kubelaunch.Binary, error) {
	l := &launched{
		reloads: feed.New(func(e reload.Event) (int, bool) { return e.Activity, e.Over }), stop: func() {},
	}
	l.reloader = reload.New(reload.Config{Spec: r.spec(), Mode: r.mode, Tell: l.reloads.Tell, Log: log})
	program := r.build.Program
	if program == "" {
		program = "."
	}
	report.Stage("building " + program)
	binary, err := l.reloader.First(ctx, report.Detail)
	if err != nil {
		return nil, kubelaunch.Binary{}, errors.Join(err, l.release())
	}
	how := "built"
	if binary.Cached {
		how = "unchanged:"
	}
	l.name = filepath.Base(binary.Path)
	report.Note(fmt.Sprintf("%s %s, %s, %.1f MB, in %.1f s", how, l.name, binary.Info.GoVersion, float64(binary.Size)/1e6, binary.Took.Seconds()))
	for _, note := range binary.Notes {
		report.Note(note)
	}
	l.programs.add(binary)
	return l, launchable(binary), nil
}

func launchable(b *buildflags.Binary) kubelaunch.Binary {
	return kubelaunch.Binary{Path: b.Path, SHA256: b.SHA256, Size: b.Size}
}

// keepUp begins to follow the sources.
func (l *launched) keepUp() {
	ctx, stop := context.WithCancel(context.Background())
	l.stop = stop
	l.running.Go(func() { l.reloader.Run(ctx, l.swap) }) // ends with close or detach
}

// swap puts another binary in the place of the one that runs, in all replicas. If it
// fails in some, the others keep it, until the next one.
func (l *launched) swap(ctx context.Context, binary *buildflags.Binary, spec reload.Spec, stage func(string)) error {
	l.programs.add(binary)
	first := l.session
	return l.eachReplica(func(s *kubelaunch.Session) error {
		report := stage
		if s != first {
			report = nil
		}
		return s.Swap(ctx, launchable(binary), kubelaunch.Options{Args: spec.Args, Env: spec.Env, Dir: spec.Dir}, report)
	})
}

// close ends the component and puts everything back. It is idempotent.
func (l *launched) close(ctx context.Context, progress func(stage string)) error {
	l.endReloads()
	err := l.session.Close(ctx, progress)
	_ = l.release() // what is left in the cache is removed by the next build
	return err
}

// detach leaves the component as it is.
func (l *launched) detach() error {
	l.endReloads()
	return errors.Join(l.session.Detach(), l.release())
}

func (l *launched) endReloads() {
	l.stop()
	l.running.Wait()
}

// release removes what was built.
func (l *launched) release() error {
	return errors.Join(l.programs.close(), l.reloader.Close())
}

// restoreTimeout bounds the restore at the end of a session.
const restoreTimeout = 3 * time.Minute

// finish restores even though ctx has ended, and tells how to try again.
func finish(ctx context.Context, l *launched, report reporter) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), restoreTimeout)
	defer cancel()
	if err := l.close(ctx, report.Stage); err != nil {
		return errors.Join(fmt.Errorf("restoring %s: %w", l.session.Target, err),
			fmt.Errorf("try again with: kubedelve restore %s%s", l.session.ID, l.restoreFlag))
	}
	return nil
}
