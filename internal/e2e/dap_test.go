//go:build integration

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-dap"

	"github.com/kubedelve/kubedelve/internal/editor"
	"github.com/kubedelve/kubedelve/internal/testcluster"
)

// breakpoint is the line of the middle tier with the comment BREAKPOINT.
func breakpoint(t *testing.T, condition string) editor.Breakpoint {
	t.Helper()
	path := filepath.Join(cluster.Programs.Shop(), "middle", "main.go")
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, _, found := bytes.Cut(source, []byte("// BREAKPOINT"))
	if !found {
		t.Fatalf("%s has no line with the comment BREAKPOINT", path)
	}
	return editor.Breakpoint{Path: path, Line: bytes.Count(before, []byte("\n")) + 1, Condition: condition}
}

// request is a request that is under way; it waits for as long as the test does,
// since the program may be halted.
type request struct {
	answer string
	err    error
	lost   int // how often it got an error for an answer, and was sent again
	done   chan struct{}
}

func begin(t *testing.T, n *testcluster.Namespace, service, path, query string) *request {
	t.Helper()
	r := &request{done: make(chan struct{})}
	ctx := t.Context()
	go func() { // ends with the answer or the test
		defer close(r.done)
		r.answer, r.err = n.Get(ctx, service, path, query)
	}()
	return r
}

// insist is begin, but the request is sent again for as long as it gets errors: where
// a program has just taken the place of another, some requests may come too early.
func insist(t *testing.T, n *testcluster.Namespace, service, path, query string) *request {
	t.Helper()
	r := &request{done: make(chan struct{})}
	ctx := t.Context()
	go func() { // ends with an answer or the test
		defer close(r.done)
		again := time.NewTicker(50 * time.Millisecond)
		defer again.Stop()
		for {
			if r.answer, r.err = n.Get(ctx, service, path, query); r.err == nil {
				return
			}
			select {
			case <-again.C:
				r.lost++
			case <-ctx.Done():
				return
			}
		}
	}()
	return r
}

// got checks the answer.
func (r *request) got(t *testing.T, want string) {
	t.Helper()
	select {
	case <-r.done:
	case <-within(t).Done():
		t.Fatalf("no answer came, not %q", want)
	}
	if r.err != nil || strings.TrimSpace(r.answer) != want {
		t.Fatalf("the answer is %q (%v), not %q", r.answer, r.err, want)
	}
}

// launchConfig is what launch.json says for the middle tier.
func launchConfig(n *testcluster.Namespace) map[string]any {
	return map[string]any{
		"type": "kubedelve", "request": "launch", "name": "middle",
		"target":  map[string]any{"name": "deploy/middle", "namespace": n.Name},
		"program": filepath.Join(n.Programs.Shop(), "middle"),
	}
}

// launch starts kubedelve dap and a session in it, and waits until that serves.
func launch(t *testing.T, n *testcluster.Namespace, config map[string]any, breakpoints ...editor.Breakpoint) (*editor.Debugger, *testcluster.Adapter) {
	t.Helper()
	ctx := within(t)
	adapter, err := cluster.BeginAdapter(testcluster.Command{})
	if err != nil {
		t.Fatal(err)
	}
	d, _, err := editor.Start(ctx, adapter, "launch", config, breakpoints...)
	if err != nil {
		_ = d.Close()
		_, stderr, _ := adapter.Wait(ctx)
		t.Fatalf("%v\n%s\n%s", err, d.Output(), stderr)
	}
	if _, err := d.AwaitOutput(ctx, "now serves"); err != nil {
		t.Fatal(err)
	}
	alone(t, n)
	return d, adapter
}

// leave ends the session, and checks that the adapter ends well.
func leave(t *testing.T, d *editor.Debugger, adapter *testcluster.Adapter) {
	t.Helper()
	ctx := within(t)
	if err := d.Disconnect(ctx); err != nil {
		t.Fatal(err)
	}
	code, stderr, err := adapter.Wait(ctx)
	if err != nil || code != 0 || stderr != "" {
		t.Errorf("kubedelve dap ended with code %d, %v, and said %q", code, err, stderr)
	}
}

// stopped is what a debugger shows at the breakpoint.
type stopped struct {
	stack  []dap.StackFrame
	locals []dap.Variable
	scope  int // where to set variables
}

// atBreakpoint waits for the stop and checks what an editor would show of it.
func atBreakpoint(t *testing.T, d *editor.Debugger, at editor.Breakpoint, item string, count int) stopped {
	t.Helper()
	ctx := within(t)
	if err := d.AwaitStop(ctx, "breakpoint"); err != nil {
		t.Fatal(err)
	}
	stack, err := d.Stack(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(stack) < 2 || stack[0].Name != "main.priceOf" || stack[0].Source == nil || stack[0].Source.Path != at.Path || stack[0].Line != at.Line {
		t.Fatalf("the stack does not begin with main.priceOf at %s:%d: %+v", at.Path, at.Line, stack)
	}
	for _, f := range stack {
		if f.Source == nil {
			continue
		}
		if _, err := os.Stat(f.Source.Path); err != nil {
			t.Errorf("the stack has a file that is not on this machine: %s at %v", f.Name, err)
		}
	}
	locals, scope, err := d.Locals(ctx, stack[0].Id)
	if err != nil {
		t.Fatal(err)
	}
	order, err := editor.Variable(locals, "order")
	if err != nil {
		t.Fatal(err)
	}
	fields, err := d.Children(ctx, order.VariablesReference)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"Item": fmt.Sprintf("%q", item), "Count": fmt.Sprint(count)} {
		if v, err := editor.Variable(fields, name); err != nil || v.Value != want {
			t.Errorf("order.%s is %q (%v), not %s", name, v.Value, err, want)
		}
	}
	return stopped{stack, locals, scope}
}

// The whole way, as F5 in an editor goes it.
func TestIntegrationLaunch(t *testing.T) {
	n := namespace(t, nil, allTiers...)
	ctx := within(t)
	before := snapshot(t, n, "middle")
	traffic := n.StartTraffic(t.Context(), "front", "buy", "item=milk&count=3", "front: 3 milk cost 21")

	at := breakpoint(t, `order.Item == "tea"`)
	d, adapter := launch(t, n, launchConfig(n), at)
	traffic.Pause() // while all of the program is halted
	buy := begin(t, n, "front", "buy", "item=tea&count=2")
	here := atBreakpoint(t, d, at, "tea", 2)
	if total, err := editor.Variable(here.locals, "total"); err != nil || total.Value != "12" || total.Type != "int" {
		t.Errorf("total is %+v (%v), not 12", total, err)
	}
	if err := d.Set(ctx, here.scope, "total", "4711"); err != nil {
		t.Fatal(err)
	}
	if err := d.Continue(ctx); err != nil {
		t.Fatal(err)
	}
	buy.got(t, "front: 2 tea cost 4711")
	traffic.Resume()
	if output := d.Output("stderr"); !strings.Contains(output, `with arguments ["--currency" "EUR"]`) {
		t.Errorf("the program's own output has not come: %q", output)
	}

	leave(t, d, adapter)
	if answers, err := traffic.Stop(); err != nil {
		t.Error(err)
	} else {
		t.Logf("%d requests were answered meanwhile", answers)
	}
	after := snapshot(t, n, "middle")
	if before.Generation != after.Generation {
		t.Errorf("the generation of the deployment went from %d to %d", before.Generation, after.Generation)
	}
	restored(t, n, "middle", before)
}
