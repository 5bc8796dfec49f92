package dapserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Config is what a Server needs. One of Launcher and Session must be set.
type Config struct {
	// Launcher does what launch and attach requests ask for.
	Launcher Launcher

	// Session, if set, runs already, and every client gets it, whether it says
	// launch or attach and whatever the target. One client at a time has it;
	// the others get an error that names the one. No client can end it: it
	// belongs to whoever made it.
	Session Session

	// Seat is that of Session. Whoever else lets debuggers to it takes the same.
	// Default: one that nobody else knows.
	Seat *Seat

	// TakeOver lets every client displace the one that has Session. Default:
	// only those do whose configuration says so.
	TakeOver bool

	// Logger gets every frame at debug level. Default: nothing is logged.
	Logger *slog.Logger

	// Message, if set, is called with each message that is read from a client or
	// Delve and with each that is to be written to one, in their order. from and to
	// are "editor", "kubedelve" or "delve"; client tells sessions apart. It must not
	// wait, and must not keep content.
	Message func(client, from, to string, content []byte)

	// StallTimeout is how long a client may stop reading before it counts as
	// gone. Default: 30 s.
	StallTimeout time.Duration

	// HandshakeTimeout is how long Delve may take to answer initialize and
	// attach. It doesn't answer at all while it serves somebody else.
	// Default: 60 s.
	HandshakeTimeout time.Duration

	// CloseTimeout is how long Session.Close or Detach may take when the
	// client is gone already. Default: 2 min.
	CloseTimeout time.Duration
}

// Server serves DAP clients, each with a session of its own.
type Server struct {
	cfg      Config
	log      *slog.Logger
	requests map[string]handler

	mu      sync.Mutex         // guards members
	members map[string]*member // the children that clients can attach to, by token
}

// New returns a Server. It starts nothing.
func New(cfg Config) *Server {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	for timeout, def := range map[*time.Duration]time.Duration{
		&cfg.StallTimeout:     30 * time.Second,
		&cfg.HandshakeTimeout: 60 * time.Second,
		&cfg.CloseTimeout:     2 * time.Minute,
	} {
		if *timeout <= 0 {
			*timeout = def
		}
	}
	if cfg.Seat == nil {
		cfg.Seat = &Seat{}
	}
	return &Server{cfg: cfg, log: cfg.Logger, requests: requests(), members: map[string]*member{}}
}

// Serve accepts clients until ctx ends, and returns after all of them have
// been served to the end. It closes the listener.
//
// Whoever reaches the listener runs code on this machine, so TCP listeners
// must be on a loopback address.
func (srv *Server) Serve(ctx context.Context, listener net.Listener) error {
	if addr, ok := listener.Addr().(*net.TCPAddr); ok && !addr.IP.IsLoopback() {
		_ = listener.Close()
		return fmt.Errorf("listening on %s: a debug server must not be reachable from the network; use 127.0.0.1:%d", addr, addr.Port)
	}
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	defer func() { _ = listener.Close() }()
	var clients sync.WaitGroup
	defer clients.Wait()
	for {
		conn, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accepting a client: %w", err)
		}
		clients.Go(func() {
			if err := srv.ServeConn(ctx, conn); err != nil && ctx.Err() == nil {
				srv.log.Warn("client ended", "client", peerName(conn), "error", err)
			}
		})
	}
}

// ServeConn serves one client until it disconnects, vanishes or ctx ends. When
// it returns, the session is closed or detached from and conn is closed. A
// client that leaves, even without a word, is not an error. Close of conn must
// end its Reads and Writes.
func (srv *Server) ServeConn(ctx context.Context, conn io.ReadWriteCloser) error {
	s := newSession(srv, conn)
	return s.serve(ctx)
}

// anotherClient is one that comes from no address.
const anotherClient = "another client"

// peerName is how a client is called in messages to another one.
func peerName(conn io.ReadWriteCloser) string {
	if c, ok := conn.(interface{ RemoteAddr() net.Addr }); ok && c.RemoteAddr() != nil {
		if name := c.RemoteAddr().String(); name != "" && name != "@" && name != "pipe" {
			return name
		}
	}
	return anotherClient
}

// asRequestError gives an error without an id the given one.
func asRequestError(err error, id int) *requestError {
	var re *requestError
	if errors.As(err, &re) {
		return re
	}
	return newError(id, err.Error())
}
