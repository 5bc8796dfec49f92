package dapserver

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-dap"
)

// waiting is a session whose first run comes when others want it to.
type waiting struct {
	*delve
	begun chan struct{}
}

func (waiting) Waits() bool { return true }

func (w waiting) Dial(ctx context.Context) (Connection, error) {
	select {
	case <-w.begun:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return w.delve.Dial(ctx)
}

func TestBreakpointsAreSetBeforeTheFirstRun(t *testing.T) {
	checkLeaks(t)
	d := startDelve(t, "loop")
	w := waiting{d, make(chan struct{})}
	e := connect(t, Config{Launcher: launches(w)})
	e.initialize()
	e.LaunchRequestWithArgs(map[string]any{"target": "local"})
	want[*dap.LaunchResponse](e)
	want[*dap.InitializedEvent](e)
	line := fixtureLine(t, "tick")
	set := e.set("setBreakpoints", fmt.Sprintf(`{"source": {"path": %q}, "breakpoints": [{"line": %d}]}`, fixtureSource(t), line))
	if len(set) != 1 || set[0].Verified {
		t.Errorf("without a run the breakpoint is %+v", set)
	}
	e.ConfigurationDoneRequest()
	want[*dap.ConfigurationDoneResponse](e)
	e.ThreadsRequest()
	if threads := want[*dap.ThreadsResponse](e).Body.Threads; !strings.HasPrefix(threads[0].Name, "waiting for") {
		t.Errorf("without a run the threads are %+v", threads)
	}
	close(w.begun)
	var process, verified bool
	for stopped := false; !stopped; {
		switch m := e.any().(type) {
		case *dap.ProcessEvent:
			process = true
		case *dap.BreakpointEvent:
			verified = verified || m.Body.Breakpoint.Verified && m.Body.Breakpoint.Id == set[0].Id
		case *dap.StoppedEvent:
			stopped = true
			if m.Body.Reason != "breakpoint" || len(m.Body.HitBreakpointIds) != 1 || m.Body.HitBreakpointIds[0] != set[0].Id {
				t.Errorf("stopped: %+v", m.Body)
			}
		default:
			t.Errorf("got %T", m)
		}
	}
	if !process || !verified {
		t.Errorf("told: process %v, breakpoint verified %v", process, verified)
	}
	e.disconnect()
}

func TestLaunchThatWaitsIsLeft(t *testing.T) {
	checkLeaks(t)
	d := startDelve(t, "loop")
	w := waiting{d, make(chan struct{})}
	e := connect(t, Config{Launcher: launches(w)})
	e.initialize()
	e.LaunchRequestWithArgs(map[string]any{"target": "local"})
	want[*dap.LaunchResponse](e)
	want[*dap.InitializedEvent](e)
	e.disconnect()
	if counts := d.counts(); counts[1] != 1 {
		t.Errorf("dials, closes, detaches: %v", counts)
	}
}
