package dapserver

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-delve/delve/service/api"
	"github.com/google/go-dap"
)

// startQuiet starts a session whose Delve says yes to everything, and nothing else.
func startQuiet(t testing.TB) *script {
	return newScript(t, func(conn net.Conn) {
		_, _, r, err := answerHandshake(conn)
		for err == nil {
			var env envelope
			if _, env, err = readScript(r); err == nil {
				io.WriteString(conn, frame(fmt.Sprintf(`{"seq":1,"type":"response","request_seq":%d,"success":true,"command":%q}`, env.seq, env.command)))
			}
		}
	})
}

// launchQuiet launches such a session.
func (e *editor) launchQuiet(progress bool) {
	e.t.Helper()
	if progress {
		e.initializeWithProgress()
	} else {
		e.initialize()
	}
	e.request("launch", `{}`)
	if progress {
		want[*dap.ProgressStartEvent](e)
	}
	want[*dap.InitializedEvent](e)
	if progress {
		want[*dap.ProgressEndEvent](e)
	}
	want[*dap.LaunchResponse](e)
}

// An activity of the session is a progress from its first event to its last one, with
// the texts as output; two at a time are kept apart.
func TestActivitiesAreProgresses(t *testing.T) {
	checkLeaks(t)
	s := startQuiet(t)
	e := connect(t, Config{Launcher: launches(s)})
	e.launchQuiet(true)
	s.events <- Event{Activity: 1, Title: "Rebuilding ./cmd/web", Stage: "main.go saved", Percent: -1}
	start := want[*dap.ProgressStartEvent](e).Body
	if start.Title != "Rebuilding ./cmd/web" || start.Message != "main.go saved" || start.Percentage != 0 || start.RequestId != 0 || start.Cancellable {
		t.Errorf("got start %+v", start)
	}
	s.events <- Event{Activity: 1, Title: "Rebuilding ./cmd/web", Stage: "uploading", Percent: 40}
	if u := want[*dap.ProgressUpdateEvent](e).Body; u.ProgressId != start.ProgressId || u.Message != "uploading" || u.Percentage != 40 {
		t.Errorf("got update %+v of %q", u, start.ProgressId)
	}
	s.events <- Event{Activity: 1, Title: "Rebuilding ./cmd/web", Stage: "uploading", Percent: 40} // nothing new
	s.events <- Event{Activity: 2, Title: "Reconnecting to script", Stage: "the tunnel is cut", Percent: -1, Text: "the tunnel is cut\n", Stream: Important}
	other := want[*dap.ProgressStartEvent](e).Body
	if other.ProgressId == start.ProgressId || other.Title != "Reconnecting to script" {
		t.Errorf("got start %+v", other)
	}
	e.awaitOutput("important", "the tunnel is cut\n")
	s.events <- Event{Activity: 1, Title: "Rebuilding ./cmd/web", Stage: "swapped", Percent: -1, Over: true, Text: "swapped after 2.0 s\n"}
	if end := want[*dap.ProgressEndEvent](e).Body; end.ProgressId != start.ProgressId || end.Message != "swapped" {
		t.Errorf("got end %+v", end)
	}
	e.awaitOutput("console", "swapped after 2.0 s\n") // without a stream it is for the console
	s.events <- Event{Activity: 3, Title: "Rebuilding ./cmd/web", Percent: -1, Over: true, Text: "nothing has changed\n"}
	e.awaitOutput("console", "nothing has changed\n") // over at once: no progress
	s.events <- Event{Text: "a note\n", Stream: Console, At: &Location{Path: "/src/web/main.go", Line: 3}}
	m, err := dap.DecodeProtocolMessage(e.raw())
	if o, ok := m.(*dap.OutputEvent); err != nil || !ok || o.Body.Output != "a note\n" || o.Body.Source == nil || o.Body.Source.Path != "/src/web/main.go" || o.Body.Line != 3 {
		t.Errorf("got %+v, %v, want the note with its place", m, err)
	}
	// What goes on at the end ends with the session, before it is said to have ended.
	e.DisconnectRequest()
	ends := map[string]int{}
	for {
		m := e.any()
		if end, ok := m.(*dap.ProgressEndEvent); ok {
			ends[end.Body.ProgressId]++
		}
		if _, ok := m.(*dap.DisconnectResponse); ok {
			break
		}
	}
	if ends[other.ProgressId] != 1 || ends[start.ProgressId] != 0 {
		t.Errorf("got ends %v, want one of %s", ends, other.ProgressId)
	}
	want[*dap.TerminatedEvent](e)
	e.wantEOF()
	e.ended()
}

