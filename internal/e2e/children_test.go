//go:build integration

package e2e

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-delve/delve/service/api"
	"github.com/go-delve/delve/service/rpc2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/kubedelve/kubedelve/internal/editor"
	"github.com/kubedelve/kubedelve/internal/testcluster"
)

// twoReplicas is the sample with two pods in its middle tier.
func twoReplicas(o *testcluster.Objects) { o.Deployment("middle").Spec.Replicas = ptr.To[int32](2) }

// mostRequests bounds how many requests are sent until each of two pods got one: the
// chance that one of them gets none is one in 2^40.
const mostRequests = 41

// price asks the middle tier itself: front would keep to the pod of its connection.
func price(t *testing.T, n *testcluster.Namespace) *request {
	t.Helper()
	return insist(t, n, "middle", "price", "item=tea&count=2")
}

// firstToStop waits until one of the debuggers stops at a breakpoint, or the request is
// answered: then it returns -1.
func firstToStop(t *testing.T, r *request, debuggers []*editor.Debugger) int {
	t.Helper()
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	first := make(chan int, len(debuggers))
	failed := make(chan error, len(debuggers))
	var waiting sync.WaitGroup
	for i, d := range debuggers {
		waiting.Go(func() { // ends with a stop or ctx
			if err := d.AwaitStop(ctx, "breakpoint"); err != nil {
				failed <- err
				return
			}
			first <- i
		})
	}
	answered := false
	var which int
	select {
	case which = <-first:
	case <-r.done:
		which, answered = -1, true
	case err := <-failed:
		t.Fatalf("no debugger has stopped: %v", err)
	}
	cancel()
	waiting.Wait()
	if len(first) > 0 {
		t.Fatalf("another debugger has stopped at the same request (answered: %v)", answered)
	}
	return which
}

// spread sends requests until all of the debuggers have stopped at one, looks at each
// there, and checks the answers. With some that nobody stops at, it also waits for such
// an answer. It returns how many requests that took.
func spread(t *testing.T, n *testcluster.Namespace, at editor.Breakpoint, cost int, passing bool, debuggers ...*editor.Debugger) int {
	t.Helper()
	hits := make([]int, len(debuggers))
	passed := 0
	for sent := 1; sent <= mostRequests; sent++ {
		r := price(t, n)
		i := firstToStop(t, r, debuggers)
		if i < 0 {
			passed++
		} else {
			hits[i]++
			d := debuggers[i]
			stack, err := d.Stack(within(t))
			if err != nil {
				t.Fatal(err)
			}
			if len(stack) < 2 || stack[0].Name != "main.priceOf" || stack[0].Source == nil || stack[0].Source.Path != at.Path || stack[0].Line != at.Line {
				t.Fatalf("the stack does not begin with main.priceOf at %s:%d: %+v", at.Path, at.Line, stack)
			}
			if err := d.Continue(within(t)); err != nil {
				t.Fatal(err)
			}
		}
		r.got(t, fmt.Sprintf("2 tea cost %d", cost))
		if !slices.Contains(hits, 0) && (passed > 0) == passing {
			return sent
		}
		if passed > 0 && !passing {
			t.Fatalf("request %d was answered, and no debugger has stopped", sent)
		}
	}
	t.Fatalf("after %d requests the hits are %v, and %d were answered without one", mostRequests, hits, passed)
	return 0
}

// debugPods are the pods of the session, which have to be all that the Deployment has.
func debugPods(t *testing.T, n *testcluster.Namespace, count int) (names []string) {
	t.Helper()
	want, pods := replicas(t, n)
	for _, pod := range pods {
		if pod.Labels["kubedelve.dev/session"] != "" && testcluster.Ready(&pod) {
			names = append(names, pod.Name)
		}
	}
	if want != count || len(pods) != count || len(names) != count {
		t.Fatalf("there are %d replicas and %d pods, of which %q are the session's; want %d of each", want, len(pods), names, count)
	}
	return names
}

// ended checks that a child's session ends with its parent's, and its adapter well.
func ended(t *testing.T, child *editor.Debugger, adapter *testcluster.Adapter) {
	t.Helper()
	ctx := within(t)
	if _, err := child.Next(ctx, "terminated"); err != nil {
		t.Fatal(err)
	}
	if err := child.Call(ctx, "disconnect", map[string]any{}, nil); err != nil {
		t.Error(err)
	}
	select {
	case <-child.Done():
	case <-ctx.Done():
		t.Error("the adapter of a child session does not hang up")
	}
	if code, stderr, err := adapter.Wait(ctx); err != nil || code != 0 || stderr != "" {
		t.Errorf("kubedelve dap of a child session ended with code %d, %v, and said %q", code, err, stderr)
	}
}

