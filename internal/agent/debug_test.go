package agent

import (
	"context"
	"errors"
	"io"
	"math/rand"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-delve/delve/service/api"
	"github.com/go-delve/delve/service/rpc2"

	"github.com/kubedelve/kubedelve/internal/agentapi"
)

// tunnels is a client that gets another tunnel whenever one is lost.
type tunnels struct {
	r    *rig
	name string

	mu      sync.Mutex // guards all below
	current *agentapi.Client
	over    bool
	closed  bool // for the time being there is no tunnel
	opened  chan struct{}
	cuts    int
}

func (r *rig) tunnels(name string) *tunnels {
	r.session() // the agent listens
	w := &tunnels{r: r, name: name, opened: make(chan struct{})}
	r.t.Cleanup(func() {
		w.mu.Lock()
		w.over = true
		w.mu.Unlock()
		w.open()
		w.cut()
	})
	return w
}

func (w *tunnels) next(ctx context.Context) (*agentapi.Client, error) {
	for {
		w.mu.Lock()
		closed, opened := w.closed, w.opened
		var err error
		if !closed && w.current == nil && !w.over {
			err = w.dial(ctx)
		}
		current := w.current
		w.mu.Unlock()
		if err != nil {
			return nil, err
		}
		if !closed && current == nil {
			return nil, errLost
		}
		if !closed {
			return current, nil
		}
		select {
		case <-opened:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// dial opens a tunnel; the caller holds mu.
func (w *tunnels) dial(ctx context.Context) error {
	session, err := w.r.tunnel(ctx)
	if err != nil {
		return err
	}
	w.current = agentapi.NewClient(session, w.name)
	return nil
}

// cut loses the tunnel; the next one comes at once.
func (w *tunnels) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.current != nil {
		_ = w.current.Close()
		w.current = nil
		w.cuts++
	}
}

// close loses the tunnel until open is called.
func (w *tunnels) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.cut()
}

func (w *tunnels) open() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = false
	close(w.opened)
	w.opened = make(chan struct{})
}

// attach connects to Delve as GoLand does.
func (w *tunnels) attach(takeOver bool) *attached {
	w.r.t.Helper()
	conn, err := agentapi.Debug(w.r.t.Context(), w.next, takeOver)
	if err != nil {
		w.r.t.Fatal(err)
	}
	w.r.t.Cleanup(func() { _ = conn.Close() })
	return &attached{rpc2.NewClientFromConn(conn), w.r.t, conn}
}

// counter is i in main.count, at which the component is halted.
func (d *attached) counter() int {
	d.t.Helper()
	v, err := d.EvalVariable(api.EvalScope{GoroutineID: -1}, "i", api.LoadConfig{})
	if err != nil {
		d.t.Fatal(err)
	}
	i, err := strconv.Atoi(v.Value)
	if err != nil {
		d.t.Fatal(err)
	}
	return i
}

// Every request gets its answer, and once, wherever the tunnel is cut.
func TestADebugSessionSurvivesItsTunnels(t *testing.T) {
	r := newRig(t, nil)
	w := r.tunnels("test")
	c, _ := w.next(t.Context())
	start(t, c, "loop")
	d := w.attach(false)
	d.hit()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		random := rand.New(rand.NewSource(1))
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(random.Intn(30)) * time.Millisecond):
				w.cut()
			}
		}
	}()
	const rounds = 60
	for want := range rounds {
		if got := d.counter(); got != want {
			t.Fatalf("i = %d; want %d: a request was lost, or came twice", got, want)
		}
		d.goOn()
	}
	close(stop)
	<-stopped
	t.Logf("%d cuts", w.cuts)
	if w.cuts < 5 {
		t.Errorf("the tunnel was cut %d times; want more", w.cuts)
	}
}

func TestWhatHappensWhileTheTunnelIsLost(t *testing.T) {
	r := newRig(t, nil)
	w := r.tunnels("test")
	c, _ := w.next(t.Context())
	pid := start(t, c, "loop")
	d := w.attach(false)
	if _, err := d.CreateBreakpoint(&api.Breakpoint{FunctionName: "main.count", Cond: "i == 200"}); err != nil {
		t.Fatal(err)
	}
	entry := switches(pid)
	stopped := d.Continue()
	r.await("it to run", func() bool { return switches(pid) > entry+50 })
	w.close()
	r.await("the breakpoint to be hit", func() bool { // with nobody there
		before := switches(pid)
		time.Sleep(200 * time.Millisecond)
		return switches(pid) == before
	})
	select {
	case state := <-stopped:
		t.Errorf("an answer came without a tunnel: %+v", state)
	default:
	}
	w.open()
	select {
	case state := <-stopped:
		if state.Err != nil || state.CurrentThread == nil || state.CurrentThread.Breakpoint == nil {
			t.Errorf("got %+v", state)
		}
	case <-time.After(patience):
		t.Fatal("the stop was not told")
	}
	if got := d.counter(); got != 200 {
		t.Errorf("i = %d; want 200", got)
	}
}

