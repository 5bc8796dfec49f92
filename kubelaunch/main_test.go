package kubelaunch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-delve/delve/service/api"
	"github.com/go-delve/delve/service/rpc2"

	"github.com/kubedelve/kubedelve/internal/leakcheck"
)

// patience is how long a test waits for anything: much, since the machine may be
// busy, and it costs nothing when all is well.
const patience = 60 * time.Second

// programs are built once, when the first test needs them.
var programs struct {
	once             sync.Once
	err              error
	dir              string
	agent            string
	component, other Binary // two builds of one program
}

func TestMain(m *testing.M) {
	code := m.Run()
	if programs.dir != "" {
		_ = os.RemoveAll(programs.dir)
	}
	os.Exit(code)
}

func buildPrograms() error {
	dir, err := os.MkdirTemp("", "kubelaunch-test-")
	if err != nil {
		return err
	}
	programs.dir, programs.agent = dir, filepath.Join(dir, "kubedelve-agent")
	component, other := filepath.Join(dir, "component"), filepath.Join(dir, "other")
	for _, args := range [][]string{
		{"-o", programs.agent, "../cmd/kubedelve-agent"},
		// Only package main without optimisation: the standard library would have
		// to be compiled again.
		{"-gcflags=-N -l", "-o", component, "../internal/agent/testdata/component"},
		{"-gcflags=-N -l", "-ldflags=-X=main.unused=other -compressdwarf=false", "-o", other, "../internal/agent/testdata/component"},
	} {
		cmd := exec.Command("go", append([]string{"build"}, args...)...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go build %q: %w\n%s", args, err, out)
		}
	}
	if programs.component, err = describe(component); err != nil {
		return err
	}
	programs.other, err = describe(other)
	return err
}

func describe(path string) (Binary, error) {
	content, err := os.ReadFile(path)
	sum := sha256.Sum256(content)
	return Binary{Path: path, SHA256: hex.EncodeToString(sum[:]), Size: int64(len(content))}, err
}

// rig is a session with a real agent, a real Delve and a component, and with a wire to
// the agent that can be cut.
type rig struct {
	*Session
	t       *testing.T
	machine *machine
	wire    *wire
	heard   *heard
	printed *printed
}

// newRig launches the component with steps, halted at its entry.
func newRig(t *testing.T, change func(*Options), steps ...string) *rig {
	t.Helper()
	leakcheck.Goroutines(t, "hashicorp/yamux")
	programs.once.Do(func() { programs.err = buildPrograms() })
	if programs.err != nil {
		t.Fatal(programs.err)
	}
	o := Options{Args: steps, Grace: time.Hour, TTL: time.Hour, OnExit: StartAgain}
	if change != nil {
		change(&o)
	}
	o.defaults()
	dir, err := os.MkdirTemp("", "kubelaunch-") // not t.TempDir: a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	m, err := newMachine(programs.agent, filepath.Join(dir, "agent"), o)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, machine: m, wire: newWire(t, filepath.Join(dir, "wire"), m.socket)}
	m.socket = r.wire.path
	if r.Session, err = m.launch(r.ctx(), programs.component); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(context.Background(), nil); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	r.heard, r.printed = hear(t, r.Session), read(t, r.Session)
	return r
}

// ctx is a context for one thing that is waited for.
func (r *rig) ctx() context.Context {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	r.t.Cleanup(cancel)
	return ctx
}

// wire passes connections to a socket on. While it is cut it refuses all.
type wire struct {
	path, to string

	mu    sync.Mutex // guards all below
	whole bool
	conns map[net.Conn]struct{}
}

func newWire(t *testing.T, path, to string) *wire {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{path: path, to: to, whole: true, conns: map[net.Conn]struct{}{}}
	var passing sync.WaitGroup
	passing.Go(func() { // ends with the listener
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			passing.Go(func() { w.pass(near) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		w.cut()
		passing.Wait()
	})
	return w
}

func (w *wire) pass(near net.Conn) {
	defer func() { _ = near.Close() }()
	far, err := net.Dial("unix", w.to)
	if err != nil {
		return
	}
	defer func() { _ = far.Close() }()
	w.mu.Lock()
	whole := w.whole
	w.conns[near], w.conns[far] = struct{}{}, struct{}{}
	w.mu.Unlock()
	if !whole {
		return
	}
	var back sync.WaitGroup
	back.Go(func() { // ends with either side
		_, _ = io.Copy(near, far)
		_ = near.Close()
	})
	_, _ = io.Copy(far, near)
	_ = far.Close()
	back.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, near)
	delete(w.conns, far)
}

// cut ends all connections, and lets none through until mend.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.whole = false
	for c := range w.conns {
		_ = c.Close()
	}
}

