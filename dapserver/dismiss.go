package dapserver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// sit takes the seat that the start needs, if it needs one.
func (s *session) sit(ctx context.Context, st *start) error {
	if st.seat == nil {
		return nil
	}
	me := Debugger{Kind: "DAP"}
	s.update(func(state *state) { me.Name = state.client.name })
	if s.peer != anotherClient {
		me.Address = s.peer
	}
	name := ""
	if st.member != nil {
		name = st.member.child.Name
	} else {
		name = s.srv.cfg.Session.Name()
	}
	unseat, err := st.seat.Take(ctx, me, st.config.TakeOver || s.srv.cfg.TakeOver, func(by Debugger) {
		if st.member != nil && st.member.family.over() {
			s.dismiss(dismissal{hangUp: s.relayed})
			return
		}
		s.dismiss(dismissal{
			text: fmt.Sprintf("kubedelve: %s has taken over the session of %s\n", by, name), how: leaving{handOver: true},
		})
	})
	var inUse *InUseError
	if errors.As(err, &inUse) {
		way := `disconnect there first, or take it over: "takeOver": true in the launch configuration`
		if inUse.Stays {
			way = "end it there"
		}
		return newError(idInUse, fmt.Sprintf("the session of %s is %v; %s", name, inUse, way))
	}
	if err != nil {
		return err
	}
	st.unseat = unseat
	if st.member != nil {
		st.member.opening.Do(func() { close(st.member.opened) })
	}
	return nil
}

// dismissal ends a client's debug session from outside: another debugger has taken
// its place, or the session that it is a child of has ended.
type dismissal struct {
	text   string // for the user, if not empty
	how    leaving
	hangUp bool // ends the connection too; else the client may say its disconnect
}

// dismiss asks a session to end, and does not wait. It is called twice at most: by
// who takes the seat, and by the parent.
func (s *session) dismiss(d dismissal) {
	select {
	case s.dismissals <- d:
	case <-s.editor.closed: // it is ending in any case
	}
}

// dismissPatience is how long a client may keep its session from being dismissed.
const dismissPatience = 5 * time.Second

var errDismissed = errors.New("the client does not read, and its session is to end")

// interrupt takes the lock under which the client's messages are handled; release
// gives it back. A client that lets an answer wait is hung up, unless it leaves.
func (s *session) interrupt(handling *sync.Mutex) (release func()) {
	stuck := time.AfterFunc(dismissPatience, func() {
		leaves := false
		s.update(func(st *state) { leaves = st.phase == phaseClosing })
		if !leaves {
			s.editor.fail(errDismissed)
		}
	})
	handling.Lock()
	stuck.Stop()
	return handling.Unlock
}

// onDismissal ends the session and lets the client say the rest. It returns true
// if the client is done.
func (s *session) onDismissal(ctx context.Context, d dismissal) (done bool) {
	if d.text != "" {
		short, cancel := context.WithTimeout(ctx, time.Second)
		_ = s.output(short, Important, d.text, nil)
		cancel()
	}
	if err := s.shutdown(ctx, d.how); err != nil {
		s.log.Error("ending the session", "error", err)
	}
	s.tellEnd(ctx)
	return d.hangUp
}
