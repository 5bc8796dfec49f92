package dapserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"reflect"
	"sync"
	"syscall"
	"time"

	"github.com/google/go-dap"
)

// maxDelveContent is what go-dap, and so Delve, takes in one message. It
// closes the connection on a larger one.
const maxDelveContent = 4 << 20

// session serves one client.
type session struct {
	srv    *Server
	log    *slog.Logger
	peer   string // how the client is called in messages to others
	editor *link
	// relayed says that the client is at another process, which has joined.
	relayed bool
	// dismissals end the client's session from outside; it has room for them.
	dismissals chan dismissal
	// workers are the requests that are handled in goroutines of their own.
	workers sync.WaitGroup

	// telling is held while the client is told of breakpoints, see inOrder, or of
	// the end.
	// It is taken before all other locks.
	telling sync.Mutex

	mu    sync.Mutex // guards state; taken after the locks of links
	state state
}

func newSession(srv *Server, conn io.ReadWriteCloser) *session {
	s := &session{srv: srv, peer: peerName(conn), dismissals: make(chan dismissal, 2)}
	s.log = srv.log.With("client", s.peer)
	s.editor = newLink("editor", conn, srv.cfg.StallTimeout, s.log)
	s.editor.record = s.recorder()
	return s
}

// recorder is what a link of this session tells its messages to.
func (s *session) recorder() func(from, to string, content []byte) {
	tell := s.srv.cfg.Message
	if tell == nil {
		return nil
	}
	return func(from, to string, content []byte) { tell(s.peer, from, to, content) }
}

// serve runs until the client is done. Two goroutines come with it: the reader
// below, which handles the client's messages and ends when the connection is
// closed or when the client is done, and the link's writer.
func (s *session) serve(ctx context.Context) (err error) {
	// The reader holds handling while it handles a message. Once serve has it,
	// no message is handled any more.
	var handling sync.Mutex
	left := false
	read := make(chan error, 1) // why the reader has ended; nil: the client is done
	go func() {
		for {
			msg, err := s.editor.next()
			if err != nil {
				read <- err
				return
			}
			handling.Lock()
			done := left || s.fromEditor(ctx, msg)
			handling.Unlock()
			if done {
				read <- nil
				return
			}
		}
	}()

	reading := true
	for done := false; !done; {
		select {
		case err = <-read:
			reading, done = false, true
		case d := <-s.dismissals:
			release := s.interrupt(&handling)
			done = s.onDismissal(ctx, d)
			release()
		case <-s.editor.closed:
			// The client doesn't read any more. Its last words don't matter, and
			// a Read of stdin may not notice that it was closed.
			err, done = s.editor.cause(), true
		case <-ctx.Done():
			_ = s.output(ctx, Console, "kubedelve is ending this session\n", nil)
			err, done = context.Cause(ctx), true
		}
	}
	handling.Lock()
	left = true
	handling.Unlock()
	if framing := (*framingError)(nil); errors.As(err, &framing) {
		_ = s.output(ctx, Important, "kubedelve: "+err.Error()+": closing the connection\n", nil)
	}
	// After a disconnect there is nothing left to do here.
	if closeErr := s.shutdown(ctx, leaving{}); closeErr != nil {
		s.log.Error("ending the session", "error", closeErr)
		if err == nil || errors.Is(err, io.EOF) {
			err = closeErr
		}
	}
	s.part()
	s.tellEnd(context.WithoutCancel(ctx))
	s.editor.drain(2 * time.Second)
	s.editor.close()
	if reading {
		select {
		case <-read: //nolint:errcheck // that it ended is enough
		case <-time.After(2 * time.Second):
			return fmt.Errorf("closing the connection to %s did not end reading from it", s.peer)
		}
	}
	for _, gone := range []error{io.EOF, io.ErrClosedPipe, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE, ctx.Err()} {
		if gone != nil && errors.Is(err, gone) {
			return nil
		}
	}
	return err
}

// fromEditor handles one message of the client. It returns true when the
// client is done.
func (s *session) fromEditor(ctx context.Context, raw []byte) (done bool) {
	env, err := parseEnvelope(raw)
	if err == nil && !json.Valid(raw) {
		err = &malformedError{env.seq, "broken JSON"}
	}
	defer s.recovered(ctx, &env)
	if err != nil {
		s.malformed(ctx, err)
		return false
	}
	logFrame(s.log, "from editor", raw, &env)
	m := message{raw, env}
	var j *joined
	s.update(func(st *state) { j = st.joined })
	if j != nil && s.toParent(ctx, j, m) {
		return false
	}
	switch env.kind {
	case "request":
		return s.onRequest(ctx, m)
	case "response":
		s.onReverseResponse(ctx, m)
	default:
		s.log.Warn("ignoring an event from the client", "event", env.event)
	}
	return false
}

