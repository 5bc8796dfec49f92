package transcript

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"
)

const (
	// queueLimit is how many bytes of messages may wait for the disk.
	queueLimit = 16 << 20
	// entryCost is what an entry takes besides its message, more or less.
	entryCost = 256
)

// Log is a transcript that is being written. Its methods may be called from any
// goroutine.
type Log struct {
	w     io.WriteCloser
	wake  chan struct{} // holds a token when there is something to write
	ended chan struct{} // closed when the writer has ended

	mu      sync.Mutex // guards all below
	queue   []entry
	queued  int   // bytes in queue and in what is being written
	dropped entry // what found no room since the last entry
	closed  bool
	err     error // of the writer: the first
}

// entry is a line of the file in the making.
type entry struct {
	time     time.Time
	client   string
	from, to string
	message  []byte
	// malformed is the number of bytes that are no message.
	malformed int
	// dropped messages were missing here, of so many bytes.
	dropped, droppedBytes int
	// conceal is a value that is to be left out from here on.
	conceal string
}

// Open begins a transcript, at the end of the file if there is one.
func Open(path string) (*Log, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return newLog(f), nil
}

func newLog(w io.WriteCloser) *Log {
	l := &Log{w: w, wake: make(chan struct{}, 1), ended: make(chan struct{})}
	go l.write() // ends with Close
	return l
}

// Add adds a message, the content without its header. The client tells sessions
// apart; from and to are "editor", "kubedelve" or "delve". The message is copied.
// After Close nothing is added.
func (l *Log) Add(client, from, to string, message []byte) {
	l.add(entry{client: client, from: from, to: to, message: message})
}

// Conceal leaves a value, which may be a secret, out of all that is added later.
// Values that are so short that they would be everywhere are not looked for.
func (l *Log) Conceal(value string) { l.add(entry{conceal: value}) }

// add copies the entry's message.
func (l *Log) add(e entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	e.time = time.Now().UTC()
	cost := len(e.message) + entryCost
	if e.conceal == "" && l.queued > 0 && l.queued+cost > queueLimit {
		if l.dropped.dropped == 0 {
			l.dropped.time = e.time
		}
		l.dropped.dropped++
		l.dropped.droppedBytes += len(e.message)
		return
	}
	l.noteDropped()
	e.message = bytes.Clone(e.message)
	l.queue = append(l.queue, e)
	l.queued += cost
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// noteDropped puts into the queue how much is missing; the caller holds mu.
func (l *Log) noteDropped() {
	if l.dropped.dropped > 0 {
		l.queue = append(l.queue, l.dropped)
		l.queued += entryCost
		l.dropped = entry{}
	}
}

// Close waits until all is written, and returns the first error of doing so. It is
// idempotent.
func (l *Log) Close() error {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		l.noteDropped()
		close(l.wake)
	}
	l.mu.Unlock()
	<-l.ended
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// write is the goroutine that owns the file. It ends with Close.
func (l *Log) write() {
	defer close(l.ended)
	r := newRedactor()
	var line []byte
	for open := true; open; {
		_, open = <-l.wake
		for {
			l.mu.Lock()
			batch := l.queue
			l.queue = nil
			l.mu.Unlock()
			if len(batch) == 0 {
				break
			}
			for i := range batch {
				cost := len(batch[i].message) + entryCost
				line = batch[i].appendLine(line[:0], r)
				_, err := l.w.Write(line)
				batch[i] = entry{}
				l.mu.Lock()
				l.queued -= cost
				if err != nil && l.err == nil {
					l.err = fmt.Errorf("writing the messages' log: %w", err)
				}
				l.mu.Unlock()
			}
		}
	}
	err := l.w.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = errors.Join(l.err, err)
}

// stamp is RFC 3339 with microseconds.
const stamp = "2006-01-02T15:04:05.000000Z07:00"

// appendLine appends the entry as a line; there is none for a value to be concealed.
func (e *entry) appendLine(b []byte, r *redactor) []byte {
	if e.conceal != "" {
		r.conceal(e.conceal)
		return b
	}
	b = append(b, `{"time":"`...)
	b = e.time.AppendFormat(b, stamp)
	b = append(b, '"')
	if e.dropped > 0 {
		b = append(b, `,"dropped":`...)
		b = strconv.AppendInt(b, int64(e.dropped), 10)
		b = append(b, `,"bytes":`...)
		b = strconv.AppendInt(b, int64(e.droppedBytes), 10)
		return append(b, "}\n"...)
	}
	for _, field := range [...][2]string{{"client", e.client}, {"from", e.from}, {"to", e.to}} {
		b = append(b, `,"`+field[0]+`":`...)
		b = appendString(b, field[1])
	}
	if root, ok := parse(e.message); ok && e.malformed == 0 {
		r.message(e, root)
		b = append(b, `,"message":`...)
		b = root.append(b)
	} else {
		b = append(b, `,"malformed":`...)
		b = strconv.AppendInt(b, int64(max(e.malformed, len(e.message))), 10)
	}
	return append(b, "}\n"...)
}

func appendString(b []byte, s string) []byte {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(s) // a string can be encoded
	return append(b, bytes.TrimSuffix(out.Bytes(), []byte("\n"))...)
}
