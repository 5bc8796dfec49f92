package dapserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-dap"
)

// wantEnd reads the end of a session: the exit code and then terminated.
func (e *editor) wantEnd(code int) {
	e.t.Helper()
	if got := want[*dap.ExitedEvent](e).Body.ExitCode; got != code {
		e.t.Errorf("exit code %d, want %d", got, code)
	}
	want[*dap.TerminatedEvent](e)
}

// leave is the disconnect after the end: nothing but its answer comes.
func (e *editor) leave() {
	e.t.Helper()
	e.DisconnectRequest()
	want[*dap.DisconnectResponse](e)
	e.wantEOF()
	e.ended()
}

// Terminate ends the component as the end of its container does, running or halted,
// and the client gets its last words, its real exit code and the end, in this order.
func TestTerminate(t *testing.T) {
	for _, test := range []struct {
		name   string
		args   []string
		halted bool
		last   string // words
		code   int
	}{
		{"running, it tidies up", []string{"loop", "tidy"}, false, "tidying\n", 5},
		{"halted, it tidies up", []string{"loop", "tidy"}, true, "tidying\n", 5},
		{"running, without a handler", []string{"loop"}, false, "", 128 + 15},
		{"running, it ignores the signal", []string{"loop", "stubborn"}, false, "not yet\n", 128 + 9},
		{"halted, it ignores the signal", []string{"loop", "stubborn"}, true, "not yet\n", 128 + 9},
	} {
		t.Run(test.name, func(t *testing.T) {
			checkLeaks(t)
			d := startDelve(t, test.args...)
			d.grace = make(chan struct{})
			e := connect(t, Config{Launcher: launches(d)})
			e.begin(false)
			if test.halted {
				e.haltAt("tick")
			}
			e.TerminateRequest()
			want[*dap.TerminateResponse](e)
			if test.code == 128+9 {
				// Nothing but the end of the grace period ends it.
				e.awaitOutput("stdout", test.last)
				e.ThreadsRequest()
				wantError(e, idNoBackend, "the debug session has ended")
				e.TerminateRequest()
				want[*dap.TerminateResponse](e)
				if state := d.last().state(); state == nil || state.Exited {
					t.Errorf("the component is in state %+v before the grace period is over", state)
				}
				close(d.grace)
			}
			e.wantEnd(test.code)
			if test.code == 5 && !strings.HasSuffix(e.output["stdout"], test.last) {
				t.Errorf("got output %q before the end, want it to end in %q", e.output["stdout"], test.last)
			}
			if text := "Restoring fixture\n"; strings.Count(e.output["console"], text) != 1 {
				t.Errorf("the user reads %q, want %q once", e.output["console"], text)
			}
			// What comes after the end changes nothing.
			e.TerminateRequest()
			want[*dap.TerminateResponse](e)
			e.ThreadsRequest()
			wantError(e, idNoBackend, "the debug session has ended")
			e.leave()
			if got, want := d.counts(), [3]int{1, 1, 0}; got != want {
				t.Errorf("dialled, closed, detached %v, want %v", got, want)
			}
		})
	}
}

// The exit code and the last words may be known later than Session.Close returns.
func TestTerminateHearsTheLastWords(t *testing.T) {
	checkLeaks(t)
	s := startQuiet(t)
	words := make(chan struct{})
	s.out = func(_ context.Context, emit func(Piece) error) error {
		<-words
		return emit(Piece{Stream: Stderr, Data: []byte("last words\n")})
	}
	e := connect(t, Config{Launcher: launches(s)})
	e.launchQuiet(false)
	e.TerminateRequest()
	want[*dap.TerminateResponse](e)
	<-s.closed
	for range 20 { // nothing else comes
		e.ThreadsRequest()
		wantError(e, idNoBackend, "the debug session has ended")
	}
	s.exit <- 5
	close(words)
	e.wantEnd(5)
	if e.output["stderr"] != "last words\n" {
		t.Errorf("got output %q before the end", e.output)
	}
	e.leave()
}

// The exit code is waited for as long as somebody may still know it, but not for ever.
func TestTheExitCodeIsAwaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		known := make(chan struct{})
		close(known)
		for _, test := range []struct {
			st   *start
			want time.Duration
		}{
			{&start{exited: known}, 0},
			{&start{unknown: known}, 0},
			{&start{}, exitGrace},
		} {
			began := time.Now()
			(&session{}).awaitExit(test.st)
			if took := time.Since(began); took != test.want {
				t.Errorf("waited for %s, want %s", took, test.want)
			}
		}
	})
}

