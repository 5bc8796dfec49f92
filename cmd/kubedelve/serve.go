package main

import (
	"bufio"
	"context"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"

	"github.com/kubedelve/kubedelve/dapserver"
)

type (
	logger    = *slog.Logger
	taskGroup = sync.WaitGroup
)

// debuggers are those that come to the address of a running session, one at a time.
type debuggers struct {
	launched *launched
	seat     *dapserver.Seat
	takeOver bool // whoever comes later displaces the one before
	log      logger
	messages *messages
	note     func(text string) // tells whoever began the session
	// stale says that a JSON-RPC client may have left breakpoints behind.
	stale atomic.Bool
}

// serve gives each connection the session. DAP begins with the header
// Content-Length, Delve's JSON-RPC with a brace. It returns when ctx has ended.
func (d *debuggers) serve(ctx context.Context, listener net.Listener) error {
	server := dapserver.New(dapserver.Config{
		Session: sharedSession{parentSession{&dapSession{launched: d.launched, session: d.launched.session}}, d}, Seat: d.seat, TakeOver: d.takeOver,
		Logger: d.log, Message: d.messages.message(),
	})
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	var connections taskGroup
	defer connections.Wait()
	for {
		conn, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		connections.Go(func() { // ends with the connection or ctx
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer func() { stop(); _ = conn.Close() }()
			r := bufio.NewReader(conn)
			first, err := r.Peek(1)
			if err != nil {
				return
			}
			debugger := &peeked{Conn: conn, r: r}
			if first[0] == '{' {
				err = d.serveJSONRPC(ctx, debugger)
			} else {
				err = server.ServeConn(ctx, debugger)
			}
			if err != nil {
				d.log.Info("debugger", "from", conn.RemoteAddr().String(), "error", err)
			}
		})
	}
}

// peeked is a connection whose first bytes were read ahead.
type peeked struct {
	net.Conn
	r *bufio.Reader
}

func (p *peeked) Read(b []byte) (int, error) { return p.r.Read(b) }

// CloseWrite passes a half-close on.
func (p *peeked) CloseWrite() error {
	if c, ok := p.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}
