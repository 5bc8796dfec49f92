package resumable

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// readAhead is how long nobody may be in a Read before Carry reads for itself.
const readAhead = 50 * time.Millisecond

// Carrier carries the stream for as long as it lives: a connection, or a part of one.
// Its Close must end a Read and a Write, or make sure that they end soon.
type Carrier interface {
	io.ReadWriteCloser
	SetReadDeadline(time.Time) error
}

// ErrSuperseded is what Carry returns when another link has taken its place.
var ErrSuperseded = errors.New("resumable: another carrier has taken the place of this one")

// Link is a stream's connection to one carrier. [Conn.Next] makes it.
type Link struct {
	// Received is how much of the other direction has come: what the other end has
	// to give to its Carry.
	Received int64

	conn   *Conn
	wakeup chan struct{} // for Carry; capacity 1
	sender chan struct{} // for send; capacity 1

	// The rest is guarded by conn.mu.

	carrier     Carrier // nil before Carry
	sent        int64   // the position up to which it has been given all
	ackSent     int64
	sending     bool // somebody is in carrier.Write, and goes on until all is sent
	down        bool // nothing more can be sent
	reading     bool // somebody is in carrier.Read
	interrupted bool // its deadline was set to end a Read
	neglected   bool // nobody has read for a while
	idle        *time.Timer
	armed       bool  // idle will fire
	turns       int   // so many times somebody has read
	lost        error // why nothing more comes

	// These belong to who is reading, and to who is sending.
	buf     []byte
	frames  parser
	scratch []byte
}

// Next begins with another carrier: the one in use is closed, and from now on nothing
// that still comes by it counts.
func (c *Conn) Next() *Link {
	c.mu.Lock()
	old := c.link
	l := &Link{conn: c, Received: c.got(), wakeup: make(chan struct{}, 1), sender: make(chan struct{}, 1)}
	c.link = l
	c.mu.Unlock()
	if old != nil {
		old.close()
		wake(old.wakeup)
	}
	return l
}

// close closes the carrier, if there is one; the caller does not hold mu.
func (l *Link) close() {
	l.conn.mu.Lock()
	carrier := l.carrier
	l.conn.mu.Unlock()
	if carrier != nil {
		_ = carrier.Close()
	}
}

// Carry carries the stream on a carrier, which it closes before it returns. The peer
// has received so much ([Link.Received] of its link). done tells that the carrier has
// ended, also while nobody reads from it.
//
// It returns nil when the stream is over at both ends and both know it, else why this
// carrier no longer serves: then it is time for [Conn.Next].
func (l *Link) Carry(carrier Carrier, received int64, done <-chan struct{}) error {
	c := l.conn
	if err := l.begin(carrier, received); err != nil {
		_ = carrier.Close()
		return err
	}
	var sending sync.WaitGroup
	stop := make(chan struct{})
	sending.Go(func() { l.send(done, stop) }) // ends with stop
	wake(l.sender)

	c.mu.Lock()
	err, over := l.state()
	for ; !over; err, over = l.state() {
		if !l.reading && c.waiting == 0 && l.needed() {
			l.read(nil)
			l.pass()
			continue
		}
		c.mu.Unlock()
		<-l.wakeup
		c.mu.Lock()
	}
	l.down = true
	if l.lost == nil {
		l.lost = net.ErrClosed
	}
	l.idle.Stop()
	c.mu.Unlock()

	_ = carrier.Close()
	close(stop)
	sending.Wait()
	return err
}

