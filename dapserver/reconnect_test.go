package dapserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-delve/delve/service/api"
	"github.com/google/go-dap"
)

// begin goes as far as the component running, or halted at its entry.
func (e *editor) begin(stopOnEntry bool) {
	e.t.Helper()
	e.initialize()
	e.LaunchRequestWithArgs(map[string]any{"target": "local", "stopOnEntry": stopOnEntry})
	e.awaitLaunched()
	want[*dap.LaunchResponse](e)
	e.configured(stopOnEntry)
}

func (e *editor) configured(stopOnEntry bool) {
	e.t.Helper()
	e.ConfigurationDoneRequest()
	if stopOnEntry {
		if reason := want[*dap.StoppedEvent](e).Body.Reason; reason != "entry" {
			e.t.Errorf("stopped for %q, want entry", reason)
		}
	}
	want[*dap.ConfigurationDoneResponse](e)
	if !stopOnEntry {
		e.awaitOutput("stdout", "ready\n")
	}
}

// wantRunning checks that the component runs, and that the editor's last
// request is answered by Delve.
func (e *editor) wantRunning(d *delve) {
	e.t.Helper()
	e.awaitLive()
	e.output["stdout"] = ""
	e.awaitOutput("stdout", "tick\n")
	if state := d.last().state(); state == nil || !state.Running {
		e.t.Errorf("the component is in state %+v, want it to run", state)
	}
}

// wantHalted checks that it is halted in the function.
func (e *editor) wantHalted(thread int, function string) {
	e.t.Helper()
	e.StackTraceRequest(thread, 0, 1)
	frames := want[*dap.StackTraceResponse](e).Body.StackFrames
	if len(frames) != 1 || !strings.Contains(frames[0].Name, function) {
		e.t.Errorf("halted at %+v, want %s", frames, function)
	}
}

// wantAtEntry checks that the component is halted before its first instruction. There
// is no goroutine then whose stack Delve could show to the editor.
func (d *delve) wantAtEntry() {
	d.t.Helper()
	state := d.last().state()
	if state == nil || state.CurrentThread == nil || state.CurrentThread.Function == nil || !strings.HasPrefix(state.CurrentThread.Function.Name(), "_rt0_") {
		d.t.Errorf("the component is in state %+v, want it halted at its entry", state)
	}
}

// TestRunStates lets a connection end in each state, and checks the state that the
// component and the editor are in after it.
func TestRunStates(t *testing.T) {
	const (
		runs    = "runs"
		halts   = "stays halted"
		atEntry = "halted at the new entry"
	)
	for _, test := range []struct {
		before string // "halted" or "running"
		how    string // "cut", "saved", "lost"
		wish   string // a request while there is no Delve
		want   string
		event  string // that the editor gets
	}{
		{"running", "cut", "", runs, ""},
		{"running", "cut", "pause", halts, "pause"},
		{"running", "cut", "continue", runs, ""},
		{"halted", "cut", "", halts, "invalidated"},
		{"halted", "cut", "continue", runs, ""},
		{"halted", "cut", "pause", halts, "invalidated"},
		{"running", "saved", "", runs, ""},
		{"running", "saved", "pause", atEntry, "pause"},
		{"halted", "saved", "", atEntry, "entry"},
		{"halted", "saved", "continue", runs, ""},
		{"running", "lost", "", runs, ""},
		{"running", "lost", "pause", atEntry, "pause"},
		{"halted", "lost", "", runs, "continued"},
		{"halted", "lost", "continue", runs, ""},
		{"halted", "lost", "pause", atEntry, "pause"},
	} {
		t.Run(test.before+", "+test.how+", "+test.wish, func(t *testing.T) {
			checkLeaks(t)
			d := startDelve(t, "loop")
			e := connect(t, Config{Launcher: launches(d)})
			e.begin(test.before == "halted")
			d.block()
			if test.how == "cut" {
				d.cut()
			} else {
				d.kill()
			}
			e.awaitBroken()
			switch test.wish {
			case "continue":
				e.ContinueRequest(1)
				if !want[*dap.ContinueResponse](e).Body.AllThreadsContinued {
					t.Error("not all threads are said to go on")
				}
			case "pause":
				e.PauseRequest(1)
				want[*dap.PauseResponse](e)
			}
			e.NextRequest(1)
			wantError(e, idReconnecting, "")
			if test.how == "cut" {
				d.allow()
			} else {
				d.start(d.last().run.Binary, test.how == "saved")
				want[*dap.ProcessEvent](e)
			}
			thread := 1
			switch test.event {
			case "":
			case "continued":
				want[*dap.ContinuedEvent](e)
			case "invalidated":
				want[*dap.InvalidatedEvent](e)
			default:
				stopped := want[*dap.StoppedEvent](e).Body
				if stopped.Reason != test.event || !stopped.AllThreadsStopped {
					t.Errorf("got %+v, want a stop for %s", stopped, test.event)
				}
				thread = stopped.ThreadId
			}
			switch {
			case test.want == runs:
				e.wantRunning(d)
				e.conn.Close()
				e.ended()
				return
			case test.want == atEntry || test.before == "halted":
				d.wantAtEntry()
			default:
				e.StackTraceRequest(thread, 0, 1)
				want[*dap.StackTraceResponse](e)
			}
			// And it can go on.
			e.ContinueRequest(1)
			want[*dap.ContinueResponse](e)
			e.wantRunning(d)
			e.conn.Close()
			e.ended()
		})
	}
}

