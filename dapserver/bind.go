package dapserver

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/google/go-dap"
)

// Ids. Each Delve counts its breakpoints from 1, and a client is told of one
// Delve after the other. The client's ids are Delve's of the first run; a
// breakpoint that is set again in another run keeps the id that the client
// knows, and backend.ids has what Delve calls it there. Messages in which the
// two are the same are passed on as they are.

// onSet takes in Delve's answer to a request that sets breakpoints. It is
// called by the reader, so that what Delve says later finds the ids.
func (s *session) onSet(ctx context.Context, b *backend, p pending, m message) {
	s.telling.Lock()
	defer s.telling.Unlock()
	var changed []*breakpoint
	var late any
	reply := m
	s.update(func(st *state) {
		if st.backend != b {
			late = st.pend(p.set, s.waitsFor(st))
			return
		}
		answers, ok := answeredBreakpoints(m, p)
		if !ok {
			return
		}
		list, differ, own := st.bind(b, p, answers)
		changed = differ
		if !own && m.env.success {
			reply = withBody(m, withMember(m.env.body.in(m.raw), "breakpoints", list))
		}
	})
	switch {
	case p.editorSeq == 0:
	case late != nil:
		s.respond(ctx, &envelope{seq: p.editorSeq, command: p.command}, late)
		return
	default:
		_ = s.editor.send(ctx, reply.raw, &reply.env, sendOptions{requestSeq: p.editorSeq})
		return
	}
	for _, point := range changed {
		s.event(ctx, "breakpoint", map[string]any{"reason": "changed", "breakpoint": point.shown})
	}
}

// answeredBreakpoints are Delve's words on each of the breakpoints that were
// sent. A request of ours that was refused as a whole was so for each of them.
func answeredBreakpoints(m message, p pending) (answers []json.RawMessage, ok bool) {
	if m.env.success {
		var body struct{ Breakpoints []json.RawMessage }
		if raw := m.env.body.in(m.raw); !empty(raw) && json.Unmarshal(raw, &body) != nil {
			return nil, false
		}
		return body.Breakpoints, p.set.points == nil || len(body.Breakpoints) == len(p.sent)
	}
	why := delveError(m)
	if p.editorSeq != 0 || why.running() {
		return nil, false // the client will see it, or it is tried again
	}
	refused, err := json.Marshal(dap.Breakpoint{Message: why.Error()})
	return slices.Repeat([]json.RawMessage{refused}, len(p.sent)), err == nil
}

// bind notes what Delve has made of a set. list is that in the client's terms,
// for all that the client wanted; own says that it is just what Delve wrote.
// changed are those of which the client was told something else.
func (st *state) bind(b *backend, p pending, answers []json.RawMessage) (list []json.RawMessage, changed []*breakpoint, own bool) {
	set := p.set
	set.applied = true
	defer func() {
		if set.applied && set.command == "setBreakpoints" && len(set.points) == 0 {
			st.breakpoints.sets = slices.DeleteFunc(st.breakpoints.sets, func(s *breakpointSet) bool { return s == set })
		}
	}()
	if set.points == nil {
		return answers, nil, true
	}
	own = len(p.sent) == len(set.points)
	byIndex := map[int]json.RawMessage{}
	for i, at := range p.sent {
		byIndex[at] = answers[i]
	}
	seen := map[*breakpoint]bool{}
	for i, point := range set.points {
		answer, sent := byIndex[i]
		id, about := 0, verdict{}
		if sent {
			id, about = readBreakpoint(answer)
			if point.sendAs != "" && scoped(point.key) && !about.verified {
				point.gone = goneProcess // no variable of a package, then
			}
			if b.replaying && b.same && set.command == "setDataBreakpoints" && scoped(point.key) && id != 0 && point.delveID != 0 && id != point.delveID {
				// Delve did not have it any more, and found another variable
				// of that name: this set is sent once more, without it.
				point.gone, set.applied = goneFrame, false
			}
		}
		if !seen[point] {
			point.delveID = id
		}
		clientID := b.clientID(st, id, point)
		if point.gone != "" {
			answer, about = unbound(clientID, "failed", point.gone, nil, nil), verdict{message: point.gone}
			own = false
		} else if clientID != id {
			answer, own = withMember(answer, "id", clientID), false
		}
		list = append(list, answer)
		if seen[point] {
			continue // Delve has it once; this one is the client's mistake
		}
		seen[point] = true
		if point.told != about && point.shown != nil {
			changed = append(changed, point)
		}
		point.shown, point.told = answer, about
	}
	return list, changed, own
}

