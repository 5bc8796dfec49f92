package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-delve/delve/service/api"
	"github.com/go-delve/delve/service/rpc2"

	"github.com/kubedelve/kubedelve/internal/agentbinary"
	"github.com/kubedelve/kubedelve/internal/editor"
)

// These tests have the real programs, as a user of "kubedelve debug local" has them:
// a Delve in the agent's process, and debuggers of both kinds on the address.

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// buildAgent builds the agent into a folder, and returns that.
func buildAgent(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-o", dir, "../kubedelve-agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the agent: %v\n%s", err, out)
	}
	return dir
}

// local is a running "kubedelve debug local" of dapserver's fixture, which ticks.
type local struct {
	address string
	source  string // the fixture's
	line    int    // where it ticks
	said    said   // on standard error
}

func startLocalDebug(t *testing.T, dir string, flags ...string) *local {
	t.Helper()
	source, err := filepath.Abs("../../dapserver/testdata/fixture/main.go")
	if err != nil {
		t.Fatal(err)
	}
	l := &local{source: source}
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	before, _, found := strings.Cut(string(text), "// breakpoint: tick")
	if !found {
		t.Fatalf("%s has no breakpoint", source)
	}
	l.line = strings.Count(before, "\n") + 1

	args := append([]string{"debug", "local", "--program", filepath.Dir(source), "--listen", "127.0.0.1:0", "-o", "json"}, flags...)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, append(args, "--", "loop")...)
	cmd.Env = append(os.Environ(), envProgram+"=1", "XDG_CACHE_HOME="+filepath.Join(dir, "cache"), "GOCACHE="+goCache(t),
		agentbinary.Env+"="+filepath.Join(dir, "kubedelve-agent"))
	cmd.Stderr = &l.said
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan event, 1)
	read := make(chan struct{})
	go func() { // ends with the process
		defer close(read)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			var e event
			if json.Unmarshal(lines.Bytes(), &e) == nil && e.Event == "ready" {
				ready <- e
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		kill := time.AfterFunc(patience, func() { _ = cmd.Process.Signal(syscall.SIGQUIT) })
		defer kill.Stop()
		<-read
		if err := cmd.Wait(); err != nil {
			t.Errorf("kubedelve debug: %v\n%s", err, l.said.String())
		}
	})
	select {
	case e := <-ready:
		l.address = e.Listen
	case <-read:
		t.Fatalf("kubedelve debug ended:\n%s", l.said.String())
	case <-within(t).Done():
		t.Fatalf("kubedelve debug is not ready:\n%s", l.said.String())
	}
	return l
}

func goCache(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// ticks checks that the program runs, and stops nowhere.
func (l *local) ticks(t *testing.T) {
	t.Helper()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	ctx := within(t)
	for before := strings.Count(l.said.String(), "tick\n"); strings.Count(l.said.String(), "tick\n") < before+3; {
		select {
		case <-poll.C:
		case <-ctx.Done():
			t.Fatalf("the program does not run; it said:\n%s", l.said.String())
		}
	}
}

// debugger is one of either kind.
type debugger interface {
	// attach connects, and fails with the text that the user reads.
	attach(takeOver bool) error
	// halt sets a breakpoint where the program ticks and lets it run into it; go on
	// lets it run and waits for nothing.
	halt()
	goOn()
	// works checks that Delve answers it.
	works()
	// displaced checks that it is told who took its place and hung up.
	displaced(by string)
	// vanish hangs up without a word; leave takes its breakpoints off before.
	vanish()
	leave()
}

// dapDebugger is an editor.
type dapDebugger struct {
	t *testing.T
	l *local
	d *editor.Debugger
}

func dialLocal(t *testing.T, l *local) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", l.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func (d *dapDebugger) attach(takeOver bool) error {
	d.t.Helper()
	config := map[string]any{"type": "go", "request": "attach", "mode": "remote", "stopOnEntry": true}
	if takeOver {
		config["takeOver"] = true
	}
	var err error
	if d.d, _, err = editor.Start(within(d.t), dialLocal(d.t, d.l), "attach", config); err == nil {
		return d.d.AwaitStop(within(d.t), "entry")
	}
	var refused *editor.RefusedError
	if !errors.As(err, &refused) {
		d.t.Fatal(err)
	}
	_ = d.d.Close()
	return err
}

