package dapserver

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-dap"
)

func TestWholeSession(t *testing.T) {
	checkLeaks(t)
	d := startDelve(t)
	e := connect(t, Config{Launcher: launches(d)})
	e.launch()

	e.SetBreakpointsRequest(fixtureSource(t), []int{fixtureLine(t, "work")})
	if bp := want[*dap.SetBreakpointsResponse](e).Body.Breakpoints; len(bp) != 1 || !bp[0].Verified {
		t.Fatalf("got breakpoints %+v, want one that is verified", bp)
	}
	e.ConfigurationDoneRequest()
	want[*dap.ConfigurationDoneResponse](e)
	stopped := want[*dap.StoppedEvent](e)
	if stopped.Body.Reason != "breakpoint" {
		t.Errorf("stopped for %q, want breakpoint", stopped.Body.Reason)
	}
	e.ThreadsRequest()
	want[*dap.ThreadsResponse](e)
	e.StackTraceRequest(stopped.Body.ThreadId, 0, 20)
	frames := want[*dap.StackTraceResponse](e).Body.StackFrames
	if len(frames) < 2 || frames[0].Name != "main.work" || frames[0].Source.Path != fixtureSource(t) {
		t.Fatalf("got frames %+v, want main.work on top", frames)
	}
	e.ScopesRequest(frames[0].Id)
	scopes := want[*dap.ScopesResponse](e).Body.Scopes
	e.VariablesRequest(scopes[0].VariablesReference)
	values := map[string]string{}
	for _, v := range want[*dap.VariablesResponse](e).Body.Variables {
		values[v.Name] = v.Value
	}
	if values["n"] != "3" || values["s"] != `"hello"` || values["p"] != "main.point {X: 3, Y: 2}" {
		t.Errorf("got variables %v", values)
	}
	e.SetVariableRequest(scopes[0].VariablesReference, "n", "4")
	want[*dap.SetVariableResponse](e)
	want[*dap.InvalidatedEvent](e)
	e.EvaluateRequest("n+1", frames[0].Id, "repl")
	if got := want[*dap.EvaluateResponse](e).Body.Result; got != "5" {
		t.Errorf("n+1 is %s, want 5", got)
	}
	e.NextRequest(stopped.Body.ThreadId)
	want[*dap.ContinuedEvent](e)
	want[*dap.NextResponse](e)
	if reason := want[*dap.StoppedEvent](e).Body.Reason; reason != "step" {
		t.Errorf("stopped for %q, want step", reason)
	}
	e.ContinueRequest(stopped.Body.ThreadId)
	want[*dap.ContinueResponse](e)
	if code := want[*dap.ExitedEvent](e).Body.ExitCode; code != 7 {
		t.Errorf("exit code %d, want 7", code)
	}
	want[*dap.TerminatedEvent](e)
	if e.output["stdout"] != "to stdout: ä\n" || e.output["stderr"] != "to stderr\n" {
		t.Errorf("got output %q before the end", e.output)
	}
	e.DisconnectRequest()
	want[*dap.DisconnectResponse](e)
	e.wantEOF()
	e.ended()
	if got, want := d.counts(), [3]int{2, 1, 0}; got != want { // the second for the exit code
		t.Errorf("dialled, closed, detached %v, want %v", got, want)
	}
}

func TestUnknownRequestGoesToDelve(t *testing.T) {
	checkLeaks(t)
	e := connect(t, Config{Launcher: launches(startDelve(t))})
	e.launch()
	seq := e.request("noSuchRequest", "")
	if m := wantError(e, 8888, "'noSuchRequest' is not supported"); m.RequestSeq != seq {
		t.Errorf("answer to %d, want %d", m.RequestSeq, seq)
	}
	e.disconnect()
}

func TestStopOnEntryAndPathRulesReachDelve(t *testing.T) {
	checkLeaks(t)
	d := startDelve(t)
	e := connect(t, Config{Launcher: launches(d)})
	e.initialize()
	dir := strings.TrimSuffix(fixtureSource(t), "/main.go")
	e.LaunchRequestWithArgs(map[string]any{"target": "local", "stopOnEntry": true,
		"substitutePath": []map[string]string{{"from": "/elsewhere", "to": dir}}})
	e.awaitLaunched()
	want[*dap.LaunchResponse](e)
	e.SetBreakpointsRequest("/elsewhere/main.go", []int{fixtureLine(t, "work")})
	if bp := want[*dap.SetBreakpointsResponse](e).Body.Breakpoints; !bp[0].Verified || bp[0].Source.Path != "/elsewhere/main.go" {
		t.Errorf("got %+v, want verified in /elsewhere/main.go", bp[0])
	}
	e.ConfigurationDoneRequest()
	if got := want[*dap.StoppedEvent](e).Body.Reason; got != "entry" {
		t.Errorf("stopped for %q, want entry", got)
	}
	want[*dap.ConfigurationDoneResponse](e)
	e.disconnect()
}

