package dapserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// envelope is what must be known of a message to route it. Everything else of
// the message is relayed as the bytes that arrived: decoding and encoding
// would drop the fields that this version of the protocol doesn't know.
type envelope struct {
	kind    string // "request", "response" or "event"
	seq     int64
	command string // of a request or response
	event   string
	// requestSeq and success are those of a response.
	requestSeq int64
	success    bool

	seqAt, requestSeqAt span // where the numbers are, to be replaced
	body                span // the value of "arguments" or "body"
}

// span is a half-open range of bytes; the zero value means "absent", since no
// value can be at the start of a message.
type span struct{ from, to int }

func (p span) in(b []byte) []byte { return b[p.from:p.to] }

// malformedError is a message that is well framed and yet not a DAP message.
// If seq is not 0, it can still be answered.
type malformedError struct {
	seq  int64
	what string
}

func (e *malformedError) Error() string { return "malformed DAP message: " + e.what }

// parseEnvelope finds the envelope of a message. The values of members that
// are not part of the envelope are skipped, not checked.
//
// Like encoding/json, which is what Delve reads with, it ignores the case of
// names and lets the last of several win; else the two could be made to
// disagree on what a message is. A second seq is refused: only one could be
// rewritten.
func parseEnvelope(msg []byte) (envelope, error) {
	var env envelope
	bad := func(format string, args ...any) (envelope, error) {
		return env, &malformedError{env.seq, fmt.Sprintf(format, args...)}
	}
	s := scanner{b: msg}
	if !s.take('{') {
		return bad("not a JSON object")
	}
	s.space()
	if s.take('}') {
		return bad("an empty object")
	}
	for {
		name, err := s.name()
		if err != nil {
			return bad("%v", err)
		}
		at, err := s.value()
		if err != nil {
			return bad("%v", err)
		}
		switch value := at.in(msg); name {
		case "seq", "request_seq":
			where, number := &env.seqAt, &env.seq
			if name == "request_seq" {
				where, number = &env.requestSeqAt, &env.requestSeq
			}
			if *where != (span{}) {
				return bad("%q occurs twice", name)
			}
			n, err := strconv.ParseInt(string(value), 10, 53)
			if err != nil {
				return bad("%q is %.40s, not an integer", name, value)
			}
			*where, *number = at, n
		case "type":
			err = setText(&env.kind, value)
		case "command":
			err = setText(&env.command, value)
		case "event":
			err = setText(&env.event, value)
		case "success":
			env.success = string(value) == "true"
		case "arguments", "body":
			env.body = at
		}
		if err != nil {
			return bad("%q is %.40s, not a string", name, at.in(msg))
		}
		s.space()
		if s.take(',') {
			continue
		}
		if !s.take('}') {
			return bad("broken JSON at byte %d", s.pos)
		}
		break
	}
	if s.space(); s.pos != len(msg) {
		return bad("something follows the object at byte %d", s.pos)
	}
	switch {
	case env.kind != "request" && env.kind != "response" && env.kind != "event":
		return bad("\"type\" is %.40q, not request, response or event", env.kind)
	case env.kind == "request" && env.command == "":
		return bad("a request without \"command\"")
	case env.kind == "request" && env.seqAt == span{}: // 0 is a number: nvim-dap begins with it
		return bad("a request without \"seq\"")
	case env.kind == "response" && env.requestSeqAt == span{}:
		return bad("a response without \"request_seq\"")
	}
	return env, nil
}

// setText decodes a string, or null, which changes nothing.
func setText(text *string, value []byte) error {
	if n := len(value); n >= 2 && value[0] == '"' && isPlain(value[1:n-1]) {
		*text = string(value[1 : n-1])
		return nil
	}
	return json.Unmarshal(value, text)
}

