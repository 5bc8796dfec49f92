package feed

import (
	"context"
	"slices"
	"testing"
)

type event struct {
	topic int
	over  bool
	text  string
}

func about(e event) (int, bool) { return e.topic, e.over }

// follow starts a follower, and returns a channel of the texts that it is told.
func follow(ctx context.Context, f *Feed[event], over <-chan struct{}) <-chan string {
	texts := make(chan string)
	go func() {
		defer close(texts)
		f.Follow(ctx, over, func(e event) { texts <- e.text })
	}()
	return texts
}

func TestWhoComesLateIsToldWhatGoesOn(t *testing.T) {
	f := New(about)
	for _, e := range []event{
		{1, false, "one begins"}, {2, false, "two begins"}, {0, false, "by the way"}, {3, false, "three begins"},
		{1, false, "one goes on"}, {2, true, "two is over"},
	} {
		f.Tell(e)
	}
	over := make(chan struct{})
	texts := follow(t.Context(), f, over)
	got := []string{<-texts, <-texts}
	f.Tell(event{2, true, "over again"})
	f.Tell(event{1, true, "one is over"})
	close(over) // what was told before is told still
	for text := range texts {
		got = append(got, text)
	}
	if want := []string{"three begins", "one goes on", "over again", "one is over"}; !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
}

func TestASlowFollowerHoldsUpNobody(t *testing.T) {
	f := New(about)
	ctx, cancel := context.WithCancel(t.Context())
	blocked := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.Follow(ctx, nil, func(event) {
			close(blocked)
			<-ctx.Done()
		})
	}()
	quick := follow(t.Context(), f, nil)
	for i := 0; ; i++ { // until both follow
		f.Tell(event{1, false, "a"})
		select {
		case <-blocked:
			if got := <-quick; got != "a" {
				t.Errorf("told %q", got)
			}
			f.Tell(event{0, false, "b"})
			for text := range quick {
				if text == "b" {
					cancel()
					<-ended
					return
				}
			}
		default:
		}
	}
}
