package kubelaunch

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/kubedelve/kubedelve/internal/agentapi"
	"github.com/kubedelve/kubedelve/internal/feed"
)

// Session is a component that runs under Delve on a target, through all that happens
// to it: it is swapped, it ends and is started again, its pod is deleted and another
// one made, the way to it is cut. Each process of it is a [Run]. Its methods may be
// called from any goroutine.
type Session struct {
	ID     string
	Target Target

	site   site
	events *feed.Feed[Event]
	lanes  int // see Lanes

	mu      sync.Mutex    // guards state and changed
	state   state         // see update, look and await
	changed chan struct{} // closed and made anew at every change

	swapping chan struct{} // holds one during a call of Swap

	stop    context.CancelFunc // ends the supervisor
	over    chan struct{}      // closed when it has ended and state.over is set
	closing sync.Once
	closed  error
}

// Run is one process of the component.
type Run struct {
	// Number tells the runs of a session apart, also those of other pods; a later
	// run has a higher number. The first is 1.
	Number int
	// Place tells the user where it runs: "pod web-kubedelve-1a2b3c4d, container app".
	Place string
	// Binary is what it runs.
	Binary Binary
	// Halted says that it was halted before this connection came: at its entry if
	// Fresh, else where a debugger left it.
	Halted bool
	// Fresh says that no debugger was connected to it before.
	Fresh bool
	// Reload says that it came of [Session.Swap], not of a loss or an exit.
	Reload bool
}

// Exit is how a component ended.
type Exit = agentapi.Exit

// newSession begins to supervise a component that an agent has loaded; first is zero if
// there is none yet.
func newSession(id string, target Target, site site, events *feed.Feed[Event], options Options, l link, first runKey, binary Binary) *Session {
	ctx, stop := context.WithCancel(context.Background())
	s := &Session{
		ID: id, Target: target, site: site, events: events, stop: stop,
		changed: make(chan struct{}), swapping: make(chan struct{}, 1), over: make(chan struct{}),
		state: state{
			client: l.client, way: l.way, boot: first.boot, place: site.place(),
			runs: map[runKey]known{}, conns: map[*Conn]struct{}{}, readers: map[*reader]struct{}{},
			next: binary, others: map[int]*Session{},
		},
	}
	if first != (runKey{}) {
		s.state.begin(first, binary, false)
		site.loaded()
	}
	v := &supervisor{session: s, site: site, binary: binary, options: options, calls: target.IsCalls()}
	go func() { // ends with Close or Detach, which wait for it, or when nothing more comes
		err := v.supervise(ctx, l)
		s.update(func(st *state) { st.over = err })
		close(s.over)
	}()
	return s
}

// Place tells the user where the component runs now: "pod web-kubedelve-1a2b3c4d,
// container app", or "this machine".
func (s *Session) Place() (place string) {
	s.look(func(st *state) { place = st.place })
	return place
}

// Pod is the name of the pod where the component runs now, or "this machine".
func (s *Session) Pod() string { return podOf(s.Place()) }

// Tunnel is the way to the agent: "pods/proxy", "pods/exec", "unix socket".
func (s *Session) Tunnel() (way string) {
	s.look(func(st *state) { way = st.way })
	return way
}

// Follow calls tell with what happens to the session from now on, and first with what
// is going on, until ctx ends or the session is over. It calls it from the caller's
// goroutine; a tell that blocks holds up nobody else.
func (s *Session) Follow(ctx context.Context, tell func(Event)) { s.events.Follow(ctx, s.over, tell) }

// Expect says whether a debugger is there that will dial again after each break. Then
// new runs are left halted at their entry for it; else the session lets them go on, once
// a first one has been dialled or resumed. A run that waits at its entry when
// Expect(false) is called is let go.
func (s *Session) Expect(debugger bool) {
	s.update(func(st *state) {
		st.released = st.released || debugger
		st.expected = debugger
	})
}

// Resume lets the run go on that waits at its entry, and returns when it does. Later
// ones go on by themselves, unless a debugger is expected.
func (s *Session) Resume(ctx context.Context) error {
	s.update(func(st *state) {
		st.released = true
		st.resume = st.run != nil && st.run.waiting
	})
	var over error
	err := s.await(ctx, func(st *state) bool {
		over = st.over
		return over != nil || st.run != nil && !st.run.waiting
	})
	return errors.Join(err, over)
}

// Swap replaces the run by one of another binary, or of the same, in the place where
// it runs; if there is no way to it just now, it waits. Of the options Args, Env and
// Dir count. progress, if not nil, is told what is being done. Swap returns when the
// new run can be dialled; if it fails, or ctx ends before, the old run goes on. The
// binary's file must stay for as long as the session: it is started again after losses.
func (s *Session) Swap(ctx context.Context, binary Binary, o Options, progress func(stage string)) error {
	if progress == nil {
		progress = func(string) {}
	}
	select {
	case s.swapping <- struct{}{}:
		defer func() { <-s.swapping }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	w := &swap{binary: binary, options: o, progress: progress, withdrawn: ctx.Done(), answer: make(chan error, 1)}
	s.update(func(st *state) { st.swap = w })
	select {
	case err := <-w.answer:
		return err
	case <-s.over:
		return s.ended()
	case <-ctx.Done():
	}
	taken := false
	s.update(func(st *state) {
		if taken = w.taken; !taken && st.swap == w {
			st.swap = nil
		}
	})
	if !taken {
		return context.Cause(ctx)
	}
	select {
	case err := <-w.answer:
		if err != nil {
			err = context.Cause(ctx)
		}
		return err
	case <-s.over:
		return s.ended()
	}
}

// ended is why the session is over.
func (s *Session) ended() (err error) {
	s.look(func(st *state) { err = st.over })
	return err
}

// Wait returns how the component ended, once it has for good and the calls of Output
// have passed on what it wrote. The errors are those of [Session.Dial], and ctx's.
func (s *Session) Wait(ctx context.Context) (exit Exit, err error) {
	var exited *ExitError
	awaiting := s.await(ctx, func(st *state) bool {
		err = st.over
		return err != nil && (!errors.As(err, &exited) || !st.reads(st.last))
	})
	switch {
	case awaiting != nil:
		return Exit{}, awaiting
	case exited != nil:
		return exited.Exit, nil
	}
	return Exit{}, err
}

// settlePatience is how long the end of a session waits for the component to go on,
// so that requests that are on their way get their answers.
const settlePatience = 5 * time.Second

// Close ends the component and puts everything back. It is idempotent; every call
// returns the first one's error.
func (s *Session) Close(ctx context.Context, progress func(stage string)) error {
	if progress == nil {
		progress = func(string) {}
	}
	return s.shut(ctx, false, progress)
}

// Detach closes the connection and leaves the component as it is. It excludes Close:
// the first of them counts.
func (s *Session) Detach() error {
	return s.shut(context.Background(), true, func(string) {})
}

func (s *Session) shut(ctx context.Context, leave bool, progress func(string)) error {
	s.closing.Do(func() {
		s.endOthers(ctx, leave)
		s.stop()
		<-s.over
		var client *agentapi.Client
		s.look(func(st *state) { client = st.live() })
		if client != nil && !leave {
			settle, cancel := context.WithTimeout(ctx, settlePatience)
			_ = client.Settle(settle)
			cancel()
		}
		s.closed = s.site.close(ctx, leave, progress)
		var conns []*Conn
		s.update(func(st *state) { conns = slices.Collect(maps.Keys(st.conns)) })
		hangUp(conns)
		if client != nil {
			s.closed = errors.Join(s.closed, client.Close())
		}
	})
	return s.closed
}
