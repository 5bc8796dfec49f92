package resumable

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// bound is how many bytes an end keeps for the other, in each direction: those that
// it has not acknowledged and those that wait for a Read.
const bound = 1 << 20

// Conn is one end of a stream. It is a [net.Conn]; without a carrier its Reads and
// Writes wait. Make it with [New]; its methods may be called from any goroutine.
//
// Write returns when the bytes are kept, and gives them to the carrier itself if it
// has no deadline: it may then take as long as the carrier's Write.
type Conn struct {
	writing sync.Mutex // one Write at a time, so that their bytes do not mix; before mu

	mu       sync.Mutex // guards all below, and the links
	readable sync.Cond  // for Reads: bytes, an end, a deadline, or the turn to read the carrier
	writable sync.Cond  // for Writes: room, an end, a deadline
	link     *Link      // the newest
	waiting  int        // Reads that wait for readable
	blocked  int        // Writes that wait for writable

	// This direction's positions count its bytes, then one for each of the two ends.
	out      queue  // written and not acknowledged
	written  int64  // bytes
	acked    int64  // position
	sent     int64  // the highest position that was given to any carrier
	finished bool   // nothing more is written
	ending   bool   // the stream is over
	reason   string // why, for the other end
	ended    chan struct{}

	in           queue // received, and not yet read
	received     int64 // bytes
	peerFinished bool
	peerEnded    chan struct{}
	peerReason   string

	closed  chan struct{}
	aborted error
	readBy  deadline
	writeBy deadline
}

// New returns an end of a stream.
func New() *Conn {
	c := &Conn{closed: make(chan struct{}), ended: make(chan struct{}), peerEnded: make(chan struct{})}
	c.readable.L, c.writable.L = &c.mu, &c.mu
	return c
}

// EndError is what Reads and Writes return when the other end has ended the stream
// with a reason.
type EndError struct{ Reason string }

func (e *EndError) Error() string {
	if e.Reason == "" {
		return "the other end has closed the stream"
	}
	return e.Reason
}

// Read reads what has come. After all of it comes io.EOF if the other end has closed
// its direction or the stream, an [*EndError] if it gave a reason, or what was given
// to [Conn.Abort].
func (c *Conn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	for {
		l := c.link
		switch {
		case isClosed(c.closed):
			return 0, net.ErrClosed
		case c.readBy.passed():
			return 0, os.ErrDeadlineExceeded
		case c.in.len() > 0:
			n := copy(p, c.in.front())
			c.in.drop(n)
			c.consumed()
			return n, nil
		case c.peerFinished && c.peerReason != "":
			return 0, &EndError{c.peerReason}
		case c.peerFinished:
			return 0, io.EOF
		case c.aborted != nil:
			return 0, c.aborted
		case l != nil && l.carrier != nil && l.lost == nil && !l.reading:
			n := l.read(p)
			l.pass()
			if n > 0 {
				return n, nil
			}
		default:
			c.waiting++
			c.readable.Wait()
			if c.waiting--; c.link != nil {
				c.link.pass() // this Read may not take the turn that it was offered
			}
		}
	}
}

// Write writes all of p, or tells how much of it was kept for sending.
func (c *Conn) Write(p []byte) (n int, err error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case isClosed(c.closed):
			return n, net.ErrClosed
		case c.writeBy.passed():
			return n, os.ErrDeadlineExceeded
		case c.finished:
			return n, io.ErrClosedPipe
		case isClosed(c.peerEnded):
			return n, &EndError{c.peerReason}
		case c.aborted != nil:
			return n, c.aborted
		case len(p) == 0:
			return n, nil
		}
		if free := bound - c.out.len(); free > 0 {
			k := min(free, len(p))
			c.out.add(p[:k])
			c.written += int64(k)
			n, p = n+k, p[k:]
			if l := c.link; l != nil && c.writeBy.at.IsZero() {
				l.flush()
			} else {
				l.wakeSender()
			}
			continue
		}
		c.blocked++
		if c.link != nil {
			c.link.pass() // somebody has to read the acknowledgements
		}
		c.writable.Wait()
		c.blocked--
	}
}