func TestADebuggerThatStaysAwayIsForgotten(t *testing.T) {
	r := newRig(t, func(c *agentapi.Config) { c.Grace = agentapi.Duration(300 * time.Millisecond) })
	w := r.tunnels("test")
	c, _ := w.next(t.Context())
	pid := start(t, c, "loop")
	d := w.attach(false)
	d.hit()
	w.close()
	r.runs(pid) // after the grace period
	w.open()
	if _, err := d.conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "closed") {
		t.Errorf("got %v; want the end", err)
	}
	again := w.attach(false)
	if _, err := again.Halt(); err != nil {
		t.Fatal(err)
	}
	if hasUserBreakpoint(must(again.ListBreakpoints(false))) {
		t.Error("a breakpoint is left")
	}
}

func TestADebuggerIsTakenOver(t *testing.T) {
	for name, away := range map[string]bool{"while it is there": false, "while it is away": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			first, second := r.tunnels("first"), r.tunnels("second")
			c, _ := first.next(t.Context())
			start(t, c, "loop")
			d, err := agentapi.Debug(t.Context(), first.next, false)
			if err != nil {
				t.Fatal(err)
			}
			if d.Run() != 1 || !d.Halted() || !d.Fresh() || d.Boot() == "" {
				t.Errorf("the first: run %d, halted %v, fresh %v, boot %q; want 1, true, true", d.Run(), d.Halted(), d.Fresh(), d.Boot())
			}
			if _, err := io.WriteString(d, `{"method":"RPCServer.CreateBreakpoint","params":[{"Breakpoint":{"functionName":"main.count"}}],"id":0}`); err != nil {
				t.Fatal(err)
			}
			if _, err := d.Read(make([]byte, 1)); err != nil { // the answer
				t.Fatal(err)
			}
			if away {
				first.close()
			}
			_, err = agentapi.Debug(t.Context(), second.next, false)
			if code(err) != agentapi.CodeInUse || !strings.Contains(err.Error(), "first") {
				t.Errorf("got %v; want in-use, by first", err)
			}
			now, err := agentapi.Debug(t.Context(), second.next, true)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = now.Close() }()
			if now.Run() != 1 || !now.Halted() || now.Fresh() {
				t.Errorf("the second: run %d, halted %v, fresh %v; want 1, true, false", now.Run(), now.Halted(), now.Fresh())
			}
			if away {
				first.open()
			}
			_ = d.SetReadDeadline(time.Now().Add(patience))
			var taken *agentapi.TakenOverError
			if _, err := io.Copy(io.Discard, d); !errors.As(err, &taken) || taken.By != "second" {
				t.Errorf("the first one got %v; want that second has taken over", err)
			}
			_ = d.Close()
			c, _ = second.next(t.Context())
			if h, err := c.Hello(t.Context()); err != nil || h.Client != "second" {
				t.Errorf("got %+v, %v; want that second has the debugger", h, err)
			}
			// Breakpoints are the newcomer's now.
			if !hasUserBreakpoint(must(rpc2.NewClientFromConn(now).ListBreakpoints(false))) {
				t.Error("the breakpoint is gone")
			}
		})
	}
}

func TestWhoHangsUpGivesDelveFreeAtOnce(t *testing.T) {
	r := newRig(t, nil)
	c := r.client("test")
	if _, err := dial(t, c); code(err) != agentapi.CodeIdle {
		t.Errorf("before a start: %v; want the code idle", err)
	}
	start(t, c, "loop", "exit=0")
	for i := range 10 {
		conn, err := dial(t, c)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		if i%2 == 0 { // otherwise Delve waits for its first byte still
			if _, err := io.WriteString(conn, `{"method":"RPCServer.ProcessPid","params":[{}],"id":0}`); err != nil {
				t.Fatal(err)
			}
		}
		_ = conn.Close()
	}
}

func TestADebuggerComesToWhatHasEnded(t *testing.T) {
	r := newRig(t, nil)
	c := r.client("test")
	launch(t, c, "exit=3")
	wait(t, c)
	if _, err := dial(t, c); code(err) != agentapi.CodeExited || !strings.Contains(err.Error(), "exit code 3") {
		t.Errorf("got %v; want exited, with code 3", err)
	}
}

// Whoever gives up while it connects, at whatever moment, is not taken for somebody who
// will come back.
func TestWhoGivesUpConnectingLeavesNobodyBehind(t *testing.T) {
	r := newRig(t, nil)
	w := r.tunnels("test")
	c, _ := w.next(t.Context())
	start(t, c, "loop")
	connected := time.Now()
	first, err := dial(t, c)
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(connected)
	_ = first.Close()
	const rounds = 40
	gaveUp := 0
	for i := range rounds {
		ctx, cancel := context.WithTimeout(t.Context(), 2*took*time.Duration(i)/rounds)
		conn, err := agentapi.Debug(ctx, w.next, false)
		if err == nil {
			_ = conn.Close()
		} else if gaveUp++; !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("round %d: %v", i, err)
		}
		cancel()
		r.await("the debugger to be free", func() bool {
			h, err := c.Hello(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return h.Client == ""
		})
	}
	if gaveUp == 0 {
		t.Error("nobody gave up")
	}
	last, err := agentapi.Debug(t.Context(), w.next, false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = last.Close() }()
	if !last.Fresh() || !last.Halted() {
		t.Errorf("fresh %v, halted %v; want both: nobody has said anything to Delve", last.Fresh(), last.Halted())
	}
}
