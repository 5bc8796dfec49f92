package agentapi

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/kubedelve/kubedelve/internal/resumable"
)

// DebugConn is a connection to the Delve of one run: DAP or JSON-RPC, whichever the
// first byte begins. It survives the loss of the tunnel: until there is another,
// Reads and Writes wait. It is a net.Conn.
//
// Reads and Writes return a [*TakenOverError] when another client has taken the
// debugger over. Reads return io.EOF when Delve has closed the connection, the run
// has ended, or the agent does not know the connection any more: it was without a
// tunnel for longer than the grace period, or the agent is another process.
type DebugConn struct {
	stream *resumable.Conn
	state  DebugState
	token  string
	next   func(context.Context) (*Client, error)
	asked  bool // a request was sent to which there was no reply; belongs to find

	carried atomic.Bool        // there is a tunnel
	cancel  context.CancelFunc // ends keep
	kept    chan struct{}      // closed when keep has ended
}

// TakenOverError is how a connection to Delve ends when another client takes its
// place.
type TakenOverError struct{ By string }

func (e *TakenOverError) Error() string { return "the debugger was taken over by " + e.By }

// Debug connects to Delve. An [*Error] with [CodeInUse] tells that another client is
// connected (or is away within its grace period), unless takeOver, which makes the
// agent hang up on that one; with [CodeIdle] or [CodeExited], that nothing runs.
//
// The client that next returns is the way to the agent. next is called again when
// that one's connection is lost, from one goroutine at a time, until the connection
// is closed: it waits until there is a client that lives. If it returns an error,
// that is what Reads and Writes return from then on. ctx is of no further importance
// once Debug has returned.
func Debug(ctx context.Context, next func(context.Context) (*Client, error), takeOver bool) (*DebugConn, error) {
	c := &DebugConn{stream: resumable.New(), token: rand.Text(), next: next, kept: make(chan struct{})}
	keeping, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c.cancel = cancel
	w, err := c.find(ctx, Request{Op: OpDebug, TakeOver: takeOver, Stream: &Stream{Token: c.token}})
	if err != nil {
		go c.takeBack(keeping) // ends with closePatience at the latest
		return nil, err
	}
	c.state = w.state
	c.carried.Store(true)
	go c.keep(keeping, w) // ends when the stream is over, or with closePatience after Close
	return c, nil
}

// takeBack makes the agent hang up if it has connected, or is about to connect,
// somebody who no longer waits for its reply.
func (c *DebugConn) takeBack(ctx context.Context) {
	defer c.cancel()
	if !c.asked {
		return
	}
	time.AfterFunc(closePatience, c.cancel)
	_ = c.stream.Close()
	// Not Resume: the request may not have been dealt with yet.
	w, err := c.find(ctx, Request{Op: OpDebug, Stream: &Stream{Token: c.token}})
	if err == nil {
		c.keep(ctx, w)
	}
}

// through is a stream in a tunnel, about to carry the connection.
type through struct {
	client *Client
	stream *stream
	link   *resumable.Link
	state  DebugState
}

// find finds a tunnel in which the agent accepts the stream.
func (c *DebugConn) find(ctx context.Context, req Request) (through, error) {
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		client, err := c.next(ctx)
		if err != nil {
			return through{}, err
		}
		link := c.stream.Next()
		req.Stream.Received = link.Received
		c.asked = true
		s, reply, release, err := client.request(ctx, req)
		var refused *Error
		switch {
		case err == nil && !release(): // ctx has just ended the stream
			return through{}, context.Cause(ctx)
		case err == nil && reply.Debug == nil:
			_ = s.Close()
			return through{}, errors.New("agent: debug: the reply does not tell the run")
		case err == nil:
			return through{client, s, link, *reply.Debug}, nil
		case errors.As(err, &refused):
			c.asked = false
			return through{}, err
		}
		// The tunnel was lost on the way.
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return through{}, fmt.Errorf("%w; last: %w", context.Cause(ctx), err)
		case <-timer.C:
		}
	}
}

// keep keeps the connection going from one tunnel to the next.
func (c *DebugConn) keep(ctx context.Context, w through) {
	defer close(c.kept)
	defer c.cancel()
	for {
		c.carried.Store(true)
		err := w.link.Carry(w.stream, w.state.Received, w.client.Done())
		c.carried.Store(false)
		if err == nil || c.stream.Err() != nil {
			return
		}
		w, err = c.find(ctx, Request{Op: OpDebug, Stream: &Stream{Token: c.token, Resume: true}})
		var refused *Error
		if errors.As(err, &refused) && refused.Code == CodeGone {
			err = io.EOF
		}
		if err != nil {
			c.stream.Abort(err)
			return
		}
	}
}

// How long Close waits for the tunnel to take the agent the word, and how long it
// goes on trying afterwards: a run that nobody lets go of is let go after the agent's
// grace period, which is of this order.
const (
	closeWait     = 250 * time.Millisecond
	closePatience = 30 * time.Second
)

// Close makes the agent hang up on Delve, after what was written before has reached
// it. Without a tunnel it is told so as soon as there is one, for half a minute.
func (c *DebugConn) Close() error {
	if err := c.stream.Close(); err != nil {
		return err
	}
	time.AfterFunc(closePatience, c.cancel)
	if !c.carried.Load() {
		return nil
	}
	// Whoever closes the tunnel, or ends the process, next must not cut it off.
	timer := time.NewTimer(closeWait)
	defer timer.Stop()
	select {
	case <-c.stream.Sent():
	case <-c.kept:
	case <-timer.C:
	}
	return nil
}

// Boot is the agent's, see [Position].
func (c *DebugConn) Boot() string { return c.state.Boot }

// Run is the number of the run that is debugged, see [Position].
func (c *DebugConn) Run() int { return c.state.Run }

// Halted tells whether the component was halted before this connection came.
func (c *DebugConn) Halted() bool { return c.state.Halted }

// Fresh tells whether no debugger had been connected to the run before.
func (c *DebugConn) Fresh() bool { return c.state.Fresh }

// Read implements [net.Conn].
func (c *DebugConn) Read(p []byte) (int, error) {
	n, err := c.stream.Read(p)
	return n, takenOver(err)
}

// Write implements [net.Conn]: it returns when the bytes will reach Delve if the
// connection goes on at all.
func (c *DebugConn) Write(p []byte) (int, error) {
	n, err := c.stream.Write(p)
	return n, takenOver(err)
}

// takenOver translates the only reason that an agent gives.
func takenOver(err error) error {
	var ended *resumable.EndError
	if errors.As(err, &ended) && ended.Reason != "" {
		return &TakenOverError{ended.Reason}
	}
	return err
}

// CloseWrite tells Delve that nothing more comes; what it still sends can be read.
func (c *DebugConn) CloseWrite() error { return c.stream.CloseWrite() }

// LocalAddr implements [net.Conn]; it tells nothing.
func (c *DebugConn) LocalAddr() net.Addr { return c.stream.LocalAddr() }

// RemoteAddr implements [net.Conn]; it tells nothing.
func (c *DebugConn) RemoteAddr() net.Addr { return c.stream.RemoteAddr() }

// SetDeadline implements [net.Conn].
func (c *DebugConn) SetDeadline(t time.Time) error { return c.stream.SetDeadline(t) }

// SetReadDeadline implements [net.Conn].
func (c *DebugConn) SetReadDeadline(t time.Time) error { return c.stream.SetReadDeadline(t) }

// SetWriteDeadline implements [net.Conn].
func (c *DebugConn) SetWriteDeadline(t time.Time) error { return c.stream.SetWriteDeadline(t) }
