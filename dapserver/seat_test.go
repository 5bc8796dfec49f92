package dapserver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-dap"
)

func TestASeatHasOneDebugger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seat := &Seat{}
		alice, bob := Debugger{Name: "Alice", Kind: "DAP", Address: "127.0.0.1:1"}, Debugger{Kind: "JSON-RPC", Address: "127.0.0.1:2"}
		asked := make(chan Debugger, 2)
		ask := func(by Debugger) { asked <- by }
		since := time.Now()
		release, err := seat.Take(t.Context(), alice, false, ask)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		_, err = seat.Take(t.Context(), bob, false, ask)
		var inUse *InUseError
		if !errors.As(err, &inUse) || inUse.Holder != alice || !inUse.Since.Equal(since) || inUse.Stays {
			t.Errorf("got %v, want that Alice has it since %v", err, since)
		}
		if want := "in use by Alice (DAP, 127.0.0.1:1) since " + since.Format(time.TimeOnly); fmt.Sprint(err) != want {
			t.Errorf("got %q, want %q", err, want)
		}

		t.Log("who takes over waits until the other has gone")
		took := make(chan func(), 1)
		go func() {
			release, err := seat.Take(t.Context(), bob, true, ask)
			if err != nil {
				t.Error(err)
			}
			took <- release
		}()
		if by := <-asked; by != bob {
			t.Errorf("asked by %v, want %v", by, bob)
		}
		synctest.Wait()
		if len(took) > 0 {
			t.Error("taken before it was left")
		}
		release()
		release() // more than once does no harm
		freeBob := <-took

		t.Log("one that does not go is named")
		_, err = seat.Take(t.Context(), alice, true, ask)
		if !errors.As(err, &inUse) || !inUse.Stays || !strings.Contains(err.Error(), "a JSON-RPC client (127.0.0.1:2)") {
			t.Errorf("got %v, want that Bob stays", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := seat.Take(ctx, alice, true, ask); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want that it was given up", err)
		}
		freeBob()
		if len(asked) != 1 { // it was asked once only
			t.Errorf("asked %d times, want once", len(asked))
		}
	})
}

func TestManyWantASeat(t *testing.T) {
	seat := &Seat{}
	var mu sync.Mutex
	sitting, served := 0, 0
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			leave := make(chan struct{})
			release, err := seat.Take(t.Context(), Debugger{Name: fmt.Sprint(i)}, true, func(Debugger) { close(leave) })
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			sitting++
			served++
			if sitting != 1 {
				t.Errorf("%d sit at a time", sitting)
			}
			last := served == 50
			mu.Unlock()
			if !last {
				<-leave
			}
			mu.Lock()
			sitting--
			mu.Unlock()
			release()
		})
	}
	wg.Wait()
}

// A debugger takes over from one that is halted, running or still attaching.
func TestTakeOver(t *testing.T) {
	for _, test := range []struct {
		name      string
		halted    bool
		attribute string
		cfg       Config
	}{
		{name: "halted, asked for by the second", halted: true, attribute: `,"takeOver":true`},
		{name: "running, asked for by the second", attribute: `,"takeOver":true`},
		{name: "halted, allowed by the server", halted: true, cfg: Config{TakeOver: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			checkLeaks(t)
			d := startDelve(t, "loop")
			test.cfg.Session = d
			srv := New(test.cfg)
			attach := func(attributes string) *editor {
				e := connectTo(context.Background(), t, srv)
				e.initializeWith(false)
				e.request("attach", `{"mode":"remote"`+attributes+`}`)
				return e
			}
			first := attach("")
			first.awaitAttached()
			if test.halted {
				first.runTo("tick")
			} else {
				first.ConfigurationDoneRequest()
				want[*dap.ConfigurationDoneResponse](first)
			}

			second := attach(test.attribute + `,"stopOnEntry":true`)
			want[*dap.TerminatedEvent](first)
			second.awaitAttached()
			if text := first.output["important"]; text != fmt.Sprintf("kubedelve: a test (DAP, %s) has taken over the session of fixture\n", second.conn.LocalAddr()) {
				t.Errorf("the first reads %q", text)
			}
			second.ConfigurationDoneRequest()
			if reason := want[*dap.StoppedEvent](second).Body.Reason; reason != "entry" {
				t.Errorf("stopped for %q, want entry", reason)
			}
			want[*dap.ConfigurationDoneResponse](second)
			if test.halted {
				second.StackTraceRequest(1, 0, 1) // handed over where it was
				if frames := want[*dap.StackTraceResponse](second).Body.StackFrames; len(frames) != 1 || frames[0].Name != "main.tick" {
					t.Errorf("it is halted at %+v, want main.tick", frames)
				}
			}
			second.ContinueRequest(1)
			want[*dap.ContinueResponse](second)
			d.ticks(t) // the first one's breakpoint is gone

			first.ThreadsRequest()
			want[*dap.ErrorResponse](first)
			first.DisconnectRequest()
			want[*dap.DisconnectResponse](first)
			first.wantEOF()
			first.ended()
			second.disconnect()
			if got, want := d.counts(), [3]int{2, 0, 2}; got != want {
				t.Errorf("dialled, closed, detached %v, want %v", got, want)
			}
		})
	}
}