func (w *wire) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.whole = true
}

// heard are a session's events.
type heard struct {
	t *testing.T

	mu      sync.Mutex // guards all below
	events  []Event
	taken   int
	changed chan struct{}
}

func hear(t *testing.T, s *Session) *heard {
	h := &heard{t: t, changed: make(chan struct{})}
	var following sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	following.Go(func() { // ends with the session or the test
		s.Follow(ctx, func(e Event) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.events = append(h.events, e)
			close(h.changed)
			h.changed = make(chan struct{})
		})
	})
	t.Cleanup(func() { cancel(); following.Wait() })
	return h
}

// next waits for the next event of a kind, and passes over others.
func (h *heard) next(kind Kind) Event {
	h.t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		h.mu.Lock()
		changed := h.changed
		for h.taken < len(h.events) {
			e := h.events[h.taken]
			h.taken++
			if e.Kind == kind {
				h.mu.Unlock()
				return e
			}
		}
		h.mu.Unlock()
		select {
		case <-changed:
		case <-timer.C:
			h.t.Fatalf("no event %q has come, but %s", kind, h.all())
		}
	}
}

func (h *heard) all() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var text strings.Builder
	for _, e := range h.events {
		fmt.Fprintf(&text, "\n  %d %s %q %q over=%v", e.Activity, e.Kind, e.Stage, e.Text, e.Over)
	}
	return text.String()
}

// printed is what a session's component writes, each line with its run's number.
type printed struct {
	t *testing.T

	mu      sync.Mutex // guards all below
	text    strings.Builder
	lost    int64
	changed chan struct{}
	err     error
	ended   bool
}

func read(t *testing.T, s *Session) *printed {
	p := &printed{t: t, changed: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	var reading sync.WaitGroup
	wake := func() {
		close(p.changed)
		p.changed = make(chan struct{})
	}
	reading.Go(func() { // ends with the session or the test
		err := s.Output(ctx, func(piece Piece) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.lost += piece.Lost
			for line := range strings.Lines(string(piece.Data)) {
				fmt.Fprintf(&p.text, "%d:%s", piece.Run, line)
			}
			wake()
		})
		p.mu.Lock()
		defer p.mu.Unlock()
		p.err, p.ended = err, true
		wake()
	})
	t.Cleanup(func() { cancel(); reading.Wait() })
	return p
}

// await waits until the text has come.
func (p *printed) await(text string) {
	p.t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		p.mu.Lock()
		now, changed := p.text.String(), p.changed
		p.mu.Unlock()
		if strings.Contains(now, text) {
			return
		}
		select {
		case <-changed:
		case <-timer.C:
			p.t.Fatalf("the output is %q, without %q", now, text)
		}
	}
}

func (p *printed) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// debugger speaks Delve's JSON-RPC, as GoLand does.
type debugger struct {
	*rpc2.RPCClient
	t    *testing.T
	conn *Conn
}

func (r *rig) attach() *debugger {
	r.t.Helper()
	conn, err := r.Dial(r.ctx(), DialOptions{})
	if err != nil {
		r.t.Fatalf("Dial: %v; events:%s", err, r.heard.all())
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	return &debugger{rpc2.NewClientFromConn(conn), r.t, conn}
}

// hit sets a breakpoint in count and continues to it.
func (d *debugger) hit() *api.DebuggerState {
	d.t.Helper()
	if state, err := d.GetStateNonBlocking(); err != nil {
		d.t.Fatal(err)
	} else if state.Running {
		if _, err := d.Halt(); err != nil {
			d.t.Fatal(err)
		}
	}
	if _, err := d.CreateBreakpoint(&api.Breakpoint{FunctionName: "main.count"}); err != nil {
		d.t.Fatal(err)
	}
	return d.goOn()
}

// goOn continues to a breakpoint.
func (d *debugger) goOn() *api.DebuggerState {
	d.t.Helper()
	select {
	case state := <-d.Continue():
		if state.Err != nil || state.CurrentThread == nil || state.CurrentThread.Breakpoint == nil {
			d.t.Fatalf("no breakpoint was hit: %+v", state)
		}
		return state
	case <-time.After(patience):
		d.t.Fatal("no breakpoint was hit")
		return nil
	}
}

// hangUp closes the connection, and leaves the component as it is.
func (d *debugger) hangUp() { _ = d.conn.Close() }
