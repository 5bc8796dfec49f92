package dapserver

import (
	"context"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"

	"github.com/google/go-dap"
)

// cancel asks to cancel a request.
func (e *editor) cancel(seq int) { e.request("cancel", fmt.Sprintf(`{"requestId":%d}`, seq)) }

// wantCancelled reads the answer that a cancelled request gets, and then that to cancel.
func (e *editor) wantCancelled(seq int) {
	e.t.Helper()
	if m := wantError(e, idCancelled, "cancelled"); m.RequestSeq != seq || m.Message != "cancelled" || m.Body.Error.ShowUser {
		e.t.Errorf("got %+v, want %d cancelled", m, seq)
	}
	want[*dap.CancelResponse](e)
}

// wantNotCancelled reads the answer to a cancel that came to nothing.
func (e *editor) wantNotCancelled() {
	e.t.Helper()
	if m := wantError(e, idNotCancelled, "Nothing to cancel"); m.Command != "cancel" || m.Body.Error.ShowUser {
		e.t.Errorf("got %+v", m)
	}
}

// A call of a function that takes long keeps Delve busy. The client need not wait for
// it, nor for what it has asked after it; Delve can't be stopped, and what it says of
// them later is not told.
func TestCancelWhileDelveIsBusy(t *testing.T) {
	checkLeaks(t)
	d := startDelve(t, "loop")
	e := connect(t, Config{Launcher: launches(d)})
	e.begin(false)
	thread := e.haltAt("tick")
	call := e.request("evaluate", `{"expression":"call main.hold()","context":"repl"}`)
	e.awaitOutput("stdout", "holding\n")
	stack := e.request("stackTrace", fmt.Sprintf(`{"threadId":%d}`, thread))
	set := e.request("setFunctionBreakpoints", `{"breakpoints":[{"name":"main.late"}]}`)
	e.cancel(stack)
	e.wantCancelled(stack)
	e.cancel(call)
	e.wantCancelled(call)
	e.cancel(call) // it has its answer
	e.wantNotCancelled()
	e.cancel(set) // what it sets is set in any case
	e.wantNotCancelled()

	d.signal(syscall.SIGWINCH) // hold returns
	if bps := e.wasSet(set); len(bps) != 1 || !bps[0].Verified {
		t.Errorf("got breakpoints %+v", bps)
	}
	e.wantHalted(thread, "main.tick")
	e.EvaluateRequest("1+1", 0, "repl")
	if got := want[*dap.EvaluateResponse](e).Body.Result; got != "2" {
		t.Errorf("1+1 is %s", got)
	}
	e.disconnect()
}

// What may have changed something has to be answered by Delve.
func TestCancelIsRefusedForWhatChangesSomething(t *testing.T) {
	checkLeaks(t)
	answer := make(chan struct{})
	s := newScript(t, func(conn net.Conn) {
		_, _, r, err := answerHandshake(conn)
		for err == nil {
			var env envelope
			if _, env, err = readScript(r); err == nil {
				<-answer
				io.WriteString(conn, frame(fmt.Sprintf(`{"seq":1,"type":"response","request_seq":%d,"success":true,"command":%q,"body":{"breakpoints":[]}}`, env.seq, env.command)))
			}
		}
	})
	e := connect(t, Config{Launcher: launches(s)})
	e.initialize()
	e.request("launch", `{}`)
	want[*dap.InitializedEvent](e)
	want[*dap.LaunchResponse](e)
	all := map[string]string{
		"setBreakpoints":            `{"source":{"path":"/a.go"},"breakpoints":[]}`,
		"setFunctionBreakpoints":    `{"breakpoints":[]}`,
		"setInstructionBreakpoints": `{"breakpoints":[]}`,
		"setDataBreakpoints":        `{"breakpoints":[]}`,
		"setExceptionBreakpoints":   `{"filters":[]}`,
		"configurationDone":         `{}`,
		"continue":                  `{"threadId":1}`,
		"next":                      `{"threadId":1}`,
		"stepIn":                    `{"threadId":1}`,
		"stepOut":                   `{"threadId":1}`,
		"pause":                     `{"threadId":1}`,
		"setVariable":               `{"variablesReference":1,"name":"n","value":"1"}`,
		"writeMemory":               `{"memoryReference":"0x1","data":""}`,
	}
	first := e.nextSeq + 1
	for command, arguments := range all {
		e.cancel(e.request(command, arguments))
		e.wantNotCancelled()
	}
	waiting := e.nextSeq
	close(answer)
	for _, a := range e.answers(len(all), first, waiting) {
		if !a.success || all[a.command] == "" {
			t.Errorf("got answer %+v", a)
		}
	}
	e.disconnect()
}

