//go:build integration

package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/kubedelve/kubedelve/internal/editor"
	"github.com/kubedelve/kubedelve/internal/testcluster"
)

// run runs kubedelve to its end with the exit code that is expected.
func run(t *testing.T, k testcluster.Command, code int) testcluster.Result {
	t.Helper()
	r, err := cluster.Run(within(t), k)
	if err != nil {
		t.Fatal(err)
	}
	if r.Code != code {
		t.Fatalf("kubedelve %s: exit code %d, not %d\n%s%s", strings.Join(k.Args, " "), r.Code, code, r.Stdout, r.Stderr)
	}
	return r
}

// restoreTwice runs kubedelve restore: once to put everything back, whatever there
// is, and once more to see that this changes nothing.
func restoreTwice(t *testing.T, n *testcluster.Namespace, deployment string, before testcluster.Snapshot) {
	t.Helper()
	run(t, n.Kubedelve("restore"), 0)
	restored(t, n, deployment, before)
	ctx := within(t)
	first, err := n.Versions(ctx)
	if err != nil {
		t.Fatal(err)
	}
	again := run(t, n.Kubedelve("restore"), 0)
	if !strings.Contains(again.Stderr, "nothing to restore") {
		t.Errorf("the second restore says %q", again.Stderr)
	}
	second, err := n.Versions(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for name, version := range second {
		if first[name] != version && !strings.HasPrefix(name, "endpointslice/") && !strings.HasPrefix(name, "pod/") {
			t.Errorf("%s changed with the second restore", name)
		}
	}
	if status := run(t, n.Kubedelve("status"), 0); !strings.Contains(status.Stderr, "No sessions") {
		t.Errorf("status says %q after the restore", status.Stdout)
	}
}

// steps are what a session goes through as its user sees it: the events of -o json
// until it serves, then a stop at a breakpoint, then the events of the restore.
//
// For each of them there is a session that is killed the moment it begins.
func TestIntegrationKillAtEachStage(t *testing.T) {
	n := namespace(t, nil, allTiers...)
	before := snapshot(t, n, "middle")
	seen := map[string]bool{}
	killed := 0
	for step := 1; ; step++ {
		if step > 40 {
			t.Fatal("a session has no more than 40 steps, it seemed")
		}
		at, more := killAtStage(t, n, step)
		if !more {
			break
		}
		killed++
		t.Logf("killed at %q", at)
		word, _, _ := strings.Cut(at, " ")
		seen[word] = true
		restoreTwice(t, n, "middle", before)
	}
	restored(t, n, "middle", before)
	for _, word := range []string{"finding", "building", "claiming", "starting", "connecting", "uploading", "loading", "ready", "serving", "halted", "waiting", "deleting"} {
		if !seen[word] {
			t.Errorf("no session was killed at %q", word)
		}
	}
	if after := snapshot(t, n, "middle"); after.Generation != before.Generation {
		t.Errorf("the generation of the deployment went from %d to %d", before.Generation, after.Generation)
	}
	t.Logf("%d sessions were killed", killed)
}

// killAtStage kills a session at its step with the number; more is false if the
// session came to its end before.
func killAtStage(t *testing.T, n *testcluster.Namespace, step int) (at string, more bool) {
	t.Helper()
	ctx := within(t)
	p := start(t, n.Kubedelve("deploy/middle", "--program", "./middle", "--listen", "127.0.0.1:0"))
	count, serving, ready := 0, false, testcluster.Event{}
	next := func() bool {
		e, err := p.Await(ctx, "a step", func(e testcluster.Event) bool {
			return e.Event == "stage" || e.Event == "ready" || e.Event == "serving" || e.Event == "restored"
		})
		if err != nil {
			t.Fatal(err)
		}
		count++
		switch at = e.Text; e.Event {
		case "ready":
			ready, at = e, "ready"
		case "serving":
			serving, at = true, "serving"
		case "restored":
			return false
		}
		return true
	}
	for !serving {
		if next(); count == step {
			kill(t, p)
			return at, true
		}
	}
	if count++; count == step {
		alone(t, n)
		breakpoint := breakpoint(t, "")
		d, _, err := editor.Start(ctx, dial(t, ready.Listen), "attach", attachConfig, breakpoint)
		if err != nil {
			t.Fatal(err)
		}
		begin(t, n, "front", "buy", "item=tea&count=2") // it may get no answer
		atBreakpoint(t, d, breakpoint, "tea", 2)
		kill(t, p)
		_ = d.Close()
		return "halted at a breakpoint", true
	}
	if err := p.Interrupt(); err != nil {
		t.Fatal(err)
	}
	for next() {
		if count == step {
			kill(t, p)
			return at, true
		}
	}
	if code, err := p.Wait(ctx); err != nil || code != 0 {
		t.Fatalf("kubedelve ended with code %d (%v)", code, err)
	}
	return "", false
}

func kill(t *testing.T, p *testcluster.Process) {
	t.Helper()
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
}

// Finer than by stages: a session is killed after each of its changes to the
// cluster, when the API server has made it and kubedelve does not know yet.
func TestIntegrationKillAfterEachWrite(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*appsv1.Deployment)
		pods   int // of the session
	}{
		"one replica":    {func(*appsv1.Deployment) {}, 1},
		"three replicas": {func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](3) }, 1},
		"two of three":   {func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](3) }, 2},
		"recreate":       {func(d *appsv1.Deployment) { d.Spec.Strategy = recreate }, 1},
	} {
		if c.pods > long(2, 1) {
			continue // it takes minutes
		}
		t.Run(name, func(t *testing.T) {
			n := namespace(t, func(o *testcluster.Objects) { c.change(o.Deployment("middle")) }, "middle")
			before := snapshot(t, n, "middle")
			writes := 0
			for number := 1; ; number++ {
				if number > 40 {
					t.Fatal("a session has no more than 40 writes, it seemed")
				}
				write, more := killAfterWrite(t, n, number, c.pods)
				if !more {
					break
				}
				writes++
				t.Logf("killed after %s", write)
				restoreTwice(t, n, "middle", before)
			}
			restored(t, n, "middle", before)
			if writes < 7 {
				t.Errorf("only %d writes were made", writes)
			}
		})
	}
}