// Two replicas are debugged at once, each in a session of the editor's: both stop at
// the breakpoint, a save reloads both, and the end restores all.
func TestIntegrationSessionForEachReplica(t *testing.T) {
	n := namespace(t, twoReplicas, allTiers...)
	before := snapshot(t, n, "middle")
	p := copyShop(t)
	config := p.config(n)
	config["target"] = map[string]any{"name": "deploy/middle", "namespace": n.Name, "replicas": 2}
	at := p.at(ifTea)

	adapter, err := cluster.BeginAdapter(testcluster.Command{})
	if err != nil {
		t.Fatal(err)
	}
	d, err := editor.StartParent(within(t), adapter, "launch", config, at)
	if err != nil {
		_ = d.Close()
		_, stderr, _ := adapter.Wait(within(t))
		t.Fatalf("%v\n%s\n%s", err, d.Output(), stderr)
	}
	var childAdapter *testcluster.Adapter
	child, asked, err := d.OpenChild(within(t), func() (io.ReadWriteCloser, error) {
		childAdapter, err = cluster.BeginAdapter(testcluster.Command{})
		return childAdapter, err
	}, at)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the editor opens %q", asked.Name())
	both := []*editor.Debugger{d, child}
	for _, one := range both {
		if _, err := one.AwaitOutput(within(t), "now serves deploy/middle"); err != nil {
			t.Fatal(err)
		}
	}
	alone(t, n)
	pods := debugPods(t, n, 2)
	slices.Sort(pods)
	if want := pods[1] + " (replica 2 of 2)"; asked.Name() != want || pods[1] != pods[0]+"-2" {
		t.Errorf("the second session is named %q, and the pods are %q", asked.Name(), pods)
	}
	t.Logf("both have stopped after %d requests", spread(t, n, at, 12, false, both...))
	for _, one := range both { // each has the output of its own
		if output := one.Output("stderr"); strings.Count(output, "middle listens on") != 1 {
			t.Errorf("the program's output in a session is %q", output)
		}
	}

	t.Log("a save")
	p.saveWith(editor.InPlace, 1000, 3)
	moved := p.at(ifTea)
	for _, one := range both {
		if err := one.Mark(within(t), moved); err != nil {
			t.Fatal(err)
		}
	}
	text, _ := swapped(t, d, moved)
	t.Log(text)
	if err := child.AwaitVerified(within(t), moved); err != nil {
		t.Fatal(err)
	}
	t.Logf("both have stopped again after %d requests", spread(t, n, moved, 1012, false, both...))
	if now := slices.Sorted(slices.Values(debugPods(t, n, 2))); !slices.Equal(now, pods) {
		t.Errorf("the pods are %q after the save, and were %q", now, pods)
	}

	t.Log("the end")
	for _, one := range both {
		if got := ends(one); len(got) > 0 {
			t.Errorf("the editor was told of an end: %q", got)
		}
	}
	leave(t, d, adapter)
	ended(t, child, childAdapter)
	if after := snapshot(t, n, "middle"); before.Generation != after.Generation {
		t.Errorf("the generation of the deployment went from %d to %d", before.Generation, after.Generation)
	}
	restored(t, n, "middle", before)
}

// An editor that can't open further sessions is told so, and debugs the first process;
// the others go on.
func TestIntegrationReplicasWithoutChildSessions(t *testing.T) {
	n := namespace(t, twoReplicas, allTiers...)
	before := snapshot(t, n, "middle")
	at := breakpoint(t, ifTea)
	config := launchConfig(n)
	config["target"] = map[string]any{"name": "deploy/middle", "namespace": n.Name, "replicas": "all"}
	adapter, err := cluster.BeginAdapter(testcluster.Command{})
	if err != nil {
		t.Fatal(err)
	}
	d, _, err := editor.Start(within(t), adapter, "launch", config, at)
	if err != nil {
		t.Fatal(err)
	}
	const says = "this editor can't open further debug sessions (DAP: startDebugging). You debug the first one; the others go on without a debugger."
	if _, err := d.AwaitOutput(within(t), says); err != nil {
		t.Fatal(err)
	}
	if _, err := d.AwaitOutput(within(t), "now serves deploy/middle"); err != nil {
		t.Fatal(err)
	}
	awaitDebugPods(t, n, 2)
	t.Logf("the first process has stopped, and the other one answered, after %d requests", spread(t, n, at, 12, true, d))
	leave(t, d, adapter)
	restored(t, n, "middle", before)
}

// awaitDebugPods waits until all pods of the Deployment are the session's.
func awaitDebugPods(t *testing.T, n *testcluster.Namespace, count int) {
	t.Helper()
	ctx, done := context.WithCancel(within(t))
	defer done()
	all := false
	err := n.WatchPods(ctx, "middle", func(pods map[string]*corev1.Pod) {
		ours := 0
		for _, pod := range pods {
			if pod.Labels["kubedelve.dev/session"] != "" && testcluster.Ready(pod) {
				ours++
			}
		}
		if all = ours == count && len(pods) == count; all {
			done()
		}
	})
	if err != nil || !all {
		t.Fatalf("the pods of the Deployment do not become the session's: %v", err)
	}
}

