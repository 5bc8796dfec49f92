package tunnel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Protocol is the token of the HTTP upgrade that opens a tunnel.
const Protocol = "kubedelve.dev.v1"

// maxUnauthenticated bounds how many connections may be on their way to a
// finished handshake at a time.
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
		return nil, errors.New("tunnel: the connection was not upgraded")
	}
	return stream, nil
}

// UpgradeStream opens the tunnel on a connection that leads straight to the
// agent, without an HTTP client: a unix socket, exec's streams, a TCP connection.
func UpgradeStream(stream io.ReadWriteCloser) (io.ReadWriteCloser, error) {
	req, err := RequestUpgrade(context.Background(), "http://agent/")
	if err == nil {
		err = req.Write(stream)
	}
	if err != nil {
		_ = stream.Close()
		return nil, fmt.Errorf("tunnel request: %w", err)
	}
	r := bufio.NewReader(stream)
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		_ = stream.Close()
		return nil, fmt.Errorf("tunnel request: %w", err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer func() { _ = stream.Close() }()
		return Upgraded(resp)
	}
	return &bufferedStream{ReadWriteCloser: stream, r: r}, nil
}

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
	waiting := make(chan struct{}, maxUnauthenticated)
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("tunnel listener: %w", err)
		}
		select {
		case waiting <- struct{}{}:
		default:
			_ = conn.Close() // too many half-open ones: the honest client tries again
			continue
		}
		sessions.Go(func() { // one connection, until its session ends
			var once sync.Once
			release := func() { once.Do(func() { <-waiting }) }
			defer release()
			session, err := acceptUpgrade(ctx, conn, own, clientPin)
			if err != nil {
				log.Debug("connection refused", "from", conn.RemoteAddr().String(), "error", err)
				return
			}
			release()
			defer func() { _ = session.Close() }()
			handle(ctx, session)
		})
	}
}

func acceptUpgrade(ctx context.Context, conn net.Conn, own Identity, clientPin string) (*Session, error) {
	_ = conn.SetDeadline(time.Now().Add(handshakeTimeout))
	limited := &io.LimitedReader{R: conn, N: maxRequest}
	buffered := bufio.NewReader(limited)
	req, err := http.ReadRequest(buffered)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("reading the upgrade request: %w", err)
	}
	if !strings.EqualFold(req.Header.Get("Upgrade"), Protocol) {
		_, _ = io.WriteString(conn, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		_ = conn.Close()
		return nil, errors.New("not a tunnel request")
	}
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+Protocol+"\r\n\r\n"); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("answering the upgrade request: %w", err)
	}
	limited.N = 1<<63 - 1
	session, err := Server(ctx, &bufferedConn{Conn: conn, r: buffered}, own, clientPin)
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

type bufferedStream struct {
	io.ReadWriteCloser
	r *bufio.Reader
}

func (s *bufferedStream) Read(p []byte) (int, error) { return s.r.Read(p) }
