package resumable

import (
	"io"
	"net"
	"slices"
	"testing"
	"time"
)

// BenchmarkRoundTrip compares a request and its answer through a stream with one
// through a bare connection of the same kind, in turns, since a machine that is
// never quiet gives ratios and no figures.
func BenchmarkRoundTrip(b *testing.B) {
	for _, size := range []struct {
		name            string
		request, answer int
	}{{"small", 150, 300}, {"large", 150, 60 << 10}} {
		b.Run(size.name, func(b *testing.B) {
			request, answer := make([]byte, size.request), make([]byte, size.answer)
			var clients [2]net.Conn
			for i, open := range ways() {
				client, server, stop := open(b)
				defer stop()
				go func() {
					request, answer := make([]byte, size.request), make([]byte, size.answer)
					for {
						if _, err := io.ReadFull(server, request); err != nil {
							return
						}
						if _, err := server.Write(answer); err != nil {
							return
						}
					}
				}()
				clients[i] = client
			}
			var took [2][]time.Duration
			for b.Loop() {
				for i, client := range clients {
					began := time.Now()
					if _, err := client.Write(request); err != nil {
						b.Fatal(err)
					}
					if _, err := io.ReadFull(client, answer); err != nil {
						b.Fatal(err)
					}
					took[i] = append(took[i], time.Since(began))
				}
			}
			for i := range took {
				slices.Sort(took[i])
			}
			bare, stream := took[0][len(took[0])/2], took[1][len(took[1])/2]
			b.ReportMetric(float64(bare.Nanoseconds()), "bare-p50-ns")
			b.ReportMetric(float64(stream.Nanoseconds()), "stream-p50-ns")
			b.ReportMetric(float64(stream-bare)/1e3, "more-µs")
			b.ReportMetric(float64(stream)/float64(bare), "ratio")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkThroughput sends one way, in pieces as io.Copy makes them.
func BenchmarkThroughput(b *testing.B) {
	for i, open := range ways() {
		b.Run([]string{"bare", "stream"}[i], func(b *testing.B) {
			client, server, stop := open(b)
			defer stop()
			received := make(chan struct{})
			go func() {
				_, _ = io.Copy(io.Discard, server)
				close(received)
			}()
			piece := make([]byte, 32<<10)
			b.SetBytes(int64(len(piece)))
			for b.Loop() {
				if _, err := client.Write(piece); err != nil {
					b.Fatal(err)
				}
			}
			_ = client.Close()
			<-received
		})
	}
}

// ways are the bare connection and the stream.
func ways() [2]func(testing.TB) (client, server net.Conn, stop func()) {
	return [2]func(testing.TB) (client, server net.Conn, stop func()){
		func(t testing.TB) (client, server net.Conn, stop func()) {
			client, server = sockets(t)
			return client, server, func() { _, _ = client.Close(), server.Close() }
		},
		func(t testing.TB) (client, server net.Conn, stop func()) {
			n := newLine(t, sockets, forEver)
			return n.a, n.b, func() { _, _ = n.a.Close(), n.b.Close() }
		},
	}
}
