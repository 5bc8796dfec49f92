package dapserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/google/go-dap"
)

var (
	// errBackendLost is what ends the waiting for an answer of Delve's when
	// there will be none.
	errBackendLost = errors.New("the connection to Delve was lost")
	// errRunEnded closes a connection when Delve says that its process has ended.
	errRunEnded = errors.New("the process has ended")
	// errSwapped closes one when its process has been replaced.
	errSwapped = errors.New("the process was replaced by another")
)

// backend is one connection to headless Delve.
type backend struct {
	link *link
	run  Run
	done chan struct{} // closed when the reader has ended
	// stop ends the sends of the reader to the client.
	stop context.CancelFunc
	// turn is held by whoever halts the component without telling the client.
	turn chan struct{}

	// All guarded by session.mu.

	// attached says that Delve has accepted us.
	attached bool
	// live says that the client sees what Delve sends. A connection that takes
	// another's place is not until it is where that one was.
	live bool
	// same says that it is to the run of the connection before, replaying that
	// the breakpoints are being set again.
	same, replaying bool
	// ids are the client's of Delve's breakpoints; renamed says that one of
	// them is another.
	ids     map[int]int
	renamed bool
	// setting says that Delve's last answer was to a request that sets
	// breakpoints, for which it halts the component.
	setting bool
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
	// set is what a request that sets breakpoints sets, and sent which of its
	// elements Delve got.
	set  *breakpointSet
	sent []int
	// again is the request, if it is one that we repeat when Delve refuses it
	// because the component runs.
	again *message
	// cancelled says that the client has its answer already.
	cancelled bool
	// answer gets the response to a request of ours; it has room for it.
	answer chan message
	// then, if set, is called in the reader's goroutine on success, before
	// anything that Delve sent later is passed on.
	then func()
}

// newBackend starts to relay what comes from Delve. ctx is the session's.
func (s *session) newBackend(ctx context.Context, conn Connection) *backend {
	ctx, stop := context.WithCancel(ctx)
	b := &backend{
		// No stall limit: Delve doesn't read while it works on a request.
		link: newLink("delve", conn, 0, s.log), run: conn.Run(),
		done: make(chan struct{}), stop: stop, turn: make(chan struct{}, 1),
		pending: map[int64]pending{}, ids: map[int]int{},
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
			s.lost(ctx, b)
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
		p, known = b.take(m.env.requestSeq)
		if known && m.env.success {
			st.resumed(p)
		}
		b.setting = p.set != nil
	})
	switch {
	case !known:
		s.log.Warn("ignoring a response that nobody waits for", "command", m.env.command, "request_seq", m.env.requestSeq)
	case p.cancelled:
	case p.again != nil && !m.env.success && delveError(m).running():
		s.whileHalted(ctx, b, p)
	case p.answer != nil:
		if p.set != nil {
			s.onSet(ctx, b, p, m)
		}
		if p.then != nil && m.env.success {
			p.then()
		}
		select {
		case p.answer <- m:
		default: // the second answer to the same request
		}
	case p.set != nil:
		s.onSet(ctx, b, p, m)
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
	var mine, live, quiet, translate bool
	s.update(func(st *state) {
		mine, live = st.phase != phaseClosing && st.backend == b, b.live
		switch m.env.event {
		case "stopped":
			st.halted = true
			if st.onHalt != nil {
				close(st.onHalt)
				st.onHalt = nil
			}
			if quiet = mine && st.quiet != nil; quiet {
				st.quiet.stopped = &m
			} else if mine && live {
				st.shown = true
			}
			translate = b.renamed
		case "continued":
			st.halted = false
			st.shown = st.shown && !(mine && live)
		case "breakpoint":
			translate = true
		}
	})
	// What Delve says at its goodbye is not said to a client whose session goes
	// on elsewhere.
	switch name := m.env.event; {
	case !mine:
	case name == "exited" || name == "terminated":
		// What comes next, another run or the end, the session says.
		b.link.fail(errRunEnded)
	case !live || quiet:
	case name == "initialized":
		_ = s.editor.send(ctx, m.raw, &m.env, sendOptions{})
		s.update(func(st *state) { st.halted, b.attached = true, true })
		s.ready(ctx, b)
	default:
		if translate {
			s.telling.Lock()
			defer s.telling.Unlock()
			m = s.translated(b, m)
		}
		_ = s.editor.send(ctx, m.raw, &m.env, sendOptions{})
	}
}

