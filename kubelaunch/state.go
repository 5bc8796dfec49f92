package kubelaunch

import (
	"context"
	"time"

	"github.com/kubedelve/kubedelve/internal/agentapi"
)

// state is what is known and wished of a session. Session.update changes it.
type state struct {
	// What there is. Only the supervisor changes it.

	client *agentapi.Client // a tunnel that was alive when it was looked at; nil: none is
	way    string           // by which the last tunnel led
	boot   string           // of the agent there is; empty: it is gone
	place  string           // where runs are now, or were last
	run    *run             // the one under Delve; nil: none is
	last   runKey           // of the one that was started last
	runs   map[runKey]known // all so far
	over   error            // why nothing comes any more: ErrEnded, *ExitError or *LostError

	// Of a target whose calls are debugged.

	next   Binary           // what the next calls execute
	others map[int]*Session // those of the other lanes; nil: is about to be one

	// What is wished. The methods of Session change it.

	expected bool  // a debugger is there that will dial
	released bool  // somebody has let a run go on, so later ones may go on by themselves
	resume   bool  // the one that waits may go on in any case
	swap     *swap // another run; nil: none is wished

	awaited  int                  // calls of Dial
	dialling int                  // calls of dial: until they are done, no run is let go
	conns    map[*Conn]struct{}   // those open
	readers  map[*reader]struct{} // the calls of Output
}

// runKey is what agents call a run by.
type runKey struct {
	boot string // of the agent
	run  int    // its number there
}

// known is what a run's output is told with, which may come before the news that it
// was started, and after it has ended.
type known struct {
	number int
	place  string
}

// run is a run under Delve.
type run struct {
	Run
	key     runKey
	began   time.Time
	waiting bool // at its entry since it was started: nobody has let it go on or dialled
	held    bool // it is being let go: who wants to dial waits
	call    Call
}

// swap is a call of Session.Swap.
type swap struct {
	binary    Binary
	options   Options
	progress  func(string)
	withdrawn <-chan struct{} // closed when the caller's context ends
	taken     bool            // the supervisor is at it and will answer
	answer    chan error      // has a place for one
}

// update changes the state and wakes all that wait for a change.
func (s *Session) update(change func(*state)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.state)
	close(s.changed)
	s.changed = make(chan struct{})
}

// look reads the state; changed is closed with its next change.
func (s *Session) look(read func(*state)) (changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	read(&s.state)
	return s.changed
}

// await returns when ready, which may change the state if it is, says so, or when ctx
// ends.
func (s *Session) await(ctx context.Context, ready func(*state) bool) error {
	for {
		var is bool
		changed := s.look(func(st *state) { is = ready(st) })
		if is {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// live is the tunnel's client if the tunnel has not ended since it was looked at.
func (st *state) live() *agentapi.Client {
	if st.client == nil || closed(st.client.Done()) {
		return nil
	}
	return st.client
}

// know returns what a run's output is told with, and numbers a run that is new.
func (st *state) know(key runKey) known {
	k, ok := st.runs[key]
	if !ok {
		k = known{len(st.runs) + 1, st.place}
		st.runs[key] = k
	}
	return k
}

// mayGo tells whether the run waits at its entry for nobody.
func (st *state) mayGo() bool {
	return st.run != nil && st.run.waiting && st.dialling == 0 && (st.resume || st.released && !st.expected)
}

// reads tells whether a call of Output has not yet passed on all of a run.
func (st *state) reads(key runKey) bool {
	for r := range st.readers {
		if r.busy && (r.key == key || r.key == runKey{}) {
			return true
		}
	}
	return false
}
