package dapserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-dap"
)

// A session goes through runs of the component, and each has a connection to
// Delve of its own. When one ends, keep gets the next from the Session and makes
// it take the place of the old one: the breakpoints are set again, the component
// is let go on or left halted, and the client is told what has changed. Meanwhile
// the phase is phaseReconnecting, and note answers the client.

const (
	// retryFirst and retryLast are how long is waited after a connection that
	// was of no use before the next, the time doubling.
	retryFirst = 50 * time.Millisecond
	retryLast  = 5 * time.Second
	// handshakeTries is how often Delve may let a handshake time out in a row.
	handshakeTries = 3
)

// wish is how the client wants the component to be while there is no Delve that
// could be told.
type wish int

const (
	noWish   wish = iota
	wishRun       // the client has said continue
	wishHalt      // the client has said pause
)

// lost says that a connection has ended: all that the client waits for is
// answered. It does nothing if the session has done without it before.
func (s *session) lost(ctx context.Context, b *backend) {
	b.link.fail(errBackendLost) // if it was the writer that has noticed
	s.telling.Lock()
	defer s.telling.Unlock()
	var replies []*reply
	s.update(func(st *state) {
		if st.backend != b || st.phase == phaseStarting {
			return
		}
		waiting := b.pending
		b.pending = map[int64]pending{}
		again := st.phase == phaseRunning || st.phase == phaseReconnecting
		if again {
			st.phase, st.parking, st.backend = phaseReconnecting, false, nil
		}
		st.leftHalted = b.setting || st.quiet != nil
		st.quiet = nil
		for _, p := range waiting {
			st.leftHalted = st.leftHalted || p.set != nil
			switch {
			case p.editorSeq == 0 || p.cancelled:
			case !again:
				replies = append(replies, &reply{seq: p.editorSeq, command: p.command,
					err: &requestError{idNoBackend, "No connection to Delve", errBackendLost.Error(), false}})
			default:
				replies = append(replies, s.noteWith(st, p.editorSeq, p.command, p.set))
			}
		}
		for _, m := range st.early {
			replies = append(replies, s.note(st, m))
		}
		st.early, st.earlyBytes = nil, 0
	})
	for _, r := range replies {
		s.answer(ctx, r)
	}
}

// reply is an answer to be given when the state is not locked any more.
type reply struct {
	seq     int64
	command string
	body    any
	err     *requestError
}

func (s *session) answer(ctx context.Context, r *reply) {
	req := envelope{kind: "request", seq: r.seq, command: r.command}
	if r.err != nil {
		s.fail(ctx, &req, r.err)
		return
	}
	s.respond(ctx, &req, r.body)
}

// note takes in a request for a Delve that is not there.
func (s *session) note(st *state, m message) *reply {
	set := st.breakpoints.record(m.env.command, m.env.body.in(m.raw), st.run)
	return s.noteWith(st, m.env.seq, m.env.command, set)
}

func (s *session) noteWith(st *state, seq int64, command string, set *breakpointSet) *reply {
	r := &reply{seq: seq, command: command}
	switch {
	case breakpointRequests[command] != "":
		r.body = st.pend(set, s.waitsFor(st))
	case command == "continue":
		st.wish, st.shown = wishRun, false
		r.body = dap.ContinueResponseBody{AllThreadsContinued: true}
	case command == "pause":
		st.wish = wishHalt
	case command == "configurationDone":
		st.configure()
	case command == "threads":
		// As Delve does while the component runs: with an empty list an editor
		// has nothing that it could offer to pause.
		r.body = dap.ThreadsResponseBody{Threads: []dap.Thread{{Id: -1, Name: "waiting for " + s.waitsFor(st)}}}
	default:
		r.err = &requestError{idReconnecting, "Reconnecting", s.waitsFor(st) + " is reconnecting", false}
	}
	return r
}

// waitsFor names the session for the client.
func (s *session) waitsFor(st *state) string {
	if st.start == nil || st.start.target == nil {
		return "the debugger"
	}
	return st.start.target.Name()
}

// configure notes that the client has set what it wants to set at the start.
func (st *state) configure() {
	if st.configured == nil {
		st.configured = make(chan struct{})
	}
	select {
	case <-st.configured:
	default:
		close(st.configured)
	}
}

// startKeeping starts the goroutine that keeps the session connected. It ends
// when the session is over, or is left.
func (s *session) startKeeping(ctx context.Context, st *start, b *backend) {
	s.update(func(state *state) {
		if state.phase == phaseClosing {
			return // shutdown waits for the workers that it knows
		}
		keepCtx, cancel := context.WithCancel(ctx)
		state.giveUp = cancel
		s.workers.Go(func() {
			defer cancel()
			s.keep(ctx, keepCtx, st, b)
		})
	})
}

