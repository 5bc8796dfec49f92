package dapserver

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// Messages of all sizes and many senders, written directly or by the queue, come in
// the order of their numbers and whole, also if the peer is slow.
func TestLinkKeepsOrder(t *testing.T) {
	tcp := func(t *testing.T) (ours, theirs net.Conn) {
		a, b := tcpPair(t)
		// So that the kernel often takes a part only.
		if err := a.SetWriteBuffer(4 << 10); err != nil {
			t.Fatal(err)
		}
		return a, b
	}
	pipe := func(*testing.T) (ours, theirs net.Conn) { return net.Pipe() }
	for name, connect := range map[string]func(*testing.T) (net.Conn, net.Conn){"tcp": tcp, "pipe": pipe} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			ours, theirs := connect(t)
			l := newLink("peer", ours, time.Minute, slog.New(slog.DiscardHandler))
			if (l.direct != nil) != (name == "tcp") {
				t.Fatalf("writes directly: %v", l.direct != nil)
			}
			const senders, each = 4, 150
			var sending sync.WaitGroup
			for n := range senders {
				sending.Go(func() {
					for i := range each {
						size := 1 << (i % 18) // up to 128 KiB, over directLimit
						msg := fmt.Sprintf(`{"seq":0,"type":"event","event":"e%d.%d","body":"%s"}`, n, i, strings.Repeat("x", size))
						env, err := parseEnvelope([]byte(msg))
						if err == nil {
							err = l.send(context.Background(), []byte(msg), &env, sendOptions{})
						}
						if err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			theirs.SetReadDeadline(deadline())
			r := newFrameReader(theirs)
			last := map[string]int{}
			for n := int64(1); n <= senders*each; n++ {
				msg, err := r.next()
				if err != nil {
					t.Fatal(err)
				}
				env, err := parseEnvelope(msg)
				if err != nil || env.seq != n {
					t.Fatalf("message %d is %.100q, %v", n, msg, err)
				}
				sender, number, _ := strings.Cut(env.event, ".")
				if want := fmt.Sprint(last[sender]); number != want {
					t.Fatalf("got %s, want its number %s", env.event, want)
				}
				if body := env.body.in(msg); len(body) != 1<<(last[sender]%18)+2 || len(bytes.Trim(body, `x"`)) > 0 {
					t.Fatalf("%s is damaged: %d bytes", env.event, len(body))
				}
				last[sender]++
			}
			sending.Wait()
			l.drain(patience)
			l.close()
			if rest, err := io.ReadAll(theirs); len(rest) > 0 {
				t.Errorf("got %.100q, %v after the last message", rest, err)
			}
		})
	}
}
