package kubelaunch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// errCallLost is why a session for one call is over whose agent was lost.
var errCallLost = errors.New("the call goes on without a debugger: its agent was lost")

// Lanes is how many calls of a target that [Target.IsCalls] may be debugged at a time
// ([CallFilter.Lanes]); 1 for other targets.
func (s *Session) Lanes() int { return max(1, s.lanes) }

// Call is a call of a program, for the user.
type Call struct {
	Name  string // what was called
	Limit string // how long its caller waits; empty: that is not known
}

// AnotherCall waits for a call that comes beside those of the session, and returns a session
// for it alone, which ends with it. The lane is from 1 to below Lanes; each has one such
// session at a time, until its Close, which the next one waits for. Its Close lets the call go
// on; Close of s does, too. The error is [ErrEnded] or a [*LostError] when s is over, else
// ctx's.
func (s *Session) AnotherCall(ctx context.Context, lane int) (another *Session, call Call, err error) {
	if lane < 1 || lane >= s.Lanes() {
		return nil, call, fmt.Errorf("there is no lane %d: %d calls are debugged at a time", lane, s.Lanes())
	}
	for {
		another, call, err = s.oneCall(ctx, lane)
		var over error
		s.look(func(st *state) { over = st.over })
		if err == nil || ctx.Err() != nil || over != nil {
			return another, call, errors.Join(over, err)
		}
		// It was over before anybody could look at it.
	}
}

func (s *Session) oneCall(ctx context.Context, lane int) (another *Session, call Call, err error) {
	var over error
	err = s.await(ctx, func(st *state) bool {
		_, taken := st.others[lane]
		if over = st.over; !taken && over == nil {
			st.others[lane] = nil // for this call
		}
		return !taken || over != nil
	})
	if err = errors.Join(err, over); err != nil {
		return nil, call, err
	}
	site := &laneSite{first: s, lane: lane}
	l, err := site.connect(ctx, func(string) {})
	if err != nil {
		site.leave()
		return nil, call, err
	}
	another = newSession(s.ID, s.Target, site, newFeed(), Options{OnExit: EndSession}, l, runKey{}, Binary{})
	s.update(func(st *state) { st.others[lane] = another })
	another.Expect(true)
	err = another.await(ctx, func(st *state) bool {
		if over = st.over; st.run != nil {
			call = st.run.call
		}
		return over != nil || st.run != nil
	})
	if err = errors.Join(err, over); err != nil {
		_ = another.Close(context.WithoutCancel(ctx), nil)
		return nil, call, err
	}
	return another, call, nil
}

// endOthers ends the sessions of the other lanes.
func (s *Session) endOthers(ctx context.Context, leave bool) {
	var ending sync.WaitGroup
	for _, other := range s.otherLanes() {
		ending.Go(func() { _ = other.shut(ctx, leave, func(string) {}) }) // ends with the session
	}
	ending.Wait()
}

func (s *Session) otherLanes() (others []*Session) {
	s.look(func(st *state) { others = slices.Collect(maps.Values(st.others)) })
	return slices.DeleteFunc(others, func(other *Session) bool { return other == nil })
}

// tellOthers has the other lanes' next calls be of the newest binary, which the agent has.
func (s *Session) tellOthers() {
	var next Binary
	s.look(func(st *state) { next = st.next })
	for _, other := range s.otherLanes() { // without a lock: they ask for the place of this one in theirs
		other.update(func(st *state) {
			st.swap = &swap{binary: next, progress: func(string) {}, answer: make(chan error, 1)}
		})
	}
}

// laneSite is the site of a call that is debugged beside others. The way to it is that of
// the session's first lane, which sees to it that there is one.
type laneSite struct {
	first *Session
	lane  int
}

func (l *laneSite) place() string         { return l.first.Place() }
func (l *laneSite) program(Binary) string { return l.first.Target.program() }
func (*laneSite) gone() <-chan struct{}   { return nil }
func (*laneSite) why() *goneError         { return nil }
func (*laneSite) loaded()                 {}
func (*laneSite) started(context.Context) {}

// connect implements [site].
func (l *laneSite) connect(ctx context.Context, _ func(string)) (lane link, err error) {
	var over error
	err = l.first.await(ctx, func(st *state) bool {
		over = st.over
		if client := st.live(); client != nil {
			lane = link{client.Lane(l.lane), st.way}
		}
		return over != nil || lane.client != nil
	})
	if err = errors.Join(err, over); err != nil {
		return link{}, err
	}
	return lane, nil
}

// renew implements [site].
func (l *laneSite) renew(ctx context.Context, stage func(string)) (link, error) {
	return l.connect(ctx, stage)
}

// newest is the binary that the next call executes. A lane that waits already hears of another
// one by a swap.
func (l *laneSite) newest() (b Binary) {
	l.first.look(func(st *state) { b = st.next })
	return b
}

// close implements [site]. A call that is there goes on.
func (l *laneSite) close(ctx context.Context, leave bool, _ func(string)) error {
	defer l.leave()
	if leave {
		return nil
	}
	// Also if there was no tunnel a moment ago: its caller waits.
	ctx, cancel := context.WithTimeout(ctx, settlePatience)
	defer cancel()
	if lane, err := l.connect(ctx, nil); err == nil {
		_ = lane.client.Settle(ctx)
	}
	return nil
}

// leave makes room for the next one.
func (l *laneSite) leave() { l.first.update(func(st *state) { delete(st.others, l.lane) }) }
