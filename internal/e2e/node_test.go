//go:build integration

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kubedelve/kubedelve/internal/editor"
	"github.com/kubedelve/kubedelve/internal/testcluster"
)

// compiled compiles a kubelet for debugging once, before tests run side by side: with an
// empty cache it takes all processors for minutes.
var compiled = sync.OnceValue(func() error { return compile(kubeletProgram) })

const kubeletProgram = "k8s.io/kubernetes/cmd/kubelet"

func compile(programs ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	k, err := cluster.Programs.Kubernetes(ctx)
	if err != nil {
		return err
	}
	return errors.Join(k.Compile(ctx, programs...), k.Close())
}

// forCompiling is a context for compiling a large program: with an empty cache, beside other tests,
// that takes long.
func forCompiling(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// withinBuild is a context for one build of a kubelet and what follows: linking alone takes
// 12 s of a quiet core.
func withinBuild(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// lineIn finds the first line with the text in a function.
func lineIn(t *testing.T, path, function, text string) int {
	t.Helper()
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(source, []byte(function))
	offset := bytes.Index(source[max(at, 0):], []byte(text))
	if at < 0 || offset < 0 {
		t.Fatalf("%s has no line with %q after %q", path, text, function)
	}
	return bytes.Count(source[:at+offset], []byte("\n")) + 1
}

// kubeletConfig is what launch.json says for the node's kubelet.
func (s *nodeSession) config(hold string) map[string]any {
	return map[string]any{
		"type": "kubedelve", "request": "launch", "name": "kubelet",
		"target":  map[string]any{"name": "node/node1:kubelet", "agentImage": s.Refs["agent"], "hold": hold},
		"program": kubeletProgram,
		"build":   map[string]any{"dir": s.kube.Dir},
	}
}

// debugKubelet is F5 on the kubelet's configuration.
func (s *nodeSession) debugKubelet(t *testing.T, hold string, breakpoints ...editor.Breakpoint) (*editor.Debugger, *testcluster.Adapter) {
	t.Helper()
	d, adapter := s.debug(t, testcluster.Command{Dir: s.kube.Dir, Env: testcluster.KubeEnv}, s.config(hold), breakpoints...)
	// A kubelet that begins may call its node NotReady until it has looked at the runtime. If
	// it were halted just then, nobody could take that back.
	s.fineAgain(t)
	return d, adapter
}

// debug is F5 on a configuration.
func (s *nodeSession) debug(t *testing.T, command testcluster.Command, config map[string]any, breakpoints ...editor.Breakpoint) (*editor.Debugger, *testcluster.Adapter) {
	t.Helper()
	adapter, err := s.BeginAdapter(command)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = adapter.Kill() })
	began := time.Now()
	d, _, err := editor.Start(withinBuild(t), adapter, "launch", config, breakpoints...)
	if err != nil {
		_ = d.Close()
		_, stderr, _ := adapter.Wait(within(t))
		t.Fatalf("%v\n%s\n%s", err, d.Output(), stderr)
	}
	t.Logf("from F5 to a service that runs: %.1f s", time.Since(began).Seconds())
	return d, adapter
}

// podAtBreakpoint waits for the stop and checks that the local variable pod is the one.
func podAtBreakpoint(t *testing.T, d *editor.Debugger, at editor.Breakpoint, function, name string) {
	t.Helper()
	objectAtBreakpoint(t, d, at, function, "pod", name)
}