// clientID is what the client calls a breakpoint that Delve calls id; 0 if
// Delve doesn't have it.
func (b *backend) clientID(st *state, id int, point *breakpoint) int {
	client, known := b.ids[id]
	switch {
	case id < 0:
		return id // Delve's own: the same in all runs
	case id != 0 && known:
	case point != nil && point.id != 0:
		client = point.id
	case id != 0:
		client = st.breakpoints.nameID(id)
	default:
		client = st.breakpoints.nameID(ownIDs)
	}
	if id != 0 {
		b.ids[id] = client
		b.renamed = b.renamed || client != id
	}
	if point != nil && point.id == 0 {
		point.id = client
	}
	return client
}

// scoped says whether a data id of Delve's names a variable of one goroutine.
func scoped(dataID string) bool { return !strings.HasPrefix(dataID, "-1,") }

// readBreakpoint is what matters of a breakpoint in a message of Delve's.
func readBreakpoint(raw json.RawMessage) (id int, about verdict) {
	var bp dap.Breakpoint
	_ = json.Unmarshal(raw, &bp) // what can't be read stays empty
	about = verdict{verified: bp.Verified, line: bp.Line, column: bp.Column, message: bp.Message}
	if bp.Source != nil {
		about.path = bp.Source.Path
	}
	return bp.Id, about
}

// unbound is a breakpoint that no Delve has, for the client. Line and column
// are the client's own.
func unbound(id int, reason, message string, wanted, source json.RawMessage) json.RawMessage {
	var at struct{ Line, Column int }
	if wanted != nil {
		_ = json.Unmarshal(wanted, &at) // what can't be read is left out
	}
	raw, err := json.Marshal(struct {
		ID       int             `json:"id"`
		Verified bool            `json:"verified"`
		Reason   string          `json:"reason"`
		Message  string          `json:"message"`
		Source   json.RawMessage `json:"source,omitempty"`
		Line     int             `json:"line,omitempty"`
		Column   int             `json:"column,omitempty"`
	}{id, false, reason, message, source, at.Line, at.Column})
	if err != nil {
		return nil // source was decoded before
	}
	return raw
}

// pend answers for a Delve that is not there: the set waits for it.
func (st *state) pend(set *breakpointSet, waiting string) any {
	if set == nil || set.command == "setExceptionBreakpoints" {
		return map[string]any{} // its list is of no use to anybody
	}
	message := "pending: waiting for " + waiting
	list := []json.RawMessage{}
	for i, point := range set.points {
		if point.id == 0 {
			point.id = st.breakpoints.nameID(ownIDs)
		}
		point.told = verdict{message: message}
		point.shown = unbound(point.id, "pending", message, set.wanted[i], set.source)
		list = append(list, point.shown)
	}
	return map[string]any{"breakpoints": list}
}

// withBody is a message with another body.
func withBody(m message, body json.RawMessage) message {
	raw := slices.Concat(m.raw[:m.env.body.from], body, m.raw[m.env.body.to:])
	env, err := parseEnvelope(raw)
	if err != nil {
		return m // it was one before
	}
	return message{raw, env}
}

// translated is an event of Delve's with the client's ids.
func (s *session) translated(b *backend, m message) message {
	raw := m.env.body.in(m.raw)
	switch m.env.event {
	case "stopped":
		var body struct{ HitBreakpointIds []int }
		if json.Unmarshal(raw, &body) != nil || len(body.HitBreakpointIds) == 0 {
			return m
		}
		own := true
		s.update(func(st *state) {
			for i, id := range body.HitBreakpointIds {
				body.HitBreakpointIds[i] = b.clientID(st, id, nil)
				own = own && body.HitBreakpointIds[i] == id
			}
		})
		if own {
			return m
		}
		return withBody(m, withMember(raw, "hitBreakpointIds", body.HitBreakpointIds))
	case "breakpoint":
		var body struct{ Breakpoint json.RawMessage }
		if json.Unmarshal(raw, &body) != nil {
			return m
		}
		id, about := readBreakpoint(body.Breakpoint)
		client := id
		s.update(func(st *state) {
			if id != 0 {
				client = b.clientID(st, id, nil)
			}
			for _, set := range st.breakpoints.sets {
				for _, point := range set.points {
					if point.id == client {
						point.told = about
					}
				}
			}
		})
		if client != id {
			return withBody(m, withMember(raw, "breakpoint", withMember(body.Breakpoint, "id", client)))
		}
	}
	return m
}
