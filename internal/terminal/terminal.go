// Package terminal is Delve's own terminal, the one of "dlv connect", for a Delve that
// somebody else looks after: it has all of its commands, with history, completion and
// the sources of this machine, but to leave it ends neither Delve nor the program.
//
// It is the only package beside the agent that imports Delve. What it does not do:
// connect, and put in order what a user leaves behind.
package terminal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"

	"github.com/go-delve/delve/pkg/config"
	"github.com/go-delve/delve/pkg/terminal"
	"github.com/go-delve/delve/service/rpc2"
)

// ErrEnded says that Delve has closed the connection: the run that it debugged is over.
var ErrEnded = errors.New("the run that this terminal was connected to is over")

// Run is a debugger on this process's standard input and output. It halts the program
// if that runs, since Delve answers little before, and returns without an error when the
// user leaves or ctx ends, with [ErrEnded], or with the error of the connection, which it
// closes. Ctrl-C halts the program meanwhile. Delve's own configuration counts
// (aliases, colours, substitute-path). There may be one at a time in a process.
func Run(ctx context.Context, delve net.Conn) error {
	defer func() { _ = delve.Close() }()
	conf, err := config.LoadConfig()
	if err != nil {
		return fmt.Errorf("the configuration of Delve: %w", err)
	}
	conn := &watched{Conn: delve, ended: make(chan error, 1)}
	c := client{rpc2.NewClientFromConn(conn)}
	state, err := c.GetStateNonBlocking()
	if err == nil && state.Running {
		_, err = c.Halt()
	}
	if err != nil {
		return fmt.Errorf("halting the program: %w", err)
	}
	term := terminal.New(c, conf, false)
	left := make(chan error, 1)
	go func() { // ends when the user leaves; else it waits for input for as long as the process
		_, err := term.Run()
		left <- err
	}()
	select {
	case err := <-left:
		return err
	case err := <-conn.ended:
		term.Close() // puts the terminal's modes back
		return err
	case <-ctx.Done():
		term.Close()
		return nil
	}
}

// watched is a connection whose end is told, unless it was closed on this side.
type watched struct {
	net.Conn
	closed atomic.Bool
	ended  chan error // holds one
}

// Read implements [net.Conn].
func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if err != nil && !w.closed.Swap(true) {
		reason := err
		if errors.Is(err, io.EOF) {
			reason = ErrEnded
		}
		w.ended <- reason
	}
	return n, err
}

// Close implements [net.Conn].
func (w *watched) Close() error {
	w.closed.Store(true)
	return w.Conn.Close()
}

// client is one for whom Delve is not theirs to end.
type client struct{ *rpc2.RPCClient }

// IsMulticlient tells the terminal that it need not ask what is to become of Delve, at
// the end and at Ctrl-C.
func (client) IsMulticlient() bool { return false }

// Detach is what the terminal does at its end.
func (c client) Detach(bool) error { return c.Disconnect(false) }
