package editor

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/google/go-dap"
)

// Event is an event of the adapter and when it came.
type Event struct {
	Name string
	Body json.RawMessage
	At   time.Time
}

// RefusedError is a request that the adapter answered with success: false.
type RefusedError struct {
	Command string
	ID      int    // the error's id; 0 if there is none
	Text    string // what an editor shows
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("the adapter refuses %s: %s", e.Command, e.Text)
}

// message is a message of any kind.
type message struct {
	Seq        int             `json:"seq"`
	Type       string          `json:"type"`
	Command    string          `json:"command,omitempty"`
	Arguments  any             `json:"arguments,omitempty"`
	Event      string          `json:"event,omitempty"`
	RequestSeq int             `json:"request_seq,omitempty"`
	Success    bool            `json:"success,omitempty"`
	Message    string          `json:"message,omitempty"`
	Body       json.RawMessage `json:"body,omitempty"`
}

// Client is one connection to a debug adapter. Its methods may be called from any
// goroutine.
type Client struct {
	conn io.ReadWriteCloser
	done chan struct{} // closed when the reader has ended

	writing sync.Mutex // held while a message is written
	mu      sync.Mutex // guards all below
	seq     int        // of the last request
	answers map[int]chan message
	events  []Event
	taken   map[string]int // by name: how far Next has got in events
	changed chan struct{}  // closed and replaced with every event
	asked   []Asked        // sessions that it is to open, and has not been told of
	opens   bool           // it can
	ended   error          // why the reader has ended
}

// New takes a connection over.
func New(conn io.ReadWriteCloser) *Client {
	c := &Client{
		conn: conn, done: make(chan struct{}), answers: map[int]chan message{},
		taken: map[string]int{}, changed: make(chan struct{}),
	}
	go c.read() // ends with the connection
	return c
}

// Close hangs up, as an editor that crashes would, and waits for the reader.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.done
	return err
}

// Done is closed when the adapter has hung up.
func (c *Client) Done() <-chan struct{} { return c.done }

func (c *Client) read() {
	defer close(c.done)
	r := bufio.NewReader(c.conn)
	last := 0
	for {
		raw, err := dap.ReadBaseMessage(r)
		var m message
		if err == nil {
			if err = json.Unmarshal(raw, &m); err != nil {
				err = fmt.Errorf("the adapter sent %.200q: %w", raw, err)
			}
		}
		if err == nil && m.Seq <= last {
			err = fmt.Errorf("the adapter sent seq %d after %d: %.200s", m.Seq, last, raw)
		}
		last = m.Seq
		if err == nil {
			err = c.take(m)
		}
		if err != nil {
			c.end(err)
			return
		}
	}
}

func (c *Client) take(m message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch m.Type {
	case "response":
		answer, ok := c.answers[m.RequestSeq]
		if !ok {
			return fmt.Errorf("the adapter answers request %d (%s), which is not waiting for it", m.RequestSeq, m.Command)
		}
		delete(c.answers, m.RequestSeq)
		answer <- m // it has room for one
	case "event":
		c.events = append(c.events, Event{m.Event, m.Body, time.Now()})
		close(c.changed)
		c.changed = make(chan struct{})
	case "request":
		return c.takeRequest(m)
	default:
		return fmt.Errorf("the adapter sent a message of type %q", m.Type)
	}
	return nil
}