func (d *dapDebugger) halt() {
	d.t.Helper()
	ctx := within(d.t)
	err := d.d.SetBreakpoints(ctx, editor.Breakpoint{Path: d.l.source, Line: d.l.line})
	if err == nil {
		err = d.d.Continue(ctx)
	}
	if err == nil {
		err = d.d.AwaitStop(ctx, "breakpoint")
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *dapDebugger) goOn() {
	d.t.Helper()
	if err := d.d.Continue(within(d.t)); err != nil {
		d.t.Fatal(err)
	}
}

func (d *dapDebugger) works() {
	d.t.Helper()
	if err := d.d.Call(within(d.t), "threads", nil, nil); err != nil {
		d.t.Errorf("an editor gets no threads: %v", err)
	}
}

func (d *dapDebugger) displaced(by string) {
	d.t.Helper()
	ctx := within(d.t)
	if _, err := d.d.Next(ctx, "terminated"); err != nil {
		d.t.Fatal(err)
	}
	if text := d.d.Output("important"); !strings.Contains(text, by) || !strings.Contains(text, "has taken over the session of local") {
		d.t.Errorf("an editor reads %q, want that %s has taken over", text, by)
	}
	if err := d.d.Call(ctx, "disconnect", map[string]any{}, nil); err != nil {
		d.t.Error(err)
	}
	select {
	case <-d.d.Done():
	case <-ctx.Done():
		d.t.Error("an editor is not hung up after its disconnect")
	}
}

func (d *dapDebugger) vanish() { _ = d.d.Close() }

func (d *dapDebugger) leave() {
	d.t.Helper()
	if err := d.d.Disconnect(within(d.t)); err != nil {
		d.t.Error(err)
	}
}

// rpcDebugger is what dlv connect and GoLand are.
type rpcDebugger struct {
	t       *testing.T
	l       *local
	conn    net.Conn
	c       *rpc2.RPCClient
	running <-chan *api.DebuggerState // of a continue without an answer
}

func (d *rpcDebugger) attach(bool) error {
	d.t.Helper()
	d.conn = dialLocal(d.t, d.l)
	_ = d.conn.SetDeadline(time.Now().Add(patience))
	d.c = rpc2.NewClientFromConn(d.conn)
	state, err := d.c.GetStateNonBlocking()
	if err != nil {
		_ = d.c.Disconnect(false)
		return err
	}
	if state.Running {
		if _, err := d.c.Halt(); err != nil {
			d.t.Fatal(err)
		}
	}
	return nil
}

func (d *rpcDebugger) halt() {
	d.t.Helper()
	_, err := d.c.CreateBreakpoint(&api.Breakpoint{File: d.l.source, Line: d.l.line})
	if err != nil && !strings.Contains(err.Error(), "exists") { // one that was displaced may have left it
		d.t.Fatal(err)
	}
	if state := <-d.c.Continue(); state.Err != nil || state.CurrentThread == nil || state.CurrentThread.Breakpoint == nil {
		d.t.Fatalf("it does not stop at the breakpoint: %+v", state)
	}
}

func (d *rpcDebugger) goOn() { d.running = d.c.Continue() }

func (d *rpcDebugger) works() {
	d.t.Helper()
	if _, err := d.c.GetStateNonBlocking(); err != nil {
		d.t.Errorf("a JSON-RPC client gets no state: %v", err)
	}
}

func (d *rpcDebugger) displaced(by string) {
	d.t.Helper()
	var err error
	if d.running != nil {
		err = (<-d.running).Err // it is answered at once
	} else {
		_, err = d.c.GetState()
	}
	if err == nil || !strings.Contains(err.Error(), by) || !strings.Contains(err.Error(), "has taken over the session of local") {
		d.t.Errorf("a JSON-RPC client reads %v, want that %s has taken over", err, by)
	}
	for { // it is hung up at the latest when it has asked again
		if _, err := d.c.GetState(); errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
			d.t.Fatalf("a JSON-RPC client is not hung up: %v", err)
		} else if strings.Contains(err.Error(), "shut down") || strings.Contains(err.Error(), "EOF") || strings.Contains(err.Error(), "reset") || strings.Contains(err.Error(), "pipe") {
			return
		}
	}
}

