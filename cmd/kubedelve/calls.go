package main

import (
	"context"
	"errors"
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
		session, call, err := s.session.AnotherCall(ctx, lane)
		if err != nil {
			return
		}
		gone := make(chan struct{})
		child := &callSession{dapSession: &dapSession{launched: s.launched, session: session}, call: call}
		add(dapserver.Child{ID: fmt.Sprintf("%d.%d", lane, n), Name: call.Name, Session: child, Gone: gone})
		_, err = session.Wait(ctx)
		_ = session.Close(context.WithoutCancel(ctx), nil) // it goes on, if it is still there
		close(gone)
		if ctx.Err() != nil || errors.Is(err, kubelaunch.ErrEnded) && !child.wanted.Load() {
			return
		}
	}
}

// callSession is a call that is debugged beside others.
type callSession struct {
	*dapSession
	call   kubelaunch.Call
	wanted atomic.Bool // an editor has come for it
}

// Name implements [dapserver.Session].
func (s *callSession) Name() string { return s.call.Name }

// Dial implements [dapserver.Session].
func (s *callSession) Dial(ctx context.Context) (dapserver.Connection, error) {
	s.wanted.Store(true)
	return s.dapSession.Dial(ctx)
}

// Waits implements [dapserver.Waiter]: the call is there.
func (*callSession) Waits() bool { return false }

// Follow implements [dapserver.Session].
func (s *callSession) Follow(ctx context.Context, tell func(dapserver.Event)) {
	if s.call.Limit != "" { // told before anybody followed it
		tell(ofSession(kubelaunch.Event{Kind: kubelaunch.KindNote, Text: s.call.Limit}).forDAP())
	}
	s.session.Follow(ctx, func(e kubelaunch.Event) { tell(ofSession(e).forDAP()) })
}

// Detach implements [dapserver.Session]: the call goes on.
func (s *callSession) Detach(ctx context.Context) error { return s.session.Close(ctx, nil) }

// Close implements [dapserver.Session].
func (s *callSession) Close(ctx context.Context) error { return s.session.Close(ctx, nil) }
