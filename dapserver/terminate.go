package dapserver

import (
	"context"
	"fmt"
	"time"
)

// onTerminate ends the component, in the order that Session.Close keeps. It is
// answered at once; exited and terminated come when all is done. A disconnect
// meanwhile waits for that. A launch that has no answer yet is given up.
func (s *session) onTerminate(ctx context.Context, m message) {
	var re *requestError
	var ending *start
	s.update(func(state *state) {
		st := state.start
		switch {
		case state.phase == phaseStarting:
			st.cancel()
		case state.phase == phaseEnded:
			// It ends, or has: what the client wants.
		case state.phase == phaseClosing:
			re = errClosing
		case !st.answered:
			st.cancel()
		case !st.owned:
			re = &requestError{idTerminate, "Cannot terminate",
				fmt.Sprintf("%s was put under the debugger elsewhere: end it there, or only disconnect from it", st.target.Name()), true}
		default:
			state.phase, state.ending = phaseEnded, true
			ending = st
		}
	})
	if re != nil {
		s.fail(ctx, &m.env, re)
		return
	}
	s.respond(ctx, &m.env, nil)
	if ending != nil {
		// Not to be cancelled, it ends when Session.Close does. shutdown can't have
		// begun to wait for workers: it doesn't while a message is handled.
		s.workers.Go(func() { s.terminate(ctx, ending) })
	}
}

// terminate is the goroutine of onTerminate.
func (s *session) terminate(ctx context.Context, st *start) {
	<-st.done // it has been answered, and may still be at its last steps
	s.update(func(state *state) {
		if state.giveUp != nil {
			state.giveUp()
		}
	})
	if err := s.release(ctx, st, leaving{hear: true}); err != nil {
		_ = s.output(ctx, Important, "kubedelve: "+err.Error()+"\n", nil)
	}
	select {
	case <-st.exited:
		s.tellExit(ctx, st.exitCode)
	default:
	}
	s.tellEnd(ctx)
}

// awaitExit lets the exit code be known when the session has been closed.
func (s *session) awaitExit(st *start) {
	timer := time.NewTimer(exitGrace)
	defer timer.Stop()
	select {
	case <-st.exited:
	case <-st.unknown:
	case <-timer.C:
	}
}