// On the command line a debugger that speaks JSON-RPC has the first process, and whoever
// began the session reads that; an editor has both. Then kubedelve is killed.
func TestIntegrationReplicasOnTheCommandLine(t *testing.T) {
	n := namespace(t, twoReplicas, allTiers...)
	before := snapshot(t, n, "middle")
	p, ready := debugMiddle(t, n, "--replicas", "2")
	if _, err := p.AwaitEvent(within(t), "serving"); err != nil { // the other one
		t.Fatal(err)
	}
	alone(t, n)
	pods := debugPods(t, n, 2)
	for _, pod := range pods {
		if !strings.Contains(ready.Text, pod) {
			t.Errorf("the event ready does not name pod %s: %s", pod, ready.Text)
		}
		if !strings.Contains(p.Stderr(), "[pod "+pod+"] ") {
			t.Errorf("no line of the output is of pod %s: %s", pod, p.Stderr())
		}
	}
	status := run(t, n.Kubedelve("status"), 0)
	for _, pod := range pods {
		if !strings.Contains(status.Stdout, pod) {
			t.Errorf("status does not name pod %s: %s", pod, status.Stdout)
		}
	}

	t.Log("JSON-RPC: the first process")
	at := breakpoint(t, "")
	client := rpc2.NewClientFromConn(dial(t, ready.Listen))
	first, _, _ := strings.Cut(strings.TrimPrefix(ready.Place, "pod "), ",")
	note, err := p.Await(within(t), "what the user reads", func(e testcluster.Event) bool {
		return e.Event == "note" && strings.Contains(e.Text, "has the first of 2 pods, "+first+": JSON-RPC is for one process. The others go on without a debugger")
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(note.Text)
	if _, err := client.Halt(); err != nil {
		t.Fatal(err)
	}
	set, err := client.CreateBreakpoint(&api.Breakpoint{File: at.Path, Line: at.Line})
	if err != nil {
		t.Fatal(err)
	}
	stop := client.Continue()
	hit, passed := false, false
	for sent := 0; sent < mostRequests && !(hit && passed); sent++ {
		r := price(t, n)
		select {
		case state := <-stop:
			if state.Err != nil || state.CurrentThread == nil || state.CurrentThread.Breakpoint == nil {
				t.Fatalf("it does not stop at the breakpoint: %+v", state)
			}
			hit, stop = true, client.Continue()
		case <-r.done:
			passed = true
		case <-within(t).Done():
			t.Fatal("a request is neither answered nor does it stop")
		}
		r.got(t, "2 tea cost 12")
	}
	if !hit || !passed {
		t.Errorf("of %d requests the first process got any: %v, the other one: %v", mostRequests, hit, passed)
	}
	if _, err := client.Halt(); err != nil {
		t.Fatal(err)
	}
	<-stop
	if _, err := client.ClearBreakpoint(set.ID); err != nil {
		t.Error(err)
	}
	if err := client.Disconnect(true); err != nil {
		t.Fatal(err)
	}

	t.Log("DAP: both")
	d, err := editor.StartParent(within(t), dial(t, ready.Listen), "attach", attachConfig, at)
	if err != nil {
		t.Fatal(err)
	}
	child, _, err := d.OpenChild(within(t), func() (io.ReadWriteCloser, error) { return dial(t, ready.Listen), nil }, at)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("both have stopped after %d requests", spread(t, n, at, 12, false, d, child))

	t.Log("the second pod is deleted: the first goes on, and another one takes its place")
	began := time.Now()
	if err := n.DeletePod(within(t), first+"-2"); err != nil {
		t.Fatal(err)
	}
	if lost, _ := back(t, p, "the second pod was deleted", began); !strings.Contains(lost.Text, "pod "+first+"-2 is being deleted") {
		t.Errorf("the loss is told as %q", lost.Text)
	}
	servesAgain(t, n, p, began)
	if now := debugPods(t, n, 2); !slices.Contains(now, first) || !slices.Contains(now, first+"-3") {
		t.Errorf("the pods are %q, not %[2]s and %[2]s-3", now, first)
	}
	t.Logf("both have stopped after %d requests", spread(t, n, at, 12, false, d, child))

	t.Log("kill -9 with one of them halted, and restore")
	if i := firstToStop(t, begin(t, n, "middle", "price", "item=tea&count=2"), []*editor.Debugger{d, child}); i < 0 {
		t.Error("no debugger has stopped")
	}
	kill(t, p)
	_, _ = d.Close(), child.Close()
	restoreTwice(t, n, "middle", before)
}
