package dapterminal

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
)

// peer is a server of the protocol that does what a test says, for what Delve's never
// does.
type peer struct {
	*testing.T
	listener net.Listener
	conn     net.Conn
	in       *bufio.Reader
	seq      int
}

func listen(t *testing.T) *peer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{T: t, listener: l}
	t.Cleanup(func() {
		_ = l.Close()
		if p.conn != nil {
			_ = p.conn.Close()
		}
	})
	return p
}

func (p *peer) accept() {
	p.Helper()
	conn, err := p.listener.Accept()
	if err != nil {
		p.Fatal(err)
	}
	p.conn, p.in = conn, bufio.NewReader(conn)
}

// takes reads a message, which must be a request of that command or an answer to one.
func (p *peer) takes(command string) message {
	p.Helper()
	m, err := readMessage(p.in)
	if err != nil || m.Command != command {
		p.Fatalf("%+v, %v comes instead of %s", m, err, command)
	}
	return m
}

func (p *peer) send(m message) {
	p.Helper()
	p.seq++
	m.Seq = p.seq
	content, err := json.Marshal(m)
	if err != nil {
		p.Fatal(err)
	}
	// As others may write it.
	if _, err := fmt.Fprintf(p.conn, "content-type: text/json\r\ncontent-length: %d\r\n\r\n%s", len(content), content); err != nil {
		p.Fatal(err)
	}
}

func (p *peer) answers(m message, body string) {
	p.Helper()
	yes := true
	p.send(message{Type: "response", RequestSeq: m.Seq, Command: m.Command, Success: &yes, Body: json.RawMessage(body)})
}

func (p *peer) refuses(m message, body string) {
	p.Helper()
	no := false
	p.send(message{Type: "response", RequestSeq: m.Seq, Command: m.Command, Success: &no, Body: json.RawMessage(body), Message: "short"})
}

func (p *peer) tells(event, body string) {
	p.Helper()
	p.send(message{Type: "event", Event: event, Body: json.RawMessage(body)})
}

// begins answers until the configuration phase.
func (p *peer) begins(capabilities string) {
	p.Helper()
	p.accept()
	p.answers(p.takes("initialize"), capabilities)
	p.answers(p.takes("attach"), `{}`)
	p.tells("initialized", `{}`)
}

var attach = map[string]any{"request": "attach"}

