package kubelaunch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kubedelve/kubedelve/internal/agentapi"
)

// site is where the runs of a session are: debug pods in a workload's place, or this
// machine. There is one agent at a time. The supervisor's goroutine calls the methods,
// and Session calls close when that has ended.
type site interface {
	// place tells the user where runs are now.
	place() string

	// program is what ps shows of a binary.
	program(b Binary) string

	// gone is closed when the agent there is has no way back: its pod is being
	// deleted, its process has ended. why tells it then.
	gone() <-chan struct{}
	why() *goneError

	// connect opens a tunnel to the agent there is, in as many tries as it takes. It
	// gives up with a [*goneError] when the agent is gone or does not answer though
	// nothing is in the way, and when ctx ends. stage is told what is in the way.
	connect(ctx context.Context, stage func(string)) (link, error)

	// renew puts another agent in the place of one that is gone, and connects to it,
	// in as many tries as it takes. It gives up when ctx ends, or with a [*LostError].
	renew(ctx context.Context, stage func(string)) (link, error)

	// loaded is called when an agent that is new has loaded a component.
	loaded()

	// started is called when a component has been loaded, which waits at its entry,
	// and the one before it has ended.
	started(ctx context.Context)

	// close ends what runs and puts everything back; with leave it leaves all as it is.
	close(ctx context.Context, leave bool, progress func(string)) error
}

// link is a tunnel to an agent.
type link struct {
	client *agentapi.Client
	way    string // "pods/proxy"
}

// goneError tells why an agent won't come back.
type goneError struct{ text string }

func (e *goneError) Error() string { return e.text }

// persist tries to get a tunnel, after longer and longer pauses, until it has one, ctx has
// ended, or others have ended the session ([*LostError]).
func persist(ctx context.Context, stage func(string), try func() (link, error)) (link, error) {
	for pause := time.Second; ; pause = min(2*pause, maxPause) {
		l, err := try()
		var lost *LostError
		if err == nil || ctx.Err() != nil || errors.As(err, &lost) {
			return l, err
		}
		stage(fmt.Sprintf("%v; trying again in %v", err, pause))
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return link{}, context.Cause(ctx)
		}
	}
}
