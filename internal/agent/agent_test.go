package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-delve/delve/service/api"

	"github.com/kubedelve/kubedelve/internal/agentapi"
)

func TestHelloTellsStates(t *testing.T) {
	r := newRig(t, nil)
	c := r.client("test")
	expect := func(want string) {
		t.Helper()
		h, err := c.Hello(t.Context())
		if err != nil || h.State != want || h.Session != "test" || h.Delve == "" || h.UID != os.Getuid() {
			t.Errorf("got %+v, %v; want state %q", h, err, want)
		}
	}
	expect(agentapi.StateIdle)
	if _, err := c.Wait(t.Context()); code(err) != agentapi.CodeIdle {
		t.Errorf("Wait before a start: %v; want code idle", err)
	}
	start(t, c, "exit=0")
	expect(agentapi.StateRunning)
	if err := c.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	wait(t, c)
	expect(agentapi.StateExited)
	if err := c.End(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect(agentapi.StateIdle)
}

func code(err error) string {
	var refused *agentapi.Error
	if errors.As(err, &refused) {
		return refused.Code
	}
	return ""
}

func TestABreakpointIsHit(t *testing.T) {
	r := newRig(t, nil)
	c := r.client("test")
	start(t, c, "loop")
	d := attach(t, c)
	state := d.hit()
	if got := filepath.Base(state.CurrentThread.File); got != "main.go" || state.CurrentThread.Function.Name() != "main.count" {
		t.Errorf("stopped in %s, %s; want main.count", got, state.CurrentThread.Function.Name())
	}
	v, err := d.EvalVariable(api.EvalScope{GoroutineID: -1}, "i", api.LoadConfig{})
	if err != nil || v.Value != "0" {
		t.Errorf("i = %+v, %v; want 0", v, err)
	}
}

func TestExitsAreToldAsTheyAre(t *testing.T) {
	r := newRig(t, nil)
	c := r.client("test")
	for _, test := range []struct {
		name, step string
		want       agentapi.Exit
	}{
		{"well", "exit=0", agentapi.Exit{}},
		{"with a code", "exit=3", agentapi.Exit{Code: 3}},
		{"by SIGKILL", "kill=9", agentapi.Exit{Code: -1, Signal: 9, Reason: "ended by signal 9 (killed)"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			launch(t, c, "out=x", test.step)
			if got := wait(t, c); got != test.want {
				t.Errorf("got %+v; want %+v", got, test.want)
			}
			began := time.Now()
			if got := wait(t, c); got != test.want || time.Since(began) > time.Second {
				t.Errorf("the second time: %+v after %v", got, time.Since(began))
			}
		})
	}
}

func TestAKillWhileHaltedIsTold(t *testing.T) {
	r := newRig(t, nil)
	c := r.client("test")
	pid := start(t, c, "loop")
	attach(t, c).hit()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := wait(t, c); got.Code != -1 {
		t.Errorf("got %+v; want code -1", got)
	}
}

func TestStdoutAndStderrComeApartWithBacklog(t *testing.T) {
	r := newRig(t, nil)
	c := r.client("test")
	first := collect(t, c) // before the start
	launch(t, c, "out=one", "err=two", "out=three", "exit=0")
	wait(t, c)
	late := collect(t, r.client("late"))
	for name, o := range map[string]*outputs{"before the start": first, "after the end": late} {
		o.wait(t)
		if o.out.String() != "one\nthree\n" || o.err.String() != "two\n" {
			t.Errorf("the client from %s: stdout %q, stderr %q", name, o.out.String(), o.err.String())
		}
	}
	r.await("the container's log", func() bool { return r.logged.String() == "one\nthree\n" })
	// The next run's output is its own.
	launch(t, c, "out=again", "exit=0")
	o := collect(t, c)
	o.wait(t)
	if o.out.String() != "again\n" {
		t.Errorf("the next run: stdout %q; want again", o.out.String())
	}
}

func TestWaitComesAfterTheLastOutput(t *testing.T) {
	r := newRig(t, nil)
	c := r.client("test")
	start(t, c, "bytes=4000000", "exit=3")
	got := 0
	subscribed := make(chan error, 1)
	go func() {
		subscribed <- c.Output(t.Context(), agentapi.Position{}, func(o agentapi.Output) error {
			got += len(o.Data)
			if got%7 == 0 {
				time.Sleep(time.Millisecond) // a slow terminal
			}
			return nil
		})
	}()
	r.await("the subscription", func() bool { return strings.Contains(r.said.String(), "op=output") })
	if err := c.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	wait(t, c)
	if err := <-subscribed; err != nil || got != 4000000 {
		t.Errorf("got %d bytes, %v; want 4000000", got, err)
	}
}

func TestMuchOutputIsCompleteAndHeldInLittleMemory(t *testing.T) {
	const size = 50 << 20
	r := newRig(t, nil)
	c := r.client("test")
	start(t, c, "bytes="+strconv.Itoa(size), "exit=0")
	var total int64
	var wrong int
	line := []byte("000000000000000\n") // the next one
	done := make(chan error, 1)
	go func() {
		done <- c.Output(t.Context(), agentapi.Position{}, func(o agentapi.Output) error {
			for _, b := range o.Data {
				at := total % 16
				if b != line[at] {
					wrong++
				}
				if total++; at == 15 {
					for i := 14; ; i-- { // decimal, with a carry
						if line[i]++; line[i] <= '9' {
							break
						}
						line[i] = '0'
					}
				}
			}
			return nil
		})
	}()
	r.await("the subscription", func() bool { return strings.Contains(r.said.String(), "op=output") })
	if err := c.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil || total != size || wrong > 0 {
		t.Errorf("got %d bytes, %d of them wrong, %v; want %d", total, wrong, err, size)
	}
	if peak := peakMemory(t, r.cmd.Process.Pid); peak > 100<<20 {
		t.Errorf("the agent took %d MiB", peak>>20)
	}
}

// peakMemory is the most that a process had resident, bytes.
func peakMemory(t testing.TB, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(status), "VmHWM:")
	kib, err := strconv.ParseInt(strings.Fields(text)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

func TestAClientThatDoesNotReadHoldsNobodyUpOnceItIsGone(t *testing.T) {
	r := newRig(t, nil)
	c, lazy := r.client("test"), r.client("lazy")
	// More than all buffers on the way, and little enough to be written in no time.
	start(t, c, "bytes="+strconv.Itoa(8<<20), "exit=0")
	reading, blocked := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(blocked)
		_ = lazy.Output(ctx, agentapi.Position{}, func(agentapi.Output) error {
			select {
			case <-reading:
			default:
				close(reading)
			}
			<-ctx.Done()
			return context.Cause(ctx)
		})
	}()
	if err := c.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-reading
	// Its window is full when the component's pipe is.
	r.await("the component to be held up", func() bool {
		before := len(r.logged.String())
		time.Sleep(100 * time.Millisecond)
		return len(r.logged.String()) == before && before > 0
	})
	began := time.Now()
	cancel()
	<-blocked
	if got := wait(t, c); got.Code != 0 {
		t.Errorf("got %+v", got)
	}
	if took := time.Since(began); took > sinkPatience/2 {
		t.Errorf("the component was held up for %v by a client that was gone", took)
	}
}

func TestAnotherStartReplaces(t *testing.T) {
	r := newRig(t, nil)
	c := r.client("test")
	first := launch(t, c, "handle=0", "out=up", "loop")
	o := collect(t, c)
	r.await("the first to be up", func() bool { return o.out.String() == "up\n" })
	d := attach(t, c) // is thrown out
	second, err := c.Start(t.Context(), agentapi.Start{File: put(t, c, programs.other), Args: []string{"loop"}})
	if err != nil {
		t.Fatal(err)
	}
	if second.PID == first || second.Run != 2 {
		t.Fatalf("the first has PID %d, the second %+v; want another and run 2", first, second)
	}
	r.gone(first)
	o.wait(t)
	if !strings.HasSuffix(o.out.String(), "handler ran\n") {
		t.Errorf("the first one said %q; want its SIGTERM handler to run", o.out.String())
	}
	if _, err := d.GetState(); err == nil {
		t.Error("the first one's debugger is still connected")
	}
	attach(t, c).hit()
}

func TestALaterStartCountsWhileOneLoads(t *testing.T) {
	r := newRig(t, nil)
	c := r.client("test")
	file := put(t, c, programs.component)
	var aborted []string // what those would have said that were aborted; others were loaded just before
	for i := 0; i < 50 && len(aborted) < 3; i++ {
		mark := fmt.Sprintf("first-%d.", i)
		first := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			_, err := c.Start(ctx, agentapi.Start{File: file, Args: []string{"out=" + mark, "loop"}})
			first <- err
		}()
		r.await("loading", func() bool {
			h, err := c.Hello(t.Context())
			return err == nil && h.Loading
		})
		later, err := c.Start(t.Context(), agentapi.Start{File: file, Args: []string{"loop"}})
		if err != nil || !alive(later.PID) {
			t.Fatalf("the later start: %+v, %v", later, err)
		}
		if err := <-first; err != nil {
			aborted = append(aborted, mark)
		}
		cancel()
		// Only one component is left, and it is halted.
		for _, delve := range childrenOf(r.cmd.Process.Pid) {
			if delve.zombie() {
				continue
			}
			if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", delve.pid)); strings.HasPrefix(string(comm), "component") {
				t.Errorf("process %d runs on without a debugger", delve.pid)
			}
		}
	}
	if len(aborted) == 0 {
		t.Error("no start was aborted by a later one")
	}
	for _, mark := range aborted {
		if strings.Contains(r.logged.String(), mark) {
			t.Errorf("the aborted component ran: it said %q", mark)
		}
	}
}