// isPlain says whether the inside of a JSON string means itself.
func isPlain(s []byte) bool {
	for _, c := range s {
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// appendMessage appends the framed message with its numbers replaced. A
// requestSeq is used for responses only.
func appendMessage(dst, msg []byte, env *envelope, seq, requestSeq int64) []byte {
	var numbers [48]byte
	newSeq := strconv.AppendInt(numbers[:0], seq, 10)
	newRequestSeq := strconv.AppendInt(numbers[24:24], requestSeq, 10)
	if env.kind != "response" || env.requestSeqAt == (span{}) {
		newRequestSeq = env.requestSeqAt.in(msg)
	}
	first, firstNew, second, secondNew := env.seqAt, newSeq, env.requestSeqAt, newRequestSeq
	if first == (span{}) {
		// Events without a number are tolerated; the peer gets one.
		brace := bytes.IndexByte(msg, '{') + 1
		first = span{brace, brace}
		firstNew = append(append([]byte(`"seq":`), newSeq...), ',')
	}
	if second != (span{}) && second.from < first.from {
		first, firstNew, second, secondNew = second, secondNew, first, firstNew
	}
	if second == (span{}) {
		second, secondNew = span{len(msg), len(msg)}, nil
	}
	length := len(msg) - (first.to - first.from) - (second.to - second.from) + len(firstNew) + len(secondNew)
	if dst == nil {
		dst = make([]byte, 0, length+32)
	}
	dst = appendHeader(dst, length)
	dst = append(dst, msg[:first.from]...)
	dst = append(dst, firstNew...)
	dst = append(dst, msg[first.to:second.from]...)
	dst = append(dst, secondNew...)
	return append(dst, msg[second.to:]...)
}

// scanner walks over the members of one JSON object.
type scanner struct {
	b   []byte
	pos int
}

var errBroken = errors.New("broken JSON")

func (s *scanner) space() {
	for s.pos < len(s.b) && (s.b[s.pos] == ' ' || s.b[s.pos] == '\n' || s.b[s.pos] == '\r' || s.b[s.pos] == '\t') {
		s.pos++
	}
}

func (s *scanner) take(c byte) bool {
	s.space()
	if s.pos < len(s.b) && s.b[s.pos] == c {
		s.pos++
		return true
	}
	return false
}

var envelopeNames = []string{"seq", "request_seq", "type", "command", "event", "success", "arguments", "body"}

// name reads the name of a member and the colon after it, and returns the
// name as this package writes it.
func (s *scanner) name() (string, error) {
	s.space()
	at, err := s.str()
	if err != nil {
		return "", fmt.Errorf("%w at byte %d: the name of a member is missing", errBroken, s.pos)
	}
	if !s.take(':') {
		return "", fmt.Errorf("%w at byte %d: ':' is missing", errBroken, s.pos)
	}
	name := s.b[at.from+1 : at.to-1]
	switch string(name) { // as everybody writes them
	case "seq":
		return "seq", nil
	case "request_seq":
		return "request_seq", nil
	case "type":
		return "type", nil
	case "command":
		return "command", nil
	case "event":
		return "event", nil
	case "success":
		return "success", nil
	case "arguments":
		return "arguments", nil
	case "body":
		return "body", nil
	}
	if bytes.IndexByte(name, '\\') >= 0 {
		var text string
		if json.Unmarshal(at.in(s.b), &text) == nil {
			name = []byte(text)
		}
	}
	for _, known := range envelopeNames {
		if bytes.EqualFold(name, []byte(known)) {
			return known, nil
		}
	}
	return "", nil
}

// str skips a string and returns where it is, with its quotes.
func (s *scanner) str() (span, error) {
	from := s.pos
	if from >= len(s.b) || s.b[from] != '"' {
		return span{}, errBroken
	}
	for i := from + 1; i < len(s.b); i++ {
		// IndexByte makes long strings cheap; most of a large message is one.
		q := bytes.IndexByte(s.b[i:], '"')
		if q < 0 {
			break
		}
		q += i
		backslashes := 0
		for q-1-backslashes > from && s.b[q-1-backslashes] == '\\' {
			backslashes++
		}
		i = q
		if backslashes%2 == 0 {
			s.pos = q + 1
			return span{from, s.pos}, nil
		}
	}
	return span{}, fmt.Errorf("%w: a string has no end", errBroken)
}

// value skips a value and returns where it is.
func (s *scanner) value() (span, error) {
	s.space()
	from, depth := s.pos, 0
	for s.pos < len(s.b) {
		switch c := s.b[s.pos]; c {
		case '"':
			if _, err := s.str(); err != nil {
				return span{}, err
			}
			if depth == 0 {
				return span{from, s.pos}, nil
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return s.scalar(from)
			}
			if depth--; depth == 0 {
				s.pos++
				return span{from, s.pos}, nil
			}
		case ',', ' ', '\n', '\r', '\t':
			if depth == 0 {
				return s.scalar(from)
			}
		}
		s.pos++
	}
	return span{}, fmt.Errorf("%w: it ends in the middle", errBroken)
}

// scalar is the number or word between from and here.
func (s *scanner) scalar(from int) (span, error) {
	if from == s.pos {
		return span{}, fmt.Errorf("%w at byte %d: a value is missing", errBroken, from)
	}
	return span{from, s.pos}, nil
}
