package dapserver

import (
	"context"
	"encoding/json"
)

// restart is one that is under way.
type restart struct{ done chan struct{} } // closed when it is answered

// onRestart asks the session for a new run. Delve's own restart is not used: it
// can't build, and kills the component first. The connection to the new run is
// the business of keep.
func (s *session) onRestart(ctx context.Context, m message) {
	refuse := func(details string) {
		s.fail(ctx, &m.env, &requestError{idRestart, "Cannot restart", details, true})
	}
	var args struct{ Arguments json.RawMessage }
	if raw := m.env.body.in(m.raw); !empty(raw) {
		if err := json.Unmarshal(raw, &args); err != nil {
			refuse("the arguments must be an object")
			return
		}
	}
	under := &restart{done: make(chan struct{})}
	var st *start
	var before *backend
	var why string
	s.update(func(state *state) {
		st, before = state.start, state.backend
		switch {
		case state.phase >= phaseEnded:
			why = "the debug session has ended"
		case state.phase == phaseStarting || !st.answered:
			why = "it is not started yet"
		case state.restart != nil:
			why = "a restart is under way"
		default:
			state.restart, state.restarted = under, true
		}
	})
	if why != "" {
		refuse(why)
		return
	}
	defer close(under.done)
	var config *LaunchConfig // what the client has sent along, if anything
	var err error
	if !empty(args.Arguments) {
		config, err = decodeLaunchConfig(st.request, args.Arguments)
	}
	if err == nil {
		err = st.target.Restart(ctx, config)
	}
	over := false
	s.update(func(state *state) {
		state.restart = nil
		over = state.phase >= phaseEnded
		switch {
		case err != nil:
			state.restarted = false
		case config != nil:
			state.config = config
		}
		if before != state.backend {
			before = nil
		}
	})
	switch {
	case err != nil && ctx.Err() != nil:
		s.fail(ctx, &m.env, errCancelled)
	case err != nil:
		refuse(err.Error())
	default:
		s.respond(ctx, &m.env, nil)
		if before != nil && !over {
			before.link.fail(errSwapped) // if the process has not said so itself
		}
	}
}
