package dapserver

import "context"

// Waiter is a [Session] that may be without a run for any time, because others decide
// when one begins.
type Waiter interface {
	Session

	// Waits tells whether it is one. If so, the client has its answer to the launch or
	// attach at once, and can set breakpoints before the first run; Dial is called for
	// that run as for all that come after it.
	Waits() bool
}

// waits answers the launch or attach, if the target is one to wait for. From then on the
// session is as one whose run has ended: the next Dial brings the first.
func (s *session) waits(ctx, startCtx context.Context, st *start) (is bool, err error) {
	if w, ok := st.target.(Waiter); !ok || !w.Waits() {
		return false, nil
	}
	if !st.owned {
		s.event(ctx, "capabilities", map[string]any{"capabilities": map[string]any{"supportsTerminateRequest": false}})
	}
	granted := false
	var replies []*reply
	s.telling.Lock()
	s.update(func(state *state) {
		if granted = !st.answered && startCtx.Err() == nil; !granted {
			return
		}
		st.answered, state.phase = true, phaseReconnecting
		for _, m := range state.early {
			replies = append(replies, s.note(state, m))
		}
		state.early, state.earlyBytes = nil, 0
	})
	s.telling.Unlock()
	if !granted {
		return true, startCtx.Err()
	}
	st.progress.end("")
	s.respond(ctx, &envelope{seq: st.seq, command: st.request}, nil)
	for _, r := range replies {
		s.answer(ctx, r)
	}
	s.event(ctx, "initialized", nil)
	s.startKeeping(ctx, st, nil)
	return true, nil
}
