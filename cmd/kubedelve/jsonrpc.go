package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/rpc/jsonrpc"
	"sync"
	"time"

	"github.com/kubedelve/kubedelve/buildflags"
	"github.com/kubedelve/kubedelve/dapserver"
	"github.com/kubedelve/kubedelve/kubelaunch"
)

// serveJSONRPC passes a JSON-RPC client (GoLand, dlv connect) through to Delve, until
// either hangs up or another debugger takes over.
func (d *debuggers) serveJSONRPC(ctx context.Context, client net.Conn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := newRPCRelay(client)
	me := dapserver.Debugger{Kind: "JSON-RPC", Address: client.RemoteAddr().String()}
	release, err := d.seat.Take(ctx, me, d.takeOver, func(by dapserver.Debugger) {
		r.displace(fmt.Sprintf("%s has taken over the session of %s", by, d.launched.session.Target))
		cancel() // closes Delve's connection; fromDelve ends, and answers what is pending
	})
	var inUse *dapserver.InUseError
	if errors.As(err, &inUse) {
		way := "disconnect there first, or begin with: kubedelve debug --take-over"
		if inUse.Stays {
			way = "end it there"
		}
		return errors.Join(err, r.refuse(fmt.Sprintf("the session of %s is %v; %s", d.launched.session.Target, inUse, way)))
	}
	if err != nil {
		return err
	}
	defer release()
	defer d.leaveOthers(ctx, me)()
	// It does not know of runs: a next one goes on without it.
	delve, err := d.launched.session.Dial(ctx, kubelaunch.DialOptions{})
	if err != nil {
		text := r.why()
		if text == "" {
			text = err.Error()
		}
		if kubelaunch.InUse(err) {
			text += "; disconnect there first"
		}
		release()
		return errors.Join(err, r.refuse(text))
	}
	d.stale.Store(true)
	r.rules = d.launched.programs.sources(delve.Run().Binary.SHA256)
	r.letGo = func() error {
		d.note(fmt.Sprintf("%s has asked Delve to end; the program goes on without its breakpoints, and so does the session", me))
		return d.clear(ctx, true)
	}
	return r.run(ctx, delve, release)
}

// clearTimeout bounds how long Delve may take to forget breakpoints.
const clearTimeout = 10 * time.Second

// clearStale takes away the breakpoints that a JSON-RPC client has left behind, if
// one has. They stay in Delve when the client goes, for the next one of its kind; but
// an editor knows nothing of them, and could not set its own at the same places.
func (d *debuggers) clearStale(ctx context.Context) {
	if !d.stale.Swap(false) {
		return
	}
	if err := d.clear(ctx, false); err != nil {
		d.log.Warn("clearing the breakpoints of the last debugger", "error", err)
	}
}

// clear is clearOver for the session that this process keeps.
func (d *debuggers) clear(ctx context.Context, resume bool) error {
	ctx, cancel := context.WithTimeout(ctx, clearTimeout)
	defer cancel()
	return clearOver(ctx, func(ctx context.Context) (net.Conn, error) {
		return d.launched.session.Dial(ctx, kubelaunch.DialOptions{})
	}, resume)
}

// clearOver has Delve forget breakpoints while nobody is connected to it, see
// clearBreakpoints.
func clearOver(ctx context.Context, dial func(context.Context) (net.Conn, error), resume bool) error {
	conn, err := dial(ctx)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	return clearBreakpoints(conn, resume)
}

// clearBreakpoints clears all of the user's breakpoints, leaves the component halted
// or running as it was, or with resume running, and closes the connection to Delve (its
// API v2, see service/rpc2 and service/api there).
func clearBreakpoints(delve io.ReadWriteCloser, resume bool) error {
	client := jsonrpc.NewClient(delve)
	defer func() { _ = client.Close() }()
	type state struct {
		Running        bool
		NextInProgress bool
		Exited         bool `json:"exited"`
	}
	type none struct{}
	var now struct{ State state }
	err := client.Call("RPCServer.State", map[string]any{"NonBlocking": true}, &now)
	if err != nil || now.State.Exited {
		return err
	}
	running := now.State.Running
	if running {
		if err := client.Call("RPCServer.Command", map[string]any{"name": "halt"}, &now); err != nil || now.State.Exited {
			return err
		}
	}
	if now.State.NextInProgress {
		_ = client.Call("RPCServer.CancelNext", none{}, &none{}) // a breakpoint of Delve's own
	}
	var set struct {
		Breakpoints []struct {
			ID int `json:"id"`
		}
	}
	err = client.Call("RPCServer.ListBreakpoints", none{}, &set)
	for _, b := range set.Breakpoints {
		if b.ID > 0 { // Delve's own (panics, fatal errors) have negative numbers
			err = errors.Join(err, client.Call("RPCServer.ClearBreakpoint", map[string]any{"Id": b.ID}, &none{}))
		}
	}
	if running || resume {
		client.Go("RPCServer.Command", map[string]any{"name": "continue"}, &none{}, nil) // has no answer before it stops
	}
	return err
}

