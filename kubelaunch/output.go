package kubelaunch

import (
	"context"
	"errors"
	"time"

	"github.com/kubedelve/kubedelve/internal/agentapi"
)

// Piece is a piece of what the component writes.
type Piece struct {
	FD    int    // 1 or 2
	Data  []byte // the callee must not keep it
	Run   int    // the run's number
	Place string // the run's place
	// Lost is how many bytes before this piece could not be brought back after a
	// break.
	Lost int64
}

// reader is a call of Session.Output.
type reader struct {
	busy bool   // there is more to pass on, as far as is known
	key  runKey // of what; zero: not known yet
}

// Output calls sink with what the component writes, through all of its runs, until
// ctx ends, or the session does: then it returns nil if the component has ended for
// good, else a [*LostError] or [ErrEnded]. sink is called from one goroutine at a time,
// the caller's. While it blocks, the component is not held up for longer than the
// agent's patience; what it misses is told as Piece.Lost.
func (s *Session) Output(ctx context.Context, sink func(Piece)) error {
	r := &reader{}
	s.update(func(st *state) { st.readers[r] = struct{}{} })
	defer s.update(func(st *state) { delete(st.readers, r) })
	var at agentapi.Position
	read := false // all of the run at which at is
	var k known   // of that run
	for {
		client, err := s.awaitOutput(ctx, r, at, read)
		if err != nil {
			var exited *ExitError
			if errors.As(err, &exited) {
				return nil
			}
			return err
		}
		if read {
			at = agentapi.Position{Boot: at.Boot, Run: at.Run + 1}
		}
		err = client.Output(ctx, at, func(o agentapi.Output) error {
			key := runKey{o.At.Boot, o.At.Run}
			if r.key != key {
				s.update(func(st *state) { r.key, k = key, st.know(key) })
			}
			if o.FD > 0 || o.Lost > 0 {
				sink(Piece{FD: max(o.FD, 1), Data: o.Data, Run: k.number, Place: k.place, Lost: o.Lost})
			}
			at = o.At
			at.Offset += int64(len(o.Data))
			return nil
		})
		read = err == nil
		s.update(func(*state) { r.busy = false })
		if err == nil {
			continue
		}
		// The tunnel has ended, most likely, of which it may be told a moment later.
		timer := time.NewTimer(dialPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}

// awaitOutput waits for a way to what comes after a position, or to its rest.
func (s *Session) awaitOutput(ctx context.Context, r *reader, at agentapi.Position, read bool) (client *agentapi.Client, err error) {
	var over error
	err = s.await(ctx, func(st *state) bool {
		over = st.over
		if client = st.live(); client != nil && (!read || st.last != runKey{at.Boot, at.Run}) {
			r.busy, over = true, nil
			if read {
				r.key = runKey{}
			}
			return true
		}
		client = nil
		return over != nil
	})
	return client, errors.Join(err, over)
}