// A client that doesn't know the event invalidated gets a stop that doesn't take
// the focus.
func TestInvalidatedIsForThoseWhoKnowIt(t *testing.T) {
	checkLeaks(t)
	d := startDelve(t, "loop")
	e := connect(t, Config{Launcher: launches(d)})
	e.request("initialize", `{"adapterID":"x"}`)
	want[*dap.InitializeResponse](e)
	e.LaunchRequestWithArgs(map[string]any{"target": "local", "stopOnEntry": true})
	e.awaitLaunched()
	want[*dap.LaunchResponse](e)
	e.configured(true)
	d.cut()
	if body := want[*dap.StoppedEvent](e).Body; !body.PreserveFocusHint || !body.AllThreadsStopped {
		t.Errorf("got %+v", body)
	}
	d.wantAtEntry()
	e.disconnect()
}

// A breakpoint that is hit while nobody is connected is told afterwards, once.
func TestStopWhileDisconnectedIsTold(t *testing.T) {
	for _, condition := range []string{"", "n == 1"} {
		t.Run("condition "+condition, func(t *testing.T) {
			checkLeaks(t)
			d := startDelve(t, "loop")
			e := connect(t, Config{Launcher: launches(d)})
			e.begin(false)
			id := e.set("setBreakpoints", fmt.Sprintf(`{"source":{"path":%q},"breakpoints":[{"line":%d,"condition":%q}]}`,
				fixtureSource(t), fixtureLine(t, "late"), condition))[0].Id
			d.block()
			d.cut()
			e.awaitBroken()
			d.signal(syscall.SIGUSR2)
			d.await("halt", func(state *api.DebuggerState) bool { return state != nil && !state.Running })
			d.allow()
			body := want[*dap.StoppedEvent](e).Body
			if body.Reason != "breakpoint" || fmt.Sprint(body.HitBreakpointIds) != fmt.Sprint([]int{id}) {
				t.Errorf("got %+v, want a stop at breakpoint %d", body, id)
			}
			e.wantHalted(body.ThreadId, "main.late")
			e.ContinueRequest(body.ThreadId)
			want[*dap.ContinueResponse](e)
			e.wantRunning(d)
			e.conn.Close()
			e.ended()
		})
	}
}

