package dapserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-dap"
)

// swaps makes a restart of the session swap in a binary.
func (d *delve) swaps(bin string) {
	d.restart = func(context.Context, *LaunchConfig) error {
		d.kill()
		d.start(bin, true)
		return nil
	}
}

// wantRestarted reads the answer to a restart and the news of the process, in this
// order.
func (e *editor) wantRestarted() {
	e.t.Helper()
	want[*dap.RestartResponse](e)
	if body := want[*dap.ProcessEvent](e).Body; body.Name != "fixture" || body.StartMethod != "launch" {
		e.t.Errorf("got process %+v", body)
	}
}

// wantEntry reads the stop at the entry of a process.
func (e *editor) wantEntry(d *delve) {
	e.t.Helper()
	if reason := want[*dap.StoppedEvent](e).Body.Reason; reason != "entry" {
		e.t.Errorf("stopped for %q, want entry", reason)
	}
	d.wantAtEntry()
}

// A restart is answered when the new run is there, which then runs whatever the one
// before did, unless stopOnEntry says otherwise.
func TestRestart(t *testing.T) {
	checkLeaks(t)
	d := startDelve(t, "loop")
	d.swaps(fixtures(t).otherText)
	e := connect(t, Config{Launcher: launches(d)})
	e.begin(false)

	t.Log("running")
	clear(e.output)
	e.RestartRequest(nil)
	e.wantRestarted()
	e.awaitOutput("stdout", "ready\n")
	e.wantRunning(d)

	t.Log("halted")
	bps := e.set("setBreakpoints", fmt.Sprintf(`{"source":{"path":%q},"breakpoints":[{"line":%d}]}`, fixtureSource(t), fixtureLine(t, "tick")))
	if id := want[*dap.StoppedEvent](e).Body.HitBreakpointIds; len(id) != 1 || id[0] != bps[0].Id {
		t.Fatalf("stopped at %v, want %+v", id, bps)
	}
	e.RestartRequest(nil)
	e.wantRestarted()
	want[*dap.ContinuedEvent](e)
	if id := want[*dap.StoppedEvent](e).Body.HitBreakpointIds; len(id) != 1 || id[0] != bps[0].Id {
		t.Errorf("stopped at %v, want %+v", id, bps)
	}

	t.Log("halted, with a configuration sent along that wants the entry")
	e.request("restart", `{"arguments":{"target":"local","request":"launch","stopOnEntry":true}}`)
	e.wantRestarted()
	e.wantEntry(d)

	t.Log("which from now on is the configuration")
	e.RestartRequest(nil)
	e.wantRestarted()
	e.wantEntry(d)
	e.disconnect()
	if got, want := d.counts(), [3]int{5, 1, 0}; got != want {
		t.Errorf("dialled, closed, detached %v, want %v", got, want)
	}
}

// A restart that is refused, by the session or since its arguments are wrong, leaves
// everything as it is.
func TestRestartIsRefused(t *testing.T) {
	checkLeaks(t)
	d := startDelve(t, "loop")
	d.restart = func(context.Context, *LaunchConfig) error { return errors.New(`"program" does not compile`) }
	e := connect(t, Config{Launcher: launches(d)})
	e.begin(false)
	refused := func(arguments, text string) {
		t.Helper()
		seq := e.request("restart", arguments)
		if m := wantError(e, idRestart, text); m.RequestSeq != seq || !m.Body.Error.ShowUser {
			t.Errorf("got %+v %+v, want an answer to %d that is shown to the user", m, m.Body.Error, seq)
		}
	}
	refused("", `Cannot restart: "program" does not compile`)
	e.wantRunning(d)
	thread := e.haltAt("tick")
	refused("", `Cannot restart: "program" does not compile`)
	refused(`{"arguments":{"target":"local","stopOnEntry":"yes"}}`, "stopOnEntry")
	refused("5", "must be an object")
	e.wantHalted(thread, "main.tick")
	// A save after it is a save: it was halted, and so it is now.
	d.swap(fixtures(t).otherText, true)
	want[*dap.ProcessEvent](e)
	e.wantEntry(d)
	e.disconnect()
}

// What a client sends along is for the session to heed.
func TestRestartPassesTheConfiguration(t *testing.T) {
	checkLeaks(t)
	d := startDelve(t, "loop")
	var got []*LaunchConfig
	d.restart = func(_ context.Context, cfg *LaunchConfig) error {
		got = append(got, cfg)
		return errors.New("seen")
	}
	e := connect(t, Config{Launcher: launches(d)})
	e.begin(false)
	e.RestartRequest(nil)
	wantError(e, idRestart, "seen")
	e.request("restart", `{"arguments":{"target":"local","args":["b"],"env":{"A":"1"},"build":{"flags":["-race"]}}}`)
	wantError(e, idRestart, "seen")
	if len(got) != 2 || got[0] != nil || len(got[1].Args) != 1 || got[1].Args[0] != "b" || *got[1].Env["A"] != "1" || string(got[1].Build) != `{"flags":["-race"]}` {
		t.Errorf("the session got %+v", got)
	}
	e.disconnect()
}

