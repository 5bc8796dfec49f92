package dapserver

import "context"

// follow shows the client what happens to the session: activities as progress,
// texts as output. It returns when the session is over or ctx is.
func (s *session) follow(ctx context.Context, st *start) {
	shown := map[int]*progress{}
	st.target.Follow(ctx, func(e Event) {
		if e.Activity != 0 {
			p := shown[e.Activity]
			if p == nil && !e.Over {
				p = newActivity(ctx, s, e)
				shown[e.Activity] = p
			}
			if p != nil {
				s.update(func(state *state) { state.setActivity(p.id, e.Cancel, e.Over) })
				if e.Over {
					p.end(e.Stage)
					delete(shown, e.Activity)
				} else {
					p.Stage(e.Stage, e.Percent)
				}
			}
		}
		if e.Swapped != 0 {
			s.update(func(state *state) { state.swaps, state.lastSwap = state.swaps+1, e.Swapped })
			s.tellSession(ctx, st)
		}
		if e.Text != "" {
			stream := e.Stream
			if stream == "" {
				stream = Console
			}
			_ = s.output(ctx, stream, e.Text, e.At)
		}
	})
	for _, p := range shown { // what is not over any more, but of no interest
		s.update(func(state *state) { state.setActivity(p.id, nil, true) })
		p.end("")
	}
}

// setActivity notes how an activity is cancelled.
func (st *state) setActivity(id string, cancel func(), over bool) {
	if st.activities == nil {
		st.activities = map[string]func(){}
	}
	if over || cancel == nil {
		delete(st.activities, id)
		return
	}
	st.activities[id] = cancel
}

// sessionEvent is the body of the event kubedelveSession.
type sessionEvent struct {
	Name     string  `json:"name"`  // what is debugged: "deploy/web"
	Place    string  `json:"place"` // where it runs: "pod web-123, container app"
	Swaps    int     `json:"swaps"`
	LastSwap float64 `json:"lastSwap,omitempty"` // how long the last one took, in seconds
}

// tellSession tells a client that wants to know it how its session is going.
func (s *session) tellSession(ctx context.Context, st *start) {
	if !st.config.SessionEvents {
		return
	}
	body := sessionEvent{Name: st.target.Name()}
	s.update(func(state *state) {
		body.Place, body.Swaps, body.LastSwap = state.run.Place, state.swaps, state.lastSwap.Seconds()
	})
	s.event(ctx, "kubedelveSession", body)
}
