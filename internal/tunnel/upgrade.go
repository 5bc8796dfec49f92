package tunnel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Protocol is the token of the HTTP upgrade that opens a tunnel.
const Protocol = "kubedelve.dev.v1"

// maxUnauthenticated bounds how many connections may be on their way to a
// finished handshake at a time, and with that what strangers can cost.
const maxUnauthenticated = 32

// maxRequest bounds the upgrade request, which the API server may have given
// some headers of its own.
const maxRequest = 64 << 10

// RequestUpgrade returns the request that turns an HTTP/1.1 connection to url
// into a tunnel's byte stream, for a client whose RoundTripper adds what the
// way needs (credentials, a proxy). See [Upgraded] for its answer.
func RequestUpgrade(ctx context.Context, url string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("tunnel request: %w", err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", Protocol)
	return req, nil
}

// Upgraded takes the byte stream from the answer to [RequestUpgrade], or tells
// why there is none. It consumes the response in either case.
func Upgraded(resp *http.Response) (io.ReadWriteCloser, error) {
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer func() { _ = resp.Body.Close() }()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
		return nil, &RefusedError{Status: resp.StatusCode, Text: strings.TrimSpace(string(text))}
	}
	// net/http gives the connection as the body of a 101 response.
	stream, ok := resp.Body.(io.ReadWriteCloser)
	if !ok || !strings.EqualFold(resp.Header.Get("Upgrade"), Protocol) {
		_ = resp.Body.Close()
		return nil, errNotUpgraded
	}
	return stream, nil
}

// UpgradeStream opens the tunnel on a connection that leads straight to the
// agent, without an HTTP client: a unix socket, exec's streams, a TCP connection.
// It takes the stream over, and gives up on one that says nothing.
func UpgradeStream(stream io.ReadWriteCloser) (io.ReadWriteCloser, error) {
	patience := time.AfterFunc(handshakeTimeout, func() { _ = stream.Close() })
	upgraded, err := upgradeStream(stream)
	if !patience.Stop() {
		_ = stream.Close()
		return nil, fmt.Errorf("tunnel request: no answer in %v", handshakeTimeout)
	}
	if err != nil {
		_ = stream.Close()
		return nil, err
	}
	return upgraded, nil
}

func upgradeStream(stream io.ReadWriteCloser) (io.ReadWriteCloser, error) {
	req, err := RequestUpgrade(context.Background(), "http://agent/")
	if err != nil {
		return nil, err
	}
	if err := req.Write(stream); err != nil {
		return nil, fmt.Errorf("tunnel request: %w", err)
	}
	limited := &io.LimitedReader{R: stream, N: maxRequest}
	r := bufio.NewReader(limited)
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		return nil, fmt.Errorf("tunnel request: %w", err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return Upgraded(resp)
	}
	if !strings.EqualFold(resp.Header.Get("Upgrade"), Protocol) {
		return nil, errNotUpgraded
	}
	limited.N = math.MaxInt64
	if conn, ok := stream.(net.Conn); ok {
		return &bufferedConn{Conn: conn, r: r}, nil // keeps its deadlines
	}
	return &bufferedStream{ReadWriteCloser: stream, r: r}, nil
}

var errNotUpgraded = errors.New("tunnel: the connection was not upgraded")

// RefusedError is an upgrade answered with another status than 101.
type RefusedError struct {
	Status int
	Text   string // the beginning of the answer's body
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("tunnel refused: %d %s: %s", e.Status, http.StatusText(e.Status), e.Text)
}

// Listen serves the agent's port: every connection that upgrades and holds the
// client's key becomes a [Session] given to handle, whose return ends it. It
// returns when ctx is cancelled or the listener fails, after all sessions have
// ended.
func Listen(ctx context.Context, l net.Listener, own Identity, clientPin string, log *slog.Logger, handle func(context.Context, *Session)) error {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var sessions sync.WaitGroup
	defer func() { cancel(); sessions.Wait() }()
	var strangers strangers
	for {
		conn, err := accept(ctx, l)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("tunnel listener: %w", err)
		}
		strangers.add(conn)
		sessions.Go(func() { // one connection, until its session ends
			session, err := acceptUpgrade(ctx, conn, own, clientPin)
			strangers.remove(conn)
			if err != nil {
				log.Debug("connection refused", "from", conn.RemoteAddr().String(), "error", err)
				return
			}
			defer func() { _ = session.Close() }()
			handle(ctx, session)
		})
	}
}

// accept waits out what passes: a port that everybody reaches must not end the
// component because the machine was short of descriptors for a moment.
func accept(ctx context.Context, l net.Listener) (net.Conn, error) {
	for delay := 5 * time.Millisecond; ; delay = min(2*delay, time.Second) {
		conn, err := l.Accept()
		passing := errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ECONNABORTED) ||
			errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM)
		if err == nil || !passing {
			return conn, err
		}
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, err
		}
	}
}

// strangers are the connections on their way to a finished handshake. There are
// maxUnauthenticated at most: the oldest makes place for the next, so that one who
// opens connections and says nothing keeps nobody out. An honest handshake takes
// milliseconds.
type strangers struct {
	mu    sync.Mutex
	conns []net.Conn // the oldest first
}

func (s *strangers) add(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = append(s.conns, conn)
	if len(s.conns) > maxUnauthenticated {
		_ = s.conns[0].Close()
		s.conns = slices.Delete(s.conns, 0, 1)
	}
}

func (s *strangers) remove(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = slices.DeleteFunc(s.conns, func(c net.Conn) bool { return c == conn })
}

func acceptUpgrade(ctx context.Context, conn net.Conn, own Identity, clientPin string) (*Session, error) {
	_ = conn.SetDeadline(time.Now().Add(handshakeTimeout))
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	limited := &io.LimitedReader{R: conn, N: maxRequest}
	buffered := &bufferedConn{Conn: conn, r: bufio.NewReader(limited)}
	req, err := http.ReadRequest(buffered.r)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("reading the upgrade request: %w", err)
	}
	if !strings.EqualFold(req.Header.Get("Upgrade"), Protocol) {
		_, _ = io.WriteString(conn, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		linger(buffered)
		return nil, errors.New("not a tunnel request")
	}
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+Protocol+"\r\n\r\n"); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("answering the upgrade request: %w", err)
	}
	limited.N = math.MaxInt64
	session, err := Server(ctx, buffered, own, clientPin)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Time{})
	return session, nil
}

// bufferedConn is a connection some of which has been read ahead.
type bufferedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c *bufferedConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// CloseWrite is for linger.
func (c *bufferedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

type bufferedStream struct {
	io.ReadWriteCloser
	r *bufio.Reader
}

func (s *bufferedStream) Read(p []byte) (int, error) { return s.r.Read(p) }
