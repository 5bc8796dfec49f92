package tunnel

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/kubedelve/kubedelve/internal/leakcheck"
)

// patience is how long a test waits for anything: much, since the machine may be
// busy, and it costs nothing when all is well.
const patience = 30 * time.Second

// checkLeaks fails the test if a goroutine of ours is left when it is over.
func checkLeaks(t testing.TB) {
	t.Helper()
	leakcheck.Goroutines(t, "hashicorp/yamux")
}

type pair struct{ agent, client Identity }

func newPair(t testing.TB) pair {
	t.Helper()
	agent, client, err := NewPair()
	if err != nil {
		t.Fatal(err)
	}
	return pair{agent, client}
}

func pin(t testing.TB, i Identity) string {
	t.Helper()
	p, err := i.Pin()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// serve listens on a loopback port for the test's duration.
func serve(t testing.TB, keys pair, handle func(context.Context, *Session)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, l, keys, handle)
	return l.Addr().String()
}

func serveOn(t testing.TB, l net.Listener, keys pair, handle func(context.Context, *Session)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Listen(ctx, l, keys.agent, pin(t, keys.client), slog.New(slog.DiscardHandler), handle) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Listen: %v", err)
			}
		case <-time.After(patience):
			t.Error("Listen did not return")
		}
	})
}

// echo handles a session by sending back what each stream brings.
func echo(ctx context.Context, s *Session) {
	s.Serve(ctx, slog.New(slog.DiscardHandler), func(_ context.Context, stream *Stream) {
		_, _ = io.Copy(stream, stream)
	})
}

func dial(t testing.TB, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// connect opens a session as the client with the identity own.
func connect(t testing.TB, address string, own Identity, agentPin string) (*Session, error) {
	t.Helper()
	stream, err := UpgradeStream(dial(t, address))
	if err != nil {
		t.Fatal(err)
	}
	s, err := Client(t.Context(), stream, own, agentPin)
	if err == nil {
		t.Cleanup(func() { _ = s.Close() })
	}
	return s, err
}

func mustConnect(t testing.TB, address string, keys pair) *Session {
	t.Helper()
	s, err := connect(t, address, keys.client, pin(t, keys.agent))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustOpen(t testing.TB, s *Session) *Stream {
	t.Helper()
	stream, err := s.Open()
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// within fails the test if f takes longer than patience.
func within(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(patience):
		buf := make([]byte, 1<<20)
		t.Fatalf("%s took longer than %v\n%s", what, patience, buf[:runtime.Stack(buf, true)])
	}
}

func TestStreamsCarryBytesBothWays(t *testing.T) {
	checkLeaks(t)
	keys := newPair(t)
	s := mustConnect(t, serve(t, keys, echo), keys)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			sent := make([]byte, 3<<20)
			_, _ = rand.Read(sent)
			stream, err := s.Open()
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = stream.Close() }()
			go func() {
				_, _ = stream.Write(sent)
				_ = stream.CloseWrite()
			}()
			got, err := io.ReadAll(stream)
			if err != nil || sha256.Sum256(got) != sha256.Sum256(sent) {
				t.Errorf("got %d bytes and error %v; want the %d bytes sent", len(got), err, len(sent))
			}
		})
	}
	within(t, "the round trips", all.Wait)
}

func TestOtherKeysAreRefused(t *testing.T) {
	keys, strangers := newPair(t), newPair(t)
	for _, test := range []struct {
		name     string
		own      Identity
		agentPin string
	}{
		{"the client holds another key", strangers.client, pin(t, keys.agent)},
		{"the agent holds another key", keys.client, pin(t, strangers.agent)},
		{"the client shows the agent's certificate", keys.agent, pin(t, keys.agent)},
	} {
		t.Run(test.name, func(t *testing.T) {
			checkLeaks(t)
			reached := make(chan struct{}, 1)
			address := serve(t, keys, func(context.Context, *Session) { reached <- struct{}{} })
			// The refusal must not get lost in a reset connection: try often.
			for range 20 {
				s, err := connect(t, address, test.own, test.agentPin)
				if !errors.Is(err, ErrPeer) {
					t.Fatalf("got session %v and error %v; want ErrPeer", s, err)
				}
			}
			select {
			case <-reached:
				t.Error("a session was served")
			default:
			}
		})
	}
}