// A client may leave during the grace period: its disconnect is answered after the
// end, and if it vanishes the end comes all the same.
func TestLeavingWhileTerminating(t *testing.T) {
	for _, how := range []string{"disconnect", "vanish"} {
		t.Run(how, func(t *testing.T) {
			checkLeaks(t)
			d := startDelve(t, "loop", "stubborn")
			d.grace = make(chan struct{})
			e := connect(t, Config{Launcher: launches(d)})
			e.begin(false)
			e.TerminateRequest()
			want[*dap.TerminateResponse](e)
			e.awaitOutput("stdout", "not yet\n")
			if how == "vanish" {
				e.conn.Close()
				close(d.grace)
				e.ended()
			} else {
				e.DisconnectRequest()
				close(d.grace)
				e.wantEnd(128 + 9)
				want[*dap.DisconnectResponse](e)
				e.wantEOF()
				e.ended()
			}
			if got, want := d.counts(), [3]int{1, 1, 0}; got != want {
				t.Errorf("dialled, closed, detached %v, want %v", got, want)
			}
			if state := d.last().state(); state != nil && !state.Exited {
				t.Errorf("the component is in state %+v, want it to have ended", state)
			}
		})
	}
}

// Between two runs there is nothing to end but the session, whose next run does not
// come any more.
func TestTerminateWhileDisconnected(t *testing.T) {
	checkLeaks(t)
	d := startDelve(t, "loop", "tidy")
	d.grace = make(chan struct{})
	e := connect(t, Config{Launcher: launches(d)})
	e.begin(false)
	d.kill()
	e.awaitBroken()
	e.TerminateRequest()
	want[*dap.TerminateResponse](e)
	want[*dap.TerminatedEvent](e)
	if text := e.output["important"]; text != "" {
		t.Errorf("the user reads %q", text)
	}
	e.leave()
}

// A restart under way is given up for the end, and answered.
func TestTerminateDuringARestart(t *testing.T) {
	checkLeaks(t)
	d := startDelve(t, "loop", "tidy")
	d.grace = make(chan struct{})
	building := make(chan struct{})
	d.restart = func(context.Context, *LaunchConfig) error {
		close(building)
		<-d.over
		return errors.New("the session has ended")
	}
	e := connect(t, Config{Launcher: launches(d)})
	e.begin(false)
	e.RestartRequest(nil)
	<-building
	e.TerminateRequest()
	want[*dap.TerminateResponse](e)
	var got []string
	for range 3 { // the answer races with the events
		switch m := e.any().(type) {
		case *dap.ErrorResponse:
			if m.Command != "restart" || m.Body.Error.Id != idRestart {
				t.Errorf("got %+v %+v", m, m.Body.Error)
			}
		case *dap.ExitedEvent:
			got = append(got, fmt.Sprint("exited ", m.Body.ExitCode))
		case *dap.TerminatedEvent:
			got = append(got, "terminated")
		}
	}
	if fmt.Sprint(got) != "[exited 5 terminated]" {
		t.Errorf("got %v, want exited and then terminated", got)
	}
	e.leave()
}

