package agentapi

import (
	"context"
	"errors"
)

// DebugConn is a connection to Delve: DAP or JSON-RPC, whichever the first byte
// begins. It is a net.Conn.
type DebugConn struct {
	*stream
	state DebugState
}

// Debug connects to Delve by a client that next returns. An [*Error] with
// [CodeInUse] tells that another client is connected, unless takeOver, which makes
// the agent hang up on that one. ctx is of no further importance once Debug has
// returned, and next is called until the connection is closed.
func Debug(ctx context.Context, next func(context.Context) (*Client, error), takeOver bool) (*DebugConn, error) {
	c, err := next(ctx)
	if err != nil {
		return nil, err
	}
	s, reply, release, err := c.request(ctx, Request{Op: OpDebug, TakeOver: takeOver})
	if err != nil {
		return nil, err
	}
	if !release() { // the connection outlives ctx, unless ctx has just ended it
		return nil, context.Cause(ctx)
	}
	if reply.Debug == nil {
		_ = s.Close()
		return nil, errors.New("agent: debug: the reply does not tell the run")
	}
	return &DebugConn{s, *reply.Debug}, nil
}

// Boot is the agent's, see [Position].
func (c *DebugConn) Boot() string { return c.state.Boot }

// Run is the number of the run that is debugged, see [Position].
func (c *DebugConn) Run() int { return c.state.Run }

// Halted tells whether the component was halted before this connection came.
func (c *DebugConn) Halted() bool { return c.state.Halted }

// Fresh tells whether no debugger had been connected to the run before.
func (c *DebugConn) Fresh() bool { return c.state.Fresh }
