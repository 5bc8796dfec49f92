package dapserver

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-dap"
)

// allBreakpoints are requests that set each kind of breakpoint on what main.late
// of the fixture does.
func allBreakpoints(t testing.TB, d *delve) [][2]string {
	line := func(name, more string) string { return fmt.Sprintf(`{"line":%d%s}`, fixtureLine(t, name), more) }
	return [][2]string{
		{"setBreakpoints", fmt.Sprintf(`{"source":{"path":%q},"breakpoints":[%s,%s,%s,%s]}`, fixtureSource(t),
			line("late", ""), line("conditional", `,"condition":"n == 2"`), line("counted", `,"hitCondition":"== 2"`), line("logged", `,"logMessage":"n is {n}"`))},
		{"setFunctionBreakpoints", `{"breakpoints":[{"name":"main.byName"}]}`},
		{"setInstructionBreakpoints", fmt.Sprintf(`{"breakpoints":[{"instructionReference":"%#x"}]}`, symbol(t, d.last().run.Binary, "main.addressed"))},
		{"setDataBreakpoints", `{"breakpoints":[{"dataId":"-1,0,main.latest","accessType":"write"}]}`},
		{"setExceptionBreakpoints", `{"filters":[]}`},
	}
}

const addressed = 5 // which of all is the instruction breakpoint

// TestBreakpointsSurvive sets all kinds of breakpoints in each phase of a session,
// lets each kind of break happen, and hits them then.
func TestBreakpointsSurvive(t *testing.T) {
	for _, test := range []struct{ phase, how string }{
		{"before configurationDone", "swap"},
		{"running", "swap"},
		{"running", "exit"},
		{"running", "kill"},
		{"running", "cut"},
		{"stopped", "swap"},
		{"stopped", "kill"},
		{"stopped", "cut"},
		{"disconnected", "swap"},
		{"disconnected", "kill"},
		{"disconnected", "cut"},
	} {
		t.Run("set while "+test.phase+", "+test.how, func(t *testing.T) {
			checkLeaks(t)
			other := fixtures(t).otherText
			d := startDelve(t, "loop")
			d.again = true
			e := connect(t, Config{Launcher: launches(d)})
			e.initialize()
			e.LaunchRequestWithArgs(map[string]any{"target": "local", "stopOnEntry": test.phase == "stopped"})
			e.awaitLaunched()
			want[*dap.LaunchResponse](e)

			same, verified := test.how == "cut", test.phase != "disconnected"
			requests := allBreakpoints(t, d)
			var ids []int
			setAll := func() {
				for _, r := range requests {
					for _, b := range e.set(r[0], r[1]) {
						if b.Id == 0 || b.Verified != verified || !verified && b.Message != "pending: waiting for fixture" {
							t.Fatalf("%s: got breakpoint %+v, want verified %v", r[0], b, verified)
						}
						ids = append(ids, b.Id)
					}
				}
			}
			if test.phase == "before configurationDone" {
				setAll()
			}
			e.ConfigurationDoneRequest()
			if test.phase == "stopped" {
				want[*dap.StoppedEvent](e)
			}
			want[*dap.ConfigurationDoneResponse](e)
			if test.phase != "stopped" {
				e.awaitOutput("stdout", "ready\n")
			}
			switch test.phase {
			case "running", "stopped":
				setAll()
			case "disconnected":
				d.block()
				if same {
					d.cut()
				} else {
					d.kill()
				}
				e.awaitBroken()
				setAll()
			}
			clear(e.output)
			switch disconnected := test.phase == "disconnected"; {
			case disconnected && same:
				d.allow()
			case disconnected && test.how == "kill":
				d.start(d.last().run.Binary, false)
			case disconnected:
				d.start(other, true)
			case same:
				d.cut()
			case test.how == "exit":
				d.signal(syscall.SIGUSR1)
			case test.how == "kill":
				d.swap(d.last().run.Binary, false)
			default:
				d.swap(other, true)
			}
			if !same {
				if name := want[*dap.ProcessEvent](e).Body.Name; name != "fixture" {
					t.Errorf("the process is called %q", name)
				}
			}
			// The editor hears of what has become something else, and of no more.
			lost := test.how == "swap"
			for i, id := range ids {
				if verified && !(lost && i == addressed) {
					continue
				}
				b := want[*dap.BreakpointEvent](e).Body
				if b.Reason != "changed" || b.Breakpoint.Id != id || b.Breakpoint.Verified == (lost && i == addressed) {
					t.Errorf("got breakpoint event %+v, want it for %d of %v", b, i, ids)
				}
				if lost && i == addressed && !strings.Contains(b.Breakpoint.Message, "built anew") {
					t.Errorf("the reason is %q", b.Breakpoint.Message)
				}
			}
			switch {
			case test.phase != "stopped":
				e.awaitLive()
			case test.how == "swap":
				if reason := want[*dap.StoppedEvent](e).Body.Reason; reason != "entry" {
					t.Errorf("stopped for %q, want entry", reason)
				}
				e.ContinueRequest(1)
				want[*dap.ContinueResponse](e)
			case same:
				if areas := want[*dap.InvalidatedEvent](e).Body.Areas; len(areas) != 1 || areas[0] != "all" {
					t.Errorf("got areas %v", areas)
				}
				e.ContinueRequest(1)
				want[*dap.ContinueResponse](e)
			default:
				want[*dap.ContinuedEvent](e)
			}
			if !same || test.phase == "stopped" {
				e.awaitOutput("stdout", "ready\n") // it handles signals
			}
			hitAll(e, d, ids, !lost)
			e.conn.Close()
			e.ended()
		})
	}
}

