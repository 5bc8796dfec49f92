package resumable

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/nettest"
	"golang.org/x/sys/unix"

	"github.com/kubedelve/kubedelve/internal/leakcheck"
)

const patience = 60 * time.Second

// sockets are the ends of a connection with the kernel's buffers in between.
func sockets(t testing.TB) (a, b net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ends := make([]net.Conn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	return ends[0], ends[1]
}

// pipe are the ends of a connection without any buffer.
func pipe(testing.TB) (a, b net.Conn) { return net.Pipe() }

// line is what carries a stream between two ends: one connection after the other.
type line struct {
	a, b *Conn

	mu       sync.Mutex
	carriers []net.Conn // those in use
	stopped  bool

	links atomic.Int64  // so many connections there have been
	over  chan struct{} // closed when both ends' Carry has said that it is over
	done  chan struct{} // closed when nothing runs any more
}

// cut is a carrier that dies, from both sides, after so many bytes.
type cut struct {
	net.Conn
	other net.Conn
	left  *atomic.Int64
	gone  chan struct{}
	once  *sync.Once
}

func (c *cut) Write(p []byte) (int, error) {
	left := c.left.Add(-int64(len(p)))
	if left >= 0 {
		return c.Conn.Write(p)
	}
	n, _ := c.Conn.Write(p[:max(0, len(p)+int(left))])
	_ = c.Close()
	return n, errors.New("cut")
}

func (c *cut) Close() error {
	c.once.Do(func() { close(c.gone) })
	_ = c.other.Close()
	return c.Conn.Close()
}

// newLine joins two ends. Each connection lives for as many bytes as life says.
func newLine(t testing.TB, connect func(testing.TB) (a, b net.Conn), life func() int64) *line {
	t.Helper()
	n := &line{a: New(), b: New(), over: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(n.done)
		for n.carry(t, connect, life) {
		}
	}()
	t.Cleanup(n.stop)
	return n
}

// carry is one connection; it returns false when there is no need of another.
func (n *line) carry(t testing.TB, connect func(testing.TB) (a, b net.Conn), life func() int64) bool {
	x, y := connect(t)
	left := &atomic.Int64{}
	left.Store(life())
	gone, once := make(chan struct{}), &sync.Once{}
	n.mu.Lock()
	if n.stopped {
		n.mu.Unlock()
		_, _ = x.Close(), y.Close()
		return false
	}
	n.carriers = []net.Conn{x, y}
	n.mu.Unlock()
	n.links.Add(1)
	la, lb := n.a.Next(), n.b.Next()
	var errs [2]error
	var both sync.WaitGroup
	both.Go(func() { errs[0] = la.Carry(&cut{x, y, left, gone, once}, lb.Received, gone) })
	both.Go(func() { errs[1] = lb.Carry(&cut{y, x, left, gone, once}, la.Received, gone) })
	both.Wait()
	// If only one knows that it is over, the other would be told so by its owner.
	if errs[0] == nil || errs[1] == nil {
		close(n.over)
		return false
	}
	return true
}

// lose cuts the connection of the moment.
func (n *line) lose() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.carriers {
		_ = c.Close()
	}
}

func (n *line) stop() {
	n.mu.Lock()
	n.stopped = true
	n.mu.Unlock()
	n.lose()
	<-n.done
}

func forEver() int64 { return 1 << 60 }

// await fails the test unless the channel is closed.
func await(t testing.TB, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
	}
}

func TestItIsANetConn(t *testing.T) {
	for name, connect := range map[string]func(testing.TB) (a, b net.Conn){"over a pipe": pipe, "over a socket": sockets} {
		for _, life := range []struct {
			name string
			life func() int64
		}{{"", forEver}, {" that is cut all the time", func() int64 { return rand.Int63n(64 << 10) }}} {
			t.Run(name+life.name, func(t *testing.T) {
				leakcheck.Goroutines(t)
				nettest.TestConn(t, func() (a, b net.Conn, stop func(), err error) {
					n := newLine(t, connect, life.life)
					return n.a, n.b, func() { _, _ = n.a.Close(), n.b.Close(); n.stop() }, nil
				})
			})
		}
	}
}

// sequence is bytes of which each position has its own.
type sequence struct{ at int64 }

func (s *sequence) Read(p []byte) (int, error) {
	for i := range p {
		x := uint64(s.at) * 0x9e3779b97f4a7c15
		p[i] = byte(x >> 56)
		s.at++
	}
	return len(p), nil
}

