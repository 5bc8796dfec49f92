package agent

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kubedelve/kubedelve/internal/agentapi"
)

// begun is a Start that goes on.
type begun struct {
	r       *rig
	done    chan error
	started agentapi.Started
}

func (r *rig) begin(ctx context.Context, c *agentapi.Client, s agentapi.Start) *begun {
	b := &begun{r: r, done: make(chan error, 1)}
	go func() {
		var err error
		b.started, err = c.Start(ctx, s)
		b.done <- err
	}()
	return b
}

func (b *begun) wait() error {
	b.r.t.Helper()
	select {
	case err := <-b.done:
		return err
	case <-time.After(patience):
		b.r.t.Fatalf("Start did not return; the agent said:\n%s", b.r.said)
		return nil
	}
}

// second waits for the Delve that is there besides others of the agent's children.
func (r *rig) second(others ...int) (delve int) {
	r.t.Helper()
	r.await("a second Delve", func() bool {
		for _, child := range childrenOf(r.cmd.Process.Pid) {
			if !slices.Contains(others, child.pid) && !child.zombie() {
				delve = child.pid
			}
		}
		return delve > 0
	})
	return delve
}

func TestTheOldOneGoesOnUntilTheNewOneIsLoaded(t *testing.T) {
	r := newRig(t, nil)
	w := r.tunnels("test")
	c, _ := w.next(t.Context())
	file := put(t, c, programs.other)
	first := start(t, c, "handle=4", "loop")
	d := w.attach(false)
	d.hit()
	swap := r.begin(t.Context(), c, agentapi.Start{File: file, Args: []string{"out=new", "loop"}, Grace: agentapi.Duration(patience)})
	delve := r.second(delveOf(t, first))
	if err := syscall.Kill(delve, syscall.SIGSTOP); err != nil { // it takes its time
		t.Fatal(err)
	}
	for want := 1; want < 5; want++ {
		d.goOn()
		if got := d.counter(); got != want {
			t.Errorf("i = %d; want %d", got, want)
		}
	}
	h, err := c.Hello(t.Context())
	if err != nil || h.State != agentapi.StateRunning || !h.Loading || h.Run != 1 || h.Client != "test" {
		t.Errorf("meanwhile hello says %+v, %v", h, err)
	}
	exit := make(chan agentapi.Exit, 1)
	go func() { exit <- wait(t, c) }()
	r.await("the wait", func() bool { return strings.Contains(r.said.String(), "op=wait") })
	if err := syscall.Kill(delve, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := swap.wait(); err != nil {
		t.Fatal(err)
	}
	// The old one was halted, and has handled its SIGTERM.
	if got, want := <-exit, (agentapi.Exit{Code: 4, Replaced: true}); got != want {
		t.Errorf("the old one's end: %+v; want %+v", got, want)
	}
	r.gone(first)
	if _, err := io.Copy(io.Discard, d.conn); err != nil && !strings.Contains(err.Error(), "closed") {
		t.Errorf("its debugger got %v; want the end", err)
	}
	h, err = c.Hello(t.Context())
	if err != nil || h.Run != 2 || swap.started.Run != 2 || h.SHA256 != file.SHA256 || h.Loading || h.Client != "" || h.Exit != nil {
		t.Errorf("hello says %+v, %v; started %+v", h, err, swap.started)
	}
	// The new one waits at its entry.
	if switches(swap.started.PID) > 50 || strings.Contains(r.logged.String(), "new") {
		t.Error("the new one runs already")
	}
	again := w.attach(false)
	if conn, ok := again.conn.(*agentapi.DebugConn); !ok || conn.Run() != 2 || !conn.Halted() || !conn.Fresh() {
		t.Errorf("the new one: %+v", conn)
	}
	again.hit()
	if left := childrenOf(r.cmd.Process.Pid); len(left) != 1 {
		t.Errorf("the agent has children %+v; want one Delve", left)
	}
	if sockets, _ := filepath.Glob(filepath.Join(r.dir, "run/delve-*.sock")); len(sockets) != 1 {
		t.Errorf("there are sockets %q; want one", sockets)
	}
}

func TestAStartThatFailsLeavesTheOldOneAlone(t *testing.T) {
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("no program ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, nil)
	w := r.tunnels("test")
	c, _ := w.next(t.Context())
	file, bad := put(t, c, programs.component), put(t, c, garbage)
	pid := launch(t, c, "daemon=1000", "out=up", "loop")
	delve := delveOf(t, pid)
	o := collect(t, c)
	r.await("it to be up", func() bool { return strings.HasSuffix(o.out.String(), "up\n") })
	var daemon int
	if _, err := fmt.Sscanf(o.out.String(), "daemon %d", &daemon); err != nil {
		t.Fatal(err)
	}
	d := w.attach(false)
	d.hit()
	args := []string{"out=ran", "loop"}
	for _, test := range []struct {
		name, want string
		start      agentapi.Start
		meanwhile  func(cancel func())
	}{
		{"no program", "delve could not start garbage", agentapi.Start{File: bad}, nil},
		{"taken back", "context canceled", agentapi.Start{File: file, Args: args}, func(cancel func()) { r.second(delve, daemon); cancel() }},
		{"taken back late", "context canceled", agentapi.Start{File: file, Args: args}, func(cancel func()) {
			second := r.second(delve, daemon)
			r.await("its component", func() bool { return tracedBy(second) > 0 })
			_ = syscall.Kill(second, syscall.SIGSTOP)
			cancel()
			_ = syscall.Kill(second, syscall.SIGCONT)
		}},
		{"killed", "memory limit", agentapi.Start{File: file, Args: args}, func(func()) {
			second := r.second(delve, daemon)
			_ = syscall.Kill(second, syscall.SIGKILL)
		}},
		{"killed late", "memory limit", agentapi.Start{File: file, Args: args}, func(func()) {
			second := r.second(delve, daemon)
			r.await("its component", func() bool { return tracedBy(second) > 0 })
			_ = syscall.Kill(second, syscall.SIGKILL)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			began := r.begin(ctx, c, test.start)
			if test.meanwhile != nil {
				test.meanwhile(cancel)
			}
			if err := began.wait(); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v; want %q", err, test.want)
			}
			r.await("the second Delve to be gone", func() bool { return len(childrenOf(r.cmd.Process.Pid)) <= 2 }) // the other is the daemon
			before := d.counter()
			d.goOn()
			if got := d.counter(); got != before+1 {
				t.Errorf("i = %d; want %d", got, before+1)
			}
			var h *agentapi.Hello
			r.await("the attempt to be over", func() bool { // a client that takes it back does not wait
				var err error
				h, err = c.Hello(t.Context())
				return err == nil && !h.Loading
			})
			if h.Run != 1 || h.State != agentapi.StateRunning || h.SHA256 != file.SHA256 {
				t.Errorf("hello says %+v", h)
			}
			if !alive(pid) || !alive(daemon) {
				t.Error("something of the old one has ended")
			}
			// Without its Delve it runs for a moment, until the agent has noticed.
			if strings.Contains(r.logged.String(), "ran\n") && test.want != "memory limit" {
				t.Error("the new one ran")
			}
		})
	}
	if sockets, _ := filepath.Glob(filepath.Join(r.dir, "run/delve-*.sock")); len(sockets) != 1 {
		t.Errorf("there are sockets %q; want one", sockets)
	}
}

func TestAnOldOneThatStaysIsKilledAfterItsGrace(t *testing.T) {
	r := newRig(t, func(c *agentapi.Config) { c.Stop = agentapi.Duration(time.Hour) })
	c := r.client("test")
	pid := launch(t, c, "stubborn", "out=up", "loop")
	o := collect(t, c)
	r.await("it to be up", func() bool { return o.out.String() == "up\n" })
	const grace = 300 * time.Millisecond
	began := time.Now()
	if _, err := c.Start(t.Context(), agentapi.Start{File: put(t, c, programs.component), Args: []string{"loop"}, Grace: agentapi.Duration(grace)}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < grace {
		t.Errorf("it had %v; want %v", took, grace)
	}
	r.gone(pid)
	o.wait(t)
	if o.out.String() != "up\nno, thanks\n" {
		t.Errorf("it said %q", o.out.String())
	}
}

func TestAStartAfterAnExit(t *testing.T) {
	r := newRig(t, nil)
	c := r.client("test")
	for run := 1; run < 4; run++ {
		started, err := c.Start(t.Context(), agentapi.Start{File: put(t, c, programs.component), Args: []string{fmt.Sprintf("exit=%d", run)}})
		if err != nil || started.Run != run {
			t.Fatalf("start %d: %+v, %v", run, started, err)
		}
		if h, err := c.Hello(t.Context()); err != nil || h.Exit != nil || h.State != agentapi.StateRunning {
			t.Errorf("hello says %+v, %v", h, err)
		}
		if err := c.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := wait(t, c); got != (agentapi.Exit{Code: run}) {
			t.Errorf("got %+v; want code %d", got, run)
		}
		h, err := c.Hello(t.Context())
		if err != nil || h.Exit == nil || *h.Exit != (agentapi.Exit{Code: run}) || h.State != agentapi.StateExited || h.Run != run {
			t.Errorf("hello says %+v, %v; want exit code %d", h, err, run)
		}
	}
}

func TestReadinessOfSwaps(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	ports := []int{l.Addr().(*net.TCPAddr).Port}
	_ = l.Close()
	r := newRig(t, nil)
	c := r.client("test")
	probe := func() error { return Ready(r.dir, ports) }
	launch(t, c, "listen="+address, "loop")
	r.await("readiness", func() bool { return probe() == nil })
	// It does not flap while one replaces the other.
	stop, flaps := make(chan struct{}), make(chan error, 1)
	go func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				flaps <- nil
				return
			case <-tick.C:
			}
			if err := probe(); err != nil {
				flaps <- err
				return
			}
		}
	}()
	for range 3 {
		launch(t, c, "listen="+address, "loop")
	}
	r.await("it to listen again", func() bool {
		_, err := os.Stat(layout(r.dir).swapped())
		conn, dialErr := net.Dial("tcp", address)
		if dialErr == nil {
			_ = conn.Close()
		}
		return err == nil && dialErr == nil
	})
	close(stop)
	if err := <-flaps; err != nil {
		t.Errorf("not ready: %v", err)
	}
	// One that never listens is ready for a while only.
	start(t, c, "loop")
	if err := probe(); err != nil {
		t.Errorf("just after a swap: %v", err)
	}
	past := time.Now().Add(-swapPatience)
	if err := os.Chtimes(layout(r.dir).swapped(), past, past); err != nil {
		t.Fatal(err)
	}
	if probe() == nil {
		t.Error("ready though it does not listen")
	}
	launch(t, c, "listen="+address, "loop")
	r.await("readiness", func() bool { return probe() == nil })
}