const noWatchpoints = "this machine does not stop programs that write what a debug register watches: that data breakpoints are hit is not looked at"

// hitAll checks that all breakpoints of allBreakpoints are in a component that
// runs. ids are the client's.
func hitAll(e *editor, d *delve, ids []int, addresses bool) {
	e.t.Helper()
	stops := func(reason string, ids ...int) {
		e.t.Helper()
		got := want[*dap.StoppedEvent](e).Body
		if got.Reason != reason || fmt.Sprint(got.HitBreakpointIds) != fmt.Sprint(ids) {
			e.t.Fatalf("stopped for %q at %v, want %q at %v", got.Reason, got.HitBreakpointIds, reason, ids)
		}
		e.ContinueRequest(got.ThreadId)
		want[*dap.ContinueResponse](e)
	}
	for n := 1; n <= 2; n++ {
		d.signal(syscall.SIGUSR2)
		stops("breakpoint", ids[0])
		if n == 2 {
			stops("breakpoint", ids[1])
			stops("breakpoint", ids[2])
		}
		e.awaitOutput("stdout", fmt.Sprintf("n is %d\n", n))
		stops("function breakpoint", ids[4])
		if addresses {
			stops("instruction breakpoint", ids[addressed])
		}
		if watchpointsWork() {
			stops("data breakpoint") // Delve does not say which
		} else if n == 1 {
			e.t.Log(noWatchpoints)
		}
		e.awaitOutput("stdout", fmt.Sprintf("late %d\n", n))
	}
	// With the filter on, which it is by default, a panic halts the component.
	d.mu.Lock()
	d.again = false
	d.mu.Unlock()
	d.signal(syscall.SIGHUP)
	if code := want[*dap.ExitedEvent](e).Body.ExitCode; code != 2 {
		e.t.Errorf("exit code %d, want that of a panic, 2", code)
	}
	want[*dap.TerminatedEvent](e)
}

// The answers of the first run are Delve's own, to the byte.
func TestFirstRunIsDelvesOwn(t *testing.T) {
	checkLeaks(t)
	d := startDelve(t, "loop")
	e := connect(t, Config{Launcher: launches(d)})
	e.launch()
	e.request("setBreakpoints", fmt.Sprintf(`{"source":{"path":%q},"breakpoints":[{"line":%d}]}`, fixtureSource(t), fixtureLine(t, "late")))
	got := string(e.raw())
	want := fmt.Sprintf(`"command":"setBreakpoints","body":{"breakpoints":[{"id":1,"verified":true,"source":{"name":"main.go","path":%q},"line":%d}]}}`,
		fixtureSource(t), fixtureLine(t, "late"))
	if !strings.HasSuffix(got, want) {
		t.Errorf("got %s, want it to end in %s", got, want)
	}
	e.disconnect()
}
