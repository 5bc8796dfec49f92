package agent

import (
	"cmp"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubedelve/kubedelve/internal/agentapi"
)

const (
	// backlogSize is how much of a run's output is kept for clients that come late
	// or come back, bytes.
	backlogSize = 1 << 20
	// maxSegments bounds how often stdout and stderr may take turns in it.
	maxSegments = 8 << 10
	// keepOutputs is of how many runs that have ended it is kept.
	keepOutputs = 2
)

// sinkPatience is how long a client may take nothing before the component no longer
// waits for it: it must not hang for ever because a laptop's lid was closed. The
// client may go on later, and is told what it missed.
const sinkPatience = 10 * time.Second

// output spreads what one run of the component writes: to the container's own log,
// and to every client that asked. Nothing is dropped for a client that reads; the
// component waits for the slowest, as it would for a terminal.
type output struct {
	run   int     // set before the first client knows of it
	pumps []*pump // set once, before the first client can wait for them

	mu       sync.Mutex // guards all below
	changed  sync.Cond
	ring     []byte    // the byte at offset i is ring[i % backlogSize]; nil before the first
	from, to int64     // the offsets that are there
	segments []segment // up to to, in order; the first may begin before from
	readers  map[*reader]struct{}
	ended    bool // nothing more comes
}

// segment is a part that was written to one descriptor.
type segment struct {
	fd  int
	end int64 // offset
}

// reader is a client's place.
type reader struct {
	at    int64
	moved time.Time // when it last took something
	idle  bool      // it has all there was, and waits
	gone  bool
}

func newOutput() *output {
	o := &output{readers: map[*reader]struct{}{}}
	o.changed.L = &o.mu
	return o
}

// pump copies one pipe until its end.
type pump struct {
	fd   int
	pipe *os.File
	raw  syscall.RawConn
	log  io.Writer

	mu      sync.Mutex // guards all below
	holding bool       // bytes that were read are not yet spread
	ended   bool
	moved   chan struct{} // closed and made anew when bytes were spread
}

func newPump(fd int, pipe *os.File, log io.Writer) (*pump, error) {
	raw, err := pipe.SyscallConn()
	return &pump{fd: fd, pipe: pipe, raw: raw, log: log, moved: make(chan struct{})}, err
}

func (p *pump) copyTo(o *output) {
	defer func() { _ = p.pipe.Close() }()
	buf := make([]byte, agentapi.MaxOutput)
	for {
		n := p.read(buf)
		if n > 0 {
			_, _ = p.log.Write(buf[:n])
			o.spread(p.fd, buf[:n])
		}
		p.mu.Lock()
		p.holding, p.ended = false, n == 0
		close(p.moved)
		p.moved = make(chan struct{})
		p.mu.Unlock()
		if n == 0 {
			return
		}
	}
}

// read takes bytes from the pipe; 0 is its end. Between the pipe and holding there
// is no moment in which bytes are in neither.
func (p *pump) read(buf []byte) (n int) {
	err := p.raw.Read(func(fd uintptr) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		for {
			var err error
			n, err = unix.Read(int(fd), buf)
			switch {
			case errors.Is(err, unix.EINTR):
				continue
			case errors.Is(err, unix.EAGAIN):
				return false
			case err != nil:
				n = 0
			}
			p.holding = n > 0
			return true
		}
	})
	if err != nil {
		return 0
	}
	return n
}