// A container that is started again has the folder of the one before.
func TestAnotherBoot(t *testing.T) {
	r := newRig(t, nil)
	c := r.client("test")
	file := put(t, c, programs.component)
	other := put(t, c, programs.other)
	launch(t, c, "out=old", "loop")
	o := collect(t, c)
	r.await("it to be up", func() bool { return o.out.String() == "old\n" })
	before, err := c.Hello(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pids := childrenOf(r.cmd.Process.Pid)
	if err := syscall.Kill(r.cmd.Process.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, p := range pids {
		r.gone(p.pid)
	}
	<-r.exited
	for _, stale := range []string{"delve-1.sock", "delve-7.sock"} { // as of a machine that lost its power
		if err := os.WriteFile(filepath.Join(r.dir, "run", stale), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r.run(nil)
	c = r.client("test")
	h, err := c.Hello(t.Context())
	if err != nil || h.Boot == before.Boot || h.Run != 0 || h.State != agentapi.StateIdle {
		t.Errorf("before %+v; now %+v, %v", before, h, err)
	}
	for _, f := range []agentapi.File{file, other} {
		if sent, err := c.Put(t.Context(), f, strings.NewReader("")); err != nil || sent != 0 {
			t.Errorf("%s: sent %d bytes, %v; want none", f.Name, sent, err)
		}
	}
	launch(t, c, "out=new", "exit=0")
	var got []string
	err = c.Output(t.Context(), agentapi.Position{Boot: before.Boot, Run: 1, Offset: 4}, func(o agentapi.Output) error {
		got = append(got, fmt.Sprintf("%v %d %d %q", o.At.Boot == h.Boot, o.At.Run, o.At.Offset, o.Data))
		return nil
	})
	if want := `[true 1 0 "new\n" true 1 4 ""]`; err != nil || fmt.Sprint(got) != want {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
}

// BenchmarkSwap tells how long a swap takes, from the request to the answer, and for
// how long nobody listens meanwhile.
func BenchmarkSwap(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	r := newRig(b, nil)
	c := r.client("test")
	binaries := []agentapi.File{put(b, c, programs.component), put(b, c, programs.other)}
	steps := []string{"handle=0", "listen=" + address, "loop"}
	listens := func() bool {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}
	launch(b, c, steps...)
	r.await("it to listen", listens)
	var took, silent time.Duration
	n := 0
	for b.Loop() {
		n++
		stop, gap := make(chan struct{}), make(chan time.Duration)
		go func() {
			var most time.Duration
			for last := time.Now(); ; time.Sleep(time.Millisecond) {
				if listens() {
					most = max(most, time.Since(last))
					last = time.Now()
					select {
					case <-stop:
						gap <- most
						return
					default:
					}
				}
			}
		}()
		began := time.Now()
		if _, err := c.Start(b.Context(), agentapi.Start{File: binaries[n%2], Args: steps, Grace: agentapi.Duration(500 * time.Millisecond)}); err != nil {
			b.Fatal(err)
		}
		took += time.Since(began)
		if err := c.Resume(b.Context()); err != nil {
			b.Fatal(err)
		}
		r.await("it to listen again", listens)
		close(stop)
		silent += <-gap
	}
	b.ReportMetric(took.Seconds()*1e3/float64(n), "ms/start")
	b.ReportMetric(silent.Seconds()*1e3/float64(n), "ms-nobody-listens")
}