// A client that shows no progresses gets lines: the title of each activity once, and
// the texts.
func TestActivitiesWithoutProgress(t *testing.T) {
	checkLeaks(t)
	s := startQuiet(t)
	e := connect(t, Config{Launcher: launches(s)})
	e.launchQuiet(false)
	clear(e.output)
	for _, event := range []Event{
		{Stage: "main.go saved", Percent: -1},
		{Stage: "compiling web", Percent: -1},
		{Stage: "uploading", Percent: 40},
		{Stage: "swapped", Percent: -1, Over: true, Text: "swapped after 2.0 s\n"},
	} {
		event.Activity, event.Title = 1, "Rebuilding ./cmd/web"
		s.events <- event
	}
	e.awaitOutput("console", "swapped after 2.0 s\n") // and no event but output
	if got, want := fmt.Sprint(e.output), fmt.Sprint(map[string]string{"console": "Rebuilding ./cmd/web\nswapped after 2.0 s\n"}); got != want {
		t.Errorf("the user reads %s, want %s", got, want)
	}
	e.disconnect()
}

// Some activities can be cancelled for a while.
func TestActivityIsCancelled(t *testing.T) {
	checkLeaks(t)
	s := startQuiet(t)
	e := connect(t, Config{Launcher: launches(s)})
	e.launchQuiet(true)
	cancelled := 0
	event := Event{Activity: 1, Title: "Rebuilding ./cmd/web", Stage: "compiling", Percent: -1, Cancel: func() { cancelled++ }}
	s.events <- event
	start := want[*dap.ProgressStartEvent](e).Body
	if !start.Cancellable {
		t.Errorf("got %+v, want one that can be cancelled", start)
	}
	cancel := fmt.Sprintf(`{"progressId":%q}`, start.ProgressId)
	e.request("cancel", cancel)
	want[*dap.CancelResponse](e)
	if cancelled != 1 {
		t.Errorf("cancelled %d times when it is answered, want once", cancelled)
	}
	event.Stage, event.Cancel = "swapping", nil // too late now
	s.events <- event
	want[*dap.ProgressUpdateEvent](e)
	e.request("cancel", cancel)
	e.wantNotCancelled()
	event.Stage, event.Cancel = "compiling", func() { cancelled++ }
	s.events <- event
	want[*dap.ProgressUpdateEvent](e)
	event.Over = true
	s.events <- event
	want[*dap.ProgressEndEvent](e)
	e.request("cancel", cancel)
	e.wantNotCancelled()
	if cancelled != 1 {
		t.Errorf("cancelled %d times, want once", cancelled)
	}
	e.conn.Close()
	e.ended()
}

