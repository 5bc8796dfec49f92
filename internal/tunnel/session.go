package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"
)

// handshakeTimeout bounds what an unauthenticated peer may make the agent wait.
const handshakeTimeout = 15 * time.Second

// keepAliveInterval is how long a session may be silent before it asks whether
// the other side is there, and how long it waits for the answer.
const keepAliveInterval = 10 * time.Second

// Session is one authenticated connection between kubedelve and its agent. Its
// methods may be called from any goroutine.
type Session struct {
	mux   *yamux.Session
	conn  *meteredConn
	alive sync.WaitGroup // counts keepAlive

	mu      sync.Mutex           // guards all below
	streams map[*Stream]struct{} // those not closed by this side
	ended   bool                 // the streams' deadlines have passed
}

// Client runs the handshake as the side that connects: kubedelve. It takes over
// stream (closing it on error) and answers [ErrPeer] if either side holds another
// key than the other expects.
func Client(ctx context.Context, stream io.ReadWriteCloser, own Identity, agentPin string) (*Session, error) {
	cfg, err := config(own, agentPin)
	if err != nil {
		_ = stream.Close()
		return nil, err
	}
	// In TLS 1.3 the client is done before the agent has looked at its
	// certificate, so only an answer tells that it was accepted. The client says
	// nothing before: bytes that the agent has not read when it refuses would
	// make the kernel reset the connection and lose the refusal.
	h := handshake{
		wrap: func(c net.Conn) *tls.Conn { return tls.Client(c, cfg) }, side: yamux.Client, interval: keepAliveInterval,
		confirm: func(s *Session) error {
			<-s.conn.answered // something was read, or an error
			return s.conn.failure()
		},
	}
	return h.run(ctx, stream)
}

// Server runs the handshake as the side that is connected to: the agent. It
// takes over stream (closing it on error) and answers [ErrPeer] to a client
// that holds another key.
func Server(ctx context.Context, stream io.ReadWriteCloser, own Identity, clientPin string) (*Session, error) {
	cfg, err := config(own, clientPin)
	if err != nil {
		_ = stream.Close()
		return nil, err
	}
	h := handshake{
		wrap: func(c net.Conn) *tls.Conn { return tls.Server(c, cfg) }, side: yamux.Server, interval: keepAliveInterval,
		confirm: func(s *Session) error {
			_, err := s.mux.Ping() // the answer that the client waits for
			return err
		},
	}
	return h.run(ctx, stream)
}

// handshake is what the two sides do differently.
type handshake struct {
	wrap     func(net.Conn) *tls.Conn
	side     func(io.ReadWriteCloser, *yamux.Config) (*yamux.Session, error)
	confirm  func(*Session) error // ends at the latest when the session does
	interval time.Duration        // see keepAliveInterval
}

// run makes a session of a byte stream within handshakeTimeout.
func (h handshake) run(ctx context.Context, stream io.ReadWriteCloser) (*Session, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, handshakeTimeout, errors.New("the other side did not answer"))
	defer cancel()
	conn := h.wrap(netConn(stream))
	// HandshakeContext closes the connection when ctx ends, which also ends a
	// Read that has no deadline of its own.
	if err := conn.HandshakeContext(ctx); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		linger(stream)
		return nil, fmt.Errorf("tunnel handshake: %w", peerError(err))
	}
	cfg := yamux.DefaultConfig()
	cfg.LogOutput = nil
	cfg.Logger = discard{}
	cfg.EnableKeepAlive = false // see keepAlive
	cfg.ConnectionWriteTimeout = h.interval
	// The default caps an upload at 256 KiB per round trip; what a receiver that
	// lags has to hold is several times the window, since buffers double.
	cfg.MaxStreamWindowSize = 4 << 20
	s := &Session{conn: &meteredConn{Conn: conn, answered: make(chan struct{})}, streams: map[*Stream]struct{}{}}
	mux, err := h.side(s.conn, cfg)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("tunnel: %w", err)
	}
	s.mux = mux
	stop := context.AfterFunc(ctx, func() { _ = mux.Close() })
	err = h.confirm(s)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = mux.Close()
		return nil, fmt.Errorf("tunnel handshake: %w", peerError(err))
	}
	s.alive.Go(func() { s.keepAlive(h.interval) }) // ends with the session
	return s, nil
}