func TestServerTellsARefusal(t *testing.T) {
	checkLeaks(t)
	keys, strangers := newPair(t), newPair(t)
	a, b := net.Pipe()
	go func() { _, _ = Client(t.Context(), b, strangers.client, pin(t, keys.agent)) }()
	if _, err := Server(t.Context(), a, keys.agent, pin(t, keys.client)); !errors.Is(err, ErrPeer) {
		t.Errorf("got %v; want ErrPeer", err)
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	checkLeaks(t)
	keys := newPair(t)
	stream, err := UpgradeStream(dial(t, serve(t, keys, echo)))
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := config(keys.client, pin(t, keys.agent))
	if err != nil {
		t.Fatal(err)
	}
	cfg.MinVersion, cfg.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if err := tls.Client(netConn(stream), cfg).HandshakeContext(t.Context()); err == nil {
		t.Error("a TLS 1.2 handshake succeeded")
	}
}

func TestACertificateIsRequired(t *testing.T) {
	checkLeaks(t)
	keys := newPair(t)
	stream, err := UpgradeStream(dial(t, serve(t, keys, echo)))
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(netConn(stream), &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // it is the test
	if err := conn.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err) // TLS 1.3: the client does not know yet
	}
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("got %d bytes without a certificate", n)
	}
}

func TestBadIdentitiesAreErrors(t *testing.T) {
	keys := newPair(t)
	for _, test := range []struct {
		name, pin string
		own       Identity
	}{
		{"a short pin", "abc", keys.client},
		{"no pin", "", keys.client},
		{"no identity", pin(t, keys.agent), Identity{}},
		{"another one's key", pin(t, keys.agent), Identity{Certificate: keys.client.Certificate, Key: keys.agent.Key}},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, b := net.Pipe()
			if _, err := Client(t.Context(), a, test.own, test.pin); err == nil {
				t.Error("no error")
			}
			if _, err := b.Read(make([]byte, 1)); err != io.EOF { //nolint:errorlint // a pipe's
				t.Errorf("the stream was not closed: %v", err)
			}
		})
	}
	if _, err := (Identity{Certificate: "x"}).Pin(); err == nil {
		t.Error("Pin of no certificate: no error")
	}
}

func TestOtherRequestsAreTurnedAway(t *testing.T) {
	keys := newPair(t)
	for _, test := range []struct{ name, request, want string }{
		{"no upgrade", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 404 Not Found\r\n"},
		{"another protocol", "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "HTTP/1.1 404 Not Found\r\n"},
		{"a body nobody reads", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 30000\r\n\r\n" + strings.Repeat("x", 30000), "HTTP/1.1 404 Not Found\r\n"},
		{"garbage", "\x16\x03\x01\x00\xff\xff\x00\r\n\r\n", ""},
		{"a header without an end", "GET / HTTP/1.1\r\nX: " + strings.Repeat("x", maxRequest), ""},
		{"TLS garbage after the upgrade", "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: " + Protocol + "\r\n\r\n" + strings.Repeat("garbage ", 100), "HTTP/1.1 101 Switching Protocols\r\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			checkLeaks(t)
			conn := dial(t, serve(t, keys, echo))
			_ = conn.SetDeadline(time.Now().Add(patience))
			go func() { _, _ = io.WriteString(conn, test.request) }()
			answer, err := io.ReadAll(conn)
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				t.Fatalf("the connection stayed open; got %q", answer)
			}
			if !bytes.HasPrefix(answer, []byte(test.want)) || test.want == "" && len(answer) > 0 {
				t.Errorf("got %q; want %q", answer, test.want)
			}
		})
	}
}

func TestUpgradeRefusalsAreTold(t *testing.T) {
	for _, test := range []struct {
		name, answer string
		status       int
	}{
		{"forbidden", "HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno\n", http.StatusForbidden},
		{"bad gateway, longer than is shown", "HTTP/1.1 502 Bad Gateway\r\n\r\n" + strings.Repeat("x", 4096), http.StatusBadGateway},
		{"another upgrade", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 0},
		{"no upgrade", "HTTP/1.1 101 Switching Protocols\r\n\r\n", 0},
		{"no HTTP", "SSH-2.0-OpenSSH_9.2\r\n", 0},
		{"a header without an end", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 2*maxRequest), 0},
		{"nothing", "", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			checkLeaks(t)
			a, b := net.Pipe()
			go func() {
				_, _ = http.ReadRequest(bufioReader(b))
				_, _ = io.WriteString(b, test.answer)
				_ = b.Close()
			}()
			_, err := UpgradeStream(a)
			var refused *RefusedError
			switch {
			case err == nil:
				t.Fatal("no error")
			case test.status != 0 && (!errors.As(err, &refused) || refused.Status != test.status || len(refused.Text) > 512):
				t.Errorf("got %v; want a RefusedError with status %d", err, test.status)
			}
			if _, err := a.Write([]byte("x")); err == nil {
				t.Error("the stream was not closed")
			}
		})
	}
}

