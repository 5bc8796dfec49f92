package agent

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubedelve/kubedelve/internal/agentapi"
)

// backlogSize is how much of the output before a client came it is given, bytes.
const backlogSize = 64 << 10

// sinkPatience is how long a client may refuse to read before it is dropped: a
// component must not hang for ever because a laptop's lid was closed.
const sinkPatience = 30 * time.Second

// output spreads what one run of the component writes: to the container's own log,
// and to every client that asked. Nothing is dropped for a client that reads; the
// component waits for the slowest, as it would for a terminal.
type output struct {
	run   int
	pumps []*pump // set once, before the first client can wait for them

	mu      sync.Mutex // guards all below, and orders frames
	backlog []frame
	size    int   // of the backlog, bytes
	total   int64 // bytes so far
	sinks   map[net.Conn]struct{}
	ended   bool // clients have been told that nothing more comes
}

type frame struct {
	fd   int
	data []byte
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
			o.spread(frame{p.fd, append([]byte(nil), buf[:n]...)})
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

func (o *output) spread(f frame) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended {
		return // of a process that outlived the component
	}
	o.backlog = append(o.backlog, f)
	o.size += len(f.data)
	o.total += int64(len(f.data))
	for o.size > backlogSize && len(o.backlog) > 1 {
		o.size -= len(o.backlog[0].data)
		o.backlog = o.backlog[1:]
	}
	o.send(f)
}

// end tells clients that nothing more comes.
func (o *output) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.ended {
		o.ended = true
		o.send(frame{})
	}
}

// send gives a frame to all clients; the caller holds mu.
func (o *output) send(f frame) {
	for sink := range o.sinks {
		if !send(sink, f) {
			delete(o.sinks, sink)
			_ = sink.Close()
		}
	}
}

func send(sink net.Conn, f frame) bool {
	_ = sink.SetWriteDeadline(time.Now().Add(sinkPatience))
	_, err := sink.Write(agentapi.AppendFrame(nil, f.fd, f.data))
	return err == nil
}

// serve gives a client what comes from an offset on, until it goes.
func (o *output) serve(sink net.Conn, from int64) {
	var reading sync.WaitGroup
	defer reading.Wait()
	reading.Go(func() { // ends when the client or send closes the stream
		_, _ = io.Copy(io.Discard, sink)
		_ = sink.Close() // also ends a Write to it, and with that gives mu free
	})
	o.mu.Lock()
	ok := true
	at := o.total - int64(o.size)
	if from < at {
		_, err := sink.Write(agentapi.AppendGap(nil, at-from))
		ok = err == nil
	}
	for _, f := range o.backlog {
		if skip := from - at; skip < int64(len(f.data)) {
			ok = ok && send(sink, frame{f.fd, f.data[max(skip, 0):]})
		}
		at += int64(len(f.data))
	}
	if o.ended {
		ok = ok && send(sink, frame{})
	}
	if o.sinks == nil {
		o.sinks = map[net.Conn]struct{}{}
	}
	o.sinks[sink] = struct{}{}
	o.mu.Unlock()
	if !ok {
		_ = sink.Close()
	}
	reading.Wait()
	o.mu.Lock()
	delete(o.sinks, sink)
	o.mu.Unlock()
}