// Somebody else has let the component go on, as the agent does for an editor that
// is away for too long.
func TestResumedWhileDisconnected(t *testing.T) {
	checkLeaks(t)
	d := startDelve(t, "loop")
	e := connect(t, Config{Launcher: launches(d)})
	e.begin(true)
	e.SetBreakpointsRequest(fixtureSource(t), []int{fixtureLine(t, "late")})
	want[*dap.SetBreakpointsResponse](e)
	d.block()
	d.cut()
	e.awaitBroken()
	d.resume()
	e.awaitOutput("stdout", "ready\n")
	d.allow()
	want[*dap.ContinuedEvent](e)
	e.wantRunning(d)
	d.signal(syscall.SIGUSR2)
	if body := want[*dap.StoppedEvent](e).Body; body.Reason != "breakpoint" || len(body.HitBreakpointIds) != 1 {
		t.Errorf("got %+v, want a stop at the breakpoint", body)
	}
	e.conn.Close()
	e.ended()
}

// What has become something else in the new binary is reported, and nothing more.
func TestMovedAndUnverifiedBreakpointsAreReported(t *testing.T) {
	checkLeaks(t)
	d := startDelve(t, "loop")
	e := connect(t, Config{Launcher: launches(d)})
	e.begin(true)
	source := func(name string) string {
		return fmt.Sprintf(`{"line":%d}`, fixtureLine(t, name))
	}
	lines := e.set("setBreakpoints", fmt.Sprintf(`{"source":{"path":%q},"breakpoints":[%s,%s]}`, fixtureSource(t), source("work"), source("after a comment")))
	functions := e.set("setFunctionBreakpoints", `{"breakpoints":[{"name":"main.late"},{"name":"runtime.Gosched"}]}`)
	d.swap(fixtures(t).oneLineMore, true)
	want[*dap.ProcessEvent](e)
	// The line now is the comment; that in main.work has a statement as before.
	b := want[*dap.BreakpointEvent](e).Body.Breakpoint
	if b.Id != lines[1].Id || b.Verified || !strings.Contains(b.Message, "could not find statement") {
		t.Errorf("got %+v, want %+v unverified", b, lines[1])
	}
	b = want[*dap.BreakpointEvent](e).Body.Breakpoint
	if b.Id != functions[0].Id || !b.Verified || b.Line != functions[0].Line+1 {
		t.Errorf("got %+v, want %+v a line further down", b, functions[0])
	}
	want[*dap.StoppedEvent](e)
	// Back again, it is as it was.
	d.swap(fixtures(t).plain, true)
	want[*dap.ProcessEvent](e)
	for _, was := range []dap.Breakpoint{lines[1], functions[0]} {
		if b := want[*dap.BreakpointEvent](e).Body.Breakpoint; b.Id != was.Id || !b.Verified || b.Line != was.Line || b.Message != "" {
			t.Errorf("got %+v, want it as it was: %+v", b, was)
		}
	}
	want[*dap.StoppedEvent](e)
	e.disconnect()
}

// Ids that a later Delve gives are not those that the client knows.
func TestIDsStayTheClients(t *testing.T) {
	checkLeaks(t)
	d := startDelve(t, "loop")
	e := connect(t, Config{Launcher: launches(d)})
	e.begin(true)
	set := func(functions ...string) []int {
		t.Helper()
		var list []string
		for _, f := range functions {
			list = append(list, fmt.Sprintf(`{"name":"main.%s"}`, f))
		}
		var ids []int
		for _, b := range e.set("setFunctionBreakpoints", `{"breakpoints":[`+strings.Join(list, ",")+`]}`) {
			if !b.Verified {
				t.Fatalf("got %+v", b)
			}
			ids = append(ids, b.Id)
		}
		return ids
	}
	first := set("work", "logged", "counted")[2] // Delve's 3
	d.swap(fixtures(t).otherText, true)
	want[*dap.ProcessEvent](e)
	want[*dap.StoppedEvent](e)
	ids := set("counted")
	if ids[0] != first {
		t.Errorf("main.counted is %d now, and was %d", ids[0], first)
	}
	d.swap(fixtures(t).plain, true) // where counted is Delve's 1
	want[*dap.ProcessEvent](e)
	want[*dap.StoppedEvent](e)
	ids = set("counted", "logged", "byName") // and byName is Delve's 3
	seen := map[int]bool{}
	for _, id := range ids {
		if id == 0 || seen[id] {
			t.Errorf("got ids %v", ids)
		}
		seen[id] = true
	}
	if ids[0] != first {
		t.Errorf("main.counted is %d now, and was %d", ids[0], first)
	}
	e.ContinueRequest(1)
	want[*dap.ContinueResponse](e)
	e.awaitOutput("stdout", "ready\n")
	d.signal(syscall.SIGUSR2)
	for i := range ids {
		body := want[*dap.StoppedEvent](e).Body
		if fmt.Sprint(body.HitBreakpointIds) != fmt.Sprint(ids[i:i+1]) {
			t.Errorf("got %+v, want a stop at %d", body, ids[i])
		}
		e.ContinueRequest(body.ThreadId)
		want[*dap.ContinueResponse](e)
	}
	e.conn.Close()
	e.ended()
}