func killAfterWrite(t *testing.T, n *testcluster.Namespace, number, pods int) (write string, more bool) {
	t.Helper()
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	gate, err := n.NewGate(ctx, filepath.Join(t.TempDir(), fmt.Sprint(number)), number, cancel)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = gate.Close() }()
	command := n.Kubedelve("deploy/middle", "--program", "./middle", "--listen", "127.0.0.1:0", "--replicas", fmt.Sprint(pods))
	command.Kubeconfig = gate.Kubeconfig
	p := start(t, command)
	for range pods {
		if _, err = p.AwaitEvent(ctx, "serving"); err != nil {
			break
		}
	}
	if err == nil {
		if err := p.Interrupt(); err != nil {
			t.Fatal(err)
		}
		_, _ = p.AwaitEvent(ctx, "restored")
	}
	if ctx.Err() == nil {
		code, err := p.Wait(ctx)
		if ctx.Err() == nil && (err != nil || code != 0) {
			t.Fatalf("kubedelve ended with code %d (%v); %s", code, err, p.Story())
		}
	}
	reached := ctx.Err() != nil
	kill(t, p)
	writes := gate.Writes()
	if !reached {
		return "", false
	}
	if len(writes) < number {
		t.Fatalf("write %d was not reached: %q; %s", number, writes, p.Story())
	}
	return writes[number-1], true
}