// A server without any capability is debugged, too.
func TestAServerThatCanDoLittle(t *testing.T) {
	p := listen(t)
	u := start(t, p.listener.Addr().String(), attach)
	p.begins(`{"exceptionBreakpointFilters": [{"filter": "all", "default": true}]}`)
	u.gets("break main.f", "Command failed: this debug adapter has no breakpoints at functions")
	u.types("break delve_test.go:3")
	m := p.takes("setBreakpoints")
	if text := fmt.Sprint(m.Arguments); !strings.Contains(text, "delve_test.go") || !strings.Contains(text, "line:3") {
		t.Errorf("the breakpoints are %s", text)
	}
	p.answers(m, `{"breakpoints": [{"id": 7, "verified": false, "message": "not yet"}]}`)
	u.sees("Breakpoint 1 at ./delve_test.go:3 (pending: not yet)")
	u.sees(Prompt)
	p.tells("breakpoint", `{"reason": "changed", "breakpoint": {"id": 7, "verified": true, "line": 4}}`)
	u.sees("Breakpoint 1 set at ./delve_test.go:4")
	u.enters("continue")
	m = p.takes("setExceptionBreakpoints") // the last that comes: there is no configurationDone
	if text := fmt.Sprint(m.Arguments); !strings.Contains(text, "all") {
		t.Errorf("the filters are %s", text)
	}
	p.answers(m, `{}`)
	p.tells("output", `{"category": "telemetry", "output": "secret"}`)
	p.tells("output", `{"output": "half a line"}`)
	p.tells("something.else", `[1]`)
	p.tells("stopped", `{"reason": "breakpoint", "threadId": 5, "hitBreakpointIds": [7]}`)
	if shown := u.sees("half a line"); strings.Contains(shown, "secret") {
		t.Error("telemetry is shown")
	}
	p.answers(p.takes("stackTrace"), `{"stackFrames": [{"id": 1, "name": "f", "line": 1, "source": {"name": "made.up", "sourceReference": 9}}]}`)
	p.answers(p.takes("source"), `{"content": "the only line"}`)
	u.sees("> [Breakpoint 1] f made.up:1")
	u.sees("=>   1:\tthe only line")

	u.types("print x")
	p.refuses(p.takes("evaluate"), `{"error": {"id": 1, "format": "no {what} here", "variables": {"what": "x"}}}`)
	u.sees("Command failed: no x here")
	u.types("set x = 1")
	u.sees("Command failed: this debug adapter can't change variables")
	u.types("args")
	p.answers(p.takes("scopes"), `{"scopes": [{"name": "Locals", "variablesReference": 1}, {"name": "Arguments", "variablesReference": 2}]}`)
	p.answers(p.takes("variables"), `{"variables": [{"name": "a", "value": "1"}]}`)
	u.sees("a = 1")

	p.send(message{Type: "request", Command: "runInTerminal"})
	if m := p.takes("runInTerminal"); m.Success == nil || *m.Success || m.RequestSeq != p.seq {
		t.Errorf("what a terminal can't do is answered by %+v", m)
	}

	// What it was attached to goes on without breakpoints.
	u.types("exit")
	m = p.takes("setBreakpoints")
	if text := fmt.Sprint(m.Arguments); strings.Contains(text, "line:") {
		t.Errorf("the breakpoints are %s", text)
	}
	p.answers(m, `{"breakpoints": []}`)
	p.answers(p.takes("continue"), `{}`)
	m = p.takes("disconnect")
	if text := fmt.Sprint(m.Arguments); strings.Contains(text, "terminateDebuggee:true") {
		t.Errorf("it leaves with %s", text)
	}
	p.answers(m, `{}`)
	_ = p.conn.Close()
	if err := u.ends(); err != nil {
		t.Error(err)
	}
}

func TestAServerThatRestartsByItself(t *testing.T) {
	p := listen(t)
	u := start(t, p.listener.Addr().String(), attach)
	p.begins(`{"supportsRestartRequest": true, "supportsConfigurationDoneRequest": true}`)
	u.types("continue")
	p.answers(p.takes("configurationDone"), `{}`)
	p.tells("stopped", `{"reason": "entry", "threadId": 1}`)
	p.answers(p.takes("stackTrace"), `{"stackFrames": [{"id": 1, "name": "f"}]}`)
	u.sees("> [entry] f")
	u.types("restart")
	m := p.takes("restart")
	if text := fmt.Sprint(m.Arguments); !strings.Contains(text, "request:attach") {
		t.Errorf("it restarts with %s", text)
	}
	p.answers(m, `{}`)
	p.tells("initialized", `{}`) // it wants to be configured anew
	p.answers(p.takes("configurationDone"), `{}`)
	p.tells("stopped", `{"reason": "entry", "threadId": 1}`)
	p.answers(p.takes("stackTrace"), `{"stackFrames": [{"id": 1, "name": "g"}]}`)
	u.sees("> [entry] g")
	u.sees(Prompt)
	p.tells("terminated", `{}`)
	u.sees("The program has ended")
	u.enters("exit")
	p.takes("disconnect") // and is not answered
	_ = p.conn.Close()
	if err := u.ends(); err != nil {
		t.Error(err)
	}
}