// CloseWrite ends this direction: after all that was written the other end reads
// io.EOF.
func (c *Conn) CloseWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if isClosed(c.closed) {
		return net.ErrClosed
	}
	c.finished = true
	c.writable.Broadcast()
	c.link.wakeSender()
	return nil
}

// Close ends the stream: the other end reads what was written, then io.EOF, and can
// write no more. What it has written is thrown away. Close does not wait for that: it
// is Carry that sees to it, and [Conn.Sent] tells.
func (c *Conn) Close() error { return c.CloseFor("") }

// CloseFor is Close with a reason, of which the other end's Reads and Writes make an
// [*EndError]. It has 1 KiB at most.
func (c *Conn) CloseFor(reason string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if isClosed(c.closed) {
		return net.ErrClosed
	}
	close(c.closed)
	c.finished, c.ending, c.reason = true, true, reason[:min(len(reason), maxReason)]
	c.in = queue{}
	c.readBy.clear()
	c.writeBy.clear()
	c.wakeAll()
	c.link.wakeSender()
	return nil
}

// Closed is closed by Close.
func (c *Conn) Closed() <-chan struct{} { return c.closed }

// Sent is closed when a carrier has been given all, up to the end of the stream.
func (c *Conn) Sent() <-chan struct{} { return c.ended }

// PeerEnded is closed when the other end has closed the stream, which may be long
// before Read has given all that came before.
func (c *Conn) PeerEnded() <-chan struct{} { return c.peerEnded }

// Abort ends this end alone, for when the other is gone for good: Reads return err
// after what has come, Writes return it at once, and Carry as well.
func (c *Conn) Abort(err error) {
	c.mu.Lock()
	l := c.link
	c.abort(err)
	c.mu.Unlock()
	if l != nil {
		l.close()
	}
}

// Err is what was given to Abort, or how the other end broke the protocol; nil if
// neither has happened.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.aborted
}

func (c *Conn) abort(err error) {
	if c.aborted == nil {
		c.aborted = err
	}
	c.wakeAll()
}

// wakeAll makes all look at what has changed, in calls and in Carry.
func (c *Conn) wakeAll() {
	c.readable.Broadcast()
	c.writable.Broadcast()
	if c.link != nil {
		c.link.interrupt()
		wake(c.link.wakeup)
	}
}

// consumed sees to the acknowledgement of what has been taken from in.
func (c *Conn) consumed() {
	if c.link.ackDue() {
		c.link.wakeSender()
	}
}

// got is the position of the other direction up to which all has come.
func (c *Conn) got() int64 {
	return c.received + count(c.peerFinished) + count(isClosed(c.peerEnded))
}

// used is the position up to which all has been taken.
func (c *Conn) used() int64 {
	if c.in.len() > 0 {
		return c.received - int64(c.in.len())
	}
	return c.got()
}

// last is the position of the end of all that is to be sent.
func (c *Conn) last() int64 { return c.written + count(c.finished) + count(c.ending) }

func count(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// wake leaves a note in a channel of capacity 1.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// deadline is that of Reads or of Writes.
type deadline struct {
	at    time.Time // zero: none
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (d *deadline) clear() {
	if d.timer != nil {
		d.timer.Stop()
	}
	*d = deadline{}
}

func (d *deadline) set(t time.Time, fire func()) {
	d.clear()
	if d.at = t; !t.IsZero() {
		d.timer = time.AfterFunc(time.Until(t), fire)
	}
}

// SetDeadline implements [net.Conn].
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements [net.Conn].
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadline(&c.readBy, t) }

// SetWriteDeadline implements [net.Conn].
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(&c.writeBy, t) }

func (c *Conn) setDeadline(d *deadline, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if isClosed(c.closed) {
		return net.ErrClosed
	}
	d.set(t, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.wakeAll()
	})
	return nil
}

type addr struct{}

func (addr) Network() string { return "resumable" }
func (addr) String() string  { return "resumable" }

// LocalAddr implements [net.Conn]; it tells nothing.
func (c *Conn) LocalAddr() net.Addr { return addr{} }

// RemoteAddr implements [net.Conn]; it tells nothing.
func (c *Conn) RemoteAddr() net.Addr { return addr{} }
