package dapserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/google/go-dap"
)

const (
	// outputGrace is how long the last output may come after the exit.
	outputGrace = time.Second
	// exitGrace is how long Delve, or else the session, has to say how the
	// component ended. Delve is the one to be heard if it does.
	exitGrace = 2 * time.Second
)

// startPumps starts the goroutines that carry the component's output and its
// exit status. They end with their streams, or in release.
func (s *session) startPumps(ctx context.Context, st *start) {
	ctx, st.stopPumps = context.WithCancel(context.WithoutCancel(ctx))
	st.pumps.Go(func() {
		defer close(st.outputDone)
		s.pumpOutput(ctx, st.target)
	})
	st.pumps.Go(func() {
		code, err := st.target.Wait(ctx)
		if err != nil {
			if ctx.Err() == nil {
				s.log.Info("the component's exit code is unknown", "error", err)
			}
			return
		}
		st.exitCode = code
		close(st.exited)
		s.componentExited(ctx, st)
	})
}

// pumpOutput makes output events of what the component writes. A character
// that is cut in two by the pieces waits for its second half, else it would
// not survive JSON.
func (s *session) pumpOutput(ctx context.Context, target Session) {
	rest := map[OutputStream][]byte{}
	err := target.Output(ctx, func(piece Piece) error {
		stream := piece.Stream
		p := append(rest[stream], piece.Data...)
		whole := len(p) - len(cutRune(p))
		rest[stream] = append([]byte(nil), p[whole:]...)
		for p = p[:whole]; len(p) > 0; {
			n := min(len(p), 32<<10)
			for n < len(p) && n > 1 && !utf8.RuneStart(p[n]) {
				n--
			}
			if err := s.output(ctx, stream, string(p[:n]), nil); err != nil {
				return err
			}
			p = p[n:]
		}
		return nil
	})
	for stream, p := range rest {
		if len(p) > 0 {
			_ = s.output(ctx, stream, string(p), nil)
		}
	}
	if err != nil && ctx.Err() == nil && s.editor.cause() == nil {
		s.log.Warn("the component's output broke off", "error", err)
		_ = s.output(ctx, Important, "kubedelve: the output of the component broke off: "+err.Error()+"\n", nil)
	}
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

// componentExited tells the client about the exit if Delve doesn't.
func (s *session) componentExited(ctx context.Context, st *start) {
	timer := time.NewTimer(exitGrace)
	defer timer.Stop()
	select {
	case <-st.ended:
		return
	case <-ctx.Done():
		return
	case <-timer.C:
	}
	running := false
	s.update(func(state *state) { running = state.phase == phaseRunning || state.phase == phaseEnded })
	if running {
		s.awaitOutput(ctx, st)
		s.tellExit(ctx, st)
		s.tellEnd(ctx)
	}
}

func (s *session) tellExit(ctx context.Context, st *start) {
	select {
	case <-st.exited:
	default:
		return
	}
	if s.claimEnd(func(st *state) *bool { return &st.exitTold }) {
		s.event(ctx, "exited", dap.ExitedEventBody{ExitCode: st.exitCode})
	}
}

// tellEnd sends terminated, if the client has seen a session at all.
func (s *session) tellEnd(ctx context.Context) {
	initialized := false
	s.update(func(st *state) { initialized = st.client.arguments != nil })
	if initialized && s.claimEnd(func(st *state) *bool { return &st.endTold }) {
		s.event(ctx, "terminated", nil)
	}
}

// backendLost is called when Delve's connection has ended, by its reader. All
// that waits for an answer gets one.
func (s *session) backendLost(ctx context.Context, b *backend, cause error) {
	var orphans []pending
	var at phase
	s.update(func(st *state) {
		at = st.phase
		if st.backend != b {
			at = phaseClosing // given up already
		} else if at != phaseStarting {
			st.backend = nil
		}
		for _, p := range b.pending {
			if p.answer == nil {
				orphans = append(orphans, p)
			}
		}
		b.pending = map[int64]pending{}
	})
	for _, p := range orphans {
		s.fail(ctx, &envelope{seq: p.editorSeq, command: p.command},
			&requestError{idNoBackend, "No connection to Delve", errBackendLost.Error(), false})
	}
	if at != phaseRunning {
		return
	}
	s.log.Warn("lost Delve", "error", cause)
	timer := time.NewTimer(exitGrace)
	defer timer.Stop()
	known := false
	select {
	case <-b.start.exited:
		known = true
	case <-timer.C:
	case <-ctx.Done():
		return
	}
	s.awaitOutput(ctx, b.start)
	if known {
		s.tellExit(ctx, b.start)
	} else {
		if errors.Is(cause, io.EOF) {
			cause = errors.New("it was closed on the other side")
		}
		_ = s.output(ctx, Important, fmt.Sprintf("kubedelve: lost the connection to Delve in %s: %v\n", b.start.target.Name(), cause), nil)
	}
	s.tellEnd(ctx)
}