func TestHalfOpenConnectionsKeepNobodyOut(t *testing.T) {
	checkLeaks(t)
	keys := newPair(t)
	address := serve(t, keys, echo)
	var idle []net.Conn
	for range 3 * maxUnauthenticated {
		conn := dial(t, address)
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHo")
		idle = append(idle, conn)
	}
	// The oldest ones made place.
	_ = idle[0].SetDeadline(time.Now().Add(patience))
	if _, err := idle[0].Read(make([]byte, 1)); errors.Is(err, net.ErrClosed) || err == nil || isTimeout(err) {
		t.Errorf("the oldest half-open connection is still there: %v", err)
	}
	s := mustConnect(t, address, keys)
	if _, err := s.mux.Ping(); err != nil {
		t.Errorf("the honest client: %v", err)
	}
	open := 0
	for _, conn := range idle {
		_ = conn.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := conn.Read(make([]byte, 1)); isTimeout(err) {
			open++
		}
	}
	if open > maxUnauthenticated {
		t.Errorf("%d half-open connections are kept; want %d at most", open, maxUnauthenticated)
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func TestCloseOfAStreamEndsReads(t *testing.T) {
	checkLeaks(t)
	keys := newPair(t)
	far := make(chan error, 1)
	address := serve(t, keys, func(ctx context.Context, s *Session) {
		s.Serve(ctx, slog.New(slog.DiscardHandler), func(_ context.Context, stream *Stream) {
			_, _ = stream.Write([]byte("x"))
			_, err := stream.Read(make([]byte, 1))
			far <- err
		})
	})
	s := mustConnect(t, address, keys)
	stream := mustOpen(t, s)
	if _, err := io.ReadFull(stream, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	near := make(chan error, 1)
	go func() { _, err := stream.Read(make([]byte, 1)); near <- err }()
	_ = stream.Close()
	for side, read := range map[string]chan error{"near": near, "far": far} {
		select {
		case err := <-read:
			if err == nil {
				t.Errorf("the %s side's Read had no error", side)
			}
		case <-time.After(patience):
			t.Errorf("the %s side's Read did not return", side)
		}
	}
	if _, err := stream.Write([]byte("x")); err == nil {
		t.Error("a closed stream took a Write")
	}
}

func TestCloseOfAStreamEndsAWriteThatWaits(t *testing.T) {
	checkLeaks(t)
	keys := newPair(t)
	address := serve(t, keys, func(ctx context.Context, s *Session) {
		s.Serve(ctx, slog.New(slog.DiscardHandler), func(ctx context.Context, _ *Stream) { <-ctx.Done() }) // reads nothing
	})
	s := mustConnect(t, address, keys)
	stream := mustOpen(t, s)
	wrote := make(chan error, 1)
	go func() { _, err := stream.Write(make([]byte, 64<<20)); wrote <- err }()
	_ = stream.Close()
	select {
	case err := <-wrote:
		if err == nil {
			t.Error("64 MiB were written to a stream that nobody reads")
		}
	case <-time.After(patience):
		t.Error("the Write did not return")
	}
}

func TestCloseWriteLeavesReadsOpen(t *testing.T) {
	checkLeaks(t)
	keys := newPair(t)
	address := serve(t, keys, func(ctx context.Context, s *Session) {
		s.Serve(ctx, slog.New(slog.DiscardHandler), func(_ context.Context, stream *Stream) {
			all, _ := io.ReadAll(stream)
			_, _ = stream.Write(bytes.ToUpper(all))
		})
	})
	stream := mustOpen(t, mustConnect(t, address, keys))
	_, _ = stream.Write([]byte("hello"))
	_ = stream.CloseWrite()
	if got, err := io.ReadAll(stream); string(got) != "HELLO" {
		t.Errorf("got %q, %v; want HELLO", got, err)
	}
}

func TestEndOfASessionEndsItsStreams(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(client, agent *Session, wire net.Conn)
	}{
		{"the client closes", func(client, _ *Session, _ net.Conn) { _ = client.Close() }},
		{"the agent closes", func(_, agent *Session, _ net.Conn) { _ = agent.mux.Close() }},
		{"the connection breaks", func(_, _ *Session, wire net.Conn) { _ = wire.Close() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			checkLeaks(t)
			keys := newPair(t)
			served, ended := make(chan *Session, 1), make(chan struct{})
			address := serve(t, keys, func(ctx context.Context, s *Session) {
				served <- s
				echo(ctx, s)
				close(ended)
			})
			wire := dial(t, address)
			upgraded, err := UpgradeStream(wire)
			if err != nil {
				t.Fatal(err)
			}
			s, err := Client(t.Context(), upgraded, keys.client, pin(t, keys.agent))
			if err != nil {
				t.Fatal(err)
			}
			stream := mustOpen(t, s)
			_, _ = stream.Write([]byte("x"))
			if _, err := io.ReadFull(stream, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			test.end(s, <-served, wire)
			within(t, "the end of the stream", func() {
				if _, err := stream.Read(make([]byte, 1)); err == nil {
					t.Error("Read had no error")
				}
			})
			within(t, "Done", func() { <-s.Done() })
			within(t, "the agent's Serve", func() { <-ended })
			if _, err := s.Open(); err == nil {
				t.Error("a stream was opened in an ended session")
			}
			within(t, "Close, twice", func() { _ = s.Close(); _ = s.Close() })
		})
	}
}

func TestStreamsBeyondTheLimitAreClosed(t *testing.T) {
	checkLeaks(t)
	keys := newPair(t)
	s := mustConnect(t, serve(t, keys, echo), keys)
	var streams []*Stream
	for range maxStreams {
		stream := mustOpen(t, s)
		_, _ = stream.Write([]byte("x"))
		if _, err := io.ReadFull(stream, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		streams = append(streams, stream)
	}
	extra := mustOpen(t, s)
	within(t, "the extra stream's end", func() {
		if n, err := extra.Read(make([]byte, 1)); err == nil {
			t.Errorf("got %d bytes from stream %d", n, maxStreams+1)
		}
	})
	_ = extra.Close()
	_ = streams[0].Close()
	for range 1000 { // the place is free when the handler has returned
		again := mustOpen(t, s)
		_, _ = again.Write([]byte("y"))
		if _, err := io.ReadFull(again, make([]byte, 1)); err == nil {
			return
		}
		_ = again.Close()
	}
	t.Error("no place became free")
}

func TestCancelEndsAHandshake(t *testing.T) {
	checkLeaks(t)
	keys := newPair(t)
	a, b := net.Pipe()
	defer func() { _ = b.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, _ = b.Read(make([]byte, 1)) // the client has begun
		cancel()
	}()
	if _, err := Client(ctx, a, keys.client, pin(t, keys.agent)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v; want context.Canceled", err)
	}
}

// blackhole is a connection that from some moment on loses what is written to it.
type blackhole struct {
	net.Conn
	mu   sync.Mutex
	lost bool
}

func (b *blackhole) Write(p []byte) (int, error) {
	b.mu.Lock()
	lost := b.lost
	b.mu.Unlock()
	if lost {
		return len(p), nil
	}
	return b.Conn.Write(p)
}

func TestASilentLossEndsTheSession(t *testing.T) {
	checkLeaks(t)
	keys := newPair(t)
	client, agent := sessions(t, keys, 200*time.Millisecond)
	if _, err := client.session.mux.Ping(); err != nil {
		t.Fatal(err)
	}
	for _, side := range []*wired{client, agent} {
		side.wire.mu.Lock()
		side.wire.lost = true
		side.wire.mu.Unlock()
	}
	within(t, "noticing", func() { <-client.session.Done(); <-agent.session.Done() })
}

func TestAnIdleSessionStays(t *testing.T) {
	checkLeaks(t)
	client, agent := sessions(t, newPair(t), 20*time.Millisecond)
	select {
	case <-client.session.Done():
		t.Error("the client ended")
	case <-agent.session.Done():
		t.Error("the agent ended")
	case <-time.After(300 * time.Millisecond): // 15 intervals
	}
}

type wired struct {
	session *Session
	wire    *blackhole
}

// sessions makes the two ends of a session that asks for signs of life often.
func sessions(t *testing.T, keys pair, interval time.Duration) (client, agent *wired) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	client = &wired{wire: &blackhole{Conn: dial(t, l.Addr().String())}}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	agent = &wired{wire: &blackhole{Conn: conn}}
	agentCfg, err := config(keys.agent, pin(t, keys.client))
	if err != nil {
		t.Fatal(err)
	}
	clientCfg, err := config(keys.client, pin(t, keys.agent))
	if err != nil {
		t.Fatal(err)
	}
	confirm := func(*Session) error { return nil }
	var both sync.WaitGroup
	both.Go(func() {
		h := handshake{func(c net.Conn) *tls.Conn { return tls.Server(c, agentCfg) }, yamux.Server, confirm, interval}
		if agent.session, err = h.run(t.Context(), agent.wire); err != nil {
			t.Error(err)
		}
	})
	h := handshake{func(c net.Conn) *tls.Conn { return tls.Client(c, clientCfg) }, yamux.Client, confirm, interval}
	var clientErr error
	if client.session, clientErr = h.run(t.Context(), client.wire); clientErr != nil {
		t.Error(clientErr)
	}
	both.Wait()
	if t.Failed() {
		t.FailNow()
	}
	t.Cleanup(func() { _ = client.session.Close(); _ = agent.session.Close() })
	return client, agent
}

// deaf is a byte stream without deadlines whose other side reads nothing.
type deaf struct {
	io.ReadWriteCloser
	mu     sync.Mutex
	closed chan struct{}
	stall  bool
}

func (d *deaf) Write(p []byte) (int, error) {
	d.mu.Lock()
	stall := d.stall
	d.mu.Unlock()
	if stall {
		<-d.closed
		return 0, io.ErrClosedPipe
	}
	return d.ReadWriteCloser.Write(p)
}

func (d *deaf) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	select {
	case <-d.closed:
	default:
		close(d.closed)
	}
	return d.ReadWriteCloser.Close()
}

// A stream of exec has no deadlines: a peer that stopped reading must not keep
// Close waiting for ever.
func TestCloseDoesNotWaitForADeafPeer(t *testing.T) {
	checkLeaks(t)
	keys := newPair(t)
	stream := &deaf{ReadWriteCloser: dial(t, serve(t, keys, echo)), closed: make(chan struct{})}
	upgraded, err := UpgradeStream(stream)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Client(t.Context(), upgraded, keys.client, pin(t, keys.agent))
	if err != nil {
		t.Fatal(err)
	}
	stream.mu.Lock()
	stream.stall = true
	stream.mu.Unlock()
	within(t, "Close", func() { _ = s.Close() })
}

// sink handles a session by reading what each stream brings.
func sink(ctx context.Context, s *Session) {
	s.Serve(ctx, slog.New(slog.DiscardHandler), func(_ context.Context, stream *Stream) {
		_, _ = io.Copy(io.Discard, stream)
	})
}