// exchange sends size bytes both ways at once, in pieces of random sizes, and checks
// that they arrive.
func exchange(t *testing.T, r *rand.Rand, a, b *Conn, size int64) {
	t.Helper()
	var all sync.WaitGroup
	for i, way := range [][2]*Conn{{a, b}, {b, a}} {
		seeds := [2]int64{r.Int63(), r.Int63()}
		all.Go(func() { // writes
			r, s := rand.New(rand.NewSource(seeds[0])), &sequence{}
			for left := size; left > 0; {
				p := make([]byte, min(left, 1+r.Int63n(1<<r.Intn(16))))
				_, _ = s.Read(p)
				if n, err := way[0].Write(p); err != nil {
					t.Errorf("way %d: wrote %d of %d bytes: %v", i, n, len(p), err)
					return
				}
				left -= int64(len(p))
			}
			if err := way[0].CloseWrite(); err != nil {
				t.Errorf("way %d: CloseWrite: %v", i, err)
			}
		})
		all.Go(func() { // reads
			r, s := rand.New(rand.NewSource(seeds[1])), &sequence{}
			got, want := make([]byte, 64<<10), make([]byte, 64<<10)
			for total := int64(0); ; {
				n, err := way[1].Read(got[:1+r.Intn(1<<r.Intn(17))])
				_, _ = s.Read(want[:n])
				if !bytes.Equal(got[:n], want[:n]) {
					t.Errorf("way %d: other bytes came after %d", i, total)
					_, _ = way[0].Close(), way[1].Close()
					return
				}
				total += int64(n)
				if err != nil {
					if !errors.Is(err, io.EOF) || total != size {
						t.Errorf("way %d: %d bytes, then %v; want %d, then EOF", i, total, err, size)
					}
					return
				}
			}
		})
	}
	finished := make(chan struct{})
	go func() { all.Wait(); close(finished) }()
	await(t, "all bytes", finished)
}

// Thousands of cuts, at any byte.
func TestNothingIsLostNorDoubledByCuts(t *testing.T) {
	var cuts int64
	for seed := range int64(16) {
		connect, kind := sockets, "sockets"
		if seed%2 == 1 {
			connect, kind = pipe, "pipes"
		}
		t.Run(fmt.Sprintf("%s, seed %d", kind, seed), func(t *testing.T) {
			leakcheck.Goroutines(t)
			r := rand.New(rand.NewSource(seed))
			most := int64(1) << (7 + seed%8) // bytes: up to 16 KiB
			n := newLine(t, connect, func() int64 { return r.Int63n(most) })
			other := rand.New(rand.NewSource(seed + 1000))
			exchange(t, other, n.a, n.b, 12*most)
			_, _ = n.a.Close(), n.b.Close()
			await(t, "the end of the stream", n.over)
			cuts += n.links.Load() - 1
		})
	}
	t.Logf("%d cuts", cuts)
	if cuts < 2000 {
		t.Errorf("there were %d cuts; want thousands", cuts)
	}
}

// Writes of several goroutines do not mix, whatever happens between them.
func TestWritesStayWhole(t *testing.T) {
	leakcheck.Goroutines(t)
	r := rand.New(rand.NewSource(1))
	n := newLine(t, sockets, func() int64 { return r.Int63n(8 << 10) })
	const writers, each = 8, 200
	var writing sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for i := range each {
				if _, err := n.a.Write(fmt.Appendf(nil, "%d:%d:%s\n", w, i, strings.Repeat("x", i*7))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	go func() { writing.Wait(); _ = n.a.CloseWrite() }()
	_ = n.b.SetReadDeadline(time.Now().Add(patience))
	all, err := io.ReadAll(n.b)
	if err != nil {
		t.Fatal(err)
	}
	next := [writers]int{}
	for line := range strings.Lines(string(all)) {
		var w, i int
		var x string
		if _, err := fmt.Sscanf(strings.Replace(line, "\n", " .", 1), "%d:%d:%s", &w, &i, &x); err != nil || i != next[w] || strings.Trim(x, "x.") != "" || len(strings.Trim(x, ".")) != i*7 {
			t.Fatalf("writer %d, %d-th: got %q, %v", w, i, line, err)
		}
		next[w]++
	}
	if next != [writers]int{each, each, each, each, each, each, each, each} {
		t.Errorf("got %d lines", next)
	}
}

func TestAWriterWaitsAtTheBound(t *testing.T) {
	leakcheck.Goroutines(t)
	c := New()
	_ = c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	n, err := c.Write(make([]byte, 3*bound))
	if n != bound || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("wrote %d bytes without a carrier, %v; want %d and a time-out", n, err, bound)
	}
	blocked := make(chan error, 1)
	_ = c.SetWriteDeadline(time.Time{})
	go func() { _, err := c.Write(make([]byte, 1)); blocked <- err }()
	_ = c.Close()
	if err := <-blocked; !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v; want net.ErrClosed", err)
	}
}

