package agentapi

import (
	"bufio"
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/kubedelve/kubedelve/internal/resumable"
	"github.com/kubedelve/kubedelve/internal/tunnel"
)

// echoes is an agent whose Delve sends back what it gets.
type echoes struct {
	connect func() *Client

	mu       sync.Mutex // guards all below
	streams  map[string]*resumable.Conn
	requests []Request
	deaf     int // so many requests get no reply though they are done
}

func newEchoes(t testing.TB) *echoes {
	t.Helper()
	e := &echoes{streams: map[string]*resumable.Conn{}}
	e.connect = fakeAgent(t, e.handle)
	t.Cleanup(e.forget)
	return e
}

func (e *echoes) handle(ctx context.Context, req Request, _ *bufio.Reader, w *tunnel.Stream) {
	e.mu.Lock()
	e.requests = append(e.requests, req)
	conn, deaf := e.streams[req.Stream.Token], e.deaf > 0
	if deaf {
		e.deaf--
	}
	if conn == nil && !req.Stream.Resume {
		conn = resumable.New()
		e.streams[req.Stream.Token] = conn
		go func() { _, _ = io.Copy(conn, conn); _ = conn.Close() }()
	}
	e.mu.Unlock()
	switch {
	case deaf:
		return
	case conn == nil:
		_ = WriteMessage(w, Reply{Error: "who are you?", Code: CodeGone})
		return
	}
	link := conn.Next()
	_ = WriteMessage(w, Reply{Debug: &DebugState{Boot: "b", Run: 7, Halted: true, Fresh: true, Received: link.Received}})
	_ = link.Carry(w, req.Stream.Received, ctx.Done())
}

// forget makes the agent one that knows no stream.
func (e *echoes) forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for token, conn := range e.streams {
		conn.Abort(io.EOF)
		delete(e.streams, token)
	}
}

// hangUp ends all streams for a reason.
func (e *echoes) hangUp(reason string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, conn := range e.streams {
		_ = conn.CloseFor(reason)
	}
}

// ways hands out clients, each until it is cut.
type ways struct {
	connect func() *Client

	mu      sync.Mutex // guards all below
	current *Client
	gone    error
}

func (w *ways) next(context.Context) (*Client, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone != nil {
		return nil, w.gone
	}
	if w.current == nil {
		w.current = w.connect()
	}
	return w.current, nil
}

// cut ends the tunnel; with an error it was the last.
func (w *ways) cut(gone error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone = gone; w.current != nil {
		_ = w.current.Close()
		w.current = nil
	}
}

// dialEchoes connects to an agent by way of several tunnels.
func dialEchoes(t *testing.T) (*echoes, *ways, *DebugConn) {
	t.Helper()
	e := newEchoes(t)
	w := &ways{connect: e.connect}
	ctx, cancel := context.WithCancel(t.Context())
	conn, err := Debug(ctx, w.next, false)
	if err != nil {
		t.Fatal(err)
	}
	cancel() // the connection outlives it
	t.Cleanup(func() { _ = conn.Close(); w.cut(errors.New("the test is over")) })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return e, w, conn
}

func say(t testing.TB, conn *DebugConn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
		t.Fatalf("said %q, got %q, %v", text, got, err)
	}
}

func TestADebugConnSurvivesItsTunnels(t *testing.T) {
	e, w, conn := dialEchoes(t)
	if conn.Boot() != "b" || conn.Run() != 7 || !conn.Halted() || !conn.Fresh() {
		t.Errorf("got %+v", conn.state)
	}
	say(t, conn, "one")
	for range 5 {
		w.cut(nil)
		say(t, conn, "two")
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, req := range e.requests {
		if req.Op != OpDebug || req.Stream.Resume != (i > 0) || req.Stream.Token != e.requests[0].Stream.Token {
			t.Errorf("request %d: %+v, %+v", i, req, req.Stream)
		}
	}
}

func TestADebugConnWhoseReplyIsLost(t *testing.T) {
	e := newEchoes(t)
	e.deaf = 2
	w := &ways{connect: e.connect}
	conn, err := Debug(bounded(t), w.next, true)
	if err != nil {
		t.Fatal(err)
	}
	say(t, conn, "hello")
	_ = conn.Close()
	w.cut(errors.New("the test is over"))
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.streams) != 1 || len(e.requests) != 3 || !e.requests[2].TakeOver {
		t.Errorf("%d streams of %d requests, the last %+v; want 1 of 3", len(e.streams), len(e.requests), e.requests[2])
	}
}

func TestHowADebugConnEnds(t *testing.T) {
	noWay := errors.New("the pod is gone")
	for _, test := range []struct {
		name string
		end  func(*echoes, *ways, *DebugConn)
		want error
	}{
		{"by Delve", func(_ *echoes, _ *ways, c *DebugConn) { _ = c.CloseWrite() }, io.EOF},
		{"taken over", func(e *echoes, _ *ways, _ *DebugConn) { e.hangUp("jane") }, &TakenOverError{"jane"}},
		{"taken over while the tunnel was gone", func(e *echoes, w *ways, _ *DebugConn) { w.cut(nil); e.hangUp("jane") }, &TakenOverError{"jane"}},
		{"at an agent that does not know it", func(e *echoes, w *ways, _ *DebugConn) { e.forget(); w.cut(nil) }, io.EOF},
		{"without a way", func(_ *echoes, w *ways, _ *DebugConn) { w.cut(noWay) }, noWay},
	} {
		t.Run(test.name, func(t *testing.T) {
			e, w, conn := dialEchoes(t)
			say(t, conn, "hello")
			test.end(e, w, conn)
			_, err := conn.Read(make([]byte, 1))
			var taken *TakenOverError
			if want := (*TakenOverError)(nil); errors.As(test.want, &want) {
				if !errors.As(err, &taken) || *taken != *want {
					t.Errorf("got %v; want %v", err, test.want)
				}
			} else if !errors.Is(err, test.want) {
				t.Errorf("got %v; want %v", err, test.want)
			}
		})
	}
}

func TestCloseOfADebugConnReachesTheAgent(t *testing.T) {
	for name, cut := range map[string]bool{"at once": false, "as soon as there is a tunnel": true} {
		t.Run(name, func(t *testing.T) {
			e, w, conn := dialEchoes(t)
			say(t, conn, "hello")
			if cut {
				w.cut(nil)
			}
			_ = conn.Close()
			if !cut {
				w.cut(errors.New("closed")) // what was said before stays said
			}
			e.mu.Lock()
			stream := e.streams[conn.token]
			e.mu.Unlock()
			select {
			case <-stream.PeerEnded():
			case <-time.After(patience):
				t.Error("the agent was not told")
			}
			select {
			case <-conn.kept:
			case <-time.After(patience):
				t.Error("something goes on")
			}
		})
	}
}

func TestDebugIsRefused(t *testing.T) {
	c := fake(t, func(_ context.Context, _ Request, _ *bufio.Reader, w *tunnel.Stream) {
		_ = WriteMessage(w, Reply{Error: "in use by jane", Code: CodeInUse})
	})
	var refused *Error
	if _, err := debug(bounded(t), c); !errors.As(err, &refused) || refused.Code != CodeInUse {
		t.Errorf("got %v; want the code in-use", err)
	}
	stop := errors.New("stop")
	if _, err := Debug(bounded(t), func(context.Context) (*Client, error) { return nil, stop }, false); !errors.Is(err, stop) {
		t.Errorf("got %v; want what next has said", err)
	}
}
