package dapserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/google/go-dap"
)

// onStart begins a launch or an attach. It is done in a goroutine of its own,
// so that the client is heard while it goes on.
func (s *session) onStart(ctx context.Context, m message) {
	request := m.env.command
	id := idFailedToLaunch
	if request == "attach" {
		id = idFailedToAttach
	}
	refuse := func(err error) { s.fail(ctx, &m.env, asRequestError(err, id)) }

	var at phase
	s.update(func(st *state) { at = st.phase })
	if at != phaseInitialized {
		refuse(&requestError{idAlreadyStarted, "Already started", "this session has its launch or attach; open another connection for a second one", false})
		return
	}
	cfg, err := decodeLaunchConfig(request, m.env.body.in(m.raw))
	if err != nil {
		refuse(err)
		return
	}
	child, joining, err := s.childOf(cfg)
	switch {
	case err != nil:
		refuse(err)
		return
	case joining:
		s.join(ctx, m, cfg.Child)
		return
	}
	title := "Debugging"
	if cfg.Target.Name != "" {
		title += " " + cfg.Target.Name
	}
	startCtx, cancel := context.WithCancel(ctx)
	st := &start{
		request: request, seq: m.env.seq, config: cfg, cancel: cancel,
		progress:   newProgress(ctx, s, request, m.env.seq, title),
		done:       make(chan struct{}),
		outputDone: make(chan struct{}), exited: make(chan struct{}), unknown: make(chan struct{}),
	}
	st.progress.cancellable = true
	switch {
	case child != nil:
		st.member, st.config, st.seat = child, child.config(cfg), &child.seat
	case s.srv.cfg.Session != nil:
		st.seat = s.srv.cfg.Seat
	default:
		st.owned = request == "launch"
	}
	s.update(func(state *state) { state.phase, state.start, state.config = phaseStarting, st, st.config })
	go s.runStart(ctx, startCtx, st, refuse)
}

// runStart is the goroutine of a start. It ends when the client has its answer.
// ctx is the session's, startCtx ends when the start is to be given up.
func (s *session) runStart(ctx, startCtx context.Context, st *start, refuse func(error)) {
	defer close(st.done)
	defer st.cancel()
	err := s.tryStart(ctx, startCtx, st)
	if err == nil {
		s.raise(ctx, st)
	}
	if err == nil || !s.claimAnswer(st) {
		return // if it was given up right after the answer, shutdown cleans up
	}
	if startCtx.Err() != nil {
		err = errCancelled
	}
	s.log.Info("start failed", "request", st.request, "error", err)
	// Undone first, then answered: the client may try again at once.
	if releaseErr := s.release(ctx, st, leaving{}); releaseErr != nil {
		_ = s.output(ctx, Important, releaseErr.Error()+"\n", nil)
	}
	st.progress.end("")
	var early []message
	s.update(func(state *state) {
		early, state.early, state.earlyBytes = state.early, nil, 0
		// The start stays in the state: shutdown waits for its goroutine, that
		// is, for the answer below.
		if state.phase != phaseClosing {
			state.phase = phaseInitialized
		}
	})
	refuse(err)
	for i := range early {
		s.fail(ctx, &early[i].env, &requestError{idNotStarted, "No debug session", "the " + st.request + " before it did not succeed", false})
	}
}

func (s *session) tryStart(ctx, startCtx context.Context, st *start) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("panic in a start", "panic", p, "stack", string(debug.Stack()))
			err = &requestError{idInternal, "Internal error", fmt.Sprint(p), false}
		}
	}()
	if err := s.sit(startCtx, st); err != nil {
		return err
	}
	switch cfg := s.srv.cfg; {
	case st.member != nil:
		st.target = st.member.child.Session
	case cfg.Session != nil:
		st.target = cfg.Session
	case st.request == "launch":
		st.target, err = cfg.Launcher.Launch(startCtx, st.config, st.progress)
	default:
		st.target, err = cfg.Launcher.Attach(startCtx, st.config, st.progress)
	}
	if err != nil {
		st.target = nil
		return err
	}
	if err := startCtx.Err(); err != nil {
		return err
	}
	s.startPumps(ctx, st)
	if is, err := s.waits(ctx, startCtx, st); is {
		return err
	}
	st.progress.Stage("Connecting to Delve in "+st.target.Name(), -1)
	b, err := s.connect(ctx, startCtx, st)
	if err != nil {
		return err
	}
	s.startKeeping(ctx, st, b)
	return nil
}

