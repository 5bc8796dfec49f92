//go:build integration

package e2e

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/go-delve/delve/service/api"
	"github.com/go-delve/delve/service/rpc2"

	"github.com/kubedelve/kubedelve/internal/editor"
	"github.com/kubedelve/kubedelve/internal/testcluster"
)

// process is a kubedelve debug that is ended by the test in any case.
func start(t *testing.T, k testcluster.Command) *testcluster.Process {
	t.Helper()
	p, err := cluster.Begin(k)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Kill() })
	return p
}

// debugMiddle starts a session on the middle tier with a port of its own, and waits
// until it serves.
func debugMiddle(t *testing.T, n *testcluster.Namespace, args ...string) (p *testcluster.Process, ready testcluster.Event) {
	t.Helper()
	ctx := within(t)
	p = start(t, n.Kubedelve(append([]string{"deploy/middle", "--program", "./middle", "--listen", "127.0.0.1:0"}, args...)...))
	ready, err := p.AwaitEvent(ctx, "ready")
	if err != nil {
		t.Fatal(err)
	}
	serving, err := p.AwaitEvent(ctx, "serving")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(serving.Text, "now serves deploy/middle") {
		t.Fatalf("the debug pod does not serve: %s", serving.Text)
	}
	alone(t, n)
	return p, ready
}

// alone waits until the original pods have ended: until then they may still answer
// what comes on connections that they have.
func alone(t *testing.T, n *testcluster.Namespace) {
	t.Helper()
	if err := n.Alone(within(t), "middle"); err != nil {
		t.Fatal(err)
	}
}

// end is Ctrl-C, and checks that all went well.
func end(t *testing.T, p *testcluster.Process) {
	t.Helper()
	if err := p.Interrupt(); err != nil {
		t.Fatal(err)
	}
	code, err := p.Wait(within(t))
	if err != nil || code != 0 {
		t.Fatalf("kubedelve debug ended with code %d (%v); %s", code, err, p.Story())
	}
	events := p.Events()
	if last := events[len(events)-1]; last.Event != "restored" {
		t.Errorf("the last event is %+v, not restored", last)
	}
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(within(t), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// attachConfig is what VS Code sends for a debugger that runs already.
var attachConfig = map[string]any{"type": "go", "request": "attach", "mode": "remote", "name": "attach"}

// A session on the command line takes debuggers of both kinds, one at a time.
func TestIntegrationDebuggersOfBothKinds(t *testing.T) {
	n := namespace(t, nil, allTiers...)
	before := snapshot(t, n, "middle")
	p, ready := debugMiddle(t, n)
	if ready.Tunnel != "pods/proxy" || ready.Session == "" || !strings.Contains(ready.Place, "container app") {
		t.Errorf("the event ready is %+v", ready)
	}
	at := breakpoint(t, "")

	t.Log("DAP: attach, breakpoint, stop")
	ctx := within(t)
	d, _, err := editor.Start(ctx, dial(t, ready.Listen), "attach", attachConfig, at)
	if err != nil {
		t.Fatal(err)
	}
	buy := begin(t, n, "front", "buy", "item=tea&count=2")
	atBreakpoint(t, d, at, "tea", 2)

	t.Log("others are refused meanwhile")
	second, _, err := editor.Start(ctx, dial(t, ready.Listen), "attach", attachConfig)
	var refused *editor.RefusedError
	if !errors.As(err, &refused) || !strings.Contains(refused.Text, "is in use by") {
		t.Errorf("a second editor is not refused in words: %v", err)
	} else {
		t.Logf("a second editor reads: %s", refused.Text)
	}
	_ = second.Close()
	if _, err := rpc2.NewClientFromConn(dial(t, ready.Listen)).GetStateNonBlocking(); err == nil || !strings.Contains(err.Error(), "disconnect there first") {
		t.Errorf("a JSON-RPC client is not refused in words: %v", err)
	} else {
		t.Logf("a JSON-RPC client reads: %s", err)
	}

	t.Log("DAP: disconnect from a halted program, which goes on")
	if err := d.Disconnect(ctx); err != nil {
		t.Fatal(err)
	}
	buy.got(t, "front: 2 tea cost 12")
	begin(t, n, "front", "buy", "item=tea&count=2").got(t, "front: 2 tea cost 12")

	t.Log("JSON-RPC: breakpoint, stop, continue, disconnect")
	jsonRPC(t, n, ready.Listen, at)

	t.Log("DAP again")
	d, _, err = editor.Start(ctx, dial(t, ready.Listen), "attach", attachConfig, at)
	if err != nil {
		t.Fatal(err)
	}
	buy = begin(t, n, "front", "buy", "item=juice&count=1")
	here := atBreakpoint(t, d, at, "juice", 1)
	if err := d.Set(ctx, here.scope, "total", "7"); err != nil {
		t.Error(err)
	}
	if err := d.Continue(ctx); err != nil {
		t.Fatal(err)
	}
	buy.got(t, "front: 1 juice cost 7")
	if err := d.Disconnect(ctx); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(p.Stderr(), "level=") {
		t.Errorf("kubedelve logs: %s", p.Stderr())
	}
	end(t, p)
	restored(t, n, "middle", before)
}

// jsonRPC does what GoLand and dlv connect do.
func jsonRPC(t *testing.T, n *testcluster.Namespace, address string, at editor.Breakpoint) {
	t.Helper()
	client := rpc2.NewClientFromConn(dial(t, address))
	state, err := client.GetStateNonBlocking()
	if err != nil {
		t.Fatal(err)
	}
	if state.Running { // dlv connect asks whether to halt; the API wants it halted
		if _, err := client.Halt(); err != nil {
			t.Fatal(err)
		}
	}
	set, err := client.CreateBreakpoint(&api.Breakpoint{File: at.Path, Line: at.Line})
	if err != nil {
		t.Fatal(err)
	}
	if set.File != at.Path || set.Line != at.Line || !strings.HasSuffix(set.FunctionName, "priceOf") {
		t.Errorf("the breakpoint is at %s:%d in %s", set.File, set.Line, set.FunctionName)
	}
	states := client.Continue()
	buy := begin(t, n, "front", "buy", "item=tea&count=5")
	select {
	case state = <-states:
	case <-within(t).Done():
		t.Fatal("the breakpoint is not hit")
	}
	if state.Err != nil || state.CurrentThread == nil || state.CurrentThread.Breakpoint == nil || state.CurrentThread.Breakpoint.ID != set.ID {
		t.Fatalf("it does not stop at the breakpoint: %+v", state)
	}
	stack, err := client.Stacktrace(-1, 10, 0, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(stack) < 2 || stack[0].File != at.Path || stack[0].Line != at.Line {
		t.Errorf("the stack begins with %+v", stack)
	}
	locals, err := client.ListLocalVariables(api.EvalScope{GoroutineID: -1}, api.LoadConfig{MaxStringLen: 64, MaxStructFields: -1})
	if err != nil {
		t.Fatal(err)
	}
	total := ""
	for _, v := range locals {
		if v.Name == "total" {
			total = v.Value
		}
	}
	if total != "30" {
		t.Errorf("total is %q, not 30, among %+v", total, locals)
	}
	if _, err := client.ClearBreakpoint(set.ID); err != nil {
		t.Error(err)
	}
	if err := client.Disconnect(true); err != nil {
		t.Fatal(err)
	}
	buy.got(t, "front: 5 tea cost 30")
}