func TestACancelledStartLeavesNothing(t *testing.T) {
	r := newRig(t, nil)
	c := r.client("test")
	file := put(t, c, programs.component)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := c.Start(ctx, agentapi.Start{File: file, Args: []string{"out=ran", "loop"}})
		done <- err
	}()
	r.await("the component's process", func() bool {
		for _, child := range childrenOf(r.cmd.Process.Pid) {
			if tracedBy(child.pid) > 0 {
				return true
			}
		}
		return false
	})
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) && err != nil {
		t.Errorf("got %v; want context.Canceled", err)
	}
	if err := c.End(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.await("the agent to be without children", func() bool { return len(childrenOf(r.cmd.Process.Pid)) == 0 })
	if r.logged.String() != "" {
		t.Errorf("the component said %q", r.logged.String())
	}
}

func TestASecondDebuggerIsRefused(t *testing.T) {
	r := newRig(t, nil)
	first, second := r.client("first"), r.client("second")
	start(t, first, "loop")
	d := attach(t, first)
	d.hit()
	_, err := dial(t, second)
	if code(err) != agentapi.CodeInUse || !strings.Contains(err.Error(), "first") {
		t.Errorf("got %v; want in-use, by first", err)
	}
	// One that hangs up gives it free at once.
	_ = d.conn.Close()
	conn, err := dial(t, second)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	// One whose tunnel is lost has it until the grace period is over.
	if _, err = dial(t, first); err != nil {
		t.Fatal(err)
	}
	_ = first.Close()
	r.await("the loss to be known", func() bool {
		h, err := second.Hello(t.Context())
		return err == nil && h.Client == "first"
	})
	if _, err = dial(t, second); code(err) != agentapi.CodeInUse || !strings.Contains(err.Error(), "first") {
		t.Errorf("got %v; want in-use, by first", err)
	}
}