// While there is no Delve, a restart is for the session as well: it may be the way
// out. Whatever it comes across, it is answered before the client hears of the run.
func TestRestartWhileDisconnected(t *testing.T) {
	for _, stopOnEntry := range []bool{false, true} {
		t.Run(fmt.Sprint("stopOnEntry ", stopOnEntry), func(t *testing.T) {
			checkLeaks(t)
			d := startDelve(t, "loop")
			started, answer := make(chan struct{}), make(chan struct{})
			d.restart = func(context.Context, *LaunchConfig) error {
				d.start(fixtures(t).otherText, true)
				close(started)
				<-answer
				return nil
			}
			// Set if Delve gets a message while the restart has no answer.
			var watching, tookPlace atomic.Bool
			e := connect(t, Config{Launcher: launches(d), Message: func(_, _, to string, content []byte) {
				switch {
				case to == "editor" && bytes.Contains(content, []byte(`"command":"restart"`)) && bytes.Contains(content, []byte(`"success":true`)):
					watching.Store(false)
				case to == "delve" && watching.Load():
					tookPlace.Store(true)
				}
			}})
			e.begin(stopOnEntry)
			d.kill()
			e.awaitBroken()
			watching.Store(true)
			first := e.request("restart", "")
			<-started
			d.awaitDialled()
			// There is a way to the new run, and the restart is not answered yet.
			for range 20 {
				e.awaitBroken()
			}
			second := e.request("restart", "")
			if m := wantError(e, idRestart, "a restart is under way"); m.RequestSeq != second {
				t.Errorf("got an answer to %d, want %d", m.RequestSeq, second)
			}
			clear(e.output)
			close(answer)
			if seq := want[*dap.RestartResponse](e).RequestSeq; seq != first {
				t.Errorf("got an answer to %d, want %d", seq, first)
			}
			want[*dap.ProcessEvent](e)
			if tookPlace.Load() {
				t.Error("the new run was connected to before the restart was answered")
			}
			if stopOnEntry {
				e.wantEntry(d)
			} else {
				e.awaitOutput("stdout", "ready\n")
				e.wantRunning(d)
			}
			e.disconnect()
		})
	}
}

// A restart while a save is being swapped in waits for the session, which knows of
// both; what the client then gets is what it has asked for.
func TestRestartDuringASwap(t *testing.T) {
	checkLeaks(t)
	d := startDelve(t, "loop")
	asked, answer := make(chan struct{}), make(chan struct{})
	d.restart = func(context.Context, *LaunchConfig) error {
		close(asked)
		<-answer
		d.swap(fixtures(t).plain, true)
		return nil
	}
	e := connect(t, Config{Launcher: launches(d)})
	e.begin(false)
	thread := e.haltAt("tick")
	e.wantHalted(thread, "main.tick")
	d.kill() // by the save
	e.awaitBroken()
	e.RestartRequest(nil)
	<-asked
	d.start(fixtures(t).otherText, true) // the save's
	close(answer)
	e.wantRestarted()
	want[*dap.ContinuedEvent](e) // and not a stop at the entry, as after a save
	if reason := want[*dap.StoppedEvent](e).Body.Reason; reason != "breakpoint" {
		t.Errorf("stopped for %q, want breakpoint", reason)
	}
	if run := d.last().run; run.Number != 3 || run.Binary != fixtures(t).plain {
		t.Errorf("the run is %+v", run)
	}
	e.disconnect()
}

// Before the launch has succeeded and after the end there is nothing to restart.
func TestRestartWithoutARun(t *testing.T) {
	checkLeaks(t)
	d := startDelve(t, "loop")
	release := make(chan struct{})
	e := connect(t, Config{Launcher: launchesAfter(release, d)})
	e.RestartRequest(nil)
	wantError(e, idNotInitialized, `"restart" came before initialize`)
	e.initialize()
	e.RestartRequest(nil)
	wantError(e, idNotStarted, `"restart" is not supported before launch or attach`)
	e.LaunchRequestWithArgs(map[string]any{"target": "local"})
	e.RestartRequest(nil)
	wantError(e, idRestart, "it is not started yet")
	close(release)
	e.awaitLaunched()
	want[*dap.LaunchResponse](e)
	e.configured(false)
	d.signal(syscall.SIGUSR1)
	if code := want[*dap.ExitedEvent](e).Body.ExitCode; code != 3 {
		t.Errorf("exit code %d, want 3", code)
	}
	want[*dap.TerminatedEvent](e)
	e.RestartRequest(nil)
	wantError(e, idRestart, "the debug session has ended")
	e.DisconnectRequest()
	want[*dap.DisconnectResponse](e)
	e.wantEOF()
	e.ended()
}

// haltAt sets a breakpoint in a component that runs, and returns the thread that
// stops at it.
func (e *editor) haltAt(name string) (thread int) {
	e.t.Helper()
	e.set("setBreakpoints", fmt.Sprintf(`{"source":{"path":%q},"breakpoints":[{"line":%d}]}`, fixtureSource(e.t), fixtureLine(e.t, name)))
	stopped := want[*dap.StoppedEvent](e).Body
	if !strings.Contains(stopped.Reason, "breakpoint") {
		e.t.Fatalf("stopped for %q, want a breakpoint", stopped.Reason)
	}
	return stopped.ThreadId
}