// What is removed while there is no Delve is also gone from the one that still has it.
func TestBreakpointsRemovedWhileDisconnected(t *testing.T) {
	for _, how := range []string{"cut", "swap"} {
		t.Run(how, func(t *testing.T) {
			checkLeaks(t)
			d := startDelve(t, "loop")
			e := connect(t, Config{Launcher: launches(d)})
			e.begin(false)
			for _, r := range allBreakpoints(t, d) {
				e.set(r[0], r[1])
			}
			d.block()
			if how == "cut" {
				d.cut()
			} else {
				d.kill()
			}
			e.awaitBroken()
			e.set("setBreakpoints", fmt.Sprintf(`{"source":{"path":%q},"breakpoints":[]}`, fixtureSource(t)))
			for _, command := range []string{"setFunctionBreakpoints", "setInstructionBreakpoints", "setDataBreakpoints"} {
				e.set(command, `{"breakpoints":[]}`)
			}
			clear(e.output)
			if how == "cut" {
				d.allow()
				e.awaitLive()
			} else {
				d.start(fixtures(t).otherText, true)
				want[*dap.ProcessEvent](e)
				e.awaitLive()
				e.awaitOutput("stdout", "ready\n")
			}
			d.signal(syscall.SIGUSR2)
			e.awaitOutput("stdout", "late 1\n")
			e.conn.Close()
			e.ended()
		})
	}
}

// Variables of functions and addresses are those of a process.
func TestDataBreakpointsOfAProcess(t *testing.T) {
	checkLeaks(t)
	d := startDelve(t, "loop")
	e := connect(t, Config{Launcher: launches(d)})
	e.begin(false)
	e.SetBreakpointsRequest(fixtureSource(t), []int{fixtureLine(t, "tick")})
	want[*dap.SetBreakpointsResponse](e)
	thread := want[*dap.StoppedEvent](e).Body.ThreadId
	e.SetBreakpointsRequest(fixtureSource(t), nil)
	want[*dap.SetBreakpointsResponse](e)
	arguments := fmt.Sprintf(`{"breakpoints":[{"dataId":"%[1]d,0,n","accessType":"write"},{"dataId":"-1,0,*(*[8]byte)(%#[2]x)","accessType":"write"},{"dataId":"%[1]d,0,main.latest","accessType":"write"}]}`,
		thread, symbol(t, d.last().run.Binary, "main.counter"))
	was := e.set("setDataBreakpoints", arguments)
	for _, b := range was {
		if !b.Verified {
			t.Fatalf("got %+v", was)
		}
	}
	check := func(got []dap.Breakpoint) {
		t.Helper()
		for i, b := range got {
			if i == 2 && (!b.Verified || b.Id != was[i].Id) {
				t.Errorf("got %+v, want that of the package's variable to be set", b)
			}
			if i != 2 && (b.Verified || b.Id != was[i].Id || !strings.Contains(b.Message, "has ended: set it again")) {
				t.Errorf("got %+v, want it unverified with the reason", b)
			}
		}
	}
	// In the same process nothing happens to them.
	d.cut()
	want[*dap.InvalidatedEvent](e)
	d.swap(fixtures(t).otherText, true)
	want[*dap.ProcessEvent](e)
	check([]dap.Breakpoint{want[*dap.BreakpointEvent](e).Body.Breakpoint, want[*dap.BreakpointEvent](e).Body.Breakpoint})
	want[*dap.StoppedEvent](e)
	// An editor sends all of them again with each change.
	check(e.set("setDataBreakpoints", arguments))
	d.swap(fixtures(t).plain, true)
	want[*dap.ProcessEvent](e)
	want[*dap.StoppedEvent](e)
	check(e.set("setDataBreakpoints", arguments))
	clear(e.output)
	e.ContinueRequest(1)
	want[*dap.ContinueResponse](e)
	e.awaitOutput("stdout", "ready\n")
	if watchpointsWork() {
		d.signal(syscall.SIGUSR2)
		if reason := want[*dap.StoppedEvent](e).Body.Reason; reason != "data breakpoint" {
			t.Errorf("stopped for %q", reason)
		}
	} else {
		t.Log(noWatchpoints)
	}
	e.conn.Close()
	e.ended()
}

