package dapserver

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

const (
	// maxContent is the largest message that is taken from either side. Delve
	// takes 4 MiB (see maxDelveContent), but answers may be larger.
	maxContent = 64 << 20
	// maxHeader is the largest header, all fields together. A real one has
	// about twenty bytes.
	maxHeader = 8 << 10
)

// framingError says that the peer does not keep to DAP's base protocol. Where
// the next message begins is then unknown, so the connection is of no use.
type framingError struct{ what string }

func (e *framingError) Error() string { return "not a DAP message: " + e.what }

// frameReader splits a stream into the contents of DAP messages. It takes what
// other implementations send (further header fields, names in lower case, bare
// newlines), but no more: a listener on this machine can be reached by any web
// page through the browser, so an HTTP request must fail on its first line.
type frameReader struct{ r *bufio.Reader }

func newFrameReader(r io.Reader) *frameReader {
	return &frameReader{bufio.NewReaderSize(r, 32<<10)}
}

// next returns the content of the next message. It returns io.EOF only
// between two messages; a message cut short is an io.ErrUnexpectedEOF.
func (f *frameReader) next() ([]byte, error) {
	length, err := f.header()
	if err != nil {
		return nil, err
	}
	if length <= 64<<10 {
		msg := make([]byte, length)
		if n, err := io.ReadFull(f.r, msg); err != nil {
			return nil, cutShort(n, length, err)
		}
		return msg, nil
	}
	// The buffer grows with what has arrived, not with what was announced, so
	// that a short header can't make us allocate.
	var buf bytes.Buffer
	if n, err := io.CopyN(&buf, f.r, int64(length)); err != nil {
		return nil, cutShort(int(n), length, err)
	}
	return buf.Bytes(), nil
}

func cutShort(n, length int, err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("reading a message, %d of %d bytes: %w", n, length, err)
}

func (f *frameReader) header() (length int, err error) {
	length = -1
	for read := 0; ; {
		line, err := f.line(maxHeader - read)
		if err != nil {
			if errors.Is(err, io.EOF) && (read > 0 || len(line) > 0) {
				return 0, fmt.Errorf("reading the header of a message: %w", io.ErrUnexpectedEOF)
			}
			return 0, err
		}
		read += len(line)
		line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
		if len(line) == 0 {
			if length < 0 {
				return 0, &framingError{"the header has no Content-Length"}
			}
			return length, nil
		}
		name, value, found := bytes.Cut(line, []byte(":"))
		if !found || !isToken(name) {
			return 0, &framingError{fmt.Sprintf("header line %.60q is not of the form Name: value", line)}
		}
		if !bytes.EqualFold(name, []byte("Content-Length")) {
			continue
		}
		value = bytes.Trim(value, " \t")
		n, err := strconv.ParseUint(string(value), 10, 63)
		if err != nil {
			return 0, &framingError{fmt.Sprintf("Content-Length %.60q is not a number of bytes", value)}
		}
		if n > maxContent {
			return 0, &framingError{fmt.Sprintf("Content-Length %d is over the limit of %d bytes", n, maxContent)}
		}
		if length >= 0 && length != int(n) {
			return 0, &framingError{fmt.Sprintf("two different Content-Length: %d and %d", length, n)}
		}
		length = int(n)
	}
}

// line reads up to and with the next newline, at most limit bytes. What it returns
// is valid until the next read.
func (f *frameReader) line(limit int) ([]byte, error) {
	var long []byte // a line that does not fit into the reader's buffer
	for {
		part, err := f.r.ReadSlice('\n')
		if len(long)+len(part) > limit {
			return nil, &framingError{fmt.Sprintf("the header is over the limit of %d bytes", maxHeader)}
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			long = append(long, part...)
			continue
		}
		if long != nil {
			part = append(long, part...)
		}
		return part, err
	}
}

// isToken says whether s can be the name of a header field.
func isToken(s []byte) bool {
	for _, c := range s {
		if c != '-' && c != '_' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
			return false
		}
	}
	return len(s) > 0
}

// appendHeader appends the header of a message whose content has n bytes.
func appendHeader(b []byte, n int) []byte {
	b = append(b, "Content-Length: "...)
	b = strconv.AppendInt(b, int64(n), 10)
	return append(b, "\r\n\r\n"...)
}