func TestSettleLetsGo(t *testing.T) {
	for _, test := range []struct {
		name string
		halt func(*attached)
	}{
		{"at the entry", func(*attached) {}},
		{"at a breakpoint", func(d *attached) { d.hit() }},
		{"in the middle of next", func(d *attached) {
			d.hit()
			if _, err := d.Next(); err != nil {
				d.t.Fatal(err)
			}
			go func() { _, _ = d.StepOut() }() // main.main's loop sleeps
		}},
		{"while running, with breakpoints", func(d *attached) {
			if _, err := d.CreateBreakpoint(&api.Breakpoint{FunctionName: "main.count", Cond: "i < 0"}); err != nil {
				d.t.Fatal(err)
			}
			d.Continue()
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, nil)
			c := r.client("test")
			pid := start(t, c, "out=up", "loop")
			test.halt(attach(t, c)) // and stays connected
			for range 2 {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				if err := c.Settle(ctx); err != nil {
					t.Fatal(err)
				}
				cancel()
			}
			r.runs(pid)
			d := attach(t, c)
			if _, err := d.Halt(); err != nil {
				t.Fatal(err)
			}
			for _, b := range must(d.ListBreakpoints(false)) {
				if b.ID > 0 {
					t.Errorf("breakpoint %d is left", b.ID)
				}
			}
		})
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// runs fails the test unless a component that loops uses the processor: it is not
// halted now, and not a moment later.
func (r *rig) runs(pid int) {
	r.t.Helper()
	for range 3 {
		before := switches(pid)
		r.await("the component to run", func() bool { return switches(pid) > before+5 })
	}
}

// switches counts the sleeps of a process's threads.
func switches(pid int) (n int) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	for _, file := range files {
		status, _ := os.ReadFile(file)
		_, text, _ := strings.Cut(string(status), "\nvoluntary_ctxt_switches:")
		if fields := strings.Fields(text); len(fields) > 0 {
			v, _ := strconv.Atoi(fields[0])
			n += v
		}
	}
	return n
}