// peerError makes [ErrPeer] of a TLS alert: with both sides of one version there
// is nothing else that they could disagree on.
func peerError(err error) error {
	var alert *net.OpError
	if errors.As(err, &alert) && alert.Op == "remote error" { // how crypto/tls marks the peer's alerts
		return fmt.Errorf("%w: %w", ErrPeer, err)
	}
	return err
}

// linger closes a connection so that what was written last is read first: a plain
// close with unread bytes in the kernel resets the connection.
func linger(stream io.ReadWriteCloser) {
	defer func() { _ = stream.Close() }()
	half, ok := stream.(interface {
		CloseWrite() error
		SetReadDeadline(time.Time) error
	})
	if !ok || half.CloseWrite() != nil || half.SetReadDeadline(time.Now().Add(time.Second)) != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, stream, maxRequest)
}

// meteredConn counts what passes, so that keepAlive need not ask a connection that
// is visibly alive, and keeps the first error of reading, which yamux hides.
type meteredConn struct {
	*tls.Conn
	read, written atomic.Int64

	once     sync.Once
	answered chan struct{} // closed when something, or an error, was read first
	err      atomic.Pointer[error]
}

func (c *meteredConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Add(int64(n))
	if err != nil {
		c.err.CompareAndSwap(nil, &err)
	}
	if n > 0 || err != nil {
		c.once.Do(func() { close(c.answered) })
	}
	return n, err
}

func (c *meteredConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.written.Add(int64(n))
	return n, err
}

// failure is the first error of reading.
func (c *meteredConn) failure() error {
	if err := c.err.Load(); err != nil {
		return *err
	}
	return nil
}

// keepAlive ends the session when the other side is silently gone: after an
// interval without a byte it asks, and waits another one for the answer. While
// bytes move in either direction it does not ask: on a slow line the answer to
// yamux's own ping would wait behind an upload for longer than any time-out.
func (s *Session) keepAlive(interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	const ping = 12 // bytes, a yamux header
	defer s.wake()
	for {
		read, written := s.conn.read.Load(), s.conn.written.Load()
		select {
		case <-s.mux.CloseChan():
			return
		case <-tick.C:
		}
		if s.conn.read.Load() != read || s.conn.written.Load() != written {
			continue
		}
		_, err := s.mux.Ping()
		if err != nil && s.conn.read.Load() == read && s.conn.written.Load()-written <= ping {
			_ = s.mux.Close()
			return
		}
	}
}

// discard is yamux's logger: what it would log arrives as errors of the streams.
type discard struct{}

func (discard) Print(...any)          {}
func (discard) Printf(string, ...any) {}
func (discard) Println(...any)        {}

// Open starts a new stream to the other side.
func (s *Session) Open() (*Stream, error) {
	opened, err := s.mux.OpenStream()
	if err != nil {
		return nil, err
	}
	return s.stream(opened), nil
}

func (s *Session) stream(opened *yamux.Stream) *Stream {
	stream := &Stream{opened, s}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[stream] = struct{}{}
	if s.ended {
		_ = stream.SetDeadline(past)
	}
	return stream
}

// wake ends what waits on the streams of an ended session. yamux does that too,
// but its waiting Reads spin until their turn has come, and many of them take all
// processors for a minute.
func (s *Session) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	for stream := range s.streams {
		_ = stream.SetDeadline(past)
	}
}

var past = time.Unix(0, 1)

// Stream is one of a session's byte streams.
type Stream struct {
	*yamux.Stream
	session *Session
}