func TestCancelOfSomethingUnknown(t *testing.T) {
	checkLeaks(t)
	d := startDelve(t, "loop")
	release := make(chan struct{})
	e := connect(t, Config{Launcher: launchesAfter(release, d)})
	e.CancelRequest()
	wantError(e, idNotInitialized, `"cancel" came before initialize`)
	e.initialize()
	nothing := func() {
		t.Helper()
		for _, arguments := range []string{``, `{}`, `{"requestId":4711}`, `{"requestId":-1}`, `{"progressId":"kubedelve-activity-1"}`, `{"requestId":4711,"progressId":"x"}`} {
			e.request("cancel", arguments)
			e.wantNotCancelled()
		}
		e.request("cancel", `{"requestId":"one"}`)
		wantError(e, idMalformed, "requestId")
	}
	t.Log("before the launch")
	nothing()
	launch := e.request("launch", `{"target":"local"}`)
	t.Log("in the launch")
	nothing()
	close(release)
	e.awaitLaunched()
	want[*dap.LaunchResponse](e)
	e.configured(false)
	t.Log("while it runs")
	nothing()
	e.cancel(launch) // which has its answer
	e.wantNotCancelled()
	t.Log("while there is no Delve")
	d.kill()
	e.awaitBroken()
	nothing()
	d.start(fixtures(t).plain, true)
	want[*dap.ProcessEvent](e)
	e.wantRunning(d)
	t.Log("after the end")
	e.TerminateRequest()
	want[*dap.TerminateResponse](e)
	want[*dap.TerminatedEvent](e)
	nothing()
	e.leave()
}

// A restart is taken back: the program goes on as it was, and another may follow.
func TestCancelOfARestart(t *testing.T) {
	checkLeaks(t)
	d := startDelve(t, "loop")
	building := make(chan struct{}, 1)
	d.restart = func(ctx context.Context, _ *LaunchConfig) error {
		building <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	e := connect(t, Config{Launcher: launches(d)})
	e.begin(false)
	thread := e.haltAt("tick")
	seq := e.request("restart", "")
	<-building
	e.cancel(seq)
	answers := e.answers(2, seq, e.nextSeq) // which race
	if a := answers[seq]; a.success || a.errorID != idCancelled || !answers[e.nextSeq].success {
		t.Errorf("got answers %+v", answers)
	}
	e.wantHalted(thread, "main.tick")
	d.swaps(fixtures(t).otherText)
	e.RestartRequest(nil)
	e.wantRestarted()
	want[*dap.ContinuedEvent](e)
	want[*dap.StoppedEvent](e) // at main.tick
	e.disconnect()
}

// A launch and its progress are one: either is cancelled.
func TestCancelOfALaunchByItsProgress(t *testing.T) {
	checkLeaks(t)
	l := launches(nil)
	l.launch = func(ctx context.Context, _ *LaunchConfig, r Reporter) (Session, error) {
		r.Stage("building ./cmd/web", 10)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	e := connect(t, Config{Launcher: l})
	e.initializeWithProgress()
	seq := e.request("launch", `{"target":"deploy/web"}`)
	begin := want[*dap.ProgressStartEvent](e).Body
	if !begin.Cancellable || begin.RequestId != seq {
		t.Errorf("got %+v, want one that can be cancelled, of request %d", begin, seq)
	}
	e.request("cancel", fmt.Sprintf(`{"progressId":%q}`, begin.ProgressId))
	got := map[string]bool{}
	for range 3 { // the answer to cancel races with the others
		switch m := e.any().(type) {
		case *dap.ProgressEndEvent:
			got["end of "+m.Body.ProgressId] = true
		case *dap.ErrorResponse:
			got[m.Command+" "+m.Message] = m.RequestSeq == seq && got["end of "+begin.ProgressId]
		case *dap.CancelResponse:
			got["cancel"] = true
		}
	}
	if !got["launch cancelled"] || !got["cancel"] {
		t.Errorf("got %v, want the end of the progress and then the launch cancelled", got)
	}
	e.request("cancel", fmt.Sprintf(`{"progressId":%q}`, begin.ProgressId))
	e.wantNotCancelled()
	e.disconnect()
}

// initializeWithProgress is initialize for a client that shows progresses.
func (e *editor) initializeWithProgress() {
	e.t.Helper()
	e.InitializeRequestWithArgs(dap.InitializeRequestArguments{
		PathFormat: "path", LinesStartAt1: true, ColumnsStartAt1: true, SupportsProgressReporting: true, SupportsInvalidatedEvent: true,
	})
	want[*dap.InitializeResponse](e)
}
