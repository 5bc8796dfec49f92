package transcript

import (
	"bytes"
	"io"
	"strconv"
)

// Tap returns a connection that is conn, and adds to the log what is read from it:
// the peer's messages to the other peer. It changes no byte and waits for nothing.
// If conn can close its writing half, so can what is returned.
func (l *Log) Tap(conn io.ReadWriteCloser, client, peer, other string) io.ReadWriteCloser {
	t := &tap{ReadWriteCloser: conn, split: splitter{found: func(e entry) {
		e.client, e.from, e.to = client, peer, other
		l.add(e)
	}}}
	if half, ok := conn.(closeWriter); ok {
		return struct {
			*tap
			closeWriter
		}{t, half}
	}
	return t
}

type closeWriter interface{ CloseWrite() error }

type tap struct {
	io.ReadWriteCloser
	split splitter
}

func (t *tap) Read(p []byte) (int, error) {
	n, err := t.ReadWriteCloser.Read(p)
	t.split.write(p[:n])
	if err != nil {
		t.split.end()
	}
	return n, err
}

const (
	// maxHeader is how long a header may be; a real one has some twenty bytes.
	maxHeader = 8 << 10
	// maxContent is how long a message may be that is kept.
	maxContent = queueLimit
)

// splitter finds messages in a stream that comes in pieces.
type splitter struct {
	found   func(entry)
	header  []byte // as far as it has come
	content []byte // as far as it has come, unless it is too long to be kept
	length  int    // of the content
	missing int    // of it
	lost    bool   // what comes is no DAP
	noise   int    // bytes of that
}

func (s *splitter) write(p []byte) {
	for len(p) > 0 {
		switch {
		case s.lost:
			s.noise += len(p)
			return
		case s.missing > 0:
			n := min(len(p), s.missing)
			if s.length <= maxContent {
				s.content = append(s.content, p[:n]...)
			}
			s.missing -= n
			s.done()
			p = p[n:]
		default:
			n := bytes.IndexByte(p, '\n') + 1
			if n == 0 {
				n = len(p)
			}
			s.header = append(s.header, p[:n]...)
			s.headerLine()
			p = p[n:]
		}
	}
}

// headerLine looks at the header as far as it has come.
func (s *splitter) headerLine() {
	end := bytes.HasSuffix(s.header, []byte("\n\r\n")) || bytes.HasSuffix(s.header, []byte("\n\n"))
	if !end && len(s.header) <= maxHeader {
		return
	}
	s.length = -1
	for line := range bytes.Lines(s.header) {
		name, value, found := bytes.Cut(bytes.TrimSpace(line), []byte(":"))
		if found && bytes.EqualFold(name, []byte("Content-Length")) {
			if n, err := strconv.ParseUint(string(bytes.TrimSpace(value)), 10, 31); err == nil {
				s.length = int(n)
			}
		}
	}
	if !end || s.length < 0 {
		s.lost, s.noise, s.header = true, len(s.header), nil
		return
	}
	s.header, s.missing = s.header[:0], s.length
	s.done()
}

// done tells of a message that is complete.
func (s *splitter) done() {
	switch {
	case s.missing > 0:
	case s.length > maxContent:
		s.found(entry{dropped: 1, droppedBytes: s.length})
	default:
		s.found(entry{message: s.content})
		s.content = s.content[:0]
	}
}

// end tells of what was left when the stream ended.
func (s *splitter) end() {
	n := s.noise + len(s.header)
	if s.missing > 0 {
		n += s.length - s.missing
	}
	if n > 0 {
		s.found(entry{malformed: n})
	}
	*s = splitter{found: s.found, lost: s.lost}
}