// Both ends write more than fits anywhere before either reads.
func TestWritingDoesNotWaitForReading(t *testing.T) {
	for name, connect := range map[string]func(testing.TB) (a, b net.Conn){"pipe": pipe, "sockets": sockets} {
		t.Run(name, func(t *testing.T) {
			leakcheck.Goroutines(t)
			n := newLine(t, connect, forEver)
			var writing sync.WaitGroup
			for _, c := range []*Conn{n.a, n.b} {
				writing.Go(func() {
					_ = c.SetWriteDeadline(time.Now().Add(patience))
					if _, err := c.Write(make([]byte, bound)); err != nil {
						t.Error(err)
					}
				})
			}
			writing.Wait()
			// One goes on writing and reads nothing: the acknowledgements reach it.
			go func() { _, _ = n.a.Write(make([]byte, 4*bound)); _ = n.a.CloseWrite() }()
			_ = n.b.SetReadDeadline(time.Now().Add(patience))
			if got, err := io.Copy(io.Discard, n.b); err != nil || got != 5*bound {
				t.Errorf("got %d bytes, %v; want %d", got, err, 5*bound)
			}
		})
	}
}

func TestHalfCloses(t *testing.T) {
	leakcheck.Goroutines(t)
	n := newLine(t, sockets, forEver)
	_, _ = io.WriteString(n.a, "request")
	if err := n.a.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := n.a.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Write after CloseWrite: %v", err)
	}
	_ = n.b.SetReadDeadline(time.Now().Add(patience))
	if got, err := io.ReadAll(n.b); string(got) != "request" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	n.lose()
	if _, err := io.WriteString(n.b, "answer"); err != nil {
		t.Errorf("Write after the other's CloseWrite: %v", err)
	}
	_ = n.b.CloseWrite()
	if got, err := io.ReadAll(n.a); string(got) != "answer" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestCloses(t *testing.T) {
	for _, test := range []struct {
		name, reason string
		cut          bool
		want         error
	}{
		{"without a reason", "", false, nil},
		{"with a reason", "somebody wants it", false, &EndError{"somebody wants it"}},
		{"while nothing is carried", "somebody wants it", true, &EndError{"somebody wants it"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			leakcheck.Goroutines(t)
			n := newLine(t, sockets, forEver)
			_, _ = io.WriteString(n.b, "nobody reads this")
			if test.cut {
				n.lose()
			}
			_, _ = io.WriteString(n.a, "last words")
			if err := n.a.CloseFor(test.reason); err != nil {
				t.Fatal(err)
			}
			await(t, "the end to be sent", n.a.Sent())
			await(t, "the end to be known", n.b.PeerEnded()) // though nobody reads
			var ended *EndError
			if _, err := n.b.Write([]byte("x")); !errors.As(err, &ended) || ended.Reason != test.reason {
				t.Errorf("the other end's Write: %v", err)
			}
			got, err := io.ReadAll(n.b)
			if string(got) != "last words" || fmt.Sprint(err) != fmt.Sprint(test.want) {
				t.Errorf("got %q, %v; want %v after the last words", got, err, test.want)
			}
			for what, err := range map[string]error{
				"Close": n.a.Close(), "Read": second(n.a.Read(make([]byte, 1))), "Write": second(n.a.Write([]byte("x"))), "CloseWrite": n.a.CloseWrite(),
			} {
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("%s after Close: %v; want net.ErrClosed", what, err)
				}
			}
			_ = n.b.Close()
			await(t, "both to know", n.over)
		})
	}
}

func second(_ int, err error) error { return err }

func TestCloseEndsWhatWaits(t *testing.T) {
	leakcheck.Goroutines(t)
	n := newLine(t, sockets, forEver)
	waiting := make(chan error, 3)
	for range 2 {
		go func() { _, err := n.a.Read(make([]byte, 1)); waiting <- err }()
	}
	go func() { _, err := n.a.Write(make([]byte, 2*bound)); waiting <- err }()
	_, _ = io.CopyN(io.Discard, n.b, 10) // they do wait
	_ = n.a.Close()
	for range 3 {
		select {
		case err := <-waiting:
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("got %v; want net.ErrClosed", err)
			}
		case <-time.After(patience):
			t.Fatal("it waits still")
		}
	}
}