// A 5 MB message would make Delve close the connection.
func TestLargeRequestIsAnswered(t *testing.T) {
	checkLeaks(t)
	e := connect(t, Config{Launcher: launches(startDelve(t))})
	e.launch()
	e.EvaluateRequest(strings.Repeat("x", 5_000_000), 0, "repl")
	wantError(e, idTooLarge, "Delve takes 4194304")
	e.ThreadsRequest() // and Delve is still there
	want[*dap.ThreadsResponse](e)
	e.EvaluateRequest(`"`+strings.Repeat("x", 4_000_000)+`"`, 0, "repl")
	want[*dap.EvaluateResponse](e)
	e.disconnect()
}

// Arguments of a wrong type would, too.
func TestWrongTypesAreAnswered(t *testing.T) {
	checkLeaks(t)
	e := connect(t, Config{Launcher: launches(startDelve(t))})
	e.launch()
	e.request("stackTrace", `{"threadId":"one"}`)
	wantError(e, idMalformed, "threadId")
	e.ThreadsRequest()
	want[*dap.ThreadsResponse](e)
	e.disconnect()
}

func TestVanishWhileRunningClosesTheSession(t *testing.T) {
	checkLeaks(t)
	d := startDelve(t, "loop")
	e := connect(t, Config{Launcher: launches(d)})
	e.launch()
	e.ConfigurationDoneRequest()
	want[*dap.ConfigurationDoneResponse](e)
	e.conn.Close()
	e.ended()
	if got, want := d.counts(), [3]int{1, 1, 0}; got != want {
		t.Errorf("dialled, closed, detached %v, want %v", got, want)
	}
}

// A session that lives on must not be left halted, nor with breakpoints.
func TestDetachLeavesTheComponentRunning(t *testing.T) {
	for _, test := range []struct {
		name   string
		halt   bool
		vanish bool
	}{
		{name: "halted at a breakpoint", halt: true},
		{name: "running"},
		{name: "client vanishes", halt: true, vanish: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			checkLeaks(t)
			d := startDelve(t, "loop")
			cfg := Config{Session: d}
			srv := New(cfg)
			e := connectTo(context.Background(), t, srv)
			e.attach()
			if test.halt {
				e.SetBreakpointsRequest(fixtureSource(t), []int{fixtureLine(t, "tick")})
				want[*dap.SetBreakpointsResponse](e)
			}
			e.ConfigurationDoneRequest()
			want[*dap.ConfigurationDoneResponse](e)
			if test.halt {
				want[*dap.StoppedEvent](e)
			}
			if test.vanish {
				e.conn.Close()
				e.ended()
			} else {
				e.disconnect()
			}
			if got, want := d.counts(), [3]int{1, 0, 1}; got != want {
				t.Errorf("dialled, closed, detached %v, want %v", got, want)
			}
			// The component ticks; it would be halted at the breakpoint else.
			buf := make([]byte, 100)
			d.last().stdout.SetReadDeadline(deadline())
			for range 3 {
				if n, err := d.last().stdout.Read(buf); err != nil {
					t.Fatalf("the component does not run: %q, %v", buf[:n], err)
				}
			}
			// The next client has it at once.
			e = connectTo(context.Background(), t, srv)
			e.attach()
			e.disconnect()
		})
	}
}

func TestSecondClientIsToldWhoHasTheSession(t *testing.T) {
	checkLeaks(t)
	d := startDelve(t, "loop")
	srv := New(Config{Session: d})
	first := connectTo(context.Background(), t, srv)
	first.attach()
	first.ConfigurationDoneRequest()
	want[*dap.ConfigurationDoneResponse](first)

	second := connectTo(context.Background(), t, srv)
	second.initialize()
	second.AttachRequest(map[string]any{"mode": "remote"})
	wantError(second, idInUse, "fixture is in use by a DAP client ("+first.conn.LocalAddr().String()+") since ")
	first.disconnect()
	// It may try again on the same connection.
	second.AttachRequest(map[string]any{"mode": "remote"})
	second.awaitAttached()
	second.disconnect()
}

// Delve doesn't answer a second DAP client; neither must we wait forever.
func TestDelveIsHeldBySomebodyElse(t *testing.T) {
	checkLeaks(t)
	silent := newScript(t, func(conn net.Conn) { io.Copy(io.Discard, conn) })
	e := connect(t, Config{Launcher: launches(silent), HandshakeTimeout: 50 * time.Millisecond})
	e.initialize()
	e.LaunchRequestWithArgs(map[string]any{"target": "local"})
	wantError(e, idFailedToLaunch, "another debugger")
	<-silent.closed
	e.disconnect()
}

func TestDelveRefusesTheConfiguration(t *testing.T) {
	checkLeaks(t)
	d := startDelve(t)
	e := connect(t, Config{Launcher: launches(d)})
	e.initialize()
	e.LaunchRequestWithArgs(map[string]any{"target": "local", "stackTraceDepth": "many"})
	if m := wantError(e, 3001, "stackTraceDepth"); m.Command != "launch" || !m.Body.Error.ShowUser {
		t.Errorf("got %+v", m)
	}
	if got, want := d.counts(), [3]int{1, 1, 0}; got != want {
		t.Errorf("dialled, closed, detached %v, want %v", got, want)
	}
	e.disconnect()
}