// Read reads what has arrived. It returns io.EOF at the end of what the other side
// sent, and io.EOF or another error when the session has ended.
func (s *Stream) Read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	if errors.Is(err, yamux.ErrTimeout) && s.session.mux.IsClosed() {
		err = fmt.Errorf("tunnel: %w", io.ErrUnexpectedEOF)
	}
	return n, err
}

// CloseWrite tells the other side that nothing more comes; what it sends can still
// be read.
func (s *Stream) CloseWrite() error { return s.Stream.Close() }

// Close ends the stream in both directions, and Reads and Writes that wait here.
// The other side sees the end of what it reads; what it writes is lost.
func (s *Stream) Close() error {
	s.session.mu.Lock()
	delete(s.session.streams, s)
	s.session.mu.Unlock()
	// A closed yamux stream still waits for the other side's end.
	_ = s.Stream.SetDeadline(past)
	return s.Stream.Close()
}

// Done is closed when the session has ended, from either side or by a lost
// connection.
func (s *Session) Done() <-chan struct{} { return s.mux.CloseChan() }

// Close ends the session and all of its streams. It is idempotent.
func (s *Session) Close() error {
	err := s.mux.Close()
	s.alive.Wait()
	return err
}

// Serve handles each stream of the session in a goroutine of its own until the
// session ends or ctx is cancelled; it returns when all handlers have returned.
// The handler closes its stream by returning. Streams beyond maxStreams at a time
// are closed unheard.
func (s *Session) Serve(ctx context.Context, log *slog.Logger, handle func(context.Context, *Stream)) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { _ = s.mux.Close() })
	defer stop()
	var handlers sync.WaitGroup
	defer func() { cancel(); handlers.Wait() }()
	free := make(chan struct{}, maxStreams)
	for {
		accepted, err := s.mux.AcceptStream()
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, yamux.ErrSessionShutdown) {
				log.Debug("tunnel session ended", "error", err)
			}
			return
		}
		stream := s.stream(accepted)
		select {
		case free <- struct{}{}:
		default:
			// Left unaccepted it would make the other side end the session.
			_ = stream.Close()
			continue
		}
		handlers.Go(func() { // ends with the handler, which ends with its stream or ctx
			defer func() { _ = stream.Close(); <-free }()
			handle(ctx, stream)
		})
	}
}

// maxStreams is how many streams of one session are served at a time.
const maxStreams = 256

// netConn makes a net.Conn of any byte stream, for crypto/tls, which asks for one.
func netConn(stream io.ReadWriteCloser) net.Conn {
	if c, ok := stream.(net.Conn); ok {
		return c
	}
	return &streamConn{ReadWriteCloser: stream}
}

// streamConn is a byte stream without deadlines. crypto/tls sets one only on what
// it writes before it closes a connection, so closing the stream when it has
// passed does what is meant, and a peer that reads nothing can't hold up a Close.
type streamConn struct {
	io.ReadWriteCloser

	mu    sync.Mutex  // guards timer
	timer *time.Timer // closes the stream
}

type streamAddr struct{}

func (streamAddr) Network() string { return "stream" }
func (streamAddr) String() string  { return "stream" }

func (*streamConn) LocalAddr() net.Addr               { return streamAddr{} }
func (*streamConn) RemoteAddr() net.Addr              { return streamAddr{} }
func (c *streamConn) SetReadDeadline(time.Time) error { return nil }
func (c *streamConn) SetDeadline(t time.Time) error   { return c.SetWriteDeadline(t) }

func (c *streamConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
	if !t.IsZero() {
		c.timer = time.AfterFunc(time.Until(t), func() { _ = c.ReadWriteCloser.Close() })
	}
	return nil
}

func (c *streamConn) Close() error {
	_ = c.SetWriteDeadline(time.Time{})
	return c.ReadWriteCloser.Close()
}