func (l *Link) begin(carrier Carrier, received int64) error {
	c := l.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.link != l:
		return ErrSuperseded
	case c.aborted != nil:
		return c.aborted
	case received < c.acked || received > c.sent:
		c.abort(fmt.Errorf("resumable: the other end has received %d bytes of a stream of which %d were sent and %d acknowledged", received, c.sent, c.acked))
		return c.aborted
	}
	l.carrier, l.sent, l.buf = carrier, received, make([]byte, 32<<10)
	seen := 0
	l.armed = true
	l.idle = time.AfterFunc(readAhead, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if l.armed = !l.reading && l.turns != seen; l.armed {
			seen = l.turns // somebody reads now and then: look again
			l.idle.Reset(readAhead)
			return
		}
		if !l.reading {
			l.neglected = true
			wake(l.wakeup)
		}
	})
	c.readable.Broadcast() // Reads that wait may read it
	return nil
}

// state tells whether Carry is over, and with what.
func (l *Link) state() (err error, over bool) {
	c := l.conn
	switch {
	case c.link != l:
		return ErrSuperseded, true
	case c.ending && c.acked == c.last() && isClosed(c.peerEnded) && l.ackSent == c.got() && !l.sending:
		return nil, true
	case c.aborted != nil:
		return c.aborted, true
	}
	return l.lost, l.lost != nil
}

// needed tells whether somebody has to read though nobody is in a Read.
func (l *Link) needed() bool {
	c := l.conn
	return c.blocked > 0 || isClosed(c.closed) || l.down || l.neglected
}

// pass gives the turn to read the carrier to who needs it.
func (l *Link) pass() {
	c := l.conn
	switch {
	case l.carrier == nil || l.reading || l.lost != nil || c.link != l:
	case c.waiting > 0:
		c.readable.Broadcast()
	case l.needed():
		wake(l.wakeup)
	case !l.armed: // which it stays for many reads: setting a timer costs as much as one
		l.armed = true
		l.idle.Reset(readAhead)
	}
}

// read reads the carrier once, with mu released meanwhile. It returns how many bytes
// it has put in p, which is in the place of the empty queue.
func (l *Link) read(p []byte) (n int) {
	c := l.conn
	l.reading, l.neglected = true, false
	l.turns++
	if l.interrupted {
		l.interrupted = false
		_ = l.carrier.SetReadDeadline(time.Time{})
	}
	buf := l.buf
	if direct := l.frames.data(); direct > 0 && len(p) > 0 {
		buf = p[:min(direct, len(p))] // what comes is for nobody else
	}
	c.mu.Unlock()
	got, err := l.carrier.Read(buf)
	c.mu.Lock()
	l.reading = false
	if c.link != l || c.aborted != nil {
		wake(l.wakeup)
		return 0
	}
	n, bad := l.take(buf[:got], p)
	if bad != nil {
		c.abort(bad)
		return n
	}
	if err != nil && !(l.interrupted && isTimeout(err)) {
		l.lost = err
		wake(l.wakeup)
	}
	return n
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}

// interrupt ends the carrier's Read that somebody waits in.
func (l *Link) interrupt() {
	if l.reading && !l.interrupted {
		l.interrupted = true
		_ = l.carrier.SetReadDeadline(time.Unix(0, 1))
	}
}

var errProtocol = errors.New("resumable: the other end does not keep to the protocol")

// take takes in what has come; data goes into p first, then into the queue.
func (l *Link) take(b, p []byte) (n int, err error) {
	c := l.conn
	for {
		f, rest, ok, err := l.frames.next(b)
		if err != nil {
			return n, err
		}
		if !ok {
			break
		}
		b = rest
		switch f.kind {
		case kindData:
			if c.peerFinished {
				return n, fmt.Errorf("%w: data after the end", errProtocol)
			}
			c.received += int64(len(f.data))
			if isClosed(c.closed) {
				break // nobody wants it
			}
			k := copy(p[n:], f.data)
			n += k
			if k < len(f.data) {
				c.in.add(f.data[k:])
			}
			if c.in.len() > bound {
				return n, fmt.Errorf("%w: more than it may send", errProtocol)
			}
		case kindAck:
			if f.value > l.sent {
				return n, fmt.Errorf("%w: %d acknowledged of %d", errProtocol, f.value, l.sent)
			}
			c.acknowledged(f.value)
		case kindFinish:
			if c.peerFinished {
				return n, fmt.Errorf("%w: two ends", errProtocol)
			}
			c.peerFinished = true
		case kindEnd:
			if !c.peerFinished || isClosed(c.peerEnded) {
				return n, fmt.Errorf("%w: an end out of place", errProtocol)
			}
			c.peerReason = string(f.data)
			close(c.peerEnded)
			c.writable.Broadcast()
		}
	}
	if c.in.len() > 0 || c.peerFinished {
		c.readable.Broadcast()
	}
	c.consumed()
	if _, over := l.state(); over {
		wake(l.wakeup)
	}
	return n, nil
}

