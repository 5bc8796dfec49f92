package dapserver

import (
	"context"
	"time"
)

// How long saying goodbye to Delve may take, all in all. If the session ends
// it is no more than politeness: what matters is done by Session.Close.
const (
	leaveTimeout = 10 * time.Second
	endTimeout   = time.Second
)

// leaveBackend closes the connection to Delve. If the component is to live on
// under it (end is false), it must not stay halted, nor stop at a breakpoint
// with nobody there to see it: Delve resumes nothing on its own.
func (s *session) leaveBackend(ctx context.Context, end bool, how leaving) {
	var b *backend
	var set breakpoints
	attached, over := false, false
	s.update(func(state *state) {
		b, state.backend = state.backend, nil
		if b != nil {
			set, attached = state.breakpoints, b.attached
			over = state.exitTold || state.endTold
		}
	})
	if b == nil {
		return
	}
	defer b.close()
	if !attached {
		return // Delve may be serving somebody else, and would not answer
	}
	timeout := leaveTimeout
	if end {
		timeout = endTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if !end && !how.suspend && !over {
		s.resumeForGood(ctx, b, set, how.handOver)
	}
	if _, err := s.ask(ctx, b, request{"disconnect", map[string]any{"terminateDebuggee": false}}); err != nil {
		s.log.Debug("disconnecting from Delve", "error", err)
	}
}

// resumeForGood takes all breakpoints away and lets the component run, unless it is
// halted and handed over. Each step is tried whatever came of the one before.
func (s *session) resumeForGood(ctx context.Context, b *backend, set breakpoints, handOver bool) {
	try := func(r request) {
		if _, err := s.ask(ctx, b, r); err != nil {
			s.log.Debug("leaving the component running", "request", r.command, "error", err)
		}
	}
	// The client's last words may have been "continue" or "next". Delve answers in
	// turn, so after this answer it is known what has become of them.
	try(request{"threads", nil})
	halted := false
	s.update(func(st *state) { halted = st.halted })
	// Most of Delve's requests are refused while the component runs.
	if !halted {
		try(request{"pause", map[string]any{"threadId": 0}})
		s.awaitHalt(ctx, b)
	}
	for _, r := range set.clearing() {
		try(r)
	}
	if !halted || !handOver {
		try(request{"continue", map[string]any{"threadId": 0}})
	}
}

// awaitHalt waits until Delve has told that the component is stopped.
func (s *session) awaitHalt(ctx context.Context, b *backend) {
	halt := make(chan struct{})
	already := false
	s.update(func(st *state) {
		if already = st.halted; !already {
			st.onHalt = halt
		}
	})
	if already {
		return
	}
	// Not the whole of ctx: a component that has exited never stops.
	timer := time.NewTimer(leaveTimeout / 2)
	defer timer.Stop()
	select {
	case <-halt:
	case <-b.done:
	case <-timer.C:
	case <-ctx.Done():
	}
}
