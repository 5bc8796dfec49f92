package dapserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime/debug"

	"github.com/google/go-dap"
)

// errBackendLost is what ends the waiting for an answer of Delve's when there
// will be none.
var errBackendLost = errors.New("the connection to Delve was lost")

// backend is one connection to headless Delve, on behalf of one start.
type backend struct {
	link  *link
	start *start
	done  chan struct{} // closed when the reader has ended
	// stop ends the sends of the reader to the client.
	stop context.CancelFunc

	// All guarded by session.mu. attached says that Delve has accepted us.
	attached bool
	// pending are the requests without an answer,
	// by the number under which Delve has them. answered are the last few that
	// have one: Delve sends two to some (a restart that fails, a panic).
	pending  map[int64]pending
	answered [answeredKept]pending
	oldest   int // index in answered that is next to be overwritten
}

const answeredKept = 16

// pending is a request that Delve has got.
type pending struct {
	seq       int64 // Delve's
	editorSeq int64 // 0 for a request of ours
	command   string
	// answer gets the response to a request of ours; it has room for it.
	answer chan message
	// then, if set, is called in the reader's goroutine on success, before
	// anything that Delve sent later is passed on.
	then func()
}

// newBackend starts to relay what comes from Delve. ctx is the session's.
func (s *session) newBackend(ctx context.Context, st *start, conn io.ReadWriteCloser) *backend {
	ctx, stop := context.WithCancel(ctx)
	b := &backend{
		// No stall limit: Delve doesn't read while it works on a request.
		link: newLink("delve", conn, 0, s.log), start: st,
		done: make(chan struct{}), stop: stop, pending: map[int64]pending{},
	}
	b.link.record = s.recorder()
	go s.readBackend(ctx, b)
	return b
}

// close closes the connection and waits for its goroutines.
func (b *backend) close() {
	b.stop()
	b.link.close()
	<-b.done
}

// readBackend is the goroutine that reads from Delve. It ends with the
// connection.
func (s *session) readBackend(ctx context.Context, b *backend) {
	defer close(b.done)
	defer b.stop()
	for {
		raw, err := b.link.next()
		if err != nil {
			b.link.fail(err)
			s.backendLost(ctx, b, err)
			return
		}
		s.fromBackend(ctx, b, raw)
	}
}