func TestResumeKeepsBreakpoints(t *testing.T) {
	r := newRig(t, nil)
	c := r.client("test")
	pid := start(t, c, "loop")
	for range 2 { // a running one is left alone
		if err := c.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	r.runs(pid)
	d := attach(t, c)
	if _, err := d.Halt(); err != nil {
		t.Fatal(err)
	}
	d.hit()
	_ = d.conn.Close()
	if err := c.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	d = debugWhenFree(r, c)
	if breakpoints := must(d.ListBreakpoints(false)); !hasUserBreakpoint(breakpoints) {
		t.Error("the breakpoint is gone")
	}
}

func hasUserBreakpoint(all []*api.Breakpoint) bool {
	for _, b := range all {
		if b.ID > 0 {
			return true
		}
	}
	return false
}

func debugWhenFree(r *rig, c *agentapi.Client) (d *attached) {
	r.t.Helper()
	r.await("the debugger to be free", func() bool {
		conn, err := dial(r.t, c)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	r.await("the debugger to be free", func() bool {
		h, err := c.Hello(r.t.Context())
		return err == nil && h.Client == ""
	})
	return attach(r.t, c)
}

func TestAVanishedClientsComponentGoesOn(t *testing.T) {
	for _, halted := range []string{"at a breakpoint", "at its entry"} {
		t.Run(halted, func(t *testing.T) {
			r := newRig(t, func(c *agentapi.Config) { c.Grace = agentapi.Duration(300 * time.Millisecond) })
			c := r.client("test")
			pid := start(t, c, "loop")
			if halted == "at a breakpoint" {
				attach(t, c).hit()
			}
			_ = c.Close()
			r.runs(pid)
			d := attach(t, r.client("again"))
			if _, err := d.Halt(); err != nil {
				t.Fatal(err)
			}
			if hasUserBreakpoint(must(d.ListBreakpoints(false))) {
				t.Error("a breakpoint is left")
			}
		})
	}
}

// A leader that nobody keeps in its place must not act as one when it goes on. One that
// runs keeps itself there.
func TestAVanishedClientsLeaderIsEndedIfItIsHalted(t *testing.T) {
	r := newRig(t, func(c *agentapi.Config) {
		c.Leader, c.Grace = true, agentapi.Duration(300*time.Millisecond)
	})
	c := r.client("test")
	pid := start(t, c, "loop")
	if err := c.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	time.Sleep(500 * time.Millisecond) // nothing must happen
	r.runs(pid)
	c = r.client("test")
	attach(t, c).hit()
	_ = c.Close()
	r.gone(pid)
	c = r.client("again")
	r.await("the component to be ended", func() bool { return must(c.Hello(t.Context())).State == agentapi.StateIdle })
}

func TestAClientThatIsThereMayTakeItsTime(t *testing.T) {
	r := newRig(t, func(c *agentapi.Config) { c.Grace = agentapi.Duration(50 * time.Millisecond) })
	c := r.client("test")
	pid := start(t, c, "loop")
	before := switches(pid)
	time.Sleep(300 * time.Millisecond) // nothing must happen
	if switches(pid) != before {
		t.Error("the component was let go though its client is there and no debugger has been")
	}
	attach(t, c).hit()
	before = switches(pid)
	time.Sleep(300 * time.Millisecond)
	if switches(pid) != before {
		t.Error("the component was let go under its debugger")
	}
}

func TestAnExpiredSessionBecomesTheOriginal(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	original := []string{"/bin/sh", "-c", `echo "$$ $(cat /proc/$$/comm)" >> ` + out + `; exit 7`}
	r := newRig(t, func(c *agentapi.Config) { c.TTL = agentapi.Duration(400 * time.Millisecond) }, original...)
	c := r.client("test")
	started, err := c.Start(t.Context(), agentapi.Start{File: put(t, c, programs.component), Args: []string{"handle=0", "loop"}})
	if err != nil {
		t.Fatal(err)
	}
	pid := started.PID
	attach(t, c).hit()
	delve := delveOf(t, pid)
	_ = c.Close()
	if got := r.code(); got != 7 {
		t.Errorf("exit code %d; want the original's 7; the agent said:\n%s", got, r.said)
	}
	r.gone(pid, delve)
	if !exists(filepath.Join(r.dir, "run/expired")) {
		t.Error("no marker")
	}
	// The container is started again.
	r.run(nil, original...)
	if got := r.code(); got != 7 {
		t.Errorf("after a restart: exit code %d; want 7", got)
	}
	said, err := os.ReadFile(out)
	if lines := strings.Count(string(said), "sh\n"); err != nil || lines != 2 {
		t.Errorf("the original said %q, %v; want two lines", said, err)
	}
	if !strings.HasSuffix(strings.Fields(string(said))[1], "sh") {
		t.Errorf("it runs as %q", said)
	}
}

func TestSIGTERMReachesAHaltedComponent(t *testing.T) {
	for _, test := range []struct {
		name string
		sig  syscall.Signal
		step string
		want int
		says string
	}{
		{"with a handler", syscall.SIGTERM, "handle=5", 5, "handler ran\n"},
		{"without a handler", syscall.SIGTERM, "out=x", 128 + 15, ""},
		{"another stop signal", syscall.SIGINT, "out=x", 128 + 2, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, nil)
			c := r.client("test")
			pid := start(t, c, test.step, "loop")
			delve := delveOf(t, pid)
			d := attach(t, c)
			d.hit()
			d.goOn()
			if err := r.cmd.Process.Signal(test.sig); err != nil {
				t.Fatal(err)
			}
			if got := r.code(); got != test.want {
				t.Errorf("exit code %d; want %d; the agent said:\n%s", got, test.want, r.said)
			}
			if !strings.HasSuffix(r.logged.String(), test.says) {
				t.Errorf("the component said %q; want %q", r.logged.String(), test.says)
			}
			r.gone(pid, delve)
			if left, _ := filepath.Glob(filepath.Join(r.dir, "run/*.sock")); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
		})
	}
}

func TestAHaltedComponentServesOnWhileItsPodIsTakenAway(t *testing.T) {
	const drain = 700 * time.Millisecond
	r := newRig(t, func(c *agentapi.Config) { c.Drain = agentapi.Duration(drain) })
	c := r.client("test")
	pid := start(t, c, "handle=5", "loop")
	d := attach(t, c)
	d.hit()
	d.goOn()
	began := time.Now()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	r.runs(pid) // before its own SIGTERM comes
	if got := r.code(); got != 5 || time.Since(began) < drain {
		t.Errorf("exit code %d after %v; want 5 after %v", got, time.Since(began), drain)
	}
}

func TestATemporaryFolderGoesWithTheAgent(t *testing.T) {
	r := newRig(t, func(c *agentapi.Config) { c.Temporary = true; c.TTL = agentapi.Duration(200 * time.Millisecond) })
	c := r.client("test")
	pid := launch(t, c, "loop")
	_ = c.Close()
	if got := r.code(); got != 0 {
		t.Errorf("exit code %d; want 0", got)
	}
	r.gone(pid)
	if exists(r.dir) {
		t.Error("the folder is left")
	}
}

func TestAComponentThatStaysIsKilled(t *testing.T) {
	r := newRig(t, func(c *agentapi.Config) { c.Stop = agentapi.Duration(200 * time.Millisecond) })
	c := r.client("test")
	pid := launch(t, c, "usr1", "out=up", "wait")
	o := collect(t, c)
	r.await("it to be up", func() bool { return o.out.String() == "up\n" })
	// A stopped process does not take SIGTERM.
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := c.End(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.gone(pid)
}

func TestOtherSignalsArePassedOn(t *testing.T) {
	r := newRig(t, nil)
	c := r.client("test")
	launch(t, c, "usr1", "out=up", "wait")
	o := collect(t, c)
	r.await("it to be up", func() bool { return o.out.String() == "up\n" })
	if err := r.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	r.await("the signal", func() bool { return o.out.String() == "up\nusr1 came\n" })
}

func TestNothingOutlivesAKilledAgent(t *testing.T) {
	for _, when := range []string{"loaded", "loading"} {
		t.Run(when, func(t *testing.T) {
			r := newRig(t, nil)
			c := r.client("test")
			file := put(t, c, programs.component)
			done := make(chan error, 1)
			go func() {
				_, err := c.Start(t.Context(), agentapi.Start{File: file, Args: []string{"out=ran", "loop"}})
				done <- err
			}()
			if when == "loaded" {
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				done <- nil
			}
			var delve, component int
			r.await("the component", func() bool {
				for _, child := range childrenOf(r.cmd.Process.Pid) {
					delve, component = child.pid, tracedBy(child.pid)
				}
				return component > 0
			})
			if err := r.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			r.gone(delve, component)
			<-done
			if strings.Contains(r.logged.String(), "ran") {
				t.Error("the component ran on without a debugger")
			}
			// The folder can be used again.
			<-r.exited
			r.run(nil)
			debug2 := r.client("again")
			start(t, debug2, "loop")
			attach(t, debug2).hit()
		})
	}
}

func TestAKilledDelveIsTold(t *testing.T) {
	r := newRig(t, nil)
	c := r.client("test")
	pid := start(t, c, "loop")
	delve := delveOf(t, pid)
	attach(t, c).hit()
	if err := syscall.Kill(delve, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := wait(t, c); got.Code != -1 || !strings.Contains(got.Reason, "delve") {
		t.Errorf("got %+v; want a word about delve", got)
	}
	r.gone(pid)
	start(t, c, "loop")
	r.await("the first debugger to be gone", func() bool {
		h, err := c.Hello(t.Context())
		return err == nil && h.Client == ""
	})
	attach(t, c).hit()
}

func TestADebuggersRestartIsFollowed(t *testing.T) {
	r := newRig(t, nil)
	c := r.client("test")
	first := start(t, c, "loop")
	d := attach(t, c)
	d.hit()
	if _, err := d.Restart(false); err != nil {
		t.Fatal(err)
	}
	second := d.ProcessPid()
	if second == first {
		t.Fatal("not restarted")
	}
	state := must(d.GetState())
	if state.Running || state.Exited || switches(second) > 50 {
		t.Error("the restarted component does not wait at its entry")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if exit, err := c.Wait(ctx); err == nil {
		t.Errorf("told the end %+v", exit)
	}
	d.goOn()
	if err := syscall.Kill(second, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := wait(t, c); got.Code != -1 {
		t.Errorf("got %+v; want code -1", got)
	}
}

func TestReadiness(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	port := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	r := newRig(t, nil)
	c := r.client("test")
	ports := []int{port}
	ready := func(p []int) bool { return Ready(r.dir, p) == nil }
	if ready(ports) || ready(nil) {
		t.Error("ready before anything was started")
	}
	pid := start(t, c, "listen="+address, "loop")
	if ready(ports) {
		t.Error("ready before it listens")
	}
	if err := c.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.await("readiness", func() bool { return ready(ports) })
	d := attach(t, c)
	if _, err := d.Halt(); err != nil {
		t.Fatal(err)
	}
	d.hit()
	if !ready(ports) {
		t.Error("not ready while halted")
	}
	if err := syscall.Kill(r.cmd.Process.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.gone(pid)
	<-r.exited
	r.run(nil)
	r.client("again")
	if ready(ports) || ready(nil) {
		t.Error("still ready after the container was started again")
	}
}

func TestReadinessWithoutPortsIsTheStart(t *testing.T) {
	r := newRig(t, nil)
	c := r.client("test")
	start(t, c, "loop")
	if err := Ready(r.dir, nil); err != nil {
		t.Error(err)
	}
}

func TestOnlyTheUserMayConnect(t *testing.T) {
	r := newRig(t, nil)
	c := r.client("test")
	pid := start(t, c, "loop")
	for _, name := range []string{"agent.sock", "delve-1.sock"} {
		info, err := os.Stat(filepath.Join(r.dir, "run", name))
		if err != nil || info.Mode() != fs.ModeSocket|0o600 {
			t.Errorf("%s: %v, %v; want a socket with mode 0600", name, info.Mode(), err)
		}
	}
	info, err := os.Stat(filepath.Join(r.dir, "run"))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("run: %v, %v; want mode 0700", info.Mode(), err)
	}
	delve := delveOf(t, pid)
	inodes := map[string]bool{}
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", delve))
	for _, link := range links {
		target, _ := os.Readlink(link)
		if inode, ok := strings.CutPrefix(target, "socket:["); ok {
			inodes[strings.TrimSuffix(inode, "]")] = true
		}
	}
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6"} {
		text, _ := os.ReadFile("/proc/self/net/" + table)
		for line := range strings.Lines(string(text)) {
			if fields := strings.Fields(line); len(fields) > 9 && inodes[fields[9]] {
				t.Errorf("Delve has a socket of %s: %s", table, line)
			}
		}
	}
	if len(inodes) == 0 {
		t.Error("Delve has no socket at all")
	}
}

func TestTheComponentInheritsNothingOfOurs(t *testing.T) {
	r := newRig(t, nil)
	c := r.client("test")
	dir := t.TempDir()
	_, err := c.Start(t.Context(), agentapi.Start{
		File: put(t, c, programs.component), Args: []string{"fds", "env=ADDED", "env=HOME", "dir", "exit=0"},
		Env: []string{"ADDED=yes", "HOME", "GOMEMLIMIT=1MiB", "GOGC=1"}, Dir: dir,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	o := collect(t, c)
	o.wait(t)
	inherited := map[string]bool{} // by the test itself, from whoever runs it
	links, _ := filepath.Glob("/proc/self/fd/*")
	for _, link := range links {
		target, _ := os.Readlink(link)
		inherited[target] = true
	}
	for line := range strings.Lines(o.out.String()) {
		var fd int
		var target string
		if n, _ := fmt.Sscanf(line, "fd %d %s", &fd, &target); n == 2 && fd > 2 && !strings.Contains(target, "/proc/") &&
			!strings.Contains(target, "anon_inode") && !strings.HasPrefix(target, "/sys/fs/cgroup/") && !inherited[target] {
			t.Errorf("the component has descriptor %s", line)
		}
	}
	for _, want := range []string{"ADDED: yes\n", "HOME: \n", "dir " + dir + "\n", "fd 0 /dev/null\n"} {
		if !strings.Contains(o.out.String(), want) {
			t.Errorf("%q is missing in %q", want, o.out.String())
		}
	}
}

func TestManyArgumentsArePassed(t *testing.T) {
	r := newRig(t, nil)
	c := r.client("test")
	args := []string{"size", "exit=0"}
	for range 10 {
		args = append(args, "x="+strings.Repeat("x", 100<<10))
	}
	launch(t, c, args...)
	o := collect(t, c)
	o.wait(t)
	var size int
	if _, err := fmt.Sscanf(o.out.String(), "size %d", &size); err != nil || size < 1000000 {
		t.Errorf("got %q, %v; want a megabyte", o.out.String(), err)
	}
	_, err := c.Start(t.Context(), agentapi.Start{File: put(t, c, programs.component), Args: []string{strings.Repeat("x", 3<<20)}})
	if err == nil || !strings.Contains(err.Error(), "argument list too long") {
		t.Errorf("got %v; want: argument list too long", err)
	}
}

func TestWhatCannotBeStartedIsTold(t *testing.T) {
	r := newRig(t, nil)
	c := r.client("test")
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("no program ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	file := put(t, c, programs.component)
	for _, test := range []struct {
		name, want string
		start      agentapi.Start
	}{
		{"garbage", "delve could not start garbage", agentapi.Start{File: put(t, c, garbage)}},
		{"never sent", "has not been sent", agentapi.Start{File: agentapi.File{SHA256: strings.Repeat("0", 64), Size: 1, Name: "x"}}},
		{"a path", "is not a file name", agentapi.Start{File: agentapi.File{SHA256: file.SHA256, Size: 1, Name: "../x"}}},
		{"no such folder", "there is no working directory /no/such/folder", agentapi.Start{File: file, Dir: "/no/such/folder"}},
	} {
		if _, err := c.Start(t.Context(), test.start); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v; want %q", test.name, err, test.want)
		}
	}
	// The agent is as good as new.
	start(t, c, "loop")
	attach(t, c).hit()
}

func TestWhatAComponentLeavesBehindEndsWithIt(t *testing.T) {
	r := newRig(t, nil)
	c := r.client("test")
	launch(t, c, "daemon=1000", "exit=4")
	o := collect(t, c)
	began := time.Now()
	if got := wait(t, c); got.Code != 4 {
		t.Errorf("got %+v; want code 4", got)
	}
	if took := time.Since(began); took > sinkPatience/2 {
		t.Errorf("the end was told after %v: a grandchild holds the output", took)
	}
	o.wait(t)
	var daemon int
	if _, err := fmt.Sscanf(o.out.String(), "daemon %d", &daemon); err != nil || !alive(daemon) {
		t.Fatalf("no daemon: %q, %q", o.out.String(), o.err.String())
	}
	if err := c.End(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.gone(daemon)
	if left := childrenOf(r.cmd.Process.Pid); len(left) > 0 {
		t.Errorf("the agent has children left: %+v", left)
	}
}

// As PID 1 the agent is what an init would be in its container.
func TestAsPID1(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("a new PID namespace takes root")
	}
	r := &rig{}
	*r = *newRig(t, nil) // keys and folder
	_ = r.cmd.Process.Signal(syscall.SIGTERM)
	<-r.exited
	defer func() {
		if t.Skipped() && os.Getenv("CI") == "true" {
			t.Error("CI must not skip this")
		}
	}()
	// /proc has to show the new namespace: a mount namespace of its own, and a
	// shell that mounts it and becomes the agent.
	script := filepath.Join(t.TempDir(), "init")
	body := "#!/bin/sh\nmount -t proc proc /proc || exit 99\nexec " + programs.agent + " serve --debug --dir " + r.dir + " --config " + r.dir + "/config.json\n"
	if err := os.WriteFile(script, []byte(body), 0o700); err != nil {
		t.Fatal(err)
	}
	agent := programs.agent
	programs.agent = script
	r.run(&syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS, Unshareflags: syscall.CLONE_NEWNS})
	programs.agent = agent
	r.await("the agent", func() bool {
		select {
		case <-r.exited:
			if r.cmd.ProcessState.ExitCode() == 99 {
				t.Skipf("no /proc of its own can be mounted: %s", r.said)
			}
			t.Fatalf("the agent ended: %s", r.said)
		default:
		}
		return exists(filepath.Join(r.dir, SocketPath))
	})
	c := r.client("test")
	pid := launch(t, c, "handle=6", "daemon=0", "daemon=0", "daemon=1000", "out=up", "loop")
	if pid >= 1000 {
		t.Errorf("PID %d is not of a new namespace", pid)
	}
	o := collect(t, c)
	r.await("it to be up", func() bool { return strings.HasSuffix(o.out.String(), "up\n") })
	// The short daemons have ended and nobody but PID 1 could have collected them.
	r.await("no zombies", func() bool {
		for _, child := range childrenOf(r.cmd.Process.Pid) {
			if child.zombie() {
				return false
			}
		}
		return true
	})
	attach(t, c).hit()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := r.code(); got != 6 {
		t.Errorf("exit code %d; want 6; the agent said:\n%s", got, r.said)
	}
}