// A variable of a function is not looked for again where another may have its name.
func TestDataBreakpointsThatDelveHasNotAnyMore(t *testing.T) {
	checkLeaks(t)
	d := startDelve(t, "loop")
	e := connect(t, Config{Launcher: launches(d)})
	e.begin(false)
	e.SetBreakpointsRequest(fixtureSource(t), []int{fixtureLine(t, "tick")})
	want[*dap.SetBreakpointsResponse](e)
	thread := want[*dap.StoppedEvent](e).Body.ThreadId
	was := e.set("setDataBreakpoints", fmt.Sprintf(`{"breakpoints":[{"dataId":"%d,0,n","accessType":"write"},{"dataId":"-1,0,main.latest","accessType":"write"}]}`, thread))
	d.block()
	d.cut()
	e.awaitBroken()
	d.clearBreakpoints() // as the agent does after a while
	d.allow()
	if b := want[*dap.BreakpointEvent](e).Body.Breakpoint; b.Id != was[0].Id || b.Verified || !strings.Contains(b.Message, "may have ended") {
		t.Errorf("got %+v, want %+v unverified", b, was[0])
	}
	want[*dap.InvalidatedEvent](e)
	e.disconnect()
}

// The connection is lost before the client has set what it wants.
func TestLostBeforeConfigurationDone(t *testing.T) {
	for _, stopOnEntry := range []bool{false, true} {
		t.Run(fmt.Sprint("stopOnEntry ", stopOnEntry), func(t *testing.T) {
			checkLeaks(t)
			d := startDelve(t, "loop")
			e := connect(t, Config{Launcher: launches(d)})
			e.initialize()
			e.LaunchRequestWithArgs(map[string]any{"target": "local", "stopOnEntry": stopOnEntry})
			e.awaitLaunched()
			want[*dap.LaunchResponse](e)
			d.swap(fixtures(t).otherText, true)
			want[*dap.ProcessEvent](e)
			// The new one is there, but the client is not ready.
			e.awaitBroken()
			e.SetBreakpointsRequest(fixtureSource(t), []int{fixtureLine(t, "tick")})
			pending := want[*dap.SetBreakpointsResponse](e).Body.Breakpoints[0]
			if pending.Verified || pending.Line != fixtureLine(t, "tick") {
				t.Errorf("got %+v", pending)
			}
			e.ConfigurationDoneRequest()
			want[*dap.ConfigurationDoneResponse](e)
			if b := want[*dap.BreakpointEvent](e).Body.Breakpoint; b.Id != pending.Id || !b.Verified {
				t.Errorf("got %+v", b)
			}
			if stopOnEntry {
				if reason := want[*dap.StoppedEvent](e).Body.Reason; reason != "entry" {
					t.Errorf("stopped for %q", reason)
				}
				e.ContinueRequest(1)
				want[*dap.ContinueResponse](e)
			}
			if body := want[*dap.StoppedEvent](e).Body; body.Reason != "breakpoint" || fmt.Sprint(body.HitBreakpointIds) != fmt.Sprint([]int{pending.Id}) {
				t.Errorf("got %+v, want a stop at %d", body, pending.Id)
			}
			e.conn.Close()
			e.ended()
		})
	}
}

