package tunnel

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func bufioReader(r io.Reader) *bufio.Reader { return bufio.NewReader(r) }

// pipeListener hands out one end of a net.Pipe per dial, so that time in a
// synctest bubble can pass.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func newPipeListener() *pipeListener {
	return &pipeListener{make(chan net.Conn), make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { close(l.closed); return nil }
func (l *pipeListener) Addr() net.Addr { return streamAddr{} }
func (l *pipeListener) dial() net.Conn {
	a, b := net.Pipe()
	l.conns <- b
	return a
}

// No yamux in here: it pools timers, which must not leave a bubble.
func TestSlowStrangersAreCutOff(t *testing.T) {
	upgrade := "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: " + Protocol + "\r\n\r\n"
	for _, test := range []struct {
		name  string
		send  string        // one byte per interval
		every time.Duration // zero: at once
	}{
		{"says nothing", "", 0},
		{"half a request", "GET / HTTP/1.1\r\nHost", 0},
		{"a byte per second", upgrade + upgrade, time.Second},
		{"upgrades and says nothing", upgrade, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			keys := newPair(t)
			agentPin := pin(t, keys.client)
			synctest.Test(t, func(t *testing.T) {
				l := newPipeListener()
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() {
					done <- Listen(ctx, l, keys.agent, agentPin, slog.New(slog.DiscardHandler), func(context.Context, *Session) { t.Error("a session") })
				}()
				began := time.Now()
				conn := l.dial()
				var stranger sync.WaitGroup
				stranger.Go(func() {
					for _, b := range []byte(test.send) {
						if _, err := conn.Write([]byte{b}); err != nil {
							return
						}
						time.Sleep(test.every) // virtual: the stranger is slow
					}
				})
				_, _ = io.Copy(io.Discard, conn)
				if took := time.Since(began); took > handshakeTimeout+2*time.Second {
					t.Errorf("the connection stayed open for %v; want %v", took, handshakeTimeout)
				}
				_ = conn.Close()
				stranger.Wait()
				cancel()
				if err := <-done; err != nil {
					t.Errorf("Listen: %v", err)
				}
			})
		})
	}
}

func TestAnAgentThatSaysNothingIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, b) }()
		began := time.Now()
		if _, err := UpgradeStream(a); err == nil {
			t.Error("no error")
		}
		if took := time.Since(began); took != handshakeTimeout {
			t.Errorf("gave up after %v; want %v", took, handshakeTimeout)
		}
	})
}