// Whatever happens to the pod and the journal, restore knows what to do.
func TestIntegrationRestoreAfterLosses(t *testing.T) {
	n := namespace(t, nil, "middle")
	before := snapshot(t, n, "middle")

	t.Log("the debug pod is deleted, and kubedelve is gone when it has made another")
	p, _ := debugMiddle(t, n)
	debugPod(t, n, true)
	if _, err := p.AwaitEvent(within(t), "serving"); err != nil {
		t.Fatal(err)
	}
	kill(t, p)
	restoreTwice(t, n, "middle", before)

	t.Log("kubedelve is gone, then the debug pod: the journal is left")
	p, ready := debugMiddle(t, n)
	kill(t, p)
	debugPod(t, n, true)
	if status := run(t, n.Kubedelve("status", "-o", "json"), 0); !strings.Contains(status.Stdout, ready.Session) {
		t.Errorf("status does not show the session %s: %s", ready.Session, status.Stdout)
	}
	restoreTwice(t, n, "middle", before)

	t.Log("restore by the session's id, from a session that lives")
	p, ready = debugMiddle(t, n)
	run(t, n.Kubedelve("restore", ready.Session), 0)
	if code, err := p.Wait(within(t)); err != nil || code != 1 {
		t.Errorf("kubedelve ended with code %d (%v); %s", code, err, p.Story())
	}
	if !strings.Contains(p.Stderr(), "has run kubedelve restore") && !strings.Contains(p.Stderr(), "did somebody run kubedelve restore?") {
		t.Errorf("kubedelve does not say why it ended: %s", p.Story())
	}
	restored(t, n, "middle", before)

	t.Log("the journal is deleted by hand, then the debug pod")
	p, _ = debugMiddle(t, n)
	secrets := cluster.Client.CoreV1().Secrets(n.Name)
	if err := secrets.DeleteCollection(within(t), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "kubedelve.dev/session"}); err != nil {
		t.Fatal(err)
	}
	debugPod(t, n, true)
	if code, err := p.Wait(within(t)); err != nil || code != 1 {
		t.Errorf("kubedelve ended with code %d (%v); %s", code, err, p.Story())
	}
	if !strings.Contains(p.Stderr(), "was deleted; did somebody run kubedelve restore?") {
		t.Errorf("kubedelve does not say why it ended: %s", p.Story())
	}
	restored(t, n, "middle", before)
}

// debugPod finds the pod of the session, and with remove deletes it and waits for
// its end.
func debugPod(t *testing.T, n *testcluster.Namespace, remove bool) (name string) {
	t.Helper()
	ctx := within(t)
	list, err := cluster.Client.CoreV1().Pods(n.Name).List(ctx, metav1.ListOptions{LabelSelector: "kubedelve.dev/session"})
	if err != nil || len(list.Items) != 1 {
		t.Fatalf("there are %d debug pods (%v), not 1", len(list.Items), err)
	}
	name = list.Items[0].Name
	if remove {
		if err := n.DeletePod(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	return name
}

// If kubedelve is gone for good, the pod becomes what it was by itself.
func TestIntegrationDeadMansSwitch(t *testing.T) {
	n := namespace(t, nil, allTiers...)
	before := snapshot(t, n, "middle")
	ctx := within(t)
	p, ready := debugMiddle(t, n, "--grace", "2s", "--ttl", "5s")
	at := breakpoint(t, "")
	d, _, err := editor.Start(ctx, dial(t, ready.Listen), "attach", attachConfig, at)
	if err != nil {
		t.Fatal(err)
	}
	buy := begin(t, n, "front", "buy", "item=tea&count=2")
	atBreakpoint(t, d, at, "tea", 2)
	gone := time.Now()
	kill(t, p)
	_ = d.Close()

	buy.got(t, "front: 2 tea cost 12")
	halted := time.Since(gone)
	t.Logf("the program went on %.1f s after kubedelve was killed", halted.Seconds())
	if halted < 1500*time.Millisecond || halted > 15*time.Second {
		t.Errorf("the program went on after %v; --grace is 2s", halted)
	}
	pod := debugPod(t, n, false)
	if err := n.AwaitLog(ctx, pod, "app", `with arguments ["--currency" "EUR"]`, 2); err != nil {
		t.Fatalf("the original program does not run again: %v", err)
	}
	t.Logf("the original program ran again %.1f s after kubedelve was killed", time.Since(gone).Seconds())
	if err := n.AwaitAnswer(ctx, "front", "buy", "item=tea&count=2", "front: 2 tea cost 12"); err != nil {
		t.Error(err)
	}
	restoreTwice(t, n, "middle", before)
}