func (d *rpcDebugger) vanish() { _ = d.conn.Close() }

func (d *rpcDebugger) leave() {
	d.t.Helper()
	if d.running != nil {
		if _, err := d.c.Halt(); err != nil {
			d.t.Fatal(err)
		}
		<-d.running
	}
	set, err := d.c.ListBreakpoints(false)
	for _, b := range set {
		if b.ID > 0 {
			_, clearErr := d.c.ClearBreakpoint(b.ID)
			err = errors.Join(err, clearErr)
		}
	}
	if err = errors.Join(err, d.c.Disconnect(true)); err != nil {
		d.t.Error(err)
	}
}

func TestSeveralDebuggers(t *testing.T) {
	dir := buildAgent(t)
	kinds := map[string]func(*testing.T, *local) debugger{
		"DAP":      func(t *testing.T, l *local) debugger { return &dapDebugger{t: t, l: l} },
		"JSON-RPC": func(t *testing.T, l *local) debugger { return &rpcDebugger{t: t, l: l} },
	}
	called := map[string]string{"DAP": "a scripted editor (DAP, 127.0.0.1:", "JSON-RPC": "a JSON-RPC client (127.0.0.1:"}
	for _, flag := range []bool{false, true} {
		t.Run(fmt.Sprintf("take over %v", flag), func(t *testing.T) {
			l := startLocalDebug(t, dir, fmt.Sprintf("--take-over=%v", flag))
			for _, one := range []string{"DAP", "JSON-RPC"} {
				for _, other := range []string{"DAP", "JSON-RPC"} {
					for _, halted := range []bool{false, true} {
						t.Run(fmt.Sprintf("%s, then %s, halted %v", one, other, halted), func(t *testing.T) {
							first, second := kinds[one](t, l), kinds[other](t, l)
							if err := first.attach(false); err != nil {
								t.Fatal(err)
							}
							if halted {
								first.halt()
							} else {
								first.goOn()
							}
							if !flag {
								began := time.Now()
								err := second.attach(false)
								if err == nil || !strings.Contains(err.Error(), "the session of local is in use by "+called[one]) ||
									!strings.Contains(err.Error(), "disconnect there first, or ") || !strings.Contains(err.Error(), " since ") {
									t.Fatalf("the second reads %v", err)
								}
								t.Logf("after %v the second reads: %v", time.Since(began).Round(time.Millisecond), err)
								first.works()
							}
							if flag || other == "DAP" {
								if err := second.attach(true); err != nil {
									t.Fatal(err)
								}
								first.displaced(called[other])
								second.works()
								second.halt()
								second.leave()
							} else {
								first.leave()
							}
							l.ticks(t)
						})
					}
				}
			}
		})
	}

	// A debugger that is killed while the program is halted leaves it so, for as long
	// as the grace period, for whoever comes next.
	for _, one := range []string{"DAP", "JSON-RPC"} {
		for _, other := range []string{"DAP", "JSON-RPC"} {
			t.Run(one+" is killed, then "+other, func(t *testing.T) {
				during := startLocalDebug(t, dir, "--grace", "10m")
				after := startLocalDebug(t, dir, "--grace", "100ms")
				for _, l := range []*local{during, after} {
					first, second := kinds[one](t, l), kinds[other](t, l)
					if err := first.attach(false); err != nil {
						t.Fatal(err)
					}
					first.halt()
					first.vanish()
					if l == after || one == "DAP" { // an editor's session is ended in order
						l.ticks(t)
					}
					err := second.attach(false)
					for end := time.Now().Add(patience); err != nil && time.Now().Before(end); {
						err = second.attach(false) // that the first is gone may not be seen yet
					}
					if err != nil {
						t.Fatal(err)
					}
					if l == during && one == "JSON-RPC" {
						halted := strings.Count(l.said.String(), "tick\n")
						second.works()
						if now := strings.Count(l.said.String(), "tick\n"); now != halted {
							t.Errorf("the program went on for %d ticks", now-halted)
						}
					}
					second.halt()
					second.leave()
					l.ticks(t)
				}
			})
		}
	}
}
