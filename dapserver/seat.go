package dapserver

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Seat is where the one debugger sits that a component can have at a time: Delve
// serves one, and leaves others without an answer. Whoever wants to talk to Delve
// takes the seat first, whatever it speaks. The zero value is free; the methods
// may be called from any goroutine.
type Seat struct {
	mu     sync.Mutex // guards holder and what is in it
	holder *sitting   // nil: nobody sits there
}

// sitting is somebody's time in a seat.
type sitting struct {
	who   Debugger
	since time.Time
	leave func(by Debugger)
	asked bool          // leave was called
	left  chan struct{} // closed when the seat is free again
}

// Debugger is a client that debugs, as the others are told about it.
type Debugger struct {
	Name    string // what it calls itself, "Visual Studio Code"; may be empty
	Kind    string // what it speaks: "DAP", "JSON-RPC"
	Address string // where it connects from; may be empty
}

// String is like "Visual Studio Code (DAP, 127.0.0.1:40000)".
func (d Debugger) String() string {
	switch {
	case d.Name != "" && d.Address != "":
		return fmt.Sprintf("%s (%s, %s)", d.Name, d.Kind, d.Address)
	case d.Name != "":
		return fmt.Sprintf("%s (%s)", d.Name, d.Kind)
	case d.Address != "":
		return fmt.Sprintf("a %s client (%s)", d.Kind, d.Address)
	}
	return "a " + d.Kind + " client"
}

// InUseError says that somebody else debugs.
type InUseError struct {
	Holder Debugger
	Since  time.Time // when it came
	// Stays says that it was asked to leave, and has not.
	Stays bool
}

func (e *InUseError) Error() string {
	text := fmt.Sprintf("in use by %s since %s", e.Holder, e.Since.Format(time.TimeOnly))
	if e.Stays {
		text += ", which does not let go"
	}
	return text
}

// leavePatience is how long a debugger that is displaced may take to let go. It
// says goodbye to Delve first, which may have to halt the component for that.
const leavePatience = 15 * time.Second

// handover is how long a debugger that has just hung up may still sit there, unseen.
const handover = 250 * time.Millisecond

// Take gives the seat to d until release is called. If somebody sits there, Take
// returns an [*InUseError] after a moment, or with takeOver asks it to leave and
// waits until it has, or ctx ends. leave is called, at most once, when d itself is to
// make room: it must not wait, and release must be called soon after it.
func (s *Seat) Take(ctx context.Context, d Debugger, takeOver bool, leave func(by Debugger)) (release func(), err error) {
	me := &sitting{who: d, since: time.Now(), leave: leave, left: make(chan struct{})}
	patience := handover
	if takeOver {
		patience = leavePatience
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		s.mu.Lock()
		other, ask := s.holder, false
		if other == nil {
			s.holder = me
		} else if takeOver && !other.asked {
			other.asked, ask = true, true
		}
		s.mu.Unlock()
		if other == nil {
			return sync.OnceFunc(func() { s.free(me) }), nil
		}
		if ask {
			other.leave(d)
		}
		select {
		case <-other.left:
		case <-timer.C:
			return nil, &InUseError{Holder: other.who, Since: other.since, Stays: takeOver}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *Seat) free(me *sitting) {
	s.mu.Lock()
	s.holder = nil
	s.mu.Unlock()
	close(me.left)
}
