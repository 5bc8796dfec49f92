package kubelaunch

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/kubedelve/kubedelve/internal/agentapi"
)

// Conn is a connection to the Delve of one run: DAP or JSON-RPC, whichever the first
// byte begins. It lives through cuts of the way to the run, in which Reads and Writes
// wait, and ends with io.EOF when the run has ended or can't be reached any more.
type Conn struct {
	net.Conn
	session *Session
	run     Run
	key     runKey
	ended   atomic.Bool // the run is gone
}

// Run is the run that the connection is to, as it was when the connection came.
func (c *Conn) Run() Run { return c.run }

// Read implements [net.Conn].
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && (c.ended.Load() || errors.Is(err, errRunOver)) {
		err = io.EOF
	}
	return n, err
}

// Close implements [net.Conn].
func (c *Conn) Close() error {
	c.session.update(func(st *state) { delete(st.conns, c) })
	return c.Conn.Close()
}

// hangUp ends connections whose run is gone.
func hangUp(conns []*Conn) {
	for _, c := range conns {
		c.ended.Store(true)
		_ = c.Conn.Close()
	}
}

// DialOptions say how a connection is opened. The zero value is the default.
type DialOptions struct {
	// TakeOver hangs up on whoever is connected, who is told by whom.
	TakeOver bool
}

// handover is how long a debugger that has just disconnected may still count as
// connected: the agent waits until Delve has closed its side.
const handover = time.Second

// dialPause is the time between two tries to connect to a run.
const dialPause = 20 * time.Millisecond

// Dial waits until a run is there and opens a connection to its Delve. There is one
// at a time: after a second it says [InUse]. The end of ctx ends the waiting, not a
// connection that was returned. Errors that are final: an [*ExitError] if the
// component has ended and is not started again, a [*LostError] if the session was
// ended by others, [ErrEnded] if by Close or Detach.
func (s *Session) Dial(ctx context.Context, o DialOptions) (*Conn, error) {
	s.update(func(st *state) { st.awaited++ })
	defer s.update(func(st *state) { st.awaited-- })
	again := time.NewTicker(dialPause)
	defer again.Stop()
	var refused time.Time // since when
	for {
		if err := s.awaitRun(ctx); err != nil {
			return nil, err
		}
		conn, err := s.dial(ctx, o)
		var said *agentapi.Error
		switch {
		case err == nil:
			return conn, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case InUse(err):
			if refused.IsZero() {
				refused = time.Now()
			}
			if time.Since(refused) > handover {
				return nil, err
			}
		case errors.As(err, &said) && said.Code == "":
			return nil, err // it would say the same again
		}
		select {
		case <-again.C: // the run or the way to it is gone; of what comes next the state tells
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// awaitRun waits for a run that can be dialled, and notes that somebody dials.
func (s *Session) awaitRun(ctx context.Context) error {
	var over error
	err := s.await(ctx, func(st *state) bool {
		if over = st.over; over != nil {
			return true
		}
		if st.live() == nil || st.run == nil || st.run.held {
			return false
		}
		st.dialling++
		return true
	})
	return errors.Join(err, over)
}

// dial connects to the run there is, after awaitRun.
func (s *Session) dial(ctx context.Context, o DialOptions) (_ *Conn, err error) {
	c := &Conn{session: s}
	defer func() {
		s.update(func(st *state) {
			st.dialling--
			if err == nil {
				st.conns[c] = struct{}{}
			}
		})
	}()
	var boot atomic.Pointer[string] // of the run's agent, once that is known
	debug, err := agentapi.Debug(ctx, func(ctx context.Context) (*agentapi.Client, error) { return s.clientOf(ctx, boot.Load()) }, o.TakeOver)
	if err != nil {
		return nil, err
	}
	c.Conn, c.key = debug, runKey{debug.Boot(), debug.Run()}
	boot.Store(&c.key.boot)
	// It may be the run that a swap has just brought, of which the supervisor does
	// not know yet.
	gone := true
	err = s.await(ctx, func(st *state) bool {
		switch {
		case st.run != nil && st.run.key == c.key:
			c.run, gone = st.run.Run, false
			st.run.waiting, st.released = false, true
			return true
		case st.over != nil || st.boot != c.key.boot || st.last == c.key:
			return true
		}
		return false
	})
	if err == nil && gone {
		err = errRunOver
	}
	if err != nil {
		_ = debug.Close()
		return nil, err
	}
	c.run.Halted, c.run.Fresh = debug.Halted(), debug.Fresh()
	return c, nil
}

// errRunOver tells a connection that its run is gone.
var errRunOver = errors.New("the run is over")

// clientOf waits for a tunnel to the agent of the boot, or to any, and fails if that
// agent is gone.
func (s *Session) clientOf(ctx context.Context, boot *string) (client *agentapi.Client, err error) {
	var gone error
	err = s.await(ctx, func(st *state) bool {
		client = st.live()
		switch {
		case boot != nil && st.boot != *boot:
			client, gone = nil, errRunOver
		case client == nil:
			gone = st.over
		}
		return client != nil || gone != nil
	})
	return client, errors.Join(err, gone)
}

// InUse tells whether Dial failed because somebody else is connected to Delve.
func InUse(err error) bool {
	var refused *agentapi.Error
	return errors.As(err, &refused) && refused.Code == agentapi.CodeInUse
}
