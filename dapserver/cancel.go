package dapserver

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/google/go-dap"
)

// errCancelled has the message that DAP prescribes.
var errCancelled = &requestError{idCancelled, "cancelled", "", false}

// onCancel cancels a launch, a restart or another request that is handled in
// the background, a request that waits for Delve, or an activity of the session.
func (s *session) onCancel(ctx context.Context, m message) {
	var args dap.CancelArguments
	if body := m.env.body.in(m.raw); !empty(body) {
		_ = json.Unmarshal(body, &args) // checkRequest has done so
	}
	// cancel has the one answer itself that it cancels, waiting has not.
	var cancel func()
	var waiting *reply
	s.update(func(st *state) {
		switch id := int64(args.RequestId); {
		case id != 0 && st.working[worker{id, false}] != nil:
			cancel = st.working[worker{id, false}]
		case st.start != nil && !st.start.answered && (id != 0 && id == st.start.seq || args.ProgressId != "" && args.ProgressId == st.start.progress.id):
			cancel = st.start.cancel
			cancel() // with the lock held: after this it is not granted
		case args.ProgressId != "" && st.activities[args.ProgressId] != nil:
			cancel = st.activities[args.ProgressId]
		case id != 0:
			waiting = st.cancelWaiting(id)
		}
	})
	switch {
	case cancel != nil:
		cancel()
	case waiting != nil:
		s.answer(ctx, waiting)
	default:
		s.fail(ctx, &m.env, &requestError{idNotCancelled, "Nothing to cancel", "", false})
		return
	}
	s.respond(ctx, &m.env, nil)
}

// cancelWaiting takes a request back that waits for Delve, or that Delve works
// on: there is no way to make it stop, but its answer is not waited for. What
// changes breakpoints or lets the component run is not taken back, since its
// answer says what has become of it.
func (st *state) cancelWaiting(seq int64) *reply {
	for i, e := range st.early {
		if e.env.seq == seq {
			st.early = slices.Delete(slices.Clone(st.early), i, i+1)
			st.earlyBytes -= len(e.raw)
			return &reply{seq: seq, command: e.env.command, err: errCancelled}
		}
	}
	if st.backend == nil {
		return nil
	}
	for delveSeq, p := range st.backend.pending {
		if p.editorSeq != seq || p.cancelled || lasting[p.command] {
			continue
		}
		p.cancelled = true
		st.backend.pending[delveSeq] = p
		return &reply{seq: seq, command: p.command, err: errCancelled}
	}
	return nil
}

// lasting are the requests that cancel can't take back once Delve has them.
var lasting = map[string]bool{
	"setBreakpoints": true, "setFunctionBreakpoints": true, "setInstructionBreakpoints": true, "setDataBreakpoints": true,
	"setExceptionBreakpoints": true, "configurationDone": true, "continue": true, "next": true, "stepIn": true, "stepOut": true,
	"stepBack": true, "reverseContinue": true, "pause": true, "setVariable": true, "setExpression": true, "writeMemory": true,
}
