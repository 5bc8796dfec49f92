//go:build integration

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubedelve/kubedelve/internal/editor"
	"github.com/kubedelve/kubedelve/internal/testcluster"
)

// A pod that is created stops the API server, which is halted for a while, and with it all
// that the cluster could say. The session goes on by its own way to the node, and so does the
// API server. A line is added and saved, and runs.
func (s *staticSession) apiServer(t *testing.T, halt time.Duration) {
	path := s.kube.File(testcluster.PodStrategySource)
	const line = "pod.Generation = 1"
	condition := func(name string) string { return fmt.Sprintf("pod.ObjectMeta.Name == %q", name) }
	at := editor.Breakpoint{Path: path, Line: lineIn(t, path, "func (podStrategy) PrepareForCreate(", line), Condition: condition("first")}
	d, adapter := s.debug(t, s.command(), s.config(), at)
	s.fineAgain(t)
	if version, err := s.Client.Discovery().ServerVersion(); err != nil || version.GitVersion != s.version {
		t.Errorf("the debug build's version is %v (%v), and the cluster's was %s", version, err, s.version)
	}

	created := s.creates(t, "first")
	objectAtBreakpoint(t, d, at, "PrepareForCreate", "pod", "first")
	if err := d.StepOver(within(t)); err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); time.Since(began) < halt; {
		if stack, err := d.Stack(within(t)); err != nil || len(stack) < 2 || !strings.HasSuffix(stack[0].Name, "PrepareForCreate") {
			t.Fatalf("%v after the halt the stack is %+v, %v", time.Since(began), stack, err)
		}
		select {
		case err := <-created:
			t.Fatalf("the API server answers though it is halted: %v", err)
		case <-time.After(time.Second):
		}
	}
	if err := d.Continue(within(t)); err != nil {
		t.Fatal(err)
	}
	// A request that was halted for longer than its own deadline fails, and is made again.
	if err := <-created; err != nil {
		t.Logf("the request that was halted: %v", err)
		if err := d.SetBreakpoints(within(t)); err != nil {
			t.Fatal(err)
		}
		if err := <-s.creates(t, "first"); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.namespace.AwaitPodRunning(within(t), "first"); err != nil {
		t.Fatal(err)
	}

	at.Line, at.Condition = at.Line+1, condition("second")
	saves(t, d, at, func(text string) string {
		return strings.Replace(text, line, `pod.Annotations = map[string]string{"added": "a line more"}`+"\n\t"+line, 1)
	})
	s.fineAgain(t)
	created = s.creates(t, "second")
	objectAtBreakpoint(t, d, at, "PrepareForCreate", "pod", "second")
	if err := d.Continue(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := <-created; err != nil {
		t.Fatal(err)
	}
	second, err := s.Client.CoreV1().Pods(s.namespace.Name).Get(within(t), "second", metav1.GetOptions{})
	if err != nil || second.Annotations["added"] != "a line more" {
		t.Errorf("the new line is not in what the API server does: %v, %v", second.Annotations, err)
	}
	if err := s.namespace.AwaitPodRunning(within(t), "second"); err != nil {
		t.Fatal(err)
	}
	if got := ends(d); len(got) > 0 || strings.Contains(d.Output(), "starting it again") {
		t.Errorf("the API server has ended (%q): %s", got, d.Output("console", "important"))
	}
	began := time.Now()
	leave(t, d, adapter)
	t.Logf("from stop to everything restored: %.1f s", time.Since(began).Seconds())
	s.fineAgain(t)
	for _, name := range []string{"first", "second"} {
		if err := s.namespace.DeletePod(within(t), name); err != nil {
			t.Fatal(err)
		}
	}
	s.back(t)
}

// creates asks for a pod as soon as the API server serves. The channel has how that ended.
func (s *staticSession) creates(t *testing.T, name string) <-chan error {
	t.Helper()
	created := make(chan error, 1)
	ctx := withinBuild(t)
	go func() { created <- s.namespace.CreatePod(ctx, name, "middle") }() // ends with the answer
	return created
}

// The API server by ssh: no cluster is asked for anything.
func (s *staticSession) bySSH(t *testing.T) {
	env := s.servesSSH(t)
	ssh := *s
	ssh.via = "ssh:" + testcluster.SSHHost
	begin := func(args ...string) testcluster.Command {
		command := ssh.debugged(args...)
		command.Env = append(command.Env, env...)
		command.Kubeconfig = "/nonexistent"
		return command
	}
	p, err := s.Begin(begin())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Kill() })
	ready, err := p.AwaitEvent(withinBuild(t), "ready")
	if err != nil {
		t.Fatal(err)
	}
	path := s.kube.File(testcluster.PodStrategySource)
	at := editor.Breakpoint{
		Path: path, Line: lineIn(t, path, "func (podStrategy) PrepareForCreate(", "pod.Generation = 1"), Condition: `pod.ObjectMeta.Name == "by-ssh"`,
	}
	d, _, err := editor.Start(within(t), dial(t, ready.Listen), "attach", attachConfig, at)
	if err != nil {
		t.Fatal(err)
	}
	s.fineAgain(t)
	if version, err := s.Client.Discovery().ServerVersion(); err != nil || version.GitVersion != s.version {
		t.Errorf("the debug build's version is %v (%v), and the cluster's was %s", version, err, s.version)
	}
	created := s.creates(t, "by-ssh")
	objectAtBreakpoint(t, d, at, "PrepareForCreate", "pod", "by-ssh")
	if err := d.Continue(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := <-created; err != nil {
		t.Fatal(err)
	}
	if err := d.Disconnect(within(t)); err != nil {
		t.Error(err)
	}
	end(t, p)
	if err := s.AwaitAPI(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := s.namespace.DeletePod(within(t), "by-ssh"); err != nil {
		t.Fatal(err)
	}
	s.back(t)
}

// An object that is created stops etcd where it is written.
func (s *staticSession) etcd(t *testing.T) {
	path, err := s.kube.EtcdFile(within(t), "etcdserver/v3_server.go")
	if err != nil {
		t.Fatal(err)
	}
	key := fmt.Sprintf("/registry/configmaps/%s/kept", s.namespace.Name)
	at := editor.Breakpoint{
		Path: path, Line: lineIn(t, path, ") Txn(ctx ", "readOnly := "), Condition: fmt.Sprintf("len(r.Compare) == 1 && string(r.Compare[0].Key) == %q", key),
	}
	d, adapter := s.debug(t, s.command(), s.config(), at)
	s.fineAgain(t)
	created := make(chan error, 1)
	ctx := within(t)
	go func() { // ends with the answer
		_, err := s.Client.CoreV1().ConfigMaps(s.namespace.Name).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kept"}}, metav1.CreateOptions{})
		created <- err
	}()
	if err := d.AwaitStop(within(t), "breakpoint"); err != nil {
		t.Fatal(err)
	}
	stack, err := d.Stack(within(t))
	if err != nil || !strings.HasSuffix(stack[0].Name, "EtcdServer).Txn") || stack[0].Line != at.Line {
		t.Fatalf("the stack does not begin with Txn at line %d: %+v, %v", at.Line, stack, err)
	}
	if err := d.StepOver(within(t)); err != nil {
		t.Fatal(err)
	}
	if stack, err = d.Stack(within(t)); err != nil {
		t.Fatal(err)
	}
	locals, _, err := d.Locals(within(t), stack[0].Id)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := editor.Variable(locals, "readOnly"); err != nil || v.Value != "false" {
		t.Errorf("readOnly is %q, %v", v.Value, err)
	}
	if err := d.Continue(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := <-created; err != nil {
		t.Fatal(err)
	}
	if _, err := s.Client.CoreV1().ConfigMaps(s.namespace.Name).Get(within(t), "kept", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	began := time.Now()
	leave(t, d, adapter)
	t.Logf("from stop to everything restored: %.1f s", time.Since(began).Seconds())
	s.back(t)
}

// A pod that is created stops the scheduler, which stays the leader.
func (s *staticSession) scheduler(t *testing.T) {
	path := s.kube.File(testcluster.SchedulerSource)
	at := editor.Breakpoint{
		Path: path, Line: lineIn(t, path, "func (sched *Scheduler) schedulePod(", "trace := "), Condition: `pod.ObjectMeta.Name == "scheduled"`,
	}
	original, _, err := s.Leader(within(t), s.component)
	if err != nil {
		t.Fatal(err)
	}
	d, adapter := s.debug(t, s.command(), s.config(), at)
	leader, err := s.AwaitLeader(within(t), s.component, original)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.namespace.CreatePod(within(t), "scheduled", "middle"); err != nil {
		t.Fatal(err)
	}
	podAtBreakpoint(t, d, at, "schedulePod", "scheduled")
	s.leads(t, leader, 20*time.Second)
	if err := d.Continue(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := s.namespace.AwaitPodRunning(within(t), "scheduled"); err != nil {
		t.Fatal(err)
	}
	s.leads(t, leader, 5*time.Second)
	began := time.Now()
	leave(t, d, adapter)
	t.Logf("from stop to everything restored: %.1f s", time.Since(began).Seconds())
	if err := s.namespace.DeletePod(within(t), "scheduled"); err != nil {
		t.Fatal(err)
	}
	s.back(t)
}

// leads checks for a while that a process stays the leader, and its Lease fresh.
func (s *staticSession) leads(t *testing.T, leader string, d time.Duration) {
	t.Helper()
	const lost = 15 * time.Second // the Lease's duration
	for began := time.Now(); time.Since(began) < d; {
		now, renewed, err := s.Leader(within(t), s.component)
		if err != nil || now != leader || time.Since(renewed) > lost {
			t.Fatalf("the leader is %s, renewed %v ago, %v; it was %s", now, time.Since(renewed), err, leader)
		}
		select {
		case <-t.Context().Done():
		case <-time.After(time.Second):
		}
	}
}