// keep connects again whenever a connection has ended, and at once if b is nil. ctx is
// the session's; keepCtx ends when the client leaves.
func (s *session) keep(ctx, keepCtx context.Context, st *start, b *backend) {
	for {
		if b != nil {
			select {
			case <-b.done:
			case <-keepCtx.Done():
				s.closeUnlessKept(b)
				return
			}
			s.log.Info("the connection to Delve has ended", "run", b.run.Number, "cause", b.link.cause())
			b.close()
		}
		next, err := s.rejoin(ctx, keepCtx, st)
		if keepCtx.Err() != nil {
			return
		}
		if err != nil {
			s.tellOver(ctx, st, err)
			return
		}
		b = next
	}
}

// closeUnlessKept closes a connection that is not the session's any more. The
// goodbye to the one that is, leaveBackend says.
func (s *session) closeUnlessKept(b *backend) {
	kept := false
	s.update(func(st *state) { kept = st.backend == b })
	if !kept {
		b.close()
	}
}

// rejoin connects to the next run. The error is final.
func (s *session) rejoin(ctx, keepCtx context.Context, st *start) (*backend, error) {
	timeouts := 0
	for wait := time.Duration(0); ; wait = min(max(2*wait, retryFirst), retryLast) {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-keepCtx.Done():
			timer.Stop()
			return nil, keepCtx.Err()
		}
		conn, err := st.target.Dial(keepCtx)
		if err != nil {
			return nil, err
		}
		b, err := s.takePlace(ctx, keepCtx, conn)
		switch {
		case err == nil:
			return b, nil
		case keepCtx.Err() != nil:
			s.closeUnlessKept(b)
			return nil, err
		case errors.Is(err, context.DeadlineExceeded):
			if timeouts++; timeouts == handshakeTries {
				return nil, s.handshakeError(st, err)
			}
		default:
			timeouts = 0
		}
		s.log.Warn("a connection to Delve was of no use", "run", conn.Run().Number, "error", err)
		s.lost(ctx, b)
		b.close()
	}
}

// takePlace makes a new connection take the place of the one before. Whatever the
// error, the connection is to be closed by the caller.
func (s *session) takePlace(ctx, keepCtx context.Context, conn Connection) (*backend, error) {
	b := s.newBackend(ctx, conn)
	var initialize request
	var config *LaunchConfig
	var under *restart
	wanted := false
	s.update(func(st *state) {
		if wanted = st.phase == phaseReconnecting; !wanted {
			return // the client has left, or terminated the session
		}
		b.same = b.run.Number == st.run.Number
		st.backend = b
		initialize = request{"initialize", st.client.arguments}
		under = st.restart
	})
	if !wanted {
		return b, errLinkClosed
	}
	if under != nil && b.run.Reload && !b.same {
		// The client hears of its restart first.
		select {
		case <-under.done:
		case <-keepCtx.Done():
			return b, keepCtx.Err()
		}
	}
	s.update(func(st *state) { config = st.config })
	s.connected(b.run, config)
	arguments, err := config.backendArguments(b.run.SubstitutePath, true)
	if err != nil {
		return b, err
	}
	handCtx, cancel := context.WithTimeout(keepCtx, s.srv.cfg.HandshakeTimeout)
	defer cancel()
	for _, r := range []request{initialize, {"attach", arguments}} {
		if _, err := s.ask(handCtx, b, r); err != nil {
			return b, err
		}
	}
	configured := make(chan struct{})
	restarted := false
	var process dap.ProcessEventBody
	var begun *start
	s.update(func(st *state) {
		b.attached, b.replaying, st.halted = true, true, true
		st.breakpoints.connected(b.run, b.same)
		if st.configured == nil {
			st.configured = configured
		}
		configured = st.configured
		if !b.same && (b.run.Reload || st.restart == nil) {
			restarted, st.restarted = st.restarted, false
		}
		st.run = b.run
		process, begun = dap.ProcessEventBody{Name: s.waitsFor(st), StartMethod: st.start.request}, st.start
	})
	if !b.same {
		s.event(ctx, "process", process)
		s.tellSession(ctx, begun)
	}
	select {
	case <-configured:
	case <-b.done:
		return b, b.link.cause()
	case <-keepCtx.Done():
		return b, keepCtx.Err()
	}
	if err := s.replay(keepCtx, b); err != nil {
		return b, err
	}
	return b, s.goOn(ctx, keepCtx, b, restarted)
}

