package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/kubedelve/kubedelve/internal/agentapi"
	"github.com/kubedelve/kubedelve/internal/resumable"
)

// debugging is a client's stream to the Delve of a run. It outlives the tunnel that
// it came by: the client may come back with the token and go on.
type debugging struct {
	client, token string
	state         agentapi.DebugState
	conn          *resumable.Conn // to the client
	delve         *net.UnixConn
	asked         atomic.Bool   // something was sent to Delve
	before        history       // as it was when this one came
	ended         chan struct{} // closed when Delve's side is closed

	// Guarded by Agent.mu.

	carriers int       // tunnels that carry conn: 0 or 1, for a moment 2
	lost     time.Time // since when there is none
}

// away tells whether the client's tunnel is lost; the caller holds Agent.mu.
func (d *debugging) away() bool { return d.carriers == 0 }

// debug connects a client to Delve, or to the stream that it has had before.
func (a *Agent) debug(ctx context.Context, req agentapi.Request, conn resumable.Carrier) (*agentapi.Reply, func(), error) {
	if req.Stream == nil || req.Stream.Token == "" {
		return nil, nil, errors.New("debug: the stream has no token")
	}
	d := a.stream(req.Stream.Token)
	if d == nil && req.Stream.Resume {
		return nil, nil, &codedError{agentapi.CodeGone, "the debugger was disconnected, or its run has ended"}
	}
	if d == nil {
		var err error
		if d, err = a.attach(ctx, req); err != nil {
			return nil, nil, err
		}
	}
	link := d.conn.Next()
	state := d.state
	state.Received = link.Received
	return &agentapi.Reply{Debug: &state}, func() {
		a.update(func() { d.carriers++ })
		err := link.Carry(conn, req.Stream.Received, ctx.Done())
		a.log.Debug("debugger's tunnel", "client", d.client, "ended", err)
		a.update(func() {
			if d.carriers--; d.away() {
				d.lost = time.Now()
			}
			if err == nil {
				delete(a.streams, d.token)
			}
		})
	}, nil
}

func (a *Agent) stream(token string) *debugging {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.streams[token]
}

// attach gives a client Delve's own connection. Delve serves one at a time: a second
// one would wait for an answer for ever.
func (a *Agent) attach(ctx context.Context, req agentapi.Request) (*debugging, error) {
	a.attaching.Lock()
	defer a.attaching.Unlock()
	if d := a.stream(req.Stream.Token); d != nil {
		return d, nil // the same request came twice: the reply to the first was lost
	}
	client := req.Client
	if client == "" {
		client = "another client"
	}
	if err := a.makeWay(ctx, client, req.TakeOver); err != nil {
		return nil, err
	}
	d := &debugging{client: client, token: req.Stream.Token, conn: resumable.New(), ended: make(chan struct{}), lost: time.Now()}
	d.state.Boot = a.boot
	var c *component
	a.update(func() {
		c = a.component
		if c != nil && !c.hasExited() {
			d.state.Run, d.state.Fresh = c.out.run, !a.history.debugged
			d.before = a.history
			a.debugger, a.history = d, history{debugged: true}
			a.streams[d.token] = d
		}
	})
	switch {
	case c == nil:
		return nil, errIdle
	case d.state.Run == 0:
		return nil, &codedError{agentapi.CodeExited, "the component has ended: " + c.exit.String()}
	}
	var err error
	d.state.Halted, err = c.halted()
	if err == nil {
		d.delve, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: c.socket, Net: "unix"})
	}
	if err != nil {
		a.update(func() {
			a.debugger, a.history = nil, d.before
			delete(a.streams, d.token)
		})
		close(d.ended)
		if errors.Is(err, syscall.ECONNREFUSED) { // Delve has ended: the agent is about to know
			c.await(c.delveDone, delvePatience)
		}
		if c.endsSoon() || c.delveEnded() { // Delve knows it first
			c.await(c.exited, delvePatience)
			return nil, &codedError{agentapi.CodeExited, "the component has ended"}
		}
		return nil, fmt.Errorf("connecting to delve: %w", err)
	}
	a.relays.Go(func() { a.relay(d) }) // ends with Delve's side of the connection
	return d, nil
}

