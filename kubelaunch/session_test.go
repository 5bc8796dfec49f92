package kubelaunch

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestARunThatNobodyHasLetGoWaits(t *testing.T) {
	r := newRig(t, nil, "out=hello", "loop")
	conn, err := r.Dial(r.ctx(), DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	run := conn.Run()
	if run.Number != 1 || !run.Halted || !run.Fresh || run.Reload || run.Binary != programs.component || run.Place != "this machine" {
		t.Errorf("the run is %+v", run)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if text := r.printed.String(); text != "" {
		t.Errorf("it has begun: %q", text)
	}
}

func TestAnExitIsToldAndTheComponentStartedAgain(t *testing.T) {
	r := newRig(t, nil, "out=hello", "exit=3")
	if err := r.Resume(r.ctx()); err != nil {
		t.Fatal(err)
	}
	var times []time.Time
	for n, want := range []string{
		"the program exited with code 3; starting it again",
		"the program exited with code 3; starting it again in 1s",
		"the program exited with code 3; starting it again in 2s",
	} {
		e := r.heard.next(KindExited)
		if e.Text != want || e.Exit == nil || e.Exit.Code != 3 || e.Run != n+1 || e.Activity == 0 || e.Over {
			t.Errorf("the event is %+v", e)
		}
		if text := r.printed.String(); !strings.HasSuffix(text, string(rune('1'+n))+":hello\n") {
			t.Errorf("at the %d. exit the output is %q", n+1, text)
		}
		times = append(times, time.Now())
		if back := r.heard.next(KindBack); back.Activity != e.Activity || !back.Over {
			t.Errorf("the event is %+v after %+v", back, e)
		}
	}
	if pause := times[2].Sub(times[1]); pause < time.Second {
		t.Errorf("the third run ended after %v: its start did not wait", pause)
	}
}

func TestAnExitEndsTheSessionIfThatIsWanted(t *testing.T) {
	r := newRig(t, func(o *Options) { o.OnExit = EndSession }, "out=hello", "err=bye", "exit=3")
	if err := r.Resume(r.ctx()); err != nil {
		t.Fatal(err)
	}
	exit, err := r.Wait(r.ctx())
	if err != nil || exit.Code != 3 {
		t.Errorf("Wait: %v, %v", exit, err)
	}
	if text := r.printed.String(); !strings.Contains(text, "1:hello") || !strings.Contains(text, "1:bye") {
		t.Errorf("the output is %q after Wait", text)
	}
	var exited *ExitError
	if _, err := r.Dial(r.ctx(), DialOptions{}); !errors.As(err, &exited) || exited.Exit.Code != 3 {
		t.Errorf("Dial: %v", err)
	}
	if err := r.Swap(r.ctx(), programs.other, Options{}, nil); !errors.As(err, &exited) {
		t.Errorf("Swap: %v", err)
	}
	if err := r.Output(r.ctx(), func(Piece) {}); err != nil {
		t.Errorf("Output: %v", err)
	}
}

func TestACutIsMendedAndTheRunIsTheSame(t *testing.T) {
	r := newRig(t, nil, "out=hello", "loop")
	d := r.attach()
	d.hit()
	d.hangUp()
	r.wire.cut()
	lost := r.heard.next(KindLost)
	if !strings.Contains(lost.Text, "lost the connection to this machine") || lost.Activity == 0 {
		t.Errorf("the event is %+v", lost)
	}
	// In the meantime calls wait.
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := r.Dial(short, DialOptions{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Dial during a cut: %v", err)
	}
	r.wire.mend()
	back := r.heard.next(KindBack)
	if back.Activity != lost.Activity || !back.Over || back.Took < 200*time.Millisecond || !strings.HasPrefix(back.Text, "connected again to this machine after ") {
		t.Errorf("the event is %+v", back)
	}
	d = r.attach()
	if run := d.conn.Run(); run.Number != 1 || !run.Halted || run.Fresh {
		t.Errorf("the run is %+v", run)
	}
	d.goOn() // to the breakpoint that is still there
	if text := r.printed.String(); text != "1:hello\n" {
		t.Errorf("the output is %q", text)
	}
}

func TestAKilledAgentIsReplaced(t *testing.T) {
	r := newRig(t, nil, "out=hello", "loop")
	if err := r.Resume(r.ctx()); err != nil {
		t.Fatal(err)
	}
	r.printed.await("1:hello")
	d := r.attach()
	if err := r.machine.agent.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for { // the tunnel's end may be noticed earlier
		lost := r.heard.next(KindLost)
		if strings.Contains(lost.Text, "the agent has ended (signal: killed)") {
			break
		}
	}
	if _, err := d.GetStateNonBlocking(); err == nil {
		t.Error("the connection to a run that is gone works")
	}
	back := r.heard.next(KindBack)
	if !strings.HasPrefix(back.Text, "started again in this machine") {
		t.Errorf("the event is %+v", back)
	}
	r.printed.await("2:hello")
	d = r.attach()
	if run := d.conn.Run(); run.Number != 2 || run.Reload || run.Halted {
		t.Errorf("the run is %+v", run)
	}
	d.hit()
}

func TestASilentAgentIsReplaced(t *testing.T) {
	r := newRig(t, nil, "out=hello", "loop")
	if err := r.Resume(r.ctx()); err != nil {
		t.Fatal(err)
	}
	r.wire.cut()
	stuck := r.machine.agent.cmd.Process.Pid
	for {
		e := r.heard.next(KindLost)
		if strings.Contains(e.Text, "has not answered") {
			break
		}
	}
	r.wire.mend()
	r.printed.await("2:hello")
	if err := syscall.Kill(stuck, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the agent that did not answer is still there: %v", err)
	}
}

func TestSwapReplacesTheRun(t *testing.T) {
	r := newRig(t, nil, "out=one", "loop")
	if err := r.Resume(r.ctx()); err != nil {
		t.Fatal(err)
	}
	r.printed.await("1:one")
	var stages []string
	err := r.Swap(r.ctx(), programs.other, Options{Args: []string{"out=two", "handle=0", "loop"}}, func(stage string) { stages = append(stages, stage) })
	if err != nil {
		t.Fatal(err)
	}
	if len(stages) != 2 || !strings.HasPrefix(stages[0], "uploading component") || !strings.HasPrefix(stages[1], "loading component") {
		// The name is that of the file: on this machine there is no other.
		if len(stages) != 2 || !strings.HasPrefix(stages[0], "uploading other") {
			t.Errorf("the stages are %q", stages)
		}
	}
	r.printed.await("2:two")
	d := r.attach()
	if run := d.conn.Run(); run.Number != 2 || !run.Reload || run.Binary != programs.other {
		t.Errorf("the run is %+v", run)
	}
	d.hangUp()

	// After a loss it is the new one that is started.
	if err := r.machine.agent.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	r.printed.await("3:two")
	d = r.attach()
	if run := d.conn.Run(); run.Number != 3 || run.Reload || run.Binary != programs.other {
		t.Errorf("the run is %+v", run)
	}
}

func TestAFailedSwapLeavesTheOldRun(t *testing.T) {
	r := newRig(t, nil, "out=one", "loop")
	if err := r.Resume(r.ctx()); err != nil {
		t.Fatal(err)
	}
	path := t.TempDir() + "/script"
	missing := programs.other
	missing.Path, missing.SHA256 = path+"-none", strings.Repeat("0", 64)
	if err := r.Swap(r.ctx(), missing, Options{}, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Swap without a file: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Swap(ended, programs.other, Options{}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Swap that was taken back: %v", err)
	}
	d := r.attach()
	if run := d.conn.Run(); run.Number != 1 || run.Binary != programs.component {
		t.Errorf("the run is %+v", run)
	}
	d.hit()
}

func TestASwapDoesNotWaitForThePauseAfterAnExit(t *testing.T) {
	r := newRig(t, nil, "exit=1")
	if err := r.Resume(r.ctx()); err != nil {
		t.Fatal(err)
	}
	for range 5 { // the next pause is of 16 s
		r.heard.next(KindExited)
	}
	began := time.Now()
	if err := r.Swap(r.ctx(), programs.component, Options{Args: []string{"out=here", "loop"}}, nil); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 7*time.Second {
		t.Errorf("the swap took %v", took)
	}
	r.printed.await(":here")
	r.heard.next(KindBack)
}

func TestASwapWaitsForTheWayBack(t *testing.T) {
	r := newRig(t, nil, "out=one", "loop")
	if err := r.Resume(r.ctx()); err != nil {
		t.Fatal(err)
	}
	r.wire.cut()
	r.heard.next(KindLost)
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := r.Swap(short, programs.other, Options{}, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Swap during a cut: %v", err)
	}
	done := make(chan error, 1)
	go func() {
		done <- r.Swap(r.ctx(), programs.other, Options{Args: []string{"out=two", "loop"}}, nil)
	}()
	r.wire.mend()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	r.printed.await("2:two")
}

func TestNewRunsWaitForADebuggerThatIsExpected(t *testing.T) {
	r := newRig(t, nil, "out=hello", "loop")
	r.Expect(true)
	d := r.attach()
	if err := r.machine.agent.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	r.heard.next(KindBack)
	d.hangUp()
	d = r.attach()
	if run := d.conn.Run(); run.Number != 2 || !run.Halted || !run.Fresh {
		t.Errorf("the run is %+v", run)
	}
	d.hit()
	r.printed.await("2:hello")

	if err := r.Swap(r.ctx(), programs.component, Options{Args: []string{"out=swapped", "loop"}}, nil); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(r.printed.String(), "swapped") {
		t.Error("the new run goes on before a debugger has come")
	}
	r.Expect(false)
	r.printed.await("3:swapped")
}

// Whatever is cut when: each swap either comes about or leaves the run, and the next
// one works.
func TestSwapsThroughCuts(t *testing.T) {
	r := newRig(t, nil, "loop")
	if err := r.Resume(r.ctx()); err != nil {
		t.Fatal(err)
	}
	for i := range 12 {
		binary := programs.other
		if i%2 == 1 {
			binary = programs.component
		}
		timer := time.AfterFunc(time.Duration(i)*30*time.Millisecond, func() {
			r.wire.cut()
			r.wire.mend()
		})
		word := "swap" + string(rune('a'+i))
		if err := r.Swap(r.ctx(), binary, Options{Args: []string{"out=" + word, "loop"}}, nil); err != nil {
			t.Fatalf("swap %d: %v; events:%s", i, err, r.heard.all())
		}
		timer.Stop()
		r.printed.await(word)
		if n := strings.Count(r.printed.String(), word); n != 1 {
			t.Errorf("swap %d has begun %d runs", i, n)
		}
	}
}

func TestCloseIsPromptAtAnyMoment(t *testing.T) {
	for name, disturb := range map[string]func(*rig){
		"while nothing happens": func(*rig) {},
		"while it is cut":       func(r *rig) { r.wire.cut(); r.heard.next(KindLost) },
		"while the agent starts": func(r *rig) {
			_ = r.machine.agent.cmd.Process.Kill()
			r.heard.next(KindLost)
		},
		"during a swap": func(r *rig) {
			ctx, cancel := context.WithCancel(r.t.Context())
			begun, done := make(chan struct{}, 2), make(chan struct{})
			go func() {
				defer close(done)
				if err := r.Swap(ctx, programs.other, Options{}, func(string) { begun <- struct{}{} }); err == nil {
					r.t.Error("the swap came about")
				}
			}()
			<-begun
			r.t.Cleanup(func() { cancel(); <-done })
		},
		"in the pause after an exit": func(r *rig) {
			if err := r.Swap(r.ctx(), programs.component, Options{Args: []string{"exit=1"}}, nil); err != nil {
				r.t.Fatal(err)
			}
			for range 4 {
				r.heard.next(KindExited)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil, "handle=0", "loop")
			if err := r.Resume(r.ctx()); err != nil {
				t.Fatal(err)
			}
			disturb(r)
			waiting := make(chan error, 1)
			go func() {
				_, err := r.Wait(context.Background())
				waiting <- err
			}()
			began := time.Now()
			if err := r.Close(r.ctx(), nil); err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took > 8*time.Second {
				t.Errorf("Close took %v", took)
			}
			if err := <-waiting; !errors.Is(err, ErrEnded) {
				t.Errorf("Wait: %v", err)
			}
			if _, err := r.Dial(r.ctx(), DialOptions{}); !errors.Is(err, ErrEnded) {
				t.Errorf("Dial: %v", err)
			}
			if _, err := os.Stat(r.machine.dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the agent's folder is left: %v", err)
			}
		})
	}
}

func TestPausesGrow(t *testing.T) {
	var b backoff
	var got []time.Duration
	for range 9 {
		got = append(got, b.next(time.Second)/time.Second)
	}
	for i, want := range []time.Duration{0, 1, 2, 4, 8, 16, 30, 30, 30} {
		if got[i] != want {
			t.Fatalf("the pauses are %v s", got)
		}
	}
	if pause := b.next(2 * time.Minute); pause != 0 {
		t.Errorf("after a run of 2 minutes the pause is %v", pause)
	}
	if pause := b.next(time.Second); pause != time.Second {
		t.Errorf("the next one is %v", pause)
	}
}