func (c *Client) end(err error) {
	if errors.Is(err, io.EOF) {
		err = errors.New("the adapter has hung up")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = err
	close(c.changed)
	c.changed = make(chan struct{})
}

// Answer is an answer that may not have come yet.
type Answer struct {
	client  *Client
	command string
	arrived chan message
}

// Send sends a request and does not wait for the answer.
func (c *Client) Send(command string, arguments any) (*Answer, error) {
	arrived := make(chan message, 1)
	// Sequence numbers must be written in their order.
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	c.seq++
	seq := c.seq
	c.answers[seq] = arrived
	c.mu.Unlock()
	raw, err := json.Marshal(message{Seq: seq, Type: "request", Command: command, Arguments: arguments})
	if err == nil {
		err = dap.WriteBaseMessage(c.conn, raw)
	}
	if err != nil {
		return nil, fmt.Errorf("sending %s: %w", command, err)
	}
	return &Answer{c, command, arrived}, nil
}

// Wait waits for the answer and decodes its body into body, if that is not nil. A
// refusal is a [*RefusedError].
func (a *Answer) Wait(ctx context.Context, body any) error {
	var m message
	select {
	case m = <-a.arrived:
	case <-ctx.Done():
		return fmt.Errorf("waiting for the answer to %s: %w; %s", a.command, context.Cause(ctx), a.client.summary())
	case <-a.client.done:
		select { // it may have been the last message
		case m = <-a.arrived:
		default:
			return fmt.Errorf("waiting for the answer to %s: %w", a.command, a.client.err())
		}
	}
	if !m.Success {
		return refusal(m)
	}
	if body == nil {
		return nil
	}
	if err := json.Unmarshal(m.Body, body); err != nil {
		return fmt.Errorf("the answer to %s: %w", a.command, err)
	}
	return nil
}

func refusal(m message) error {
	e := &RefusedError{Command: m.Command, Text: m.Message}
	var body dap.ErrorResponseBody
	if json.Unmarshal(m.Body, &body) == nil && body.Error != nil {
		e.ID, e.Text = body.Error.Id, body.Error.Format
		for name, value := range body.Error.Variables {
			e.Text = strings.ReplaceAll(e.Text, "{"+name+"}", value)
		}
	}
	return e
}

// Call sends a request and waits for the answer.
func (c *Client) Call(ctx context.Context, command string, arguments, body any) error {
	answer, err := c.Send(command, arguments)
	if err != nil {
		return err
	}
	return answer.Wait(ctx, body)
}

// Next waits for the next event of the name, in the order in which they came: each
// is returned once.
func (c *Client) Next(ctx context.Context, name string) (Event, error) {
	return c.Find(ctx, name, func(json.RawMessage) bool { return true })
}

// Find is Next for an event that has what match looks for; it passes over others
// of the name.
func (c *Client) Find(ctx context.Context, name string, match func(body json.RawMessage) bool) (Event, error) {
	for {
		c.mu.Lock()
		changed, ended := c.changed, c.ended
		for i := c.taken[name]; i < len(c.events); i++ {
			c.taken[name] = i + 1
			if e := c.events[i]; e.Name == name && match(e.Body) {
				c.mu.Unlock()
				return e, nil
			}
		}
		c.mu.Unlock()
		if ended != nil {
			return Event{}, fmt.Errorf("waiting for the event %s: %w; %s", name, ended, c.summary())
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Event{}, fmt.Errorf("waiting for the event %s: %w; %s", name, context.Cause(ctx), c.summary())
		}
	}
}

// Events returns all that came so far.
func (c *Client) Events() []Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Event(nil), c.events...)
}

// Output is the text of all output events so far of the categories, or of all if
// none is named.
func (c *Client) Output(categories ...string) string {
	var text strings.Builder
	for _, e := range c.Events() {
		var body dap.OutputEventBody
		if e.Name != "output" || json.Unmarshal(e.Body, &body) != nil {
			continue
		}
		wanted := len(categories) == 0
		for _, category := range categories {
			wanted = wanted || category == body.Category
		}
		if wanted {
			text.WriteString(body.Output)
		}
	}
	return text.String()
}

func (c *Client) err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

// summary tells what came, for errors.
func (c *Client) summary() string {
	events := c.Events()
	if len(events) == 0 {
		return "no event has come"
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%d events have come, the last:", len(events))
	for _, e := range events[max(0, len(events)-8):] {
		fmt.Fprintf(&text, "\n  %s %.300s", e.Name, e.Body)
	}
	return text.String()
}
