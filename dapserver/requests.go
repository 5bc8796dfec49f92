package dapserver

import (
	"context"
	"fmt"
	"maps"
	"runtime/debug"
)

// handler answers one of the client's requests here, instead of Delve.
type handler struct {
	// from and to are the first and the last phase in which it does so. In the
	// others the request goes the way of all that are not known here: forward
	// refuses it or sends it to Delve.
	from, to phase
	// handle answers the request. It is called in the goroutine that reads the
	// client's messages, in their order, and must not wait for anybody.
	handle func(*session, context.Context, message)
	// background calls handle in a goroutine of its own instead, so that it may
	// wait, for Delve for example. Its ctx ends when the client cancels the
	// request or leaves; the request must then still be answered.
	background bool
	// last ends the connection to the client after handle.
	last bool
}

// requests are all requests that are answered here, by command. Files with
// requests of a kind have a function like lifeRequests, to be added below.
func requests() map[string]handler {
	all := map[string]handler{}
	for _, some := range []map[string]handler{
		lifeRequests(),
		programRequests(),
		consoleRequests(),
	} {
		maps.Copy(all, some)
	}
	return all
}

// lifeRequests are about the session as a whole.
func lifeRequests() map[string]handler {
	return map[string]handler{
		"initialize": {from: phaseNew, to: phaseClosing, handle: (*session).onInitialize},
		"launch":     {from: phaseInitialized, to: phaseClosing, handle: (*session).onStart},
		"attach":     {from: phaseInitialized, to: phaseClosing, handle: (*session).onStart},
		"disconnect": {from: phaseNew, to: phaseClosing, handle: (*session).onDisconnect, last: true},
		"terminate":  {from: phaseStarting, to: phaseClosing, handle: (*session).onTerminate},
		"cancel":     {from: phaseInitialized, to: phaseClosing, handle: (*session).onCancel},
		"restart":    {from: phaseStarting, to: phaseClosing, handle: (*session).onRestart, background: true},
	}
}

// onRequest handles one request of the client. It returns true when the client
// is done.
func (s *session) onRequest(ctx context.Context, m message) (done bool) {
	if re := s.checkRequest(m); re != nil {
		s.fail(ctx, &m.env, re)
		return false
	}
	var at phase
	s.update(func(st *state) { at = st.phase })
	h, ours := s.srv.requests[m.env.command]
	switch ours = ours && h.from <= at && at <= h.to; {
	case ours && h.background:
		s.work(ctx, h, m)
	case ours:
		h.handle(s, ctx, m)
		return h.last
	case at == phaseNew:
		s.fail(ctx, &m.env, &requestError{idNotInitialized, "Not initialized", fmt.Sprintf("%q came before initialize", m.env.command), false})
	default:
		s.forward(ctx, m)
	}
	return false
}

// work handles a request in a goroutine of its own.
func (s *session) work(ctx context.Context, h handler, m message) {
	again := false
	s.update(func(st *state) {
		w := worker{m.env.seq, false}
		if again = st.working[w] != nil; again {
			return
		}
		s.startWorker(ctx, st, w, func(ctx context.Context) {
			defer s.recovered(context.WithoutCancel(ctx), &m.env)
			h.handle(s, ctx, m)
		})
	})
	if again {
		s.fail(ctx, &m.env, &requestError{idMalformed, "Malformed request", fmt.Sprintf("the number %d is that of a request that is not answered yet", m.env.seq), false})
	}
}

// worker names the goroutine of a request of the client's.
type worker struct {
	seq     int64
	lasting bool // cancel doesn't end it
}

// startWorker starts a goroutine for a request. It ends when do returns;
// shutdown cancels it and waits for it, so the phase must be before phaseClosing.
func (s *session) startWorker(ctx context.Context, st *state, w worker, do func(context.Context)) {
	ctx, cancel := context.WithCancel(ctx)
	if st.working == nil {
		st.working = map[worker]context.CancelFunc{}
	}
	st.working[w] = cancel
	s.workers.Go(func() {
		defer s.update(func(st *state) { delete(st.working, w) })
		defer cancel()
		do(ctx)
	})
}

// recovered, deferred, makes an error response of a panic in a handler.
func (s *session) recovered(ctx context.Context, req *envelope) {
	if p := recover(); p != nil {
		s.log.Error("panic while handling a message", "command", req.command, "panic", p, "stack", string(debug.Stack()))
		if req.kind == "request" {
			s.fail(ctx, req, &requestError{idInternal, "Internal error", fmt.Sprint(p), false})
		}
	}
}
