package kubelaunch

import (
	"time"

	"github.com/kubedelve/kubedelve/internal/feed"
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

// newFeed makes what spreads a session's events. Who begins to follow is told what goes
// on, and whether the debug pod serves.
func newFeed() *feed.Feed[Event] {
	const serving = -1
	return feed.New(func(e Event) (topic int, over bool) {
		if e.Kind == KindServing || e.Kind == KindNotServing {
			return serving, false
		}
		return e.Activity, e.Over
	})
}