// A server that does not restart the program, at once or after it has agreed, leaves it halted; a
// pause that is never answered leaves Ctrl-C; and leaving takes the breakpoints away and lets what was
// attached to go on.
func TestAServerThatRefuses(t *testing.T) {
	p := listen(t)
	u := start(t, p.listener.Addr().String(), attach)
	p.begins(`{"supportsRestartRequest": true, "supportsConfigurationDoneRequest": true, "supportsFunctionBreakpoints": true}`)
	u.types("break std::sort")
	m := p.takes("setFunctionBreakpoints")
	p.answers(m, `{"breakpoints": [{"id": 7, "verified": false}]}`)
	p.tells("breakpoint", `{"reason": "changed", "breakpoint": {"id": 7, "verified": true, "line": 4}}`)
	u.prints("Breakpoint 1 set at std::sort") // before the prompt or after it
	u.types("continue")
	p.refuses(p.takes("configurationDone"), `{}`)
	u.sees("Command failed: short")
	u.types("continue")
	p.answers(p.takes("configurationDone"), `{}`)
	stop := func() {
		t.Helper()
		p.tells("stopped", `{"reason": "pause", "threadId": 1}`)
		p.answers(p.takes("stackTrace"), `{"stackFrames": [{"id": 1, "name": "f"}]}`)
		u.sees("> [pause] f")
	}
	stop()
	for _, agrees := range []bool{false, true} {
		u.types("restart")
		m := p.takes("restart")
		if agrees {
			p.answers(m, `{}`)
		}
		p.refuses(m, `{}`)
		u.types("stack")
		p.answers(p.takes("stackTrace"), `{"stackFrames": [{"id": 1, "name": "g"}]}`)
		u.sees(" 0  g")
	}
	u.types("continue")
	p.answers(p.takes("continue"), `{}`)
	u.presses()
	p.takes("pause") // and does not answer it
	u.presses()
	u.sees("interrupted")
	u.sees(Prompt)
	stop()
	u.enters("exit")
	p.answers(p.takes("setFunctionBreakpoints"), `{"breakpoints": []}`)
	p.answers(p.takes("continue"), `{}`)
	p.answers(p.takes("disconnect"), `{}`)
	_ = p.conn.Close()
	if err := u.ends(); err != nil {
		t.Error(err)
	}
}

// Whoever leaves before the program was let go lets what it was attached to go on.
func TestLeavingBeforeTheProgramBegins(t *testing.T) {
	p := listen(t)
	u := start(t, p.listener.Addr().String(), attach)
	p.begins(`{"supportsConfigurationDoneRequest": true}`)
	u.types("exit")
	p.answers(p.takes("configurationDone"), `{}`)
	p.answers(p.takes("disconnect"), `{}`)
	_ = p.conn.Close()
	if err := u.ends(); err != nil {
		t.Error(err)
	}
}

// Whatever the user waits for, the end of the connection ends it, with a reason.
func TestAConnectionThatEnds(t *testing.T) {
	for name, test := range map[string]struct {
		until func(*peer, *user)
		want  string
	}{
		"at once":     {func(p *peer, _ *user) { p.accept() }, errGone.Error()},
		"at a prompt": {func(p *peer, u *user) { p.begins(`{}`); u.sees(Prompt) }, errGone.Error()},
		"before it is configured": {func(p *peer, _ *user) {
			p.accept()
			p.answers(p.takes("initialize"), `{}`)
			p.answers(p.takes("attach"), `{}`)
		}, errGone.Error()},
		"while it runs": {func(p *peer, u *user) {
			p.begins(`{"supportsConfigurationDoneRequest": true}`)
			u.types("continue")
			p.takes("configurationDone")
		}, errGone.Error()},
		"no adapter": {func(p *peer, _ *user) {
			p.accept()
			_, _ = p.conn.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
		}, "that is no debug adapter"},
	} {
		t.Run(name, func(t *testing.T) {
			p := listen(t)
			u := start(t, p.listener.Addr().String(), attach)
			test.until(p, u)
			_ = p.conn.Close()
			if err := u.ends(); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("it ends with %v, not %q", err, test.want)
			}
		})
	}
}

func TestWhatIsNoAdapter(t *testing.T) {
	for _, text := range []string{"", " ", "host:port", ":2345", "127.0.0.1:99999"} {
		if _, err := NewConnector(text, nil); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
	u := start(t, "false ${port}", attach)
	if err := u.ends(); err == nil || !strings.Contains(err.Error(), "it has ended (exit status 1) and never listened") {
		t.Errorf("it ends with %v", err)
	}
	u = start(t, "/no/such/command", attach)
	if err := u.ends(); err == nil || !strings.Contains(err.Error(), "starting the debug adapter") {
		t.Errorf("it ends with %v", err)
	}
}
