package kubelaunch

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Kind tells events apart for programs; people read Text, Title and Stage.
type Kind string

// The kinds of events.
const (
	// KindLost: the way to the run, or the run itself, is gone; an activity begins
	// that lasts until KindBack.
	KindLost Kind = "lost"
	// KindStage: an activity goes on.
	KindStage Kind = "stage"
	// KindBack: there is a run again, or the same still. Took is set.
	KindBack Kind = "back"
	// KindExited: the component has ended by itself. Exit and Run are set.
	KindExited Kind = "exited"
	// KindServing: requests go to the debug pod.
	KindServing Kind = "serving"
	// KindNotServing: the debug pod could not take over from the originals.
	KindNotServing Kind = "not-serving"
	// KindNote: something else to know.
	KindNote Kind = "note"
)

// Event is something that happens to a session.
type Event struct {
	Kind Kind

	// Activity numbers what goes on for a while: the same number in all its events,
	// from the first to the one with Over. 0: the event is of none.
	Activity int
	Title    string // of the activity, the same in all its events
	Stage    string // what is being done now
	Over     bool   // the activity has ended
	Cancel   func() // if set, takes the activity back; it may be called at any time

	// Text is a line for the user, without a newline; it may be empty.
	Text      string
	Important bool // the user must not overlook the text

	Run  int           // KindExited: the run's number
	Exit *Exit         // KindExited
	Took time.Duration // KindBack: since KindLost
}

// feed spreads events to those who follow. Its methods may be called from any
// goroutine.
type feed struct {
	mu        sync.Mutex // guards all below
	current   []Event    // the last of each activity that goes on
	serving   *Event     // whether the debug pod serves; nil: not yet
	followers map[*follower]struct{}
}

// follower is one call of Session.Follow. The feed's mu guards events.
type follower struct {
	events []Event
	more   chan struct{} // holds one if there are events
}

func (f *follower) push(events ...Event) {
	f.events = append(f.events, events...)
	select {
	case f.more <- struct{}{}:
	default: // it is told already
	}
}

// tell spreads an event.
func (f *feed) tell(e Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case e.Activity != 0:
		f.current = slices.DeleteFunc(f.current, func(c Event) bool { return c.Activity == e.Activity })
		if !e.Over {
			f.current = append(f.current, e)
		}
	case e.Kind == KindServing || e.Kind == KindNotServing:
		f.serving = &e
	}
	for follower := range f.followers {
		follower.push(e)
	}
}

// follow calls tell with what goes on and then with what happens, until ctx ends, or
// over is closed and all has been told.
func (f *feed) follow(ctx context.Context, over <-chan struct{}, tell func(Event)) {
	me := &follower{more: make(chan struct{}, 1)}
	f.mu.Lock()
	if f.serving != nil {
		me.push(*f.serving)
	}
	if len(f.current) > 0 {
		me.push(f.current...)
	}
	if f.followers == nil {
		f.followers = map[*follower]struct{}{}
	}
	f.followers[me] = struct{}{}
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.followers, me)
	}()
	for last := false; ; {
		f.mu.Lock()
		events := me.events
		me.events = nil
		f.mu.Unlock()
		for _, e := range events {
			if ctx.Err() != nil {
				return
			}
			tell(e)
		}
		if last {
			return
		}
		select {
		case <-me.more:
		case <-over:
			last = true // once more, for what was told before
		case <-ctx.Done():
			return
		}
	}
}
