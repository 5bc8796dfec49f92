package dapserver

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"github.com/google/go-dap"
)

// Delve takes exception filters and data breakpoints only while the component is
// halted, and editors set them at any time. So it is halted for them, without the
// client being told, and goes on afterwards.

// quietHalt is such a halt.
type quietHalt struct {
	stopped *message // Delve's event, which the client has not got
	pause   bool     // the client has asked for a halt meanwhile
}

// errRunning is Delve's refusal of a request because the component runs.
var errRunning = errors.New("the component runs")

const (
	delveRunning          = 4000 // Delve: DebuggeeIsRunning
	delveNoSetting        = 2002 // Delve: UnableToSetBreakpoints
	delveNoSettingRunning = "while the process is running"
)

// running says whether an error of Delve's is a refusal because the component
// runs.
func (e *requestError) running() bool {
	return e.id == delveRunning || e.id == delveNoSetting && strings.Contains(e.summary, delveNoSettingRunning)
}

// whileHalted does a request of the client that Delve has refused because the
// component runs. It is called by the reader and returns at once.
func (s *session) whileHalted(ctx context.Context, b *backend, p pending) {
	defer s.inOrder(p.command)()
	var instead *reply
	s.update(func(st *state) {
		switch {
		case st.phase == phaseClosing:
			instead = &reply{seq: p.editorSeq, command: p.command, err: errClosing}
		case st.backend != b:
			instead = s.noteWith(st, p.editorSeq, p.command, p.set)
		default:
			// It can't be cancelled: the component must go on again.
			s.startWorker(ctx, st, worker{p.editorSeq, true}, func(ctx context.Context) { s.doHalted(ctx, b, p) })
		}
	})
	if instead != nil {
		s.answer(ctx, instead)
	}
}

// doHalted is the goroutine of whileHalted. It ends with the answer, which the
// client's leaving hastens.
func (s *session) doHalted(ctx context.Context, b *backend, p pending) {
	var err error
	for range 3 { // the client may let the component go on in the middle of it
		err = s.halted(ctx, b, func(ctx context.Context) error {
			if p.set == nil {
				return s.repeat(ctx, b, p)
			}
			s.update(func(*state) { p.set.applied = false })
			for {
				more := false
				s.update(func(st *state) { more = st.backend == b && st.breakpoints.unapplied() != nil })
				if !more {
					return nil
				}
				if err := s.apply(ctx, b); err != nil {
					return err
				}
			}
		})
		if !errors.Is(err, errRunning) {
			break
		}
	}
	if err == nil && p.set == nil {
		return // the client has Delve's answer
	}
	defer s.inOrder(p.command)()
	answer := &reply{seq: p.editorSeq, command: p.command}
	s.update(func(st *state) {
		switch {
		case st.phase == phaseClosing:
			answer.err = errClosing
		case st.backend != b:
			answer = s.noteWith(st, p.editorSeq, p.command, p.set)
		case err != nil:
			answer.err = &requestError{idBusy, "Busy", "the component can't be halted for it: " + err.Error(), false}
		default:
			answer.body = st.known(p.set)
		}
	})
	s.answer(ctx, answer)
}

// repeat sends a request of the client again, and its answer on.
func (s *session) repeat(ctx context.Context, b *backend, p pending) error {
	again := pending{command: p.command, answer: make(chan message, 1)}
	if err := b.link.send(ctx, p.again.raw, &p.again.env, sendOptions{noWait: true, assigned: func(seq int64) {
		s.update(func(*state) { again.seq = seq; b.pending[seq] = again })
	}}); err != nil {
		return err
	}
	m, err := again.wait(ctx, b)
	if err == nil {
		_ = s.editor.send(ctx, m.raw, &m.env, sendOptions{requestSeq: p.editorSeq})
	}
	return err
}

// halted calls do while the component is halted. If it was running it is then let
// go on, and the client hears nothing of it; unless there was a reason to halt
// besides ours.
func (s *session) halted(ctx context.Context, b *backend, do func(context.Context) error) error {
	select {
	case b.turn <- struct{}{}:
		defer func() { <-b.turn }()
	case <-b.done:
		return errBackendLost
	case <-ctx.Done():
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, s.srv.cfg.HandshakeTimeout)
	defer cancel()
	q, halt, already := &quietHalt{}, make(chan struct{}), false
	s.update(func(st *state) {
		if already = st.halted || st.backend != b; !already {
			st.quiet, st.onHalt = q, halt
		}
	})
	if already {
		return do(ctx)
	}
	defer s.update(func(st *state) {
		if st.quiet == q {
			st.quiet = nil
		}
	})
	if _, err := s.ask(ctx, b, request{"pause", map[string]any{"threadId": 0}}); err != nil {
		return err
	}
	select {
	case <-halt:
	case <-b.done:
		return errBackendLost
	case <-ctx.Done():
		return ctx.Err()
	}
	err := do(ctx)
	if after := s.unhalt(ctx, b, q); after != nil {
		err = errors.Join(err, after)
	}
	return err
}

