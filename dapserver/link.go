package dapserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"
)

const (
	// queueLimit is how many bytes may wait for a peer that is slow to read.
	queueLimit = 32 << 20
	// outputLimit is how much of the queue the component's output may take.
	// What the user does at the debugger must not wait behind a flood of it.
	outputLimit = 256 << 10
	// writeChunk is the unit in which progress of a write is seen.
	writeChunk = 64 << 10
	// directLimit is how large a frame may be that its sender writes itself.
	directLimit = 64 << 10
)

var (
	errLinkClosed = errors.New("the connection is closed")
	errStalled    = errors.New("the other side has stopped reading")
	errQueueFull  = errors.New("too much is waiting to be read by the other side")
)

// link is one DAP connection. Its reads belong to whoever calls next; writes
// go through a queue that one goroutine empties, so frames never interleave
// and no sender is held up by a peer that is slow now and then. If the queue is
// empty and the kernel takes the frame at once, the sender writes it itself: to
// wake the writer for it would be a good part of what a request takes.
type link struct {
	name   string // of the peer, for the log
	rwc    io.ReadWriteCloser
	direct syscall.RawConn // of rwc, to write without waiting; nil if it has none
	frames *frameReader
	log    *slog.Logger
	// stall is how long one chunk may take to be written before the peer
	// counts as gone; 0 means forever.
	stall time.Duration
	// record, if set, is told of each message; see Config.Message.
	record func(from, to string, content []byte)

	wake   chan struct{} // holds a token when there is something to write
	closed chan struct{} // closed by fail
	wg     sync.WaitGroup

	mu      sync.Mutex // guards all below, and direct writes
	seq     int64      // of the last message in the queue
	queue   [][]byte
	queued  int           // bytes in queue and in the write under way
	space   chan struct{} // closed and replaced when queued shrinks
	scratch []byte        // for frames that may not need to be kept
	err     error         // why the link is closed
}

// newLink takes over rwc. The writer goroutine ends with the link; close waits
// for it.
func newLink(name string, rwc io.ReadWriteCloser, stall time.Duration, log *slog.Logger) *link {
	l := &link{
		name: name, rwc: rwc, frames: newFrameReader(rwc), stall: stall, log: log,
		wake: make(chan struct{}, 1), closed: make(chan struct{}), space: make(chan struct{}),
	}
	// A network connection's descriptor doesn't block; a file's may.
	if conn, ok := rwc.(interface {
		net.Conn
		syscall.Conn
	}); ok {
		if raw, err := conn.SyscallConn(); err == nil {
			l.direct = raw
		}
	}
	l.wg.Go(l.writeLoop)
	return l
}

// next reads the next message. Only one goroutine may call it.
func (l *link) next() ([]byte, error) {
	msg, err := l.frames.next()
	if err != nil {
		if cause := l.cause(); cause != nil {
			return nil, cause
		}
		return nil, err
	}
	if l.record != nil {
		l.record(l.name, "kubedelve", msg)
	}
	return msg, nil
}

// sendOptions are how a message enters the queue.
type sendOptions struct {
	requestSeq int64
	// seq, if not 0, is the message's number instead of the next one: it is passed
	// on for somebody who counts himself.
	seq int64
	// limit is how full the queue may be; 0 means queueLimit. Into an empty
	// queue everything fits.
	limit int
	// noWait returns errQueueFull instead of waiting for room.
	noWait bool
	// assigned is told the number that the message got, before it can be
	// answered. It runs under the link's lock and must not send.
	assigned func(seq int64)
}

// send puts the message into the queue under the next sequence number. It
// waits while the queue is full.
func (l *link) send(ctx context.Context, msg []byte, env *envelope, o sendOptions) error {
	if o.limit == 0 {
		o.limit = queueLimit
	}
	l.mu.Lock()
	for l.err == nil && l.queued > 0 && l.queued+len(msg) > o.limit {
		if o.noWait {
			l.mu.Unlock()
			return errQueueFull
		}
		space := l.space
		l.mu.Unlock()
		select {
		case <-space:
		case <-l.closed:
		case <-ctx.Done():
			return ctx.Err()
		}
		l.mu.Lock()
	}
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	seq := o.seq
	if seq == 0 {
		l.seq++
		seq = l.seq
	}
	if o.assigned != nil {
		o.assigned(seq)
	}
	logFrame(l.log, "to "+l.name, msg, env)
	var frame []byte
	if l.direct != nil && l.queued == 0 && len(msg) <= directLimit {
		l.scratch = appendMessage(l.scratch[:0], msg, env, seq, o.requestSeq)
		l.recordSent(l.scratch)
		n := writeNow(l.direct, l.scratch)
		if n == len(l.scratch) {
			return nil
		}
		// The writer does the rest, and finds out if there was an error.
		frame = append(frame, l.scratch[n:]...)
	} else {
		frame = appendMessage(nil, msg, env, seq, o.requestSeq)
		l.recordSent(frame)
	}
	l.queue = append(l.queue, frame)
	l.queued += len(frame)
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return nil
}

func (l *link) recordSent(frame []byte) {
	if l.record != nil {
		_, content, _ := bytes.Cut(frame, []byte("\r\n\r\n"))
		l.record("kubedelve", l.name, content)
	}
}

// writeLoop owns the write half. It ends when the link is closed.
func (l *link) writeLoop() {
	for {
		select {
		case <-l.wake:
		case <-l.closed:
			return
		}
		for {
			l.mu.Lock()
			if len(l.queue) == 0 || l.err != nil {
				l.queue = nil // lets go of the array
				l.mu.Unlock()
				break
			}
			frame := l.queue[0]
			l.queue[0], l.queue = nil, l.queue[1:]
			l.mu.Unlock()

			if err := l.write(frame); err != nil {
				l.fail(fmt.Errorf("writing to %s: %w", l.name, err))
				return
			}
			l.mu.Lock()
			l.queued -= len(frame)
			close(l.space)
			l.space = make(chan struct{})
			l.mu.Unlock()
		}
	}
}

func (l *link) write(frame []byte) error {
	for len(frame) > 0 {
		n := min(len(frame), writeChunk)
		if l.stall > 0 {
			// Not a deadline of net.Conn: stdin and stdout have none.
			timer := time.AfterFunc(l.stall, func() {
				l.fail(fmt.Errorf("writing to %s: %w for %s", l.name, errStalled, l.stall))
			})
			_, err := l.rwc.Write(frame[:n])
			timer.Stop()
			if err != nil {
				return err
			}
		} else if _, err := l.rwc.Write(frame[:n]); err != nil {
			return err
		}
		frame = frame[n:]
	}
	return nil
}

// drain waits until everything in the queue is written, for d at most.
func (l *link) drain(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		l.mu.Lock()
		done, space := l.queued == 0 || l.err != nil, l.space
		l.mu.Unlock()
		if done {
			return
		}
		select {
		case <-space:
		case <-l.closed:
		case <-timer.C:
			return
		}
	}
}

// fail closes the connection for the given reason. Only the first counts.
func (l *link) fail(err error) {
	l.mu.Lock()
	first := l.err == nil
	if first {
		l.err = err
		close(l.closed)
	}
	l.mu.Unlock()
	if first {
		if err := l.rwc.Close(); err != nil {
			l.log.Debug("closing the connection", "peer", l.name, "error", err)
		}
	}
}

// cause is why the link is closed, or nil.
func (l *link) cause() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// close closes the connection and waits for the writer.
func (l *link) close() {
	l.fail(errLinkClosed)
	l.wg.Wait()
}
