package dapserver

import (
	"context"
	"time"
	"unicode/utf8"

	"github.com/google/go-dap"
)

const (
	// outputGrace is how long the last output may come after the exit.
	outputGrace = time.Second
	// exitGrace is how long the connection to Delve has to show that the
	// component has ended, and the session to know the exit code.
	exitGrace = 2 * time.Second
)

// startPumps starts the goroutines that carry the component's output, what
// happens to the session, and the exit status. They end with their streams, or in
// release.
func (s *session) startPumps(ctx context.Context, st *start) {
	ctx, st.stopPumps = context.WithCancel(context.WithoutCancel(ctx))
	st.pumps.Go(func() {
		defer close(st.outputDone)
		s.pumpOutput(ctx, st.target)
	})
	st.pumps.Go(func() { s.follow(ctx, st) })
	st.pumps.Go(func() {
		code, err := st.target.Wait(ctx)
		if err != nil {
			if ctx.Err() == nil {
				s.log.Info("the component's exit code is unknown", "error", err)
			}
			close(st.unknown)
			return
		}
		st.exitCode = code
		close(st.exited)
		s.componentExited(ctx, st)
	})
}

// origin is where a piece of output came from, in the event's data.
type origin struct {
	Place string `json:"place,omitempty"`
	Run   int    `json:"run,omitempty"`
}

// pumpOutput makes output events of what the component writes, and says where
// it runs whenever that changes. A character that is cut in two by the pieces
// waits for its second half, else it would not survive JSON.
func (s *session) pumpOutput(ctx context.Context, target Session) {
	rest := map[OutputStream][]byte{}
	var from origin
	flush := func() {
		for _, stream := range []OutputStream{Stdout, Stderr, Console} {
			if p := rest[stream]; len(p) > 0 {
				_ = s.outputFrom(ctx, stream, p, from)
			}
		}
		clear(rest)
	}
	err := target.Output(ctx, func(piece Piece) error {
		if now := (origin{piece.Place, piece.Run}); now != from {
			flush()
			if now.Place != from.Place && now.Place != "" {
				if err := s.output(ctx, Console, "── "+now.Place+" ──\n", nil); err != nil {
					return err
				}
			}
			from = now
		}
		stream, p := piece.Stream, piece.Data
		if half := rest[stream]; len(half) > 0 {
			p = append(half, p...)
		}
		whole := len(p) - len(cutRune(p))
		rest[stream] = append([]byte(nil), p[whole:]...)
		for p = p[:whole]; len(p) > 0; {
			n := eventSize(p)
			if err := s.outputFrom(ctx, stream, p[:n], from); err != nil {
				return err
			}
			p = p[n:]
		}
		return nil
	})
	flush()
	if err != nil && ctx.Err() == nil && s.editor.cause() == nil {
		s.log.Warn("the component's output broke off", "error", err)
		_ = s.output(ctx, Important, "kubedelve: the output of the component broke off: "+err.Error()+"\n", nil)
	}
}

// eventSize is how much of p goes into one event: no character is cut.
func eventSize(p []byte) int {
	const most = 32 << 10
	if len(p) <= most {
		return len(p)
	}
	for n := most; n > most-utf8.UTFMax; n-- {
		if utf8.RuneStart(p[n]) {
			return n
		}
	}
	return most // no character is so long: this is none
}

// cutRune is the beginning of a character at the end of p, if there is one.
func cutRune(p []byte) []byte {
	for n := 1; n < utf8.UTFMax && n <= len(p); n++ {
		if tail := p[len(p)-n:]; utf8.RuneStart(tail[0]) {
			if !utf8.FullRune(tail) {
				return tail
			}
			return nil
		}
	}
	return nil
}

// awaitOutput lets the component's last words come before its end: editors
// drop what comes after.
func (s *session) awaitOutput(ctx context.Context, st *start) {
	timer := time.NewTimer(outputGrace)
	defer timer.Stop()
	select {
	case <-st.outputDone:
	case <-timer.C:
	case <-s.editor.closed:
	case <-ctx.Done():
	}
}

// claimEnd returns whether the caller is the one to tell the client. The flag
// is exitTold or endTold.
func (s *session) claimEnd(flag func(*state) *bool) (mine bool) {
	s.update(func(st *state) {
		told := flag(st)
		mine, *told = !*told, true
		if st.endTold && st.phase < phaseEnded {
			st.phase = phaseEnded
		}
	})
	return mine
}

// componentExited tells the client that the component has ended for good if the
// connection to Delve doesn't make it known: a process that is gone can leave one
// that is silent.
func (s *session) componentExited(ctx context.Context, st *start) {
	timer := time.NewTimer(exitGrace)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return
	case <-timer.C:
	}
	running := false
	s.update(func(state *state) {
		running = state.phase >= phaseReconnecting && state.phase <= phaseEnded && !state.ending
	})
	if running {
		s.awaitOutput(ctx, st)
		s.tellExit(ctx, st.exitCode)
		s.tellEnd(ctx)
	}
}

// tellExit and tellEnd may be called by several who learn of the end at once. The
// lock keeps the order.
func (s *session) tellExit(ctx context.Context, code int) {
	s.telling.Lock()
	defer s.telling.Unlock()
	if s.claimEnd(func(st *state) *bool { return &st.exitTold }) {
		s.event(ctx, "exited", dap.ExitedEventBody{ExitCode: code})
	}
}

// tellEnd sends terminated, if the client has seen a session at all.
func (s *session) tellEnd(ctx context.Context) {
	s.telling.Lock()
	defer s.telling.Unlock()
	initialized := false
	s.update(func(st *state) { initialized = st.client.arguments != nil })
	if initialized && s.claimEnd(func(st *state) *bool { return &st.endTold }) {
		s.event(ctx, "terminated", nil)
	}
}