// Before the launch there is nothing to end, and one that is under way is given up:
// no debug session has been, so none is said to have ended, and another may begin.
func TestTerminateBeforeTheLaunchHasFinished(t *testing.T) {
	checkLeaks(t)
	d := startDelve(t, "loop", "tidy")
	d.grace = make(chan struct{})
	launching := make(chan struct{})
	l := launches(d)
	tries := 0
	l.launch = func(ctx context.Context, _ *LaunchConfig, _ Reporter) (Session, error) {
		if tries++; tries > 1 {
			return d, nil
		}
		close(launching)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	e := connect(t, Config{Launcher: l})
	e.TerminateRequest()
	wantError(e, idNotInitialized, `"terminate" came before initialize`)
	e.initialize()
	e.TerminateRequest()
	wantError(e, idNotStarted, `"terminate" is not supported before launch or attach`)
	launch := e.request("launch", `{"target":"local"}`)
	<-launching
	terminate := e.request("terminate", "")
	answers := e.answers(2, launch, terminate) // which race
	if a := answers[launch]; a.success || a.errorID != idCancelled || !answers[terminate].success {
		t.Errorf("got answers %+v", answers)
	}
	e.launchAgain()
	e.TerminateRequest()
	want[*dap.TerminateResponse](e)
	e.wantEnd(5)
	e.leave()
}

// launchAgain is begin for a client that is initialized.
func (e *editor) launchAgain() {
	e.t.Helper()
	e.LaunchRequestWithArgs(map[string]any{"target": "local"})
	e.awaitLaunched()
	want[*dap.LaunchResponse](e)
	e.configured(false)
}

// A session that belongs to somebody else goes on.
func TestTerminateOfAnAttachedSession(t *testing.T) {
	checkLeaks(t)
	d := startDelve(t, "loop", "tidy")
	e := connect(t, Config{Session: d})
	e.attach()
	e.configured(false)
	e.TerminateRequest()
	if m := wantError(e, idTerminate, "fixture was put under the debugger elsewhere"); !m.Body.Error.ShowUser {
		t.Error("not shown to the user")
	}
	e.wantRunning(d)
	e.disconnect()
	d.ticks(t)
	if got, want := d.counts(), [3]int{1, 0, 1}; got != want {
		t.Errorf("dialled, closed, detached %v, want %v", got, want)
	}
}

// A client may ask for the end as soon as it hears initialized. The launch has no
// answer then, and is given up like one that is being built.
func TestTerminateBeforeTheLaunchIsAnswered(t *testing.T) {
	checkLeaks(t)
	s := newScript(t, func(conn net.Conn) {
		r := newFrameReader(conn)
		for {
			_, env, err := readScript(r)
			switch {
			case err != nil:
				return
			case env.command == "attach": // which stays without an answer
				io.WriteString(conn, frame(`{"seq":0,"type":"event","event":"initialized"}`))
			default:
				io.WriteString(conn, frame(fmt.Sprintf(`{"seq":0,"type":"response","request_seq":%d,"success":true,"command":%q}`, env.seq, env.command)))
			}
		}
	})
	e := connect(t, Config{Launcher: launches(s)})
	e.initialize()
	launch := e.request("launch", `{}`)
	want[*dap.CapabilitiesEvent](e)
	want[*dap.InitializedEvent](e)
	terminate := e.request("terminate", "")
	answers := e.answers(2, launch, terminate) // which race
	if a := answers[launch]; a.success || a.errorID != idCancelled || !answers[terminate].success {
		t.Errorf("got answers %+v", answers)
	}
	<-s.closed
	e.request("restart", "")
	wantError(e, idNotStarted, "")
	e.disconnect()
}

// The end is told by who learns of it first: the exit, the connection, terminate. The
// exit code comes first also if two do at once.
func TestTheEndIsToldInOrder(t *testing.T) {
	for range 2000 {
		ours, theirs := net.Pipe()
		s := newSession(New(Config{}), theirs)
		s.update(func(st *state) { st.client.arguments = []byte("{}") })
		var telling sync.WaitGroup
		for range 3 {
			telling.Go(func() {
				s.tellExit(t.Context(), 7)
				s.tellEnd(t.Context())
			})
		}
		r := newFrameReader(ours)
		var got []string
		for range 2 {
			_, env, err := readScript(r)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, env.event)
		}
		telling.Wait()
		s.editor.close()
		ours.Close()
		if got[0] != "exited" || got[1] != "terminated" {
			t.Fatalf("got %v, want exited and then terminated", got)
		}
	}
}

// Who would kill the adapter before all is put back is not told of terminate.
func TestHastyClientsDisconnect(t *testing.T) {
	for client, want1 := range map[string]bool{"vscode": true, "dape": false} {
		t.Run(client, func(t *testing.T) {
			checkLeaks(t)
			e := connect(t, Config{Launcher: launches(nil)})
			e.InitializeRequestWithArgs(dap.InitializeRequestArguments{ClientID: client, PathFormat: "path", LinesStartAt1: true, ColumnsStartAt1: true})
			if got := want[*dap.InitializeResponse](e).Body.SupportsTerminateRequest; got != want1 {
				t.Errorf("supportsTerminateRequest is %v", got)
			}
			_ = e.conn.Close()
			e.ended()
		})
	}
}