func (s *session) fromBackend(ctx context.Context, b *backend, raw []byte) {
	env, err := parseEnvelope(raw)
	if err != nil {
		s.log.Error("ignoring a message of Delve's", "error", err)
		return
	}
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("panic while relaying a message of Delve's", "command", env.command, "event", env.event, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	logFrame(s.log, "from delve", raw, &env)
	m := message{raw, env}
	switch env.kind {
	case "response":
		s.onResponse(ctx, b, m)
	case "event":
		s.onBackendEvent(ctx, b, m)
	default:
		// Registered before the client can answer, hence in the link's lock.
		_ = s.editor.send(ctx, raw, &m.env, sendOptions{assigned: func(seq int64) {
			s.update(func(st *state) { st.expect(seq, reverseRequest{backend: b, seq: m.env.seq}) })
		}})
	}
}

func (s *session) onResponse(ctx context.Context, b *backend, m message) {
	var p pending
	var known bool
	s.update(func(st *state) {
		if p, known = b.take(m.env.requestSeq); known && m.env.success {
			st.resumed(p.command)
		}
	})
	switch {
	case !known:
		s.log.Warn("ignoring a response that nobody waits for", "command", m.env.command, "request_seq", m.env.requestSeq)
	case p.answer != nil:
		if p.then != nil && m.env.success {
			p.then()
		}
		select {
		case p.answer <- m:
		default: // the second answer to the same request
		}
	default:
		_ = s.editor.send(ctx, m.raw, &m.env, sendOptions{requestSeq: p.editorSeq})
	}
}

// take finds the request that a response is for.
func (b *backend) take(seq int64) (pending, bool) {
	if p, ok := b.pending[seq]; ok {
		delete(b.pending, seq)
		b.answered[b.oldest] = p
		b.oldest = (b.oldest + 1) % answeredKept
		return p, true
	}
	for _, p := range b.answered {
		if p.seq == seq && seq != 0 {
			return p, true
		}
	}
	return pending{}, false
}

func (s *session) onBackendEvent(ctx context.Context, b *backend, m message) {
	closing := false
	s.update(func(st *state) {
		closing = st.phase == phaseClosing || st.backend != b
		switch m.env.event {
		case "stopped":
			st.halted = true
			if st.onHalt != nil {
				close(st.onHalt)
				st.onHalt = nil
			}
		case "continued":
			st.halted = false
		}
	})
	if closing {
		return // Delve says goodbye, but the client's session may go on elsewhere
	}
	switch m.env.event {
	case "exited":
		s.awaitOutput(ctx, b.start)
		if s.claimEnd(func(st *state) *bool { return &st.exitTold }) {
			_ = s.editor.send(ctx, m.raw, &m.env, sendOptions{})
		}
	case "terminated":
		s.awaitOutput(ctx, b.start)
		if s.claimEnd(func(st *state) *bool { return &st.endTold }) {
			_ = s.editor.send(ctx, m.raw, &m.env, sendOptions{})
			close(b.start.ended)
		}
	case "initialized":
		_ = s.editor.send(ctx, m.raw, &m.env, sendOptions{})
		s.ready(ctx, b)
	default:
		_ = s.editor.send(ctx, m.raw, &m.env, sendOptions{})
	}
}

// ready opens the way to Delve, and sends what has waited for that in order.
func (s *session) ready(ctx context.Context, b *backend) {
	s.update(func(st *state) { st.halted, b.attached = true, true })
	for {
		var early []message
		s.update(func(st *state) {
			early, st.early, st.earlyBytes = st.early, nil, 0
			if len(early) == 0 && st.phase == phaseStarting {
				st.phase = phaseRunning
			}
			for i := range early {
				st.breakpoints.record(early[i].env.command, early[i].env.body.in(early[i].raw))
			}
		})
		if len(early) == 0 {
			return
		}
		for i := range early {
			s.relay(ctx, b, early[i])
		}
	}
}

// resumed notes that Delve has accepted a request after which the component
// runs. That it has stopped again comes as an event, later.
func (st *state) resumed(command string) {
	switch command {
	case "continue", "next", "stepIn", "stepOut", "stepBack", "reverseContinue":
		st.halted = false
	case "configurationDone":
		st.halted = st.start != nil && st.start.config.StopOnEntry
	}
}

// relay sends a request of the client to Delve.
func (s *session) relay(ctx context.Context, b *backend, m message) {
	p := pending{editorSeq: m.env.seq, command: m.env.command}
	err := b.link.send(ctx, m.raw, &m.env, sendOptions{noWait: true, assigned: func(seq int64) {
		s.update(func(*state) { p.seq = seq; b.pending[seq] = p })
	}})
	switch {
	case errors.Is(err, errQueueFull):
		s.fail(ctx, &m.env, &requestError{idBusy, "Busy", "Delve is behind with the requests before this one", false})
	case err != nil:
		s.fail(ctx, &m.env, &requestError{idNoBackend, "No connection to Delve", err.Error(), false})
	}
}

// ask sends a request of our own and waits for a successful answer.
func (s *session) ask(ctx context.Context, b *backend, r request) (message, error) {
	return s.askThen(ctx, b, r, nil)
}

func (s *session) askThen(ctx context.Context, b *backend, r request, then func()) (message, error) {
	raw, err := json.Marshal(struct {
		Type      string `json:"type"`
		Command   string `json:"command"`
		Arguments any    `json:"arguments,omitempty"`
	}{"request", r.command, r.arguments})
	if err != nil {
		return message{}, err
	}
	env := envelope{kind: "request", command: r.command}
	p := pending{command: r.command, answer: make(chan message, 1), then: then}
	err = b.link.send(ctx, raw, &env, sendOptions{assigned: func(seq int64) {
		s.update(func(*state) { p.seq = seq; b.pending[seq] = p })
	}})
	if err != nil {
		return message{}, err
	}
	var m message
	select {
	case m = <-p.answer:
	case <-ctx.Done():
		return message{}, fmt.Errorf("waiting for Delve to answer %s: %w", r.command, ctx.Err())
	case <-b.done:
		select {
		case m = <-p.answer: // its last message
		default:
			return message{}, fmt.Errorf("%w during %s: %w", errBackendLost, r.command, b.link.cause())
		}
	}
	if m.env.success {
		return m, nil
	}
	return message{}, delveError(m)
}

// delveError is an error response of Delve's as an error with Delve's words.
func delveError(m message) error {
	var answer dap.ErrorResponse
	_ = json.Unmarshal(m.raw, &answer) // what can't be read stays empty
	re := &requestError{id: idInternal, summary: answer.Message, showUser: true}
	if e := answer.Body.Error; e != nil && e.Format != "" {
		// Delve's text begins with the summary.
		re.id, re.showUser, re.summary = e.Id, e.ShowUser, e.Format
	}
	if re.summary == "" {
		re.summary = "Delve refused the request " + m.env.command
	}
	return re
}