// connect opens the first connection to Delve, introduces the client and makes
// it the session's backend. It returns after the client has the answer to its
// launch or attach.
func (s *session) connect(ctx, startCtx context.Context, st *start) (b *backend, err error) {
	conn, err := st.target.Dial(startCtx)
	if err != nil {
		return nil, fmt.Errorf("connecting to Delve in %s: %w", st.target.Name(), err)
	}
	arguments, err := st.config.backendArguments(conn.Run().SubstitutePath, false)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	s.connected(conn.Run(), st.config)
	b = s.newBackend(ctx, conn)
	defer func() {
		if err != nil {
			s.closeUnlessKept(b)
		}
	}()
	handCtx, cancel := context.WithTimeout(startCtx, s.srv.cfg.HandshakeTimeout)
	defer cancel()
	var initialize request
	s.update(func(state *state) {
		state.backend, state.run, b.live = b, b.run, true
		initialize = request{"initialize", state.client.arguments}
	})
	answer, err := s.ask(handCtx, b, initialize)
	if err != nil {
		return b, s.handshakeError(st, err)
	}
	changed, err := changedCapabilities(answer.env.body.in(answer.raw))
	if err != nil {
		return b, fmt.Errorf("reading Delve's capabilities: %w", err)
	}
	if !st.owned {
		changed["supportsTerminateRequest"] = false
	}
	if len(changed) > 0 {
		s.event(ctx, "capabilities", map[string]any{"capabilities": changed})
	}
	// The answer is given to the client by the goroutine that reads from
	// Delve, so that it keeps its place among Delve's other messages.
	granted := false
	_, err = s.askThen(handCtx, b, request{"attach", arguments}, func() {
		// One that was given up before is not granted any more.
		s.update(func(*state) {
			granted = !st.answered && startCtx.Err() == nil
			st.answered = st.answered || granted
		})
		if granted {
			st.progress.end("")
			s.respond(ctx, &envelope{seq: st.seq, command: st.request}, nil)
		}
	})
	if err == nil && !granted {
		err = startCtx.Err()
	}
	if err != nil {
		return b, s.handshakeError(st, err)
	}
	s.tellSession(ctx, st)
	return b, nil
}

// claimAnswer returns whether the caller is the one to refuse the launch or attach:
// Delve's yes and the client's cancel can come at the same time.
func (s *session) claimAnswer(st *start) (mine bool) {
	s.update(func(*state) { mine, st.answered = !st.answered, true })
	return mine
}

func (s *session) handshakeError(st *start, err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("delve in %s has not answered for %s: another debugger (GoLand, dlv connect) may be connected to it; disconnect that first",
			st.target.Name(), s.srv.cfg.HandshakeTimeout)
	}
	return err
}

// leaving is how a client goes.
type leaving struct {
	terminate bool // asked to end a session that it does not own
	suspend   bool // asked to leave the component halted
	handOver  bool // another debugger comes: a halted component stays so
	hear      bool // wants the component's last words and exit code
}

// shutdown ends whatever runs for the client. It is idempotent.
func (s *session) shutdown(ctx context.Context, how leaving) error {
	var st *start
	s.update(func(state *state) {
		state.phase = phaseClosing
		st = state.start
		for _, cancel := range state.working {
			cancel()
		}
		if state.giveUp != nil {
			state.giveUp()
		}
	})
	s.workers.Wait()
	if st == nil {
		return nil
	}
	st.cancel()
	timer := time.NewTimer(s.srv.cfg.CloseTimeout)
	defer timer.Stop()
	select {
	case <-st.done:
	case <-timer.C:
		// Not released: its target belongs to the goroutine that still runs.
		return fmt.Errorf("giving up the %s has taken longer than %s: kubedelve restore puts everything back", st.request, s.srv.cfg.CloseTimeout)
	}
	return s.release(ctx, st, how)
}

// release lets go of all that a start got, in the reverse order. It works also
// when ctx is over: what was changed is put back in any case.
func (s *session) release(ctx context.Context, st *start, how leaving) error {
	st.releaseOnce.Do(func() { st.releaseErr = s.releaseNow(ctx, st, how) })
	return st.releaseErr
}

func (s *session) releaseNow(ctx context.Context, st *start, how leaving) (err error) {
	if st.unseat != nil {
		defer st.unseat() // after the connection to Delve is really closed
	}
	if st.target == nil {
		return nil
	}
	outer := ctx // for the client: if this is over and it doesn't read, it isn't waited for
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.srv.cfg.CloseTimeout)
	defer cancel()
	st.family.end(ctx)
	end := st.owned || how.terminate && st.seat == nil
	var p *progress
	if end {
		p = newProgress(outer, s, "end", st.seq, "Ending the debug session")
		p.Stage("Restoring "+st.target.Name(), -1)
		defer p.end("")
	}
	if how.terminate && !end {
		_ = s.output(outer, Console, "kubedelve: "+st.target.Name()+" stays under the debugger; end it where it was started\n", nil)
	}
	s.leaveBackend(ctx, end, how)
	if end {
		if err = st.target.Close(ctx); err != nil {
			err = fmt.Errorf("restoring %s: %w", st.target.Name(), err)
		}
		if how.hear {
			s.awaitExit(st)
			s.awaitOutput(ctx, st)
		}
	} else if err = st.target.Detach(ctx); err != nil {
		err = fmt.Errorf("detaching from %s: %w", st.target.Name(), err)
	}
	// The last words of the component have been given a chance.
	if st.stopPumps != nil {
		st.stopPumps()
		st.pumps.Wait()
	}
	return err
}

func disconnectArguments(raw json.RawMessage) leaving {
	var args dap.DisconnectArguments
	if !empty(raw) {
		_ = json.Unmarshal(raw, &args) // checkRequest has done so
	}
	return leaving{terminate: args.TerminateDebuggee, suspend: args.SuspendDebuggee}
}

// onDisconnect ends the session and answers when everything is as it was.
func (s *session) onDisconnect(ctx context.Context, m message) {
	if err := s.shutdown(ctx, disconnectArguments(m.env.body.in(m.raw))); err != nil {
		s.fail(ctx, &m.env, &requestError{idDisconnect, "Error while disconnecting", err.Error(), true})
		return
	}
	s.respond(ctx, &m.env, nil)
}