// TestLosses lets a component be lost in each way. To the client that
// is an output line and a progress, not an end; what it knows of the stack and of
// variables is void meanwhile and afterwards.
func TestLosses(t *testing.T) {
	for _, test := range []struct {
		name   string
		lose   func(e *editor, d *delve) (text string)
		again  bool // in a new process
		halted bool // until then
	}{
		{"Delve is killed", func(e *editor, d *delve) string {
			if err := d.last().delve.cmd.Process.Kill(); err != nil {
				e.t.Fatal(err)
			}
			return "the component has ended together with Delve"
		}, true, true},
		{"the component exits", func(e *editor, d *delve) string {
			e.ContinueRequest(1)
			want[*dap.ContinueResponse](e)
			d.signal(syscall.SIGUSR1)
			state := d.await("exit", func(state *api.DebuggerState) bool { return state != nil && state.Exited })
			return fmt.Sprintf("the component has ended with exit code %d", state.ExitStatus)
		}, true, false},
		{"the connection is cut", func(_ *editor, d *delve) string { d.cut(); return "the tunnel is cut" }, false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			checkLeaks(t)
			d := startDelve(t, "loop")
			e := connect(t, Config{Launcher: launches(d)})
			e.initializeWithProgress()
			e.LaunchRequestWithArgs(map[string]any{"target": "local"})
			want[*dap.ProgressStartEvent](e)
			want[*dap.CapabilitiesEvent](e)
			want[*dap.InitializedEvent](e)
			want[*dap.ProgressEndEvent](e)
			want[*dap.LaunchResponse](e)
			e.configured(false)
			e.set("setBreakpoints", fmt.Sprintf(`{"source":{"path":%q},"breakpoints":[{"line":%d}]}`, fixtureSource(t), fixtureLine(t, "late")))
			halt := func() (thread int) {
				t.Helper()
				d.signal(syscall.SIGUSR2)
				stopped := want[*dap.StoppedEvent](e).Body
				if stopped.Reason != "breakpoint" || len(stopped.HitBreakpointIds) != 1 {
					t.Errorf("got %+v, want a stop at the breakpoint", stopped)
				}
				return stopped.ThreadId
			}
			scope := func(thread int) (variables int) {
				t.Helper()
				e.StackTraceRequest(thread, 0, 1)
				frames := want[*dap.StackTraceResponse](e).Body.StackFrames
				if len(frames) != 1 || frames[0].Name != "main.late" {
					t.Fatalf("got frames %+v", frames)
				}
				e.ScopesRequest(frames[0].Id)
				return want[*dap.ScopesResponse](e).Body.Scopes[0].VariablesReference
			}
			thread := halt()
			before := scope(thread)
			e.VariablesRequest(before)
			want[*dap.VariablesResponse](e)

			d.block()
			clear(e.output)
			text := test.lose(e, d)
			e.awaitBroken()
			happens := Event{Activity: 1, Title: "Starting fixture again", Stage: text, Percent: -1, Text: text + "\n", Stream: Important}
			d.events <- happens
			start := want[*dap.ProgressStartEvent](e).Body
			if start.Title != happens.Title || start.Message != text {
				t.Errorf("got progress %+v", start)
			}
			e.awaitOutput("important", text+"\n")
			e.StackTraceRequest(thread, 0, 1)
			wantError(e, idReconnecting, "fixture is reconnecting")
			e.VariablesRequest(before)
			wantError(e, idReconnecting, "fixture is reconnecting")
			if test.again {
				d.kill()
				d.start(d.last().run.Binary, false)
				want[*dap.ProcessEvent](e)
				if test.halted {
					want[*dap.ContinuedEvent](e) // nobody waits for it at its entry
				}
				e.awaitOutput("stdout", "ready\n")
				thread = halt()
			} else {
				d.allow()
				if areas := want[*dap.InvalidatedEvent](e).Body.Areas; len(areas) != 1 || areas[0] != "all" {
					t.Errorf("got areas %v", areas)
				}
			}
			happens.Over, happens.Stage, happens.Text, happens.Stream = true, "it is back", "it is back\n", Console
			d.events <- happens
			if end := want[*dap.ProgressEndEvent](e).Body; end.ProgressId != start.ProgressId {
				t.Errorf("got the end of %q, want %q", end.ProgressId, start.ProgressId)
			}
			e.awaitOutput("console", "it is back\n")
			e.VariablesRequest(before)
			if m := want[*dap.ErrorResponse](e); m.Body.Error.Id == idReconnecting {
				t.Errorf("got %+v, want Delve's answer that it has no such variables", m.Body.Error)
			}
			e.VariablesRequest(scope(thread))
			if v := want[*dap.VariablesResponse](e).Body.Variables; len(v) != 1 || v[0].Name != "n" {
				t.Errorf("got variables %+v", v)
			}
			if got := e.output["important"]; got != text+"\n" || test.name == "the component exits" && !strings.HasSuffix(text, "exit code 3") {
				t.Errorf("the user reads %q, want one line", got)
			}
			e.conn.Close()
			e.ended()
		})
	}
}

// outputs reads output events until the last of them has the text; nothing else may
// come. Each is "category place run: text", with what follows of the same origin.
func (e *editor) outputs(category, text string) (all []string) {
	e.t.Helper()
	for {
		b := e.raw()
		var m struct {
			Event string
			Body  struct {
				Category, Output string
				Data             origin
			}
		}
		if err := json.Unmarshal(b, &m); err != nil || m.Event != "output" {
			e.t.Fatalf("got %s, want output", b)
		}
		from := fmt.Sprintf("%s %s %d: ", m.Body.Category, m.Body.Data.Place, m.Body.Data.Run)
		if last := len(all) - 1; last >= 0 && strings.HasPrefix(all[last], from) {
			all[last] += m.Body.Output
		} else {
			all = append(all, from+m.Body.Output)
		}
		if m.Body.Category == category && strings.Contains(m.Body.Output, text) {
			return all
		}
	}
}