// unhalt lets the component go on after a quiet halt, or tells the client of the
// halt if it would have come without us as well.
func (s *session) unhalt(ctx context.Context, b *backend, q *quietHalt) error {
	var stopped message
	s.update(func(*state) { stopped = *q.stopped })
	var body struct {
		Reason   string
		ThreadID int
	}
	raw := stopped.env.body.in(stopped.raw)
	_ = json.Unmarshal(raw, &body) // what can't be read is told as it is
	stay := body.Reason != "pause"
	if !stay {
		// Delve says "pause" also if a breakpoint was hit in the same moment.
		if hit := s.hits(ctx, b, body.ThreadID); len(hit.ids) > 0 {
			stay = true
			stopped = withBody(stopped, withMember(withMember(raw, "reason", hit.reason), "hitBreakpointIds", hit.ids))
		}
	}
	tell := func(m message) { _ = s.editor.send(ctx, m.raw, &m.env, sendOptions{}) }
	s.update(func(st *state) {
		if stay = stay || q.pause; stay {
			st.quiet, st.shown = nil, true
		}
	})
	if stay {
		tell(stopped)
		return nil
	}
	pause := false
	_, err := s.askThen(ctx, b, request{"continue", map[string]any{"threadId": 0}}, func() {
		s.update(func(st *state) { pause, st.quiet = q.pause, nil })
	})
	switch {
	case err != nil:
		// The client has let it go on itself; what came of that is not ours.
		var later *message
		s.update(func(st *state) {
			if st.quiet == q && q.stopped.env.seq != stopped.env.seq {
				later, st.shown = q.stopped, true
			}
			st.quiet = nil
		})
		if later != nil {
			tell(*later)
		}
	case pause:
		_, err = s.ask(ctx, b, request{"pause", map[string]any{"threadId": 0}})
		return err
	}
	return nil
}

// hit is where a component is halted.
type hit struct {
	thread int
	// ids are the client's of the breakpoints there, and reason is DAP's.
	ids    []int
	reason string
}

// hits finds out whether a goroutine (0: the one that Delve has selected) is
// halted at a breakpoint. It goes by lines; breakpoints that count their hits are
// left out, as their number can't be asked for, and log points halt nothing.
func (s *session) hits(ctx context.Context, b *backend, thread int) hit {
	at := hit{thread: thread}
	if thread == 0 {
		var threads dap.ThreadsResponseBody
		if !s.askInto(ctx, b, request{"threads", nil}, &threads) || len(threads.Threads) == 0 {
			return hit{thread: 1}
		}
		at.thread = threads.Threads[0].Id
		for _, t := range threads.Threads {
			if strings.HasPrefix(t.Name, "* ") {
				at.thread = t.Id
			}
		}
	}
	var stack dap.StackTraceResponseBody
	if !s.askInto(ctx, b, request{"stackTrace", dap.StackTraceArguments{ThreadId: at.thread, Levels: 1}}, &stack) || len(stack.StackFrames) == 0 {
		return at
	}
	top := stack.StackFrames[0]
	if top.Source == nil {
		return at
	}
	type candidate struct {
		id        int
		condition string
		reason    string
	}
	var all []candidate
	s.update(func(st *state) {
		for _, set := range st.breakpoints.sets {
			reason := map[string]string{"setBreakpoints": "breakpoint", "setFunctionBreakpoints": "function breakpoint"}[set.command]
			for i, p := range set.points {
				var wanted struct{ Condition, HitCondition, LogMessage string }
				if reason == "" || !p.told.verified || p.told.path != top.Source.Path || p.told.line != top.Line ||
					json.Unmarshal(set.wanted[i], &wanted) != nil || wanted.HitCondition != "" || wanted.LogMessage != "" {
					continue
				}
				all = append(all, candidate{p.id, wanted.Condition, reason})
			}
		}
	})
	for _, c := range all {
		if c.condition != "" {
			var value dap.EvaluateResponseBody
			if s.askInto(ctx, b, request{"evaluate", dap.EvaluateArguments{Expression: c.condition, FrameId: top.Id, Context: "watch"}}, &value) && value.Result != "true" {
				continue
			}
		}
		at.ids, at.reason = append(at.ids, c.id), c.reason
	}
	return at
}

// askInto decodes the body of the answer to a request of ours.
func (s *session) askInto(ctx context.Context, b *backend, r request, body any) bool {
	m, err := s.ask(ctx, b, r)
	if err == nil {
		err = json.Unmarshal(m.env.body.in(m.raw), body)
	}
	if err != nil {
		s.log.Debug("asking Delve", "request", r.command, "error", err)
	}
	return err == nil
}

// known is the answer to a request whose breakpoints have been set.
func (st *state) known(set *breakpointSet) any {
	if set.command == "setExceptionBreakpoints" {
		return map[string]any{}
	}
	list := []json.RawMessage{}
	for _, p := range set.points {
		if p.shown == nil { // a later request has removed it
			if p.id == 0 {
				p.id = st.breakpoints.nameID(ownIDs)
			}
			p.shown = unbound(p.id, "failed", "removed again", nil, nil)
		}
		list = append(list, p.shown)
	}
	return map[string]any{"breakpoints": list}
}