// replay sets all breakpoints, and tells the client of those that have become
// something else. When it returns, requests of the client are kept for ready.
func (s *session) replay(ctx context.Context, b *backend) error {
	for {
		done := false
		s.update(func(st *state) {
			if done = st.breakpoints.unapplied() == nil; done {
				b.replaying, st.parking = false, st.backend == b
			}
		})
		if done {
			return nil
		}
		if err := s.apply(ctx, b); err != nil {
			return err
		}
	}
}

// apply sets the first of the sets of breakpoints that Delve doesn't have.
func (s *session) apply(ctx context.Context, b *backend) error {
	p, err := func() (pending, error) {
		s.telling.Lock()
		defer s.telling.Unlock()
		var p pending
		var arguments json.RawMessage
		s.update(func(st *state) {
			if p.set = st.breakpoints.unapplied(); p.set != nil {
				p.sent, arguments, _ = p.set.request()
			}
		})
		if p.set == nil {
			return p, nil
		}
		return s.begin(ctx, b, request{p.set.command, arguments}, p)
	}()
	if err != nil || p.set == nil {
		return err
	}
	_, err = s.await(ctx, b, p)
	if refused := (*requestError)(nil); errors.As(err, &refused) {
		if refused.running() {
			return errRunning
		}
		s.log.Info("Delve refuses breakpoints", "command", p.command, "error", err)
		s.update(func(*state) { p.set.applied = true })
		return nil
	}
	return err
}

// goOn puts the component and the client into the state that they should be in.
func (s *session) goOn(ctx, keepCtx context.Context, b *backend, restarted bool) error {
	handCtx, cancel := context.WithTimeout(keepCtx, s.srv.cfg.HandshakeTimeout)
	defer cancel()
	if _, err := s.ask(handCtx, b, request{"configurationDone", nil}); err != nil {
		return err
	}
	var run, shown, invalidate, begun, left bool
	var wanted wish
	s.update(func(st *state) {
		left = st.leftHalted
		run, shown, begun, wanted, invalidate = st.runs(b, restarted), st.shown, st.begun, st.wish, st.client.invalidated
		st.wish, st.begun, st.shown = noWish, true, !run
		b.live = true
	})
	stopped := dap.StoppedEventBody{Reason: "entry", ThreadId: 1, AllThreadsStopped: true}
	if begun && b.same && !shown && wanted != wishRun {
		// It may have stopped while nobody was there to hear of it, be it in
		// the very moment in which we came.
		hit := s.hits(handCtx, b, 0)
		stopped.Reason, stopped.ThreadId = "pause", hit.thread
		if len(hit.ids) > 0 {
			stopped.Reason, stopped.HitBreakpointIds = hit.reason, hit.ids
			run = false
		} else if left && wanted == noWish {
			run = true
		}
		s.update(func(st *state) { st.shown = !run })
	}
	switch {
	case run && shown:
		s.event(ctx, "continued", dap.ContinuedEventBody{ThreadId: 1, AllThreadsContinued: true})
	case run:
	case shown && b.same && invalidate:
		s.event(ctx, "invalidated", dap.InvalidatedEventBody{Areas: []dap.InvalidatedAreas{"all"}})
	case shown && b.same:
		s.event(ctx, "stopped", dap.StoppedEventBody{Reason: "pause", ThreadId: 1, AllThreadsStopped: true, PreserveFocusHint: true})
	default:
		if wanted == wishHalt {
			stopped.Reason = "pause"
		}
		s.event(ctx, "stopped", stopped)
	}
	if run {
		if _, err := s.ask(handCtx, b, request{"continue", map[string]any{"threadId": 0}}); err != nil {
			return err
		}
	}
	s.ready(ctx, b)
	return nil
}

// runs decides whether the component goes on in a run that it was connected to
// anew.
func (st *state) runs(b *backend, restarted bool) bool {
	switch {
	case st.wish != noWish:
		return st.wish == wishRun
	case !st.begun || restarted && !b.same:
		return !st.config.StopOnEntry
	case b.same:
		// Also if the client thinks that it is halted: somebody has let it go.
		return !b.run.Halted
	case b.run.Reload:
		return !st.shown
	}
	return true // a component that has ended is not waited for at its entry
}

// tellOver tells the client that there is no other run.
func (s *session) tellOver(ctx context.Context, st *start, err error) {
	var exit *ExitError
	if errors.As(err, &exit) {
		s.awaitOutput(ctx, st)
		s.tellExit(ctx, exit.Code)
	} else {
		_ = s.output(ctx, Important, fmt.Sprintf("kubedelve: %v\n", err), nil)
	}
	s.tellEnd(ctx)
}