// makeWay returns when Delve is free for a client; the caller holds attaching.
func (a *Agent) makeWay(ctx context.Context, client string, takeOver bool) error {
	a.mu.Lock()
	d := a.debugger
	var away time.Duration
	if d != nil && d.away() {
		away = time.Since(d.lost).Round(time.Second)
	}
	a.mu.Unlock()
	switch {
	case d == nil:
		return nil
	case takeOver:
		a.log.Info("debugger taken over", "from", d.client, "by", client)
		return d.hangUp(ctx, client)
	case d.leaves():
		return d.awaitEnd(ctx)
	case away > 0:
		return &codedError{agentapi.CodeInUse, fmt.Sprintf("the debugger is in use by %s, whose connection was lost %v ago", d.client, away)}
	}
	return &codedError{agentapi.CodeInUse, "the debugger is in use by " + d.client}
}

// disconnect hangs up on the debugger, if there is one, and waits until Delve's side
// is closed; the caller holds attaching.
func (a *Agent) disconnect() {
	a.mu.Lock()
	d := a.debugger
	a.mu.Unlock()
	if d == nil {
		return
	}
	if err := d.hangUp(context.Background(), ""); err != nil {
		a.log.Warn("hanging up on the debugger", "client", d.client, "error", err)
	}
}

// hangUp ends the connection, and tells the client who wants it (or just its end),
// now or when it comes back.
func (d *debugging) hangUp(ctx context.Context, by string) error {
	_ = d.conn.CloseFor(by) // closed already: it is on its way
	return d.awaitEnd(ctx)
}

// leavePatience is how long the word that a client has hung up may be on its way,
// while the next one is here already.
const leavePatience = 200 * time.Millisecond

// leaves tells whether the client has hung up, or does so just now.
func (d *debugging) leaves() bool {
	timer := time.NewTimer(leavePatience)
	defer timer.Stop()
	select {
	case <-d.conn.PeerEnded():
		return true
	case <-d.ended:
		return true
	case <-timer.C:
		return false
	}
}

func (d *debugging) awaitEnd(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, hangUpPatience+2*delvePatience, errors.New("delve does not let go of "+d.client))
	defer cancel()
	select {
	case <-d.ended:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// hangUpPatience is how long Delve may take to read what a debugger has sent before
// it has hung up.
const hangUpPatience = time.Second

// relay passes bytes between the client and Delve until either side ends, then
// closes both. Delve must see its socket close as soon as the client hangs up, and
// nobody else may have it before Delve has closed its side as well.
func (a *Agent) relay(d *debugging) {
	var others sync.WaitGroup
	others.Go(func() { // client to Delve; ends with the client's direction, or Delve's socket
		_, _ = io.Copy(asking{d}, d.conn)
		if _ = d.delve.CloseWrite(); !d.asked.Load() {
			_ = d.delve.Close() // Delve waits for a first byte without seeing the end
		}
	})
	finished := make(chan struct{})
	others.Go(func() { // ends when Delve's side has
		select {
		case <-d.conn.PeerEnded():
		case <-d.conn.Closed():
		case <-finished:
			return
		}
		_ = d.delve.SetWriteDeadline(time.Now().Add(hangUpPatience))
		_ = d.delve.SetReadDeadline(time.Now().Add(hangUpPatience + delvePatience))
	})
	if _, err := io.Copy(d.conn, d.delve); err != nil {
		_, _ = io.Copy(io.Discard, d.delve) // it was the client that ended first
	}
	_ = d.conn.Close()
	_ = d.delve.Close()
	close(finished)
	others.Wait()
	a.update(func() {
		if a.debugger == d {
			a.debugger = nil
			if !d.asked.Load() { // it was as if it had not been there
				a.history = d.before
			}
		}
	})
	close(d.ended)
	a.forgetLater(d)
}

// forgetLater gives a client the grace period to come back and read how its stream
// has ended.
func (a *Agent) forgetLater(d *debugging) {
	grace := time.Duration(a.cfg.Grace)
	if grace <= 0 {
		grace = time.Minute
	}
	time.AfterFunc(grace, func() {
		a.update(func() { delete(a.streams, d.token) })
		d.conn.Abort(io.EOF)
	})
}

// asking notes that Delve was sent something.
type asking struct{ d *debugging }

func (w asking) Write(p []byte) (int, error) {
	w.d.asked.Store(true)
	return w.d.delve.Write(p)
}