// objectAtBreakpoint is the same for a variable that points to any object.
func objectAtBreakpoint(t *testing.T, d *editor.Debugger, at editor.Breakpoint, function, variable, name string) {
	t.Helper()
	ctx := within(t)
	if err := d.AwaitStop(ctx, "breakpoint"); err != nil {
		t.Fatal(err)
	}
	stack, err := d.Stack(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(stack) < 2 || !strings.HasSuffix(stack[0].Name, function) || stack[0].Source == nil || stack[0].Source.Path != at.Path || stack[0].Line != at.Line {
		t.Fatalf("the stack does not begin with %s at %s:%d: %+v", function, at.Path, at.Line, stack[0])
	}
	locals, _, err := d.Locals(ctx, stack[0].Id)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []string{variable, "ObjectMeta", "Name"} {
		v, err := editor.Variable(locals, step)
		if err != nil {
			t.Fatal(err)
		}
		if step == "Name" {
			if want := fmt.Sprintf("%q", name); v.Value != want {
				t.Errorf("the name of %s is %s, not %s", variable, v.Value, want)
			}
			break
		}
		if locals, err = d.Children(ctx, v.VariablesReference); err != nil {
			t.Fatal(err)
		}
		// A pointer's one child is what it points to.
		if len(locals) == 1 && locals[0].Name == "" {
			if locals, err = d.Children(ctx, locals[0].VariablesReference); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// nodeSession is a test's own cluster, whose node it may break, and how things were before.
type nodeSession struct {
	*testcluster.Cluster
	kube      *testcluster.Kubernetes
	namespace *testcluster.Namespace
	before    testcluster.NodeState
	ready     string
	version   string
}

// newNodeSession compiles a kubelet first.
func newNodeSession(t *testing.T, flavour string) *nodeSession {
	t.Helper()
	needNode(t)
	if err := compiled(); err != nil {
		t.Fatal(err)
	}
	t.Parallel()
	return startNode(t, "node-"+flavour, flavour)
}

// needNode skips a test where no cluster can be made for it.
func needNode(t *testing.T) {
	t.Helper()
	if noCluster != nil {
		t.Skip(noCluster)
	}
	if err := testcluster.SupportedNode(); err != nil {
		t.Skip(err)
	}
}

func startNode(t *testing.T, name, flavour string) *nodeSession {
	t.Helper()
	c, err := testcluster.StartNode(t.Context(), name, flavour, cluster.Programs, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	ctx := within(t)
	n, err := c.NewNamespace(ctx, "node-")
	if err != nil {
		t.Fatal(err)
	}
	s := &nodeSession{Cluster: c, namespace: n}
	if s.ready, _, s.version, err = c.NodeCondition(ctx); err != nil {
		t.Fatal(err)
	}
	return s
}

// checkOut gets the kubelet's sources, which one test at a time has, and notes how the node is.
func (s *nodeSession) checkOut(t *testing.T) {
	t.Helper()
	var err error
	if s.kube, err = cluster.Programs.Kubernetes(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.kube.Close(); err != nil {
			t.Error(err)
		}
	})
	if s.before, err = s.NodeState(within(t)); err != nil {
		t.Fatal(err)
	}
}

// fine checks that the cluster sees nothing of what is done to the node.
func (s *nodeSession) fine(t *testing.T) {
	t.Helper()
	ready, taints, version, err := s.NodeCondition(within(t))
	if err != nil || ready != s.ready || version != s.version || len(taints) != 0 {
		t.Fatalf("the node is %s with version %s and taints %v (%v); it was %s with %s", ready, version, taints, err, s.ready, s.version)
	}
}

// fineAgain waits until it is so.
func (s *nodeSession) fineAgain(t *testing.T) {
	t.Helper()
	if err := s.AwaitNodeReady(within(t)); err != nil {
		t.Fatal(err)
	}
	s.fine(t)
}

// restored checks that the node is as before, and that nothing of a session is left.
func (s *nodeSession) restored(t *testing.T) {
	t.Helper()
	if err := s.AwaitNodeState(within(t), s.before); err != nil {
		t.Error(err)
	}
	s.fineAgain(t)
	if err := s.AwaitNoNodeSessions(within(t)); err != nil {
		t.Error(err)
	}
}

// kubelet is "kubedelve debug node/node1:kubelet".
func (s *nodeSession) kubelet(args ...string) testcluster.Command {
	return testcluster.Command{
		Dir: s.kube.Dir, Env: testcluster.KubeEnv,
		Args: append([]string{"node/node1:kubelet", "--program", kubeletProgram, "--listen", "127.0.0.1:0"}, args...),
	}
}

// processOf finds the agent's process on the node whose command line begins so.
func (s *nodeSession) processOf(t *testing.T, command string) string {
	t.Helper()
	out, err := s.InNode(within(t), "pgrep", "-f", "^/[a-z/]*/[0-9a-f]*/kubedelve-agent "+command)
	if err != nil || strings.TrimSpace(out) == "" {
		t.Fatalf("there is no process %s: %v", command, err)
	}
	return strings.Fields(out)[0]
}

// A breakpoint in the kubelet is hit by a pod that is created. While the kubelet is
// halted, for longer than a node may be silent, the node stays Ready. A line is added and
// saved: the kubelet is swapped, and its breakpoints are hit again. After the session
// all is as before.
func (s *nodeSession) breakpoints(t *testing.T, halt time.Duration) {
	path := s.kube.File(testcluster.KubeletSource)
	const add = "kl.podManager.AddPod(pod)"
	condition := func(name string) string { return fmt.Sprintf("pod.ObjectMeta.Name == %q", name) }
	additions := editor.Breakpoint{Path: path, Line: lineIn(t, path, "func (kl *Kubelet) HandlePodAdditions(", add), Condition: condition("first")}
	syncs := editor.Breakpoint{Path: path, Line: lineIn(t, path, "func (kl *Kubelet) SyncPod(", "logger := "), Condition: condition("first")}
	d, adapter := s.debugKubelet(t, "", additions, syncs)
	if err := s.namespace.CreatePod(within(t), "first", "middle"); err != nil {
		t.Fatal(err)
	}
	podAtBreakpoint(t, d, additions, "HandlePodAdditions", "first")
	for began := time.Now(); time.Since(began) < halted(t, halt); {
		s.fine(t)
		select {
		case <-t.Context().Done():
		case <-time.After(2 * time.Second):
		}
	}
	if err := d.Continue(within(t)); err != nil {
		t.Fatal(err)
	}
	podAtBreakpoint(t, d, syncs, "SyncPod", "first")
	if err := d.StepOver(within(t)); err != nil {
		t.Fatal(err)
	}
	if stack, err := d.Stack(within(t)); err != nil || !strings.HasSuffix(stack[0].Name, "SyncPod") || stack[0].Line <= syncs.Line {
		t.Fatalf("a step over line %d leads to %+v, %v", syncs.Line, stack, err)
	}
	additions.Condition = condition("second")
	if err := d.SetBreakpoints(within(t), additions); err != nil {
		t.Fatal(err)
	}
	if err := d.Continue(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := s.namespace.AwaitPodRunning(within(t), "first"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.AwaitOutput(within(t), "renews its Lease again"); err != nil {
		t.Error(err)
	}
	// The kubelet's own view of the runtime is older than 30 s when it goes on: it may
	// call itself NotReady until it has looked again.
	s.fineAgain(t)

	additions.Line++
	saves(t, d, additions, func(text string) string {
		// println would write word by word, with other lines in between.
		return strings.Replace(text, add, `fmt.Fprintf(os.Stderr, "a line more for %s\n", pod.Name)`+"\n\t\t"+add, 1)
	})
	if err := s.namespace.CreatePod(within(t), "second", "middle"); err != nil {
		t.Fatal(err)
	}
	podAtBreakpoint(t, d, additions, "HandlePodAdditions", "second")
	if err := d.Continue(within(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.AwaitOutput(within(t), "a line more for second"); err != nil {
		t.Error(err)
	}
	if err := s.namespace.AwaitPodRunning(within(t), "second"); err != nil {
		t.Fatal(err)
	}
	s.fineAgain(t)
	if got := ends(d); len(got) > 0 {
		t.Errorf("the editor was told of an end: %q", got)
	}
	began := time.Now()
	leave(t, d, adapter)
	t.Logf("from stop to everything restored: %.1f s", time.Since(began).Seconds())
	for _, name := range []string{"first", "second"} {
		if err := s.namespace.DeletePod(within(t), name); err != nil {
			t.Fatal(err)
		}
	}
	s.restored(t)
}

// A kubelet that is halted for longer than --hold goes on without breakpoints.
func (s *nodeSession) held(t *testing.T) {
	path := s.kube.File(testcluster.KubeletSource)
	at := editor.Breakpoint{
		Path: path, Line: lineIn(t, path, "func (kl *Kubelet) HandlePodAdditions(", "kl.podManager.AddPod(pod)"),
		Condition: `pod.ObjectMeta.Name == "held"`,
	}
	d, adapter := s.debugKubelet(t, "10s", at)
	if err := s.namespace.CreatePod(within(t), "held", "middle"); err != nil {
		t.Fatal(err)
	}
	podAtBreakpoint(t, d, at, "HandlePodAdditions", "held")
	for _, text := range []string{"is renewed on its behalf, for 10s at most", "it goes on without breakpoints", "renews its Lease again"} {
		if _, err := d.AwaitOutput(within(t), text); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.namespace.AwaitPodRunning(within(t), "held"); err != nil {
		t.Fatal(err)
	}
	s.fineAgain(t)
	leave(t, d, adapter)
	if err := s.namespace.DeletePod(within(t), "held"); err != nil {
		t.Fatal(err)
	}
	s.restored(t)
}

// halted is how long the kubelet is halted.
func halted(t *testing.T, otherwise time.Duration) time.Duration {
	t.Helper()
	text := os.Getenv("KUBEDELVE_TEST_HALT")
	if text == "" {
		return otherwise
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Whatever is killed, the session goes on, and all is as before afterwards.
func (s *nodeSession) kills(t *testing.T, kill map[string][]string) {
	p, err := s.Begin(s.kubelet())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Kill() })
	if _, err := p.AwaitEvent(withinBuild(t), "ready"); err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(kill)) {
		t.Log("kill -9 of", name)
		var pids []string
		for _, command := range kill[name] {
			pids = append(pids, s.processOf(t, command))
		}
		if _, err := s.InNode(within(t), append([]string{"kill", "-9"}, pids...)...); err != nil {
			t.Fatal(err)
		}
		e, err := p.Await(within(t), "the kubelet to be started again", func(e testcluster.Event) bool { return strings.Contains(e.Text, "started again in node") })
		if err != nil {
			t.Fatal(err)
		}
		t.Log(e.Text)
		s.fineAgain(t)
	}
	t.Log("the helper's pod is deleted: nobody notices")
	left, err := s.NodeSessions(within(t))
	if err != nil || len(left) != 1 {
		t.Fatalf("the sessions are %q, %v", left, err)
	}
	helper := testcluster.Namespace{Cluster: s.Cluster, Name: left[0]}
	agent := s.processOf(t, "delve")
	if err := helper.DeletePod(within(t), "helper"); err != nil {
		t.Fatal(err)
	}
	if now := s.processOf(t, "delve"); now != agent {
		t.Errorf("delve is process %s, it was %s", now, agent)
	}
	end(t, p)
	s.restored(t)
}

// A client that is killed at any stage leaves what restore puts back; and if nobody
// comes, the agent puts the original back alone.
func (s *nodeSession) killedClient(t *testing.T, begin func(args ...string) testcluster.Command, stages ...string) {
	for _, stage := range stages {
		p, err := s.Begin(begin("--ttl", "1h"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = p.Await(withinBuild(t), stage, func(e testcluster.Event) bool { return e.Event == stage || strings.HasPrefix(e.Text, stage) })
		if killErr := p.Kill(); err != nil || killErr != nil {
			t.Fatal(err, killErr)
		}
		// If it is the API server that was being exchanged, restore waits until the agent has brought
		// it back, after --grace.
		s.restore(t, begin())
		t.Logf("killed at %q and restored", stage)
		s.restored(t)
	}
	p, err := s.Begin(begin("--ttl", "5s"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.AwaitEvent(withinBuild(t), "ready"); err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	t.Log("killed, and nobody restores")
	if err := s.AwaitNodeState(within(t), s.before); err != nil {
		t.Fatal(err)
	}
	if err := s.AwaitAPI(within(t)); err != nil {
		t.Fatal(err)
	}
	s.restore(t, begin())
	s.restored(t)
}

// restore is "kubedelve restore" of what a command has begun, by the same way.
func (s *nodeSession) restore(t *testing.T, begun testcluster.Command) {
	t.Helper()
	args := []string{"restore", begun.Args[0]}
	if i := slices.Index(begun.Args, "--node-via"); i >= 0 && strings.HasPrefix(begun.Args[i+1], "ssh:") {
		args = append(args, begun.Args[i:i+2]...)
	}
	// A kubelet may have to exchange a static pod twice, and with it the API server.
	result, err := s.Run(withinBuild(t), testcluster.Command{Args: args, Env: begun.Env, Kubeconfig: begun.Kubeconfig})
	if err != nil || result.Code != 0 {
		t.Fatalf("restore ends with code %d, %v: %s", result.Code, err, result.Stderr)
	}
}

// allStages are those of a session on a node.
var allStages = []string{"claiming", "starting a helper", "uploading", "looking for", "taking the place", "loading", "ready"}

// The kubelet as a process that nobody supervises, and a small service.
func TestIntegrationNodeProcess(t *testing.T) {
	s := newNodeSession(t, "plain")
	t.Run("kubelet", func(t *testing.T) {
		s.checkOut(t)
		// A node counts as lost 50 s after the last renewal of its Lease.
		t.Run("breakpoints", func(t *testing.T) { s.breakpoints(t, 70*time.Second) })
		t.Run("kills", func(t *testing.T) {
			s.kills(t, map[string][]string{"agent": {"hold"}, "keeper and agent": {"stand-in", "hold"}})
		})
		t.Run("killed client", func(t *testing.T) { s.killedClient(t, s.kubelet, "taking the place", "ready") })
	})
	t.Run("service", func(t *testing.T) {
		s.startProcess(t)
		s.serviceKills(t, map[string]string{"component": "bin/", "Delve": "delve ", "agent": "hold ", "keeper": "stand-in "})
		s.killedClient(t, s.ticker, allStages...)
		s.killedAgent(t)
	})
}

// The kubelet as a unit of systemd, with kubeadm's drop-in, and small services.
func TestIntegrationNodeUnit(t *testing.T) {
	s := newNodeSession(t, "kubeadm")
	// Beside the other test, which has the kubelet's sources first.
	t.Run("notify", func(t *testing.T) {
		s.startUnit(t, "Type=notify\nWatchdogSec=2\nKillMode=process\n")
		s.watchdog(t)
		s.serviceKills(t, map[string]string{"component": "bin/", "Delve": "delve ", "agent": "stand-in "})
		s.killedClient(t, s.ticker, allStages...)
		s.killedAgent(t)
		s.reboot(t)
	})
	t.Run("simple", func(t *testing.T) {
		s.startUnit(t, "Type=simple\n")
		s.serviceKills(t, map[string]string{"component": "bin/", "agent": "stand-in "})
	})
	for _, kind := range []string{"notify", "simple"} {
		t.Run("hidden folder "+kind, func(t *testing.T) {
			s.startUnit(t, "Type="+kind+"\nInaccessiblePaths=-/var/lib/kubedelve\n")
			s.hiddenFolder(t)
		})
	}
	t.Run("kubelet", func(t *testing.T) {
		s.checkOut(t)
		t.Run("breakpoints", func(t *testing.T) { s.breakpoints(t, 20*time.Second) })
		t.Run("held", s.held)
		t.Run("kills", func(t *testing.T) { s.kills(t, map[string][]string{"agent": {"stand-in"}}) })
		t.Run("killed client", func(t *testing.T) { s.killedClient(t, s.kubelet, "ready") })
	})
}

// saves changes a file in the editor and waits until the component is swapped for what is built
// of it, and the breakpoint, where it is now, is set.
func saves(t *testing.T, d *editor.Debugger, at editor.Breakpoint, change func(text string) string) {
	t.Helper()
	t.Log("one line is added and saved")
	saved := time.Now()
	if err := editor.Edit(at.Path, editor.InPlace, change); err != nil {
		t.Fatal(err)
	}
	if err := d.Mark(within(t), at); err != nil {
		t.Fatal(err)
	}
	if _, err := d.AwaitOutput(withinBuild(t), "swapped in "); err != nil {
		t.Fatal(err)
	}
	if err := d.AwaitVerified(within(t), at); err != nil {
		t.Fatal(err)
	}
	t.Logf("from the save to the new one that runs: %.1f s", time.Since(saved).Seconds())
}