// The component's output tells where it comes from: for programs with each piece, and
// for people in a line whenever that changes.
func TestOutputTellsThePlace(t *testing.T) {
	checkLeaks(t)
	d := startDelve(t, "loop")
	e := connect(t, Config{Launcher: launches(d)})
	e.launch()
	e.ConfigurationDoneRequest()
	want[*dap.ConfigurationDoneResponse](e)
	// comes checks what comes until it ticks; more ticks may come with it.
	comes := func(lines ...string) {
		t.Helper()
		got := e.outputs("stdout", "tick")
		last := len(got) - 1
		if len(got) != len(lines) || fmt.Sprint(got[:last]) != fmt.Sprint(lines[:last]) || !strings.HasPrefix(got[last], lines[last]) {
			t.Errorf("got output %q, want %q", got, lines)
		}
	}
	comes("console  0: ── pod web-1 ──\n", "stdout pod web-1 1: ready\n")
	comes("stdout pod web-1 1: ") // once is enough
	d.cut()
	e.awaitLive() // and it is where it was
	comes("stdout pod web-1 1: ")
	d.swap(fixtures(t).otherText, true)
	want[*dap.ProcessEvent](e)
	comes("console  0: ── pod web-2 ──\n", "stdout pod web-2 2: ready\n")
	comes("stdout pod web-2 2: ")
	e.conn.Close()
	e.ended()
}

// Another run in the same place has no line, one without a place neither; half a
// character does not wait for its other half over the end of a run.
func TestPlaceLines(t *testing.T) {
	checkLeaks(t)
	s := startQuiet(t)
	begin := make(chan struct{})
	s.out = func(_ context.Context, emit func(Piece) error) error {
		<-begin
		for _, p := range []Piece{
			{Stdout, []byte("one\n"), 1, "pod a"},
			{Stderr, []byte("two\n\xe2\x82"), 1, "pod a"},
			{Stdout, []byte("three\n"), 2, "pod a"},
			{Stdout, []byte("four\n"), 3, "pod b"},
			{Stdout, []byte("five\n"), 4, ""},
			{Stdout, []byte("six\n"), 5, "pod b"},
			{Console, []byte("end\n"), 5, "pod b"},
		} {
			if err := emit(p); err != nil {
				return err
			}
		}
		return nil
	}
	e := connect(t, Config{Launcher: launches(s)})
	e.launchQuiet(false)
	close(begin)
	want := []string{
		"console  0: ── pod a ──\n",
		"stdout pod a 1: one\n",
		"stderr pod a 1: two\n\ufffd\ufffd",
		"stdout pod a 2: three\n",
		"console  0: ── pod b ──\n",
		"stdout pod b 3: four\n",
		"stdout  4: five\n",
		"console  0: ── pod b ──\n",
		"stdout pod b 5: six\n",
		"console pod b 5: end\n",
	}
	if got := e.outputs("console", "end"); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	e.conn.Close()
	e.ended()
}

// An editor's extension can show where a session runs and how the last swap went.
func TestSessionEventsAreForWhoWantsThem(t *testing.T) {
	checkLeaks(t)
	for wanted, bodies := range map[bool][]string{
		false: nil,
		true:  {`{"name":"script","place":"","swaps":0}`, `{"name":"script","place":"","swaps":1,"lastSwap":1.5}`},
	} {
		s := newScript(t, serveHandshake)
		e := connect(t, Config{Launcher: launches(s)})
		e.initialize()
		e.LaunchRequestWithArgs(map[string]any{"target": "local", "sessionEvents": wanted})
		// An event comes at any place between the others; the text ends the test.
		var got []string
		for launched, swapped := false, false; !swapped || len(got) < len(bodies); {
			var m struct {
				Command, Event string
				Body           json.RawMessage
			}
			if err := json.Unmarshal(e.raw(), &m); err != nil {
				t.Fatal(err)
			}
			switch {
			case m.Event == "kubedelveSession":
				got = append(got, string(m.Body))
			case m.Command == "launch":
				launched = true
			case m.Event == "output":
				swapped = swapped || bytes.Contains(m.Body, []byte("swapped"))
			}
			if launched && len(got) == len(bodies)/2 {
				launched = false
				s.events <- Event{Swapped: 1500 * time.Millisecond, Text: "swapped\n"}
			}
		}
		if !slices.Equal(got, bodies) {
			t.Errorf("asked for %v: got %q, want %q", wanted, got, bodies)
		}
	}
}