func TestAbort(t *testing.T) {
	leakcheck.Goroutines(t)
	n := newLine(t, sockets, forEver)
	_, _ = io.WriteString(n.b, "before")
	got := make([]byte, 3)
	if _, err := io.ReadFull(n.a, got); err != nil {
		t.Fatal(err)
	}
	gone := errors.New("gone")
	n.a.Abort(gone)
	rest, err := io.ReadAll(n.a)
	if string(got)+string(rest) != "before" || !errors.Is(err, gone) {
		t.Errorf("got %q, %v; want all, then what Abort was given", rest, err)
	}
	if _, err := n.a.Write([]byte("x")); !errors.Is(err, gone) {
		t.Errorf("Write: %v", err)
	}
	if err := n.a.Next().Carry(&dead{}, 0, nil); !errors.Is(err, gone) {
		t.Errorf("Carry: %v", err)
	}
}

// dead is a carrier from which nothing comes, until it is closed.
type dead struct {
	once   sync.Once
	closed chan struct{}
}

func newDead() *dead                            { return &dead{closed: make(chan struct{})} }
func (d *dead) Read([]byte) (int, error)        { <-d.closed; return 0, io.EOF }
func (d *dead) Write(p []byte) (int, error)     { return len(p), nil }
func (d *dead) SetReadDeadline(time.Time) error { return nil }
func (d *dead) Close() error {
	if d.closed != nil {
		d.once.Do(func() { close(d.closed) })
	}
	return nil
}

// A carrier that is silently gone does not stand in the way of the next.
func TestANewCarrierTakesTheOldOnesPlace(t *testing.T) {
	leakcheck.Goroutines(t)
	c := New()
	_, _ = c.Write([]byte("hello"))
	first := c.Next()
	carried := make(chan error, 1)
	go func() { carried <- first.Carry(newDead(), 0, nil) }()
	read := make(chan string, 1)
	go func() { p := make([]byte, 10); n, _ := c.Read(p); read <- string(p[:n]) }()
	second := c.Next()
	if err := <-carried; !errors.Is(err, ErrSuperseded) {
		t.Errorf("the old one: %v", err)
	}
	if err := first.Carry(newDead(), 0, nil); !errors.Is(err, ErrSuperseded) {
		t.Errorf("the old one again: %v", err)
	}
	x, y := sockets(t)
	go func() { carried <- second.Carry(x, 0, nil) }()
	want := string(appendHead(nil, kindData, 5)) + "hello"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(y, got); err != nil || string(got) != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	_, _ = y.Write(append(appendHead(nil, kindData, 2), "hi"...))
	if got := <-read; got != "hi" {
		t.Errorf("read %q", got)
	}
	_ = y.Close()
	if err := <-carried; err == nil || errors.Is(err, ErrSuperseded) {
		t.Errorf("got %v; want that the carrier is gone", err)
	}
}

func TestAPeerThatBreaksTheRules(t *testing.T) {
	data := func(s string) []byte { return append(appendHead(nil, kindData, int64(len(s))), s...) }
	flood := bytes.Repeat(data(strings.Repeat("x", maxData)), bound/maxData+1)
	for name, sent := range map[string][]byte{
		"no frame":                        bytes.Repeat([]byte{0xff}, 20),
		"data too long":                   appendHead(nil, kindData, maxData+1),
		"no data":                         appendHead(nil, kindData, 0),
		"an acknowledgement of nothing":   appendHead(nil, kindAck, 6),
		"an end with something":           appendHead(nil, kindFinish, 1),
		"data after the end":              append(appendHead(nil, kindFinish, 0), data("x")...),
		"two ends":                        append(appendHead(nil, kindFinish, 0), appendHead(nil, kindFinish, 0)...),
		"the stream's end before":         appendHead(nil, kindEnd, 0),
		"a reason too long":               appendHead(nil, kindEnd, maxReason+1),
		"more than it may without a word": flood,
	} {
		t.Run(name, func(t *testing.T) {
			leakcheck.Goroutines(t)
			c := New()
			_, _ = c.Write([]byte("hello"))
			x, y := sockets(t)
			go func() { _, _ = io.Copy(io.Discard, y) }()
			go func() { _, _ = y.Write(sent) }()
			carried := make(chan error, 1)
			go func() { carried <- c.Next().Carry(x, 0, nil) }()
			select {
			case err := <-carried:
				if !errors.Is(err, errFrame) && !errors.Is(err, errProtocol) {
					t.Errorf("Carry: %v", err)
				}
				// A Read says so too, unless the other direction had ended before.
				if _, readErr := io.ReadAll(c); readErr != nil && !errors.Is(readErr, err) {
					t.Errorf("Read: %v; want %v", readErr, err)
				}
			case <-time.After(patience):
				t.Error("it was taken")
			}
			_ = y.Close()
		})
	}
	for _, received := range []int64{-1, 6} {
		c := New()
		_, _ = c.Write([]byte("hello"))
		if err := c.Next().Carry(newDead(), received, nil); err == nil {
			t.Errorf("a peer that has received %d of 0 bytes was believed", received)
		}
	}
}