// empty tells whether all that was written has been spread; if not, moved is
// closed when that may have changed.
func (p *pump) empty() (empty bool, moved <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	inPipe := 0
	if !p.ended {
		_ = p.raw.Control(func(fd uintptr) { inPipe, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	}
	return !p.holding && inPipe == 0, p.moved
}

// drain waits until what was written before the call has been spread. It does not
// wait for the pipes' ends: Delve has them open, and a grandchild may. What such a
// one goes on writing is waited for no longer than a client that does not read.
func (o *output) drain() {
	limit := time.NewTimer(sinkPatience)
	defer limit.Stop()
	for _, p := range o.pumps {
		for empty, moved := p.empty(); !empty; empty, moved = p.empty() {
			select {
			case <-moved:
			case <-limit.C:
				return
			}
		}
	}
}

// spread adds what was written to a descriptor, MaxOutput bytes at most. It waits
// for clients that would miss something.
func (o *output) spread(fd int, p []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended {
		return // of a process that outlived the component
	}
	for wait, until := o.behind(o.floor(len(p))); wait; wait, until = o.behind(o.floor(len(p))) {
		timer := time.AfterFunc(time.Until(until), o.wake)
		o.changed.Wait()
		timer.Stop()
	}
	o.from = max(o.from, o.floor(len(p)))
	for len(o.segments) > 0 && o.segments[0].end <= o.from {
		o.segments = o.segments[1:]
	}
	if o.ring == nil {
		o.ring = make([]byte, backlogSize)
	}
	at := o.to % backlogSize
	n := copy(o.ring[at:], p)
	copy(o.ring, p[n:])
	o.to += int64(len(p))
	if last := len(o.segments) - 1; last >= 0 && o.segments[last].fd == fd {
		o.segments[last].end = o.to
	} else {
		o.segments = append(o.segments, segment{fd, o.to})
	}
	o.changed.Broadcast()
}

// wake makes all look again. It takes the lock, so that it is not too early for one
// that is about to wait.
func (o *output) wake() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.changed.Broadcast()
}

// floor is the offset from which on bytes stay when n more come.
func (o *output) floor(n int) int64 {
	floor := o.to + int64(n) - backlogSize
	if len(o.segments) >= maxSegments {
		floor = max(floor, o.segments[0].end)
	}
	return floor
}

// behind tells whether a client is there that has not had the bytes below floor, and
// until when it is waited for.
func (o *output) behind(floor int64) (behind bool, until time.Time) {
	now := time.Now()
	for r := range o.readers {
		patience := r.moved.Add(sinkPatience)
		if r.idle { // it has not yet been woken
			patience = now.Add(sinkPatience)
		}
		if r.at < floor && now.Before(patience) && (!behind || patience.Before(until)) {
			behind, until = true, patience
		}
	}
	return behind, until
}

// end tells clients that nothing more comes.
func (o *output) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	o.changed.Broadcast()
}

// forget gives the memory back; how much there was is known still.
func (o *output) forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.ended {
		return // its end has not been noticed yet
	}
	o.ring, o.segments, o.from = nil, nil, o.to
}

// serve gives a client what comes from an offset on, until the run's end or until it
// goes.
func (o *output) serve(sink net.Conn, from int64) {
	r := &reader{at: from, moved: time.Now()}
	o.mu.Lock()
	r.at = max(min(r.at, o.to), 0)
	o.readers[r] = struct{}{}
	o.mu.Unlock()
	var watching sync.WaitGroup
	watching.Go(func() { // ends when the client closes its stream, or this function has
		_, _ = io.Copy(io.Discard, sink)
		_ = sink.Close() // also ends a Write to it
		o.leave(r)
	})
	buf := make([]byte, 0, agentapi.MaxOutput+64)
	for more := true; more; {
		if buf, more = o.next(r, buf[:0]); len(buf) > 0 {
			if _, err := sink.Write(buf); err != nil {
				break
			}
		}
	}
	o.leave(r)
	// The client closes its stream when it has read the end.
	watching.Wait()
}

func (o *output) leave(r *reader) {
	o.mu.Lock()
	defer o.mu.Unlock()
	r.gone = true
	delete(o.readers, r)
	o.changed.Broadcast()
}

// next appends to b what the client gets next: a gap, one frame of data, the end. It
// waits until there is something; more is false after the end, or if the client has
// gone.
func (o *output) next(r *reader, b []byte) (_ []byte, more bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	r.moved = time.Now()
	o.changed.Broadcast() // whoever waits for it may look again
	for r.at == o.to && !o.ended && !r.gone {
		r.idle = true
		o.changed.Wait()
		r.idle, r.moved = false, time.Now()
	}
	if r.gone {
		return b, false
	}
	if r.at < o.from {
		b = agentapi.AppendGap(b, o.from-r.at)
		r.at = o.from
	}
	if r.at == o.to {
		return agentapi.AppendFrame(b, 0, nil), false
	}
	s := o.segmentAt(r.at)
	n := min(s.end-r.at, agentapi.MaxOutput, backlogSize-r.at%backlogSize)
	at := r.at % backlogSize
	r.at += n
	return agentapi.AppendFrame(b, s.fd, o.ring[at:at+n]), true
}

// segmentAt returns the segment of an offset that is there.
func (o *output) segmentAt(at int64) segment {
	i, _ := slices.BinarySearchFunc(o.segments, at, func(s segment, at int64) int {
		return cmp.Compare(s.end, at+1)
	})
	return o.segments[i]
}