// acknowledged forgets what the other end has consumed.
func (c *Conn) acknowledged(position int64) {
	if position <= c.acked {
		return
	}
	if bytes := min(position, c.written) - min(c.acked, c.written); bytes > 0 {
		c.out.drop(int(bytes))
		c.writable.Broadcast()
	}
	c.acked = position
}

// ackDue tells whether an acknowledgement must be sent though there is nothing else
// to send.
func (l *Link) ackDue() bool {
	if l == nil || l.carrier == nil {
		return false
	}
	c := l.conn
	used := l.conn.used()
	return used-l.ackSent >= bound/4 || c.peerFinished && used == c.got() && used > l.ackSent
}

// wakeSender makes send send what there is. It is called for no link, too.
func (l *Link) wakeSender() {
	if l != nil {
		wake(l.sender)
	}
}

// send sends what no Write has sent, and watches for the end of the carrier.
func (l *Link) send(done <-chan struct{}, stop chan struct{}) {
	for {
		select {
		case <-l.sender:
			l.conn.mu.Lock()
			l.flush()
			l.conn.mu.Unlock()
		case <-done:
			// What has come before the end is still to be read.
			done = nil
			l.conn.mu.Lock()
			l.down = true
			l.pass()
			l.conn.mu.Unlock()
		case <-stop:
			return
		}
	}
}

// flush sends all that there is to send, with mu released meanwhile, unless somebody
// else is about to.
func (l *Link) flush() {
	c := l.conn
	if l.carrier == nil || l.sending {
		return
	}
	l.sending = true
	for !l.down && c.link == l && c.aborted == nil {
		b, end := l.batch()
		if len(b) == 0 {
			break
		}
		c.mu.Unlock()
		_, err := l.carrier.Write(b)
		if err != nil {
			_ = l.carrier.Close() // ends a Read as well
		}
		c.mu.Lock()
		switch {
		case err != nil:
			l.down = true
			l.pass()
		case end && !isClosed(c.ended):
			close(c.ended)
		}
	}
	l.sending = false
	if _, over := l.state(); over {
		l.interrupt() // Carry may be reading
		wake(l.wakeup)
	}
}

// batch returns what is to be written next; end says that it includes the end of the
// stream. It counts as sent: if it can't be written, this carrier is at its end.
func (l *Link) batch() (b []byte, end bool) {
	c := l.conn
	b = l.scratch[:0]
	if used := c.used(); used > l.ackSent && (l.sent < c.last() || l.ackDue()) {
		b = appendHead(b, kindAck, used)
		l.ackSent = used
	}
	if unsent := c.written - l.sent; unsent > 0 {
		from := l.sent - min(c.acked, c.written)
		data := c.out.front()[from:][:min(unsent, maxData)]
		b = append(appendHead(b, kindData, int64(len(data))), data...)
		l.sent += int64(len(data))
	}
	if l.sent == c.written && c.finished {
		b = appendHead(b, kindFinish, 0)
		l.sent++
	}
	if l.sent == c.written+1 && c.ending {
		b = append(appendHead(b, kindEnd, int64(len(c.reason))), c.reason...)
		l.sent++
		end = true
	}
	c.sent = max(c.sent, l.sent)
	l.scratch = b[:0]
	return b, end
}