// The client leaves in each moment of a break.
func TestLeavingDuringABreak(t *testing.T) {
	for _, how := range []string{"disconnect", "vanish", "terminate"} {
		t.Run(how, func(t *testing.T) {
			checkLeaks(t)
			d := startDelve(t, "loop")
			e := connect(t, Config{Launcher: launches(d)})
			e.begin(false)
			d.block()
			d.kill()
			e.awaitBroken()
			switch how {
			case "vanish":
				e.conn.Close()
				e.ended()
			case "disconnect":
				e.disconnect()
			default:
				e.TerminateRequest()
				want[*dap.TerminateResponse](e)
				want[*dap.TerminatedEvent](e)
				e.DisconnectRequest()
				want[*dap.DisconnectResponse](e)
				e.wantEOF()
				e.ended()
			}
			if got := d.counts(); got[1] != 1 || got[2] != 0 {
				t.Errorf("dialled, closed, detached %v", got)
			}
		})
	}
}

// A client of a session that lives on leaves while the new connection is not in
// its place yet: Delve has been asked to halt for it, and nobody else resumes.
func TestDetachingWhileReconnecting(t *testing.T) {
	checkLeaks(t)
	d := startDelve(t, "loop")
	e := connect(t, Config{Session: d})
	e.attach()
	d.swap(fixtures(t).otherText, true) // which waits for configurationDone
	want[*dap.ProcessEvent](e)
	e.disconnect()
	d.ticks(t)
	if got, want := d.counts(), [3]int{2, 0, 1}; got != want {
		t.Errorf("dialled, closed, detached %v, want %v", got, want)
	}
}

// The next connection is lost as well, in each step of taking the old one's place.
func TestLostAgainAndAgain(t *testing.T) {
	checkLeaks(t)
	// Each connection answers one request more than the one before.
	const most = 5
	var n atomic.Int64
	s := newScript(t, func(conn net.Conn) {
		budget := int(n.Add(1))
		if budget == 1 || budget > most {
			budget = 1000
		}
		r := newFrameReader(conn)
		for range budget {
			m, env, err := readScript(r)
			if err != nil {
				return
			}
			body := "{}"
			switch env.command {
			case "attach":
				io.WriteString(conn, frame(`{"seq":0,"type":"event","event":"initialized"}`))
			case "initialize":
				b, _ := json.Marshal(capabilities())
				body = string(b)
			case "setBreakpoints":
				body = fmt.Sprintf(`{"breakpoints":[{"id":%d,"verified":true,"line":7}]}`, n.Load())
			case "evaluate":
				if strings.Contains(string(m), "die") {
					return
				}
			}
			io.WriteString(conn, frame(fmt.Sprintf(`{"seq":0,"type":"response","request_seq":%d,"success":true,"command":%q,"body":%s}`, env.seq, env.command, body)))
		}
	})
	s.again = true
	e := connect(t, Config{Launcher: launches(s)})
	e.initialize()
	e.request("launch", `{}`)
	want[*dap.InitializedEvent](e)
	want[*dap.LaunchResponse](e)
	id := e.set("setBreakpoints", `{"source":{"path":"/a.go"},"breakpoints":[{"line":7}]}`)[0].Id
	e.ConfigurationDoneRequest()
	want[*dap.ConfigurationDoneResponse](e)
	seq := e.request("evaluate", `{"expression":"die"}`)
	if m := wantError(e, idReconnecting, ""); m.RequestSeq != seq {
		t.Errorf("got an answer to %d, want %d", m.RequestSeq, seq)
	}
	for {
		e.ThreadsRequest()
		m := e.any()
		for {
			if _, ok := m.(*dap.ProcessEvent); !ok {
				break
			}
			m = e.any()
		}
		answer, ok := m.(*dap.ThreadsResponse)
		if !ok {
			b, _ := json.Marshal(m)
			t.Fatalf("got %s", b) // no breakpoint event: nothing has changed
		}
		if answer.Body.Threads == nil {
			break // by a Delve: the one that waits is made up
		}
	}
	if n.Load() <= most {
		t.Errorf("%d connections, want more than %d", n.Load(), most)
	}
	if got := e.set("setBreakpoints", `{"source":{"path":"/a.go"},"breakpoints":[{"line":7}]}`)[0].Id; got != id {
		t.Errorf("the breakpoint is %d now, and was %d", got, id)
	}
	e.conn.Close()
	e.ended()
}

