package agent

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/kubedelve/kubedelve/internal/agentapi"
)

// backlogSize is how much of the output before a client came it is given, bytes.
const backlogSize = 64 << 10

// sinkPatience is how long a client may refuse to read before it is dropped: a
// component must not hang for ever because a laptop's lid was closed.
const sinkPatience = 30 * time.Second

// output spreads what the component writes: to the container's own log, and to
// every client that asked. Nothing is dropped for a client that reads; the
// component waits for the slowest, as it would for a terminal.
type output struct {
	mu      sync.Mutex // guards all below, and orders frames
	backlog []frame
	size    int // of the backlog, bytes
	sinks   map[net.Conn]struct{}
}

type frame struct {
	fd   byte
	data []byte
}

// pump copies a pipe until its end: one goroutine for stdout, one for stderr.
func (o *output) pump(fd byte, pipe io.Reader, log *os.File) {
	buf := make([]byte, agentapi.MaxOutput)
	for {
		n, err := pipe.Read(buf)
		if n > 0 {
			_, _ = log.Write(buf[:n])
			o.spread(frame{fd, append([]byte(nil), buf[:n]...)})
		}
		if err != nil {
			return
		}
	}
}

func (o *output) spread(f frame) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.backlog = append(o.backlog, f)
	o.size += len(f.data)
	for o.size > backlogSize && len(o.backlog) > 1 {
		o.size -= len(o.backlog[0].data)
		o.backlog = o.backlog[1:]
	}
	for sink := range o.sinks {
		if !send(sink, f) {
			delete(o.sinks, sink)
			_ = sink.Close()
		}
	}
}

func send(sink net.Conn, f frame) bool {
	head := [5]byte{f.fd}
	binary.BigEndian.PutUint32(head[1:], uint32(len(f.data))) //nolint:gosec // at most MaxOutput
	_ = sink.SetWriteDeadline(time.Now().Add(sinkPatience))
	_, err := sink.Write(append(head[:], f.data...))
	return err == nil
}

// serve gives a client the backlog and what follows, until it goes.
func (o *output) serve(sink net.Conn) {
	o.mu.Lock()
	ok := true
	for _, f := range o.backlog {
		ok = ok && send(sink, f)
	}
	if ok {
		if o.sinks == nil {
			o.sinks = map[net.Conn]struct{}{}
		}
		o.sinks[sink] = struct{}{}
	}
	o.mu.Unlock()
	_, _ = io.Copy(io.Discard, sink) // returns when the client or spread closes it
	o.mu.Lock()
	delete(o.sinks, sink)
	o.mu.Unlock()
}
