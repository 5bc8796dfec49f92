package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/google/go-dap"
)

// patience bounds every request; a Delve that is loading takes seconds.
const patience = 2 * time.Minute

// client is a debugger's client that does as little as can be, so that what is
// measured is the way and not the client. It has one request at a time.
type client struct {
	conn connected
	r    *bufio.Reader
	seq  int
	out  []byte
}

// connected is a connection, or a process's pipes.
type connected interface {
	io.ReadWriteCloser
	SetDeadline(time.Time) error
}

func newClient(conn connected) *client {
	return &client{conn: conn, r: bufio.NewReaderSize(conn, 256<<10)}
}

// request is one that is made again and again.
type request struct {
	command   string
	arguments any
	event     string // what comes after the answer and ends the time; empty: nothing
	once      bool   // it is made once, and not measured
}

// do sends a request and returns how long it took until the last byte of what ends
// it was there, and that message's body.
func (c *client) do(r request) (time.Duration, json.RawMessage, error) {
	if err := c.frame(r.command, r.arguments); err != nil {
		return 0, nil, err
	}
	_ = c.conn.SetDeadline(time.Now().Add(patience))
	answer := fmt.Appendf(nil, `"request_seq":%d,`, c.seq)
	event := fmt.Appendf(nil, `"event":%q`, r.event)

	began := time.Now()
	if _, err := c.conn.Write(c.out); err != nil {
		return 0, nil, fmt.Errorf("%s: %w", r.command, err)
	}
	answered := false
	for {
		raw, err := c.next()
		if err != nil {
			return 0, nil, fmt.Errorf("%s: %w", r.command, err)
		}
		took := time.Since(began)
		head := raw[:min(len(raw), 200)]
		isAnswer := bytes.Contains(head, answer)
		answered = answered || isAnswer
		if isAnswer && !bytes.Contains(head, []byte(`"success":true`)) {
			return 0, nil, fmt.Errorf("%s is refused: %s", r.command, raw)
		}
		if answered && (r.event == "" || bytes.Contains(head, event)) {
			var m struct{ Body json.RawMessage }
			err := json.Unmarshal(raw, &m)
			return took, m.Body, err
		}
	}
}

// frame makes a request in c.out.
func (c *client) frame(command string, arguments any) error {
	raw, err := json.Marshal(arguments)
	if err != nil {
		return err
	}
	c.seq++
	content := fmt.Appendf(nil, `{"seq":%d,"type":"request","command":%q,"arguments":%s}`, c.seq, command, raw)
	c.out = append(fmt.Appendf(c.out[:0], "Content-Length: %d\r\n\r\n", len(content)), content...)
	return nil
}

// send sends a request, whose answer is for next to read.
func (c *client) send(command string, arguments any) error {
	if err := c.frame(command, arguments); err != nil {
		return err
	}
	_, err := c.conn.Write(c.out)
	return err
}

// next reads a message; it is valid until the next call.
func (c *client) next() ([]byte, error) {
	length := 0
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return nil, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		if value, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(value)); err != nil {
				return nil, err
			}
		}
	}
	raw := make([]byte, length)
	_, err := io.ReadFull(c.r, raw)
	return raw, err
}

// call is do for what is not measured.
func (c *client) call(command string, arguments, body any) error {
	_, raw, err := c.do(request{command: command, arguments: arguments})
	if err != nil || body == nil {
		return err
	}
	return json.Unmarshal(raw, body)
}

// halt begins a session and stops at the line.
func (c *client) halt(path string, line int) error {
	if err := c.call("initialize", dap.InitializeRequestArguments{
		ClientID: "bench", AdapterID: "go", PathFormat: "path", LinesStartAt1: true, ColumnsStartAt1: true, SupportsVariableType: true,
	}, nil); err != nil {
		return err
	}
	// The event initialized comes before the answer.
	if err := c.call("attach", map[string]any{"mode": "remote", "stackTraceDepth": 50}, nil); err != nil {
		return err
	}
	var set dap.SetBreakpointsResponseBody
	if err := c.call("setBreakpoints", breakpointsAt(path, line), &set); err != nil {
		return err
	}
	if len(set.Breakpoints) != 1 || !set.Breakpoints[0].Verified {
		return fmt.Errorf("the breakpoint %s:%d is not verified: %+v", path, line, set.Breakpoints)
	}
	_, _, err := c.do(request{command: "configurationDone", arguments: struct{}{}, event: "stopped"})
	return err
}

func breakpointsAt(path string, lines ...int) dap.SetBreakpointsArguments {
	a := dap.SetBreakpointsArguments{Source: dap.Source{Path: path}}
	for _, line := range lines {
		a.Breakpoints = append(a.Breakpoints, dap.SourceBreakpoint{Line: line})
	}
	return a
}

// requests are those that are measured, for a component that is halted.
func (c *client) requests(path string, line int) ([]request, error) {
	var stopped struct{ Threads []dap.Thread }
	if err := c.call("threads", struct{}{}, &stopped); err != nil {
		return nil, err
	}
	thread := 0
	for _, t := range stopped.Threads {
		if bytes.HasPrefix([]byte(t.Name), []byte("* ")) { // Delve marks the one that stopped
			thread = t.Id
		}
	}
	var stack dap.StackTraceResponseBody
	twenty := dap.StackTraceArguments{ThreadId: thread, Levels: 20}
	if err := c.call("stackTrace", twenty, &stack); err != nil {
		return nil, err
	}
	if len(stack.StackFrames) != 20 {
		return nil, fmt.Errorf("the stack has %d frames, not 20 (thread %d)", len(stack.StackFrames), thread)
	}
	frame := stack.StackFrames[0].Id
	var scopes dap.ScopesResponseBody
	if err := c.call("scopes", dap.ScopesArguments{FrameId: frame}, &scopes); err != nil {
		return nil, err
	}
	if len(scopes.Scopes) == 0 {
		return nil, fmt.Errorf("frame %d has no scopes", frame)
	}
	return []request{
		{command: "threads", arguments: struct{}{}},
		{command: "stackTrace", arguments: twenty},
		{command: "scopes", arguments: dap.ScopesArguments{FrameId: frame}},
		{command: "variables", arguments: dap.VariablesArguments{VariablesReference: scopes.Scopes[0].VariablesReference}},
		{command: "evaluate", arguments: dap.EvaluateArguments{Expression: "order.Lines[3].Price", FrameId: frame, Context: "hover"}},
		{command: "setBreakpoints", arguments: breakpointsAt(path, line, line+2, line+4)},
		{command: "setBreakpoints", arguments: breakpointsAt(path), once: true},
		{command: "next", arguments: dap.NextArguments{ThreadId: thread}, event: "stopped"},
	}, nil
}
