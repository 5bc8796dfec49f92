package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/hashicorp/yamux"
)

// handshakeTimeout bounds what an unauthenticated peer may make the agent wait.
const handshakeTimeout = 15 * time.Second

// Session is one authenticated connection between kubedelve and its agent. Its
// methods may be called from any goroutine.
type Session struct {
	mux  *yamux.Session
	conn *tls.Conn
}

// Client runs the handshake as the side that connects: kubedelve. It takes over
// stream (closing it on error) and answers [ErrPeer] if the agent is another.
func Client(ctx context.Context, stream io.ReadWriteCloser, own Identity, agentPin string) (*Session, error) {
	cfg, err := config(own, agentPin)
	if err != nil {
		_ = stream.Close()
		return nil, err
	}
	session, err := secure(ctx, stream, func(c net.Conn) *tls.Conn { return tls.Client(c, cfg) }, yamux.Client)
	if err != nil {
		return nil, err
	}
	// In TLS 1.3 the client is done before the agent has looked at its
	// certificate, so only an answer tells that it was accepted.
	if _, err := session.mux.Ping(); err != nil {
		_ = session.Close()
		return nil, fmt.Errorf("%w: the agent closed the connection: %w", ErrPeer, err)
	}
	return session, nil
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
	return secure(ctx, stream, func(c net.Conn) *tls.Conn { return tls.Server(c, cfg) }, yamux.Server)
}

func secure(ctx context.Context, stream io.ReadWriteCloser, wrap func(net.Conn) *tls.Conn, side func(io.ReadWriteCloser, *yamux.Config) (*yamux.Session, error)) (*Session, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	conn := wrap(netConn(stream))
	// HandshakeContext closes the connection when ctx ends, which also ends a
	// Read that has no deadline of its own.
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = stream.Close()
		return nil, fmt.Errorf("tunnel handshake: %w", err)
	}
	cfg := yamux.DefaultConfig()
	cfg.LogOutput = nil
	cfg.Logger = discard{}
	cfg.KeepAliveInterval = 10 * time.Second // a silent network loss is noticed in 20 s at most
	cfg.ConnectionWriteTimeout = 10 * time.Second
	// The default of 256 KiB caps an upload at 256 KiB per round trip.
	cfg.MaxStreamWindowSize = 16 << 20
	mux, err := side(conn, cfg)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("tunnel: %w", err)
	}
	return &Session{mux: mux, conn: conn}, nil
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
	return &Stream{opened}, nil
}

// Stream is one of a session's byte streams.
type Stream struct{ *yamux.Stream }

// CloseWrite tells the other side that nothing more comes; what it sends can still
// be read.
func (s *Stream) CloseWrite() error { return s.Stream.Close() }

// Close ends the stream in both directions, and Reads and Writes that wait.
func (s *Stream) Close() error {
	// A closed yamux stream still waits for the other side's end.
	_ = s.Stream.SetDeadline(time.Unix(0, 1))
	return s.Stream.Close()
}

// Done is closed when the session has ended, from either side or by a lost
// connection.
func (s *Session) Done() <-chan struct{} { return s.mux.CloseChan() }

// Close ends the session and all of its streams. It is idempotent.
func (s *Session) Close() error { return s.mux.Close() }

// Serve handles each stream of the session in a goroutine of its own until the
// session ends or ctx is cancelled; it returns when all handlers have returned.
// The handler closes its stream by returning.
func (s *Session) Serve(ctx context.Context, log *slog.Logger, handle func(context.Context, *Stream)) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	handlers := make(chan struct{}, maxStreams)
	for {
		accepted, err := s.mux.AcceptStream()
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, yamux.ErrSessionShutdown) {
				log.Debug("tunnel session ended", "error", err)
			}
			break
		}
		stream := &Stream{accepted}
		handlers <- struct{}{} // bounded: a client can't make the agent start more
		go func() {            // ends with the handler, which ends with its stream or ctx
			defer func() { _ = stream.Close(); <-handlers }()
			handle(ctx, stream)
		}()
	}
	cancel()
	for range cap(handlers) {
		handlers <- struct{}{}
	}
}

// maxStreams is how many streams of one session are served at a time.
const maxStreams = 256

// netConn makes a net.Conn of any byte stream, for crypto/tls, which asks for
// one but uses its deadlines only to interrupt a handshake or a close.
func netConn(stream io.ReadWriteCloser) net.Conn {
	if c, ok := stream.(net.Conn); ok {
		return c
	}
	return streamConn{stream}
}

type streamConn struct{ io.ReadWriteCloser }

type streamAddr struct{}

func (streamAddr) Network() string { return "stream" }
func (streamAddr) String() string  { return "stream" }

func (streamConn) LocalAddr() net.Addr              { return streamAddr{} }
func (streamConn) RemoteAddr() net.Addr             { return streamAddr{} }
func (streamConn) SetDeadline(time.Time) error      { return nil }
func (streamConn) SetReadDeadline(time.Time) error  { return nil }
func (streamConn) SetWriteDeadline(time.Time) error { return nil }
