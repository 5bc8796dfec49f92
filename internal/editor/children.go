package editor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/google/go-dap"
)

// Asked is a debug session that the adapter has asked the editor to open.
type Asked struct {
	Request       string
	Configuration map[string]any
	seq           int
}

// Name is that of the session.
func (a Asked) Name() string {
	name, _ := a.Configuration["name"].(string)
	return name
}

// StartParent is [Start] for an editor that opens further sessions when it is asked
// to: see [Debugger.OpenChild].
func StartParent(ctx context.Context, conn io.ReadWriteCloser, request string, config map[string]any, breakpoints ...Breakpoint) (*Debugger, error) {
	d := &Debugger{Client: New(conn), marks: map[int]mark{}}
	d.mu.Lock()
	d.opens = true
	d.mu.Unlock()
	_, err := d.start(ctx, request, config, breakpoints)
	return d, err
}

// OpenChild waits until the adapter asks for a further session, opens it over a
// connection that connect makes, and tells the adapter so.
func (d *Debugger) OpenChild(ctx context.Context, connect func() (io.ReadWriteCloser, error), breakpoints ...Breakpoint) (child *Debugger, asked Asked, err error) {
	if asked, err = d.awaitAsked(ctx); err != nil {
		return nil, asked, err
	}
	conn, err := connect()
	if err != nil {
		return nil, asked, err
	}
	if child, _, err = Start(ctx, conn, asked.Request, asked.Configuration, breakpoints...); err != nil {
		return child, asked, fmt.Errorf("the session %s: %w", asked.Name(), err)
	}
	return child, asked, d.answer(asked)
}

func (d *Debugger) awaitAsked(ctx context.Context) (Asked, error) {
	for {
		d.mu.Lock()
		changed, ended := d.changed, d.ended
		if len(d.asked) > 0 {
			next := d.asked[0]
			d.asked = d.asked[1:]
			d.mu.Unlock()
			return next, nil
		}
		d.mu.Unlock()
		if ended != nil {
			return Asked{}, fmt.Errorf("waiting to be asked for a session: %w", ended)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Asked{}, fmt.Errorf("waiting to be asked for a session: %w; %s", context.Cause(ctx), d.summary())
		}
	}
}

// takeRequest is called with the lock held.
func (c *Client) takeRequest(m message) error {
	if m.Command != "startDebugging" || !c.opens {
		return fmt.Errorf("the adapter asks the editor for %s, which it can't do", m.Command)
	}
	raw, err := json.Marshal(m.Arguments)
	var arguments dap.StartDebuggingRequestArguments
	if err = errors.Join(err, json.Unmarshal(raw, &arguments)); err != nil {
		return fmt.Errorf("the adapter asks for a session with %s: %w", raw, err)
	}
	c.asked = append(c.asked, Asked{arguments.Request, arguments.Configuration, m.Seq})
	close(c.changed)
	c.changed = make(chan struct{})
	return nil
}

// answer tells the adapter that a session was opened.
func (c *Client) answer(a Asked) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	c.seq++
	seq := c.seq
	c.mu.Unlock()
	raw, err := json.Marshal(message{Seq: seq, Type: "response", Command: "startDebugging", RequestSeq: a.seq, Success: true})
	if err == nil {
		err = dap.WriteBaseMessage(c.conn, raw)
	}
	if err != nil {
		return fmt.Errorf("answering startDebugging: %w", err)
	}
	return nil
}
