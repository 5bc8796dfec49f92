package main

import (
	"cmp"
	"context"
	"fmt"
	"sync/atomic"

	"github.com/kubedelve/kubedelve/dapserver"
	"github.com/kubedelve/kubedelve/kubelaunch"
)

// otherCalls offers the calls of a lane, one after the other. It ends with ctx, the
// session, or when the editor has not opened a session for one: no further call is stopped
// for nobody.
func (s parentSession) otherCalls(ctx context.Context, lane int, add func(dapserver.Child)) {
	for n := 1; ; n++ {
		session, name, err := s.session.AnotherCall(ctx, lane)
		if err != nil {
			return
		}
		child := &callSession{dapSession: &dapSession{launched: s.launched, session: session}, name: cmp.Or(name, "a call")}
		add(dapserver.Child{ID: fmt.Sprintf("%d.%d", lane, n), Name: child.name, Session: child})
		_, err = session.Wait(ctx)
		_ = session.Close(context.WithoutCancel(ctx), nil) // it goes on, if it is still there
		if ctx.Err() != nil || err != nil && !child.wanted.Load() {
			return
		}
	}
}

// callSession is a call that is debugged beside others.
type callSession struct {
	*dapSession
	name   string
	wanted atomic.Bool // an editor has come for it
}

// Name implements [dapserver.Session].
func (s *callSession) Name() string { return s.name }

// Dial implements [dapserver.Session].
func (s *callSession) Dial(ctx context.Context) (dapserver.Connection, error) {
	s.wanted.Store(true)
	return s.dapSession.Dial(ctx)
}

// Waits implements [dapserver.Waiter]: the call is there.
func (*callSession) Waits() bool { return false }

// Follow implements [dapserver.Session].
func (s *callSession) Follow(ctx context.Context, tell func(dapserver.Event)) {
	s.session.Follow(ctx, func(e kubelaunch.Event) { tell(ofSession(e).forDAP()) })
}

// Detach implements [dapserver.Session]: the call goes on.
func (s *callSession) Detach(ctx context.Context) error { return s.session.Close(ctx, nil) }

// Close implements [dapserver.Session].
func (s *callSession) Close(ctx context.Context) error { return s.session.Close(ctx, nil) }