// rpcRelay joins a JSON-RPC client to Delve. It follows what passes, so that a client
// whose connection is cut is told why: the protocol has texts only in answers to
// requests. It changes no answer, and of the requests only names of files (rename) and
// Detach, which would end Delve under the session: here it ends the client's part.
type rpcRelay struct {
	client net.Conn
	rules  []buildflags.PathRule // for the names of files in requests
	letGo  func() error          // is called for a client that detaches, when Delve is hung up

	mu      sync.Mutex // guards all below
	delve   io.ReadWriteCloser
	pending map[string]bool // ids of requests without an answer
	text    string          // why the client is refused; empty: it is not
	detach  string          // the id of its request to detach; empty: none
	cut     bool            // Delve's last message was passed on in part only
}

func newRPCRelay(client net.Conn) *rpcRelay {
	return &rpcRelay{client: client, pending: map[string]bool{}}
}

// run relays until both sides have ended their streams, ctx ends or the client is
// displaced. Then release is called, and a displaced client gets its answers.
func (r *rpcRelay) run(ctx context.Context, delve io.ReadWriteCloser, release func()) error {
	closeDelve := sync.OnceFunc(func() { _ = delve.Close() })
	defer closeDelve()
	stop := context.AfterFunc(ctx, func() {
		closeDelve()
		if r.why() == "" {
			_ = r.client.Close()
		}
	})
	defer stop()
	r.mu.Lock()
	r.delve = delve
	r.mu.Unlock()

	var fromDelve error
	var reading sync.WaitGroup
	reading.Go(func() { // ends with Delve's connection, or when the client is gone
		fromDelve = r.fromDelve(delve)
		closeDelve()
		if r.detaching() != "" {
			return
		}
		release()
		if r.why() != "" {
			r.answerAll()
			return
		}
		_ = r.client.Close()
	})
	err := r.fromClient()
	if id := r.detaching(); id != "" {
		closeDelve()
		reading.Wait()
		err = errors.Join(err, r.letGo())
		release()
		r.answerDetach(id)
	} else if r.why() == "" {
		closeWrite(delve)
	}
	reading.Wait()
	_ = r.client.Close()
	return errors.Join(err, fromDelve)
}

// detaching is the id of the client's request to detach; empty if there was none.
func (r *rpcRelay) detaching() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.detach
}

// fromDelve passes on what Delve sends.
func (r *rpcRelay) fromDelve(delve io.Reader) error {
	var stream rpcStream
	buf := make([]byte, 64<<10)
	for {
		n, err := delve.Read(buf)
		if n > 0 {
			r.mu.Lock()
			stream.feed(buf[:n], func(id string) { delete(r.pending, id) })
			r.cut = !stream.between()
			r.mu.Unlock()
			if _, err := r.client.Write(buf[:n]); err != nil {
				r.mu.Lock()
				r.cut = true
				r.mu.Unlock()
				return unlessClosed(err)
			}
		}
		if err != nil {
			return unlessClosed(err)
		}
	}
}

// fromClient passes on what the client sends, until it ends its stream or detaches. A
// client that is refused gets an answer to its next request, and is hung up.
func (r *rpcRelay) fromClient() error {
	for messages := json.NewDecoder(r.client); ; {
		q, err := readRequest(messages)
		if err != nil {
			return unlessClosed(err)
		}
		if err := q.rename(r.rules); err != nil {
			return err
		}
		r.mu.Lock()
		text, delve := r.text, r.delve
		switch {
		case text != "":
		case q.method == rpcDetach:
			r.detach = q.id
		default:
			r.pending[q.id] = true
		}
		r.mu.Unlock()
		switch {
		case text != "":
			r.answer([]string{q.id}, text)
		case q.method == rpcDetach:
			return nil
		default:
			_, _ = delve.Write(q.message) // if it fails, fromDelve notices as well
		}
	}
}

// displace says why the client is refused from now on.
func (r *rpcRelay) displace(text string) {
	r.mu.Lock()
	r.text = text
	r.mu.Unlock()
	_ = r.client.SetWriteDeadline(time.Now().Add(hangUpDelay)) // it may have stopped reading
}

// why is what displace said; empty if the client is not displaced.
func (r *rpcRelay) why() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text
}

// answerAll answers what Delve will not answer any more. After half a message there
// is nothing that the client would understand.
func (r *rpcRelay) answerAll() {
	r.mu.Lock()
	var ids []string
	for id := range r.pending {
		ids = append(ids, id)
	}
	clear(r.pending)
	cut, text := r.cut, r.text
	r.mu.Unlock()
	if cut {
		_ = r.client.Close()
		return
	}
	if len(ids) > 0 {
		r.answer(ids, text)
	}
}

