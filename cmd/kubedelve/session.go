package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"

	"github.com/kubedelve/kubedelve/buildflags"
	"github.com/kubedelve/kubedelve/dapserver"
	"github.com/kubedelve/kubedelve/internal/reload"
	"github.com/kubedelve/kubedelve/kubelaunch"
)

// dapSession is a launched session as dapserver wants it.
type dapSession struct {
	*launched
	// session is the one of launched, or that of a further replica.
	session *kubelaunch.Session
	// config is what it was launched with; nil if not by a client.
	config *dapserver.LaunchConfig
}

// Name implements [dapserver.Session].
func (s *dapSession) Name() string { return s.session.Target.String() }

// Dial implements [dapserver.Session].
func (s *dapSession) Dial(ctx context.Context) (dapserver.Connection, error) {
	s.session.Expect(true)
	conn, err := s.session.Dial(ctx, kubelaunch.DialOptions{})
	if err != nil {
		var exit *kubelaunch.ExitError
		if errors.As(err, &exit) {
			return nil, &dapserver.ExitError{Code: exit.Exit.Code}
		}
		return nil, err
	}
	r := conn.Run()
	run := dapserver.Run{
		Number: r.Number, Place: r.Place, Binary: r.Binary.SHA256, Halted: r.Halted, Fresh: r.Fresh, Reload: r.Reload,
		Program: s.programs.of(r.Binary.SHA256),
	}
	for _, r := range s.programs.sources(r.Binary.SHA256) {
		run.SubstitutePath = append(run.SubstitutePath, dapserver.PathRule{From: r.Local, To: r.Remote})
	}
	return connection{conn, run}, nil
}

// Waits implements [dapserver.Waiter].
func (s *dapSession) Waits() bool { return s.session.IsCalls() }

// connection is one to a run.
type connection struct {
	net.Conn
	run dapserver.Run
}

// Run implements [dapserver.Connection].
func (c connection) Run() dapserver.Run { return c.run }

// Output implements [dapserver.Session].
func (s *dapSession) Output(ctx context.Context, emit func(dapserver.Piece) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	say := func(p dapserver.Piece) {
		if err := emit(p); err != nil {
			cancel(err)
		}
	}
	err := s.session.Output(ctx, func(p kubelaunch.Piece) {
		if p.Lost > 0 {
			say(dapserver.Piece{Stream: dapserver.Console, Data: fmt.Appendf(nil, "%d bytes of output are lost\n", p.Lost), Run: p.Run, Place: p.Place})
		}
		stream := dapserver.Stdout
		if p.FD == 2 {
			stream = dapserver.Stderr
		}
		say(dapserver.Piece{Stream: stream, Data: p.Data, Run: p.Run, Place: p.Place})
	})
	if errors.Is(err, kubelaunch.ErrEnded) {
		return nil
	}
	return err
}

// Wait implements [dapserver.Session].
func (s *dapSession) Wait(ctx context.Context) (int, error) {
	exit, err := s.session.Wait(ctx)
	return exit.Code, err
}

// Follow implements [dapserver.Session].
func (s *dapSession) Follow(ctx context.Context, tell func(dapserver.Event)) {
	s.follow(ctx, func(h happening) { tell(h.forDAP()) })
}

// Restart implements [dapserver.Session].
func (s *dapSession) Restart(ctx context.Context, cfg *dapserver.LaunchConfig) error {
	var spec *reload.Spec
	// Who attaches has no say in how the component runs.
	if cfg != nil && s.config != nil {
		changed, err := s.specOf(cfg)
		if err != nil {
			return err
		}
		spec = &changed
	}
	err := s.reloader.Restart(ctx, spec)
	var compile *buildflags.CompileError
	if errors.As(err, &compile) {
		return fmt.Errorf("%s does not compile: see the debug console; the old program goes on", compile.Program)
	}
	return err
}

// specOf is what a changed launch configuration says of what runs. What can't be
// changed while the session lasts is refused.
func (s *dapSession) specOf(cfg *dapserver.LaunchConfig) (reload.Spec, error) {
	was := s.config
	if was.Target.Name != cfg.Target.Name {
		return reload.Spec{}, fmt.Errorf("the target is %s now and was %s: end the session and start it again", cfg.Target.Name, was.Target.Name)
	}
	for name, same := range map[string]bool{
		"target":      reflect.DeepEqual(was.Target, cfg.Target),
		"hotReload":   was.HotReload == cfg.HotReload,
		"reloadGrace": was.ReloadGrace == cfg.ReloadGrace,
	} {
		if !same {
			return reload.Spec{}, fmt.Errorf("%q was changed: end the session and start it again", name)
		}
	}
	r, err := requestOf(cfg)
	if err != nil {
		return reload.Spec{}, err
	}
	if r.build.Platform, err = platformFor(r.build.Platform, s.node, r.target); err != nil {
		return reload.Spec{}, err
	}
	return r.spec(), nil
}

// Detach implements [dapserver.Session].
func (s *dapSession) Detach(context.Context) error {
	s.session.Expect(false)
	return s.detach()
}

// Close implements [dapserver.Session].
func (s *dapSession) Close(ctx context.Context) error { return s.close(ctx, nil) }

// sharedSession belongs to the command that began it: a debugger that leaves only
// hangs up on Delve.
type sharedSession struct {
	parentSession
	debuggers *debuggers
}

// Dial implements [dapserver.Session].
func (s sharedSession) Dial(ctx context.Context) (dapserver.Connection, error) {
	s.debuggers.clearStale(ctx)
	return s.dapSession.Dial(ctx)
}

// Detach implements [dapserver.Session].
func (s sharedSession) Detach(context.Context) error {
	s.session.Expect(false)
	return nil
}
