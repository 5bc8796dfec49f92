// Package feed spreads events to those who follow, each at its own pace.
package feed

import (
	"context"
	"slices"
	"sync"
)

// Feed spreads events of one kind. Its methods may be called from any goroutine.
type Feed[E any] struct {
	about func(E) (topic int, over bool)

	mu        sync.Mutex // guards all below, and followers' events
	current   []E        // the last of each topic that is not over, in their order
	followers map[*follower[E]]struct{}
}

// follower is one call of Follow.
type follower[E any] struct {
	events []E
	more   chan struct{} // holds one if there are events
}

// New makes a feed. about tells which topic an event belongs to, 0 if to none, and
// whether that is over with it: who begins to follow is told the last event of each
// topic that is not over.
func New[E any](about func(E) (topic int, over bool)) *Feed[E] {
	return &Feed[E]{about: about, followers: map[*follower[E]]struct{}{}}
}

// Tell spreads an event. It does not wait for anybody.
func (f *Feed[E]) Tell(e E) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if topic, over := f.about(e); topic != 0 {
		f.current = slices.DeleteFunc(f.current, func(c E) bool {
			t, _ := f.about(c)
			return t == topic
		})
		if !over {
			f.current = append(f.current, e)
		}
	}
	for follower := range f.followers {
		follower.push(e)
	}
}

func (f *follower[E]) push(events ...E) {
	f.events = append(f.events, events...)
	select {
	case f.more <- struct{}{}:
	default: // it knows already
	}
}

// Follow calls tell with what goes on and then with what happens, until ctx ends, or
// over is closed and all has been told. It calls it from the caller's goroutine; a tell
// that blocks holds up nobody else.
func (f *Feed[E]) Follow(ctx context.Context, over <-chan struct{}, tell func(E)) {
	me := &follower[E]{more: make(chan struct{}, 1)}
	f.mu.Lock()
	if len(f.current) > 0 {
		me.push(f.current...)
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