func TestAFrameInAnyPieces(t *testing.T) {
	var sent []byte
	sent = append(appendHead(sent, kindData, 5), "hello"...)
	sent = appendHead(sent, kindAck, 1<<40)
	sent = append(appendHead(sent, kindData, 300), strings.Repeat("x", 300)...)
	sent = appendHead(sent, kindFinish, 0)
	sent = append(appendHead(sent, kindEnd, 3), "why"...)
	want := "data hello; ack 1099511627776; data " + strings.Repeat("x", 300) + "; finish; end why; "
	for size := 1; size <= len(sent); size++ {
		if got, err := parse(sent, func() int { return size }); err != nil || got != want {
			t.Errorf("in pieces of %d: got %q, %v", size, got, err)
		}
	}
}

// parse reads frames from pieces of b, and writes them down.
func parse(b []byte, size func() int) (string, error) {
	var p parser
	var said strings.Builder
	last := kindAck
	note := func(f frame) {
		if last == kindData && (f.kind != kindData || p.n > 0) {
			said.WriteString("; ")
		}
		switch f.kind {
		case kindData:
			if last != kindData {
				said.WriteString("data ")
			}
			said.Write(f.data)
		case kindAck:
			fmt.Fprintf(&said, "ack %d; ", f.value)
		case kindFinish:
			said.WriteString("finish; ")
		case kindEnd:
			fmt.Fprintf(&said, "end %s; ", f.data)
		}
		last = f.kind
	}
	for len(b) > 0 {
		piece := b[:min(len(b), max(size(), 1))]
		b = b[len(piece):]
		for {
			f, rest, ok, err := p.next(piece)
			if err != nil {
				return said.String(), err
			}
			if !ok {
				break
			}
			piece = rest
			note(f)
		}
	}
	return said.String(), nil
}

// Whatever comes is read the same in whatever pieces, and never more than was sent.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{}, int64(1))
	f.Add(append(appendHead(nil, kindData, 5), "hello"...), int64(2))
	f.Add(append(append(appendHead(appendHead(nil, kindAck, 1<<50), kindFinish, 0), appendHead(nil, kindEnd, 3)...), "why"...), int64(3))
	f.Add(bytes.Repeat([]byte{0xff}, 12), int64(4))
	f.Fuzz(func(t *testing.T, sent []byte, seed int64) {
		whole, wholeErr := parse(sent, func() int { return len(sent) })
		r := rand.New(rand.NewSource(seed))
		pieces, piecesErr := parse(sent, func() int { return r.Intn(8) })
		if whole != pieces || fmt.Sprint(wholeErr) != fmt.Sprint(piecesErr) {
			t.Errorf("%x: whole %q, %v; in pieces %q, %v", sent, whole, wholeErr, pieces, piecesErr)
		}
	})
}

// A stream takes what it is sent as it comes, and ends in an error or goes on.
func FuzzCarry(f *testing.F) {
	f.Add([]byte{})
	f.Add(append(appendHead(nil, kindData, 5), "hello"...))
	f.Add(append(appendHead(appendHead(nil, kindAck, 3), kindFinish, 0), appendHead(nil, kindEnd, 0)...))
	f.Fuzz(func(t *testing.T, sent []byte) {
		c := New()
		_, _ = c.Write([]byte("hello"))
		x, y := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, y) }()
		go func() { _, _ = y.Write(sent); _ = y.Close() }()
		type result struct {
			n   int
			err error
		}
		read := make(chan result, 1)
		go func() {
			got, err := io.ReadAll(c)
			read <- result{len(got), err}
		}()
		if err := c.Next().Carry(x, 0, nil); err == nil {
			t.Error("the stream is over though this end was not closed")
		}
		c.Abort(io.EOF)
		var ended *EndError
		if got := <-read; got.n > len(sent) || got.err != nil &&
			!errors.Is(got.err, errFrame) && !errors.Is(got.err, errProtocol) && !errors.As(got.err, &ended) {
			t.Errorf("read %d bytes of %d, %v", got.n, len(sent), got.err)
		}
	})
}