func (s *session) malformed(ctx context.Context, err error) {
	s.log.Warn("ignoring a message of the client", "error", err)
	if bad := (*malformedError)(nil); errors.As(err, &bad) && bad.seq != 0 {
		s.fail(ctx, &envelope{seq: bad.seq}, &requestError{idMalformed, "Malformed request", bad.what, false})
		return
	}
	_ = s.output(ctx, Console, "kubedelve: ignored a message of the editor: "+err.Error()+"\n", nil)
}

// checkRequest refuses what would make Delve close the connection instead of
// answering: arguments of a wrong type, and too many bytes.
func (s *session) checkRequest(m message) *requestError {
	if err := decodable(m.raw, m.env.command); err != nil {
		return &requestError{idMalformed, "Malformed request", err.Error(), false}
	}
	if len(m.raw) > maxDelveContent-64 { // the numbers may grow
		return &requestError{idTooLarge, "Request too large",
			fmt.Sprintf("%s has %d bytes, and Delve takes %d", m.env.command, len(m.raw), maxDelveContent), true}
	}
	return nil
}

// requestTypes are the structs of go-dap that requests are decoded into, by command.
var requestTypes sync.Map // from string to reflect.Type

// decodable returns the error with which [dap.DecodeProtocolMessage], and so Delve,
// fails on a request with this command. It decodes once, where that does it three
// times. Commands that go-dap doesn't know are Delve's to refuse.
func decodable(raw []byte, command string) error {
	known, ok := requestTypes.Load(command)
	if !ok {
		var unknown *dap.DecodeProtocolMessageFieldError
		m, err := dap.DecodeProtocolMessage(raw)
		switch {
		case errors.As(err, &unknown):
			return nil
		case err != nil:
			return err
		}
		known = reflect.TypeOf(m).Elem()
		requestTypes.Store(command, known)
	}
	return json.Unmarshal(raw, reflect.New(known.(reflect.Type)).Interface()) //nolint:errcheck // nothing else is stored
}

// forward sends a request on to Delve, now or when it is ready. While there is
// none, the request is answered as well as it can be.
func (s *session) forward(ctx context.Context, m message) {
	for {
		b, err := s.route(ctx, m)
		if err == nil {
			return
		}
		s.lost(ctx, b) // if the reader has not noticed yet
	}
}

// errClosing answers what comes after a disconnect.
var errClosing = &requestError{idClosing, "Session is being ended", "", false}

// route is one try of forward. An error says that b is gone.
func (s *session) route(ctx context.Context, m message) (b *backend, err error) {
	defer s.inOrder(m.env.command)()
	var re *requestError
	var instead *reply
	s.update(func(st *state) {
		switch {
		case st.phase < phaseStarting:
			re = &requestError{idNotStarted, "No debug session",
				fmt.Sprintf("%q is not supported before launch or attach", m.env.command), false}
		case st.phase == phaseClosing:
			re = errClosing
		case st.phase == phaseStarting, st.phase == phaseReconnecting && st.parking:
			if len(st.early) >= earlyLimit || st.earlyBytes+len(m.raw) > earlyBytesLimit {
				re = &requestError{idBusy, "Busy", "too many requests before Delve was ready", false}
				return
			}
			st.early = append(st.early, m)
			st.earlyBytes += len(m.raw)
		case st.phase == phaseReconnecting:
			instead = s.note(st, m)
		case st.backend == nil || st.phase == phaseEnded:
			re = &requestError{idNoBackend, "No connection to Delve", "the debug session has ended", false}
		case m.env.command == "pause" && st.quiet != nil:
			// It is halted for a moment, and shall not go on after that.
			st.quiet.pause = true
			instead = &reply{seq: m.env.seq, command: m.env.command}
		default:
			b = st.backend
			if m.env.command == "configurationDone" {
				st.configure()
			}
		}
	})
	switch {
	case re != nil:
		s.fail(ctx, &m.env, re)
	case instead != nil:
		s.answer(ctx, instead)
	case b != nil:
		return b, s.relay(ctx, b, m)
	}
	return b, nil
}

// onReverseResponse takes the client's answer to a request of Delve's or ours.
func (s *session) onReverseResponse(ctx context.Context, m message) {
	var to reverseRequest
	s.update(func(st *state) {
		to = st.reverse[m.env.requestSeq]
		delete(st.reverse, m.env.requestSeq)
		if st.backend != to.backend && to.answer == nil {
			to = reverseRequest{}
		}
	})
	if to.answer != nil {
		to.answer <- m
		return
	}
	if to.backend == nil {
		s.log.Warn("ignoring a response that nobody waits for", "command", m.env.command, "request_seq", m.env.requestSeq)
		return
	}
	if err := to.backend.link.send(ctx, m.raw, &m.env, sendOptions{requestSeq: to.seq, noWait: true}); err != nil {
		s.log.Warn("passing on a response", "command", m.env.command, "error", err)
	}
}
