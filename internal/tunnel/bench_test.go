package tunnel

import (
	"io"
	"net"
	"testing"
)

// plainEcho is a loopback TCP connection that sends back what it gets, for the
// ratio to the tunnel's figures in the same run.
func plainEcho(b *testing.B, handle func(net.Conn)) net.Conn {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = l.Close() })
	go func() {
		if conn, err := l.Accept(); err == nil {
			handle(conn)
		}
	}()
	return dial(b, l.Addr().String())
}

func BenchmarkRoundTrip(b *testing.B) {
	trips := func(b *testing.B, stream io.ReadWriter) {
		p := make([]byte, 1)
		for b.Loop() {
			if _, err := stream.Write(p); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(stream, p); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("tcp", func(b *testing.B) { trips(b, plainEcho(b, func(c net.Conn) { _, _ = io.Copy(c, c) })) })
	b.Run("tunnel", func(b *testing.B) {
		keys := newPair(b)
		trips(b, mustOpen(b, mustConnect(b, serve(b, keys, echo), keys)))
	})
}

func BenchmarkThroughput(b *testing.B) {
	const piece = 128 << 10
	send := func(b *testing.B, stream io.ReadWriter) {
		b.SetBytes(piece)
		go func() { _, _ = io.Copy(io.Discard, stream) }()
		p := make([]byte, piece)
		for b.Loop() {
			if _, err := stream.Write(p); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("tcp", func(b *testing.B) { send(b, plainEcho(b, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })) })
	b.Run("tunnel", func(b *testing.B) {
		keys := newPair(b)
		send(b, mustOpen(b, mustConnect(b, serve(b, keys, sink), keys)))
	})
}