// answerDetach answers the request to detach, after all others.
func (r *rpcRelay) answerDetach(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cut {
		return
	}
	_ = r.client.SetWriteDeadline(time.Now().Add(hangUpDelay))
	answers := json.NewEncoder(r.client)
	for pending := range r.pending {
		_ = answers.Encode(map[string]any{"id": json.RawMessage(pending), "result": nil, "error": "this debugger has detached"})
	}
	_ = answers.Encode(map[string]any{"id": json.RawMessage(id), "result": struct{}{}, "error": nil})
}

// hangUpDelay is how long a client that has its answer may take to hang up.
const hangUpDelay = 2 * time.Second

// answer refuses requests (JSON-RPC 1.0, as package net/rpc/jsonrpc speaks it) and
// hangs up.
func (r *rpcRelay) answer(ids []string, text string) {
	_ = r.client.SetWriteDeadline(time.Now().Add(hangUpDelay))
	answers := json.NewEncoder(r.client)
	for _, id := range ids {
		if answers.Encode(map[string]any{"id": json.RawMessage(id), "result": nil, "error": text}) != nil {
			break
		}
	}
	// Not closed at once: with something unread the kernel would reset the
	// connection, and the client could lose the answers.
	closeWrite(r.client)
	_ = r.client.SetReadDeadline(time.Now().Add(hangUpDelay))
}

// refuse answers requests with an error until the client hangs up. The first one
// alone would not do: it is about the version, and Delve's clients don't look at its
// answer.
func (r *rpcRelay) refuse(text string) error {
	var stream rpcStream
	buf := make([]byte, 32<<10)
	for {
		n, err := r.client.Read(buf)
		var writeErr error
		stream.feed(buf[:n], func(id string) {
			writeErr = errors.Join(writeErr, json.NewEncoder(r.client).Encode(map[string]any{"id": json.RawMessage(id), "result": nil, "error": text}))
		})
		if err := errors.Join(err, writeErr); err != nil {
			return unlessClosed(err)
		}
	}
}

// closeWrite tells the other side that nothing more comes.
func closeWrite(c io.Closer) {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
		return
	}
	_ = c.Close()
}

// unlessClosed leaves out the errors that an end in order has.
func unlessClosed(err error) error {
	var timeout net.Error
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) || errors.As(err, &timeout) && timeout.Timeout() {
		return nil
	}
	return err
}

// rpcStream follows a stream of JSON objects: where each ends, and what its member
// "id" is. It keeps nothing else of them.
type rpcStream struct {
	depth   int
	quoted  bool // inside a string
	escaped bool // after a backslash in it
	// Of the object's own members: name is the one before the value, or what there
	// is of it; id is the value of the one with that name.
	naming bool
	name   []byte
	taking bool
	id     []byte
}

// longestID is what is kept of an id. Those of package net/rpc are numbers.
const longestID = 64

// between says that the stream is not inside an object.
func (s *rpcStream) between() bool { return s.depth == 0 }

// feed takes the next bytes and calls ended with the id of each object that ends in
// them, as it is written; "null" if it has none.
func (s *rpcStream) feed(p []byte, ended func(id string)) {
	for i := 0; i < len(p); i++ {
		if s.quoted && !s.escaped && s.depth > 1 { // most of a large answer
			skip := bytes.IndexAny(p[i:], `"\`)
			if skip < 0 {
				return
			}
			i += skip
		}
		c := p[i]
		if s.taking && s.depth == 1 && (s.quoted || c != ',' && c != '}' && c > ' ') && len(s.id) < longestID {
			s.id = append(s.id, c)
		}
		if s.quoted {
			s.inString(c)
			continue
		}
		switch c {
		case '"':
			s.quoted = true
			s.name = s.name[:0]
		case '{', '[':
			if s.depth++; s.depth == 1 {
				s.naming, s.taking, s.id = true, false, s.id[:0]
			}
		case ':':
			if s.depth == 1 {
				s.naming = false
				if string(s.name) == "id" {
					s.taking, s.id = true, s.id[:0]
				}
			}
		case ',':
			if s.depth == 1 {
				s.naming, s.taking = true, false
			}
		case '}', ']':
			if s.depth == 0 {
				continue // no JSON; whoever reads it says so
			}
			if s.depth--; s.depth == 0 {
				id := "null"
				if json.Valid(s.id) {
					id = string(s.id)
				}
				ended(id)
			}
		}
	}
}

func (s *rpcStream) inString(c byte) {
	switch {
	case s.escaped:
		s.escaped = false
	case c == '\\':
		s.escaped = true
	case c == '"':
		s.quoted = false
		return
	}
	if s.naming && s.depth == 1 && len(s.name) < longestID {
		s.name = append(s.name, c)
	}
}
