package dapterminal

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/textproto"
	"strconv"
	"sync"
	"syscall"
)

// maxContent is the largest message that is taken.
const maxContent = 64 << 20

// errGone says that the server has closed the connection.
var errGone = errors.New("the debug adapter has closed the connection")

// message is any message of the protocol; what others there may be in it is not read.
type message struct {
	Seq        int             `json:"seq"`
	Type       string          `json:"type"`
	Command    string          `json:"command,omitempty"`
	Arguments  any             `json:"arguments,omitempty"`
	RequestSeq int             `json:"request_seq,omitempty"`
	Success    *bool           `json:"success,omitempty"`
	Message    string          `json:"message,omitempty"`
	Event      string          `json:"event,omitempty"`
	Body       json.RawMessage `json:"body,omitempty"`
}

// client sends requests and hands events on.
type client struct {
	conn    io.ReadWriteCloser
	events  func(name string, body json.RawMessage) // in the order in which they come; must not call
	failed  func(command string, err error)         // of answers that nobody waits for
	stopped chan struct{}                           // closed when nothing is read any more

	mu      sync.Mutex // guards all below, and writing
	seq     int
	pending map[int]chan message // each holds one
	err     error                // why nothing is read any more
}

func newClient(conn io.ReadWriteCloser, events func(string, json.RawMessage), failed func(string, error)) *client {
	c := &client{conn: conn, events: events, failed: failed, stopped: make(chan struct{}), pending: map[int]chan message{}}
	go c.read() // ends with the connection
	return c
}

// request is one that was sent.
type request struct {
	c       *client
	seq     int
	command string
	answer  chan message
}

// send sends a request. Arguments may be nil.
func (c *client) send(command string, arguments any) (request, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return request{}, c.err
	}
	c.seq++
	r := request{c, c.seq, command, make(chan message, 1)}
	if err := c.write(message{Seq: c.seq, Type: "request", Command: command, Arguments: arguments}); err != nil {
		return request{}, fmt.Errorf("%s: %w", command, err)
	}
	c.pending[r.seq] = r.answer
	return r, nil
}

// call sends a request, waits for its answer, and decodes the body of that into out if
// that is not nil.
func (c *client) call(ctx context.Context, command string, arguments, out any) error {
	r, err := c.send(command, arguments)
	if err != nil {
		return err
	}
	return r.await(ctx, out)
}

// callWithin is call for an answer without a body, and sends within a call of within.
func (c *client) callWithin(ctx context.Context, command string, arguments any, within func(send func() error) error) error {
	var r request
	err := within(func() (err error) {
		r, err = c.send(command, arguments)
		return err
	})
	if err != nil {
		return err
	}
	return r.await(ctx, nil)
}

// await waits for the answer. What the server gives as the reason of a failure is the error.
func (r request) await(ctx context.Context, out any) error {
	var m message
	select {
	case m = <-r.answer:
	case <-r.c.stopped:
		select {
		case m = <-r.answer: // the last thing that was read
		default:
			return r.c.reason()
		}
	case <-ctx.Done():
		r.c.mu.Lock()
		defer r.c.mu.Unlock()
		delete(r.c.pending, r.seq)
		return fmt.Errorf("waiting for the answer to %s: %w", r.command, context.Cause(ctx))
	}
	if m.Success == nil || !*m.Success {
		return refusal(m)
	}
	if out == nil || len(m.Body) == 0 {
		return nil
	}
	if err := json.Unmarshal(m.Body, out); err != nil {
		return fmt.Errorf("the answer to %s: %w", r.command, err)
	}
	return nil
}

// refusal is the reason that a response gives.
func refusal(m message) error {
	var body struct {
		Error struct {
			Format    string            `json:"format"`
			Variables map[string]string `json:"variables"`
		} `json:"error"`
	}
	_ = json.Unmarshal(m.Body, &body) // it need not be there
	if text := expand(body.Error.Format, body.Error.Variables); text != "" {
		return errors.New(text)
	}
	if m.Message != "" {
		return errors.New(m.Message)
	}
	return fmt.Errorf("%s failed, and the debug adapter does not say why", m.Command)
}

// reason is why the connection is over.
func (c *client) reason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// read takes in what the server sends.
func (c *client) read() {
	defer close(c.stopped)
	in := bufio.NewReader(c.conn)
	for {
		m, err := readMessage(in)
		if err != nil {
			c.mu.Lock()
			if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
				err = errGone
			}
			c.err = err
			c.mu.Unlock()
			return
		}
		switch m.Type {
		case "event":
			c.events(m.Event, m.Body)
		case "response":
			c.mu.Lock()
			answer := c.pending[m.RequestSeq]
			delete(c.pending, m.RequestSeq)
			c.mu.Unlock()
			switch {
			case answer != nil:
				answer <- m
			case m.Success == nil || !*m.Success: // some think better of it
				c.failed(m.Command, refusal(m))
			}
		case "request":
			c.refuse(m)
		}
	}
}

// refuse answers a request of the server's: there is none that a terminal can do.
func (c *client) refuse(m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seq++
	no := false
	_ = c.write(message{
		Seq: c.seq, Type: "response", RequestSeq: m.Seq, Command: m.Command, Success: &no,
		Message: "a debugger in a terminal can't do " + m.Command,
	})
}

// write is called with the lock held.
func (c *client) write(m message) error {
	content, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.conn, "Content-Length: %d\r\n\r\n%s", len(content), content)
	return err
}

// readMessage reads one message. It returns io.EOF only between two.
func readMessage(in *bufio.Reader) (message, error) {
	if _, err := in.Peek(1); err != nil {
		return message{}, err
	}
	header, err := textproto.NewReader(in).ReadMIMEHeader()
	if err != nil {
		return message{}, fmt.Errorf("that is no debug adapter: reading the header of a message: %w", notEOF(err))
	}
	length, err := strconv.Atoi(header.Get("Content-Length"))
	if err != nil || length < 0 || length > maxContent {
		return message{}, fmt.Errorf("that is no debug adapter: a message with Content-Length %q", header.Get("Content-Length"))
	}
	content := make([]byte, length)
	if _, err := io.ReadFull(in, content); err != nil {
		return message{}, fmt.Errorf("reading a message: %w", notEOF(err))
	}
	var m message
	if err := json.Unmarshal(content, &m); err != nil {
		return message{}, fmt.Errorf("that is no debug adapter: %w", err)
	}
	return m, nil
}

func notEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