// A Delve that doesn't answer is given up after some tries.
func TestReconnectingToASilentDelve(t *testing.T) {
	checkLeaks(t)
	var n atomic.Int64
	s := newScript(t, func(conn net.Conn) {
		if n.Add(1) == 1 {
			_, _, _, _ = answerHandshake(conn)
			return
		}
		io.Copy(io.Discard, conn)
	})
	s.again = true
	e := connect(t, Config{Launcher: launches(s), HandshakeTimeout: time.Second}) // the first is in time
	e.initialize()
	e.request("launch", `{}`)
	want[*dap.InitializedEvent](e)
	want[*dap.LaunchResponse](e)
	want[*dap.TerminatedEvent](e)
	if !strings.Contains(e.output["important"], "another debugger") || n.Load() != 1+handshakeTries {
		t.Errorf("after %d connections the user reads %q", n.Load(), e.output)
	}
	e.DisconnectRequest()
	want[*dap.DisconnectResponse](e)
	e.ended()
}

// Requests that Delve has got and not answered when it is lost.
func TestWhatIsPendingIsAnswered(t *testing.T) {
	checkLeaks(t)
	got := make(chan struct{})
	s := newScript(t, func(conn net.Conn) {
		_, _, r, err := answerHandshake(conn)
		for range 6 {
			if err != nil {
				return
			}
			_, _, err = readScript(r)
		}
		close(got)
	})
	s.dialErr = errors.New("gone for good")
	release := make(chan struct{})
	s.beforeDial = func(ctx context.Context) {
		select {
		case <-release:
		case <-ctx.Done():
		}
	}
	e := connect(t, Config{Launcher: launches(s)})
	e.initialize()
	e.request("launch", `{}`)
	want[*dap.InitializedEvent](e)
	want[*dap.LaunchResponse](e)
	answers := map[int]string{}
	for _, r := range [][2]string{
		{"setBreakpoints", `{"source":{"path":"/a.go"},"breakpoints":[{"line":7}]}`},
		{"setExceptionBreakpoints", `{"filters":[]}`},
		{"configurationDone", ""},
		{"threads", ""},
		{"continue", `{"threadId":1}`},
		{"evaluate", `{"expression":"x"}`},
	} {
		answers[e.request(r[0], r[1])] = r[0]
	}
	<-got
	for range len(answers) {
		m, ok := e.any().(dap.ResponseMessage)
		if !ok {
			t.Fatal("got something that is no response")
		}
		r := m.GetResponse()
		if answers[r.RequestSeq] != r.Command || r.Success == (r.Command == "evaluate") {
			t.Errorf("got %+v", r)
		}
		delete(answers, r.RequestSeq)
	}
	close(release)
	want[*dap.TerminatedEvent](e)
	if !strings.Contains(e.output["important"], "gone for good") {
		t.Errorf("the user reads %q", e.output)
	}
	e.DisconnectRequest()
	want[*dap.DisconnectResponse](e)
	e.ended()
}