// ready opens the way to Delve, and sends what has waited for that in order.
func (s *session) ready(ctx context.Context, b *backend) {
	for {
		var next *message
		s.update(func(st *state) {
			switch {
			case st.backend != b:
			case len(st.early) > 0:
				next = &st.early[0]
				st.earlyBytes -= len(next.raw)
				st.early = st.early[1:]
			case st.phase == phaseStarting || st.phase == phaseReconnecting:
				st.phase, st.parking, st.early = phaseRunning, false, nil
			}
		})
		if next == nil {
			return
		}
		unlock := s.inOrder(next.env.command)
		err := s.relay(ctx, b, *next)
		unlock()
		if err != nil {
			s.lost(ctx, b)
			s.forward(ctx, *next)
			return
		}
	}
}

// resumed notes that Delve has accepted a request after which the component
// runs. That it has stopped again comes as an event, later.
func (st *state) resumed(p pending) {
	switch p.command {
	case "continue", "next", "stepIn", "stepOut", "stepBack", "reverseContinue":
		st.halted = false
		st.shown = st.shown && p.editorSeq == 0
	case "configurationDone":
		if p.editorSeq != 0 {
			st.begun = true
			st.halted = st.config != nil && st.config.StopOnEntry
		}
	}
}

// inOrder is held from the change of the state of breakpoints until the client
// or Delve is told of it, so that either hears in the order in which things
// happened. For other requests it does nothing.
func (s *session) inOrder(command string) (unlock func()) {
	if breakpointRequests[command] == "" {
		return func() {}
	}
	s.telling.Lock()
	return s.telling.Unlock
}

// relay sends a request of the client to Delve. The error says that the
// connection is gone; everything else the client has been told. The caller
// holds inOrder.
func (s *session) relay(ctx context.Context, b *backend, m message) error {
	p := pending{editorSeq: m.env.seq, command: m.env.command}
	switch m.env.command {
	case "setDataBreakpoints", "setExceptionBreakpoints", "dataBreakpointInfo":
		p.again = &m
	}
	raw, env := m.raw, &m.env
	if breakpointRequests[m.env.command] != "" {
		own := true
		var arguments json.RawMessage
		s.update(func(st *state) {
			if p.set = st.breakpoints.record(m.env.command, m.env.body.in(m.raw), b.run); p.set != nil {
				p.sent, arguments, own = p.set.request()
			}
		})
		if !own {
			rewritten := withBody(m, arguments)
			raw, env = rewritten.raw, &rewritten.env
		}
	}
	err := b.link.send(ctx, raw, env, sendOptions{noWait: true, assigned: func(seq int64) {
		s.update(func(*state) { p.seq = seq; b.pending[seq] = p })
	}})
	if errors.Is(err, errQueueFull) {
		s.fail(ctx, &m.env, &requestError{idBusy, "Busy", "Delve is behind with the requests before this one", false})
		return nil
	}
	return err
}

// ask sends a request of our own and waits for a successful answer.
func (s *session) ask(ctx context.Context, b *backend, r request) (message, error) {
	return s.askThen(ctx, b, r, nil)
}

func (s *session) askThen(ctx context.Context, b *backend, r request, then func()) (message, error) {
	p, err := s.begin(ctx, b, r, pending{then: then})
	if err != nil {
		return message{}, err
	}
	return s.await(ctx, b, p)
}

// begin sends a request of our own. It does not wait if Delve is behind.
func (s *session) begin(ctx context.Context, b *backend, r request, p pending) (pending, error) {
	raw, err := json.Marshal(struct {
		Type      string `json:"type"`
		Command   string `json:"command"`
		Arguments any    `json:"arguments,omitempty"`
	}{"request", r.command, r.arguments})
	if err != nil {
		return p, err
	}
	env := envelope{kind: "request", command: r.command}
	p.command, p.answer = r.command, make(chan message, 1)
	return p, b.link.send(ctx, raw, &env, sendOptions{noWait: true, assigned: func(seq int64) {
		s.update(func(*state) { p.seq = seq; b.pending[seq] = p })
	}})
}

// await waits for a successful answer to what was begun.
func (s *session) await(ctx context.Context, b *backend, p pending) (message, error) {
	m, err := p.wait(ctx, b)
	if err == nil && !m.env.success {
		return message{}, delveError(m)
	}
	return m, err
}

// wait waits for an answer to what was begun.
func (p *pending) wait(ctx context.Context, b *backend) (message, error) {
	select {
	case m := <-p.answer:
		return m, nil
	case <-ctx.Done():
		return message{}, fmt.Errorf("waiting for Delve to answer %s: %w", p.command, ctx.Err())
	case <-b.done:
	}
	select {
	case m := <-p.answer: // its last message
		return m, nil
	default:
		return message{}, fmt.Errorf("%w during %s: %w", errBackendLost, p.command, b.link.cause())
	}
}

// delveError is an error response of Delve's as an error with Delve's words.
func delveError(m message) *requestError {
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
