//go:build integration

package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/kubedelve/kubedelve/internal/editor"
	"github.com/kubedelve/kubedelve/internal/testcluster"
)

// The control plane's component that these tests debug, which runs in a static pod.
const (
	manager         = "kube-controller-manager"
	managerTarget   = "node/node1:" + manager
	managerPackage  = "k8s.io/kubernetes/cmd/" + manager
	managerManifest = "/etc/kubernetes/manifests/" + manager + ".yaml"
)

// staticSession is a cluster whose controller manager is debugged, and how that was.
type staticSession struct {
	*nodeSession
	pod      string // the static pod's UID
	manifest string // all of the file, and what belongs to it
}

// newStaticSession has its turn before the tests that run side by side: they share the
// sources of Kubernetes.
func newStaticSession(t *testing.T) *staticSession {
	t.Helper()
	needNode(t)
	if err := compile(manager); err != nil {
		t.Fatal(err)
	}
	s := &staticSession{nodeSession: startNode(t, "node-static", "kubeadm")}
	// The first one of a cluster has an environment of its own: there were no Services yet.
	s.inNode(t, `mv "$1" "$2"; while pgrep -x kube-controller; do sleep 0.1; done
mv "$2" "$1"; until pgrep -x kube-controller; do sleep 0.1; done`, managerManifest, "/etc/kubernetes/manifests/.away")
	var err error
	if s.pod, _, err = s.StaticPod(within(t), manager); err != nil {
		t.Fatal(err)
	}
	if err := s.AwaitStaticPod(within(t), manager, s.pod); err != nil {
		t.Fatal(err)
	}
	s.checkOut(t)
	s.manifest = s.file(t)
	return s
}

// file is the manifest with its inode, owner, mode and times.
func (s *staticSession) file(t *testing.T) string {
	t.Helper()
	return s.inNode(t, `stat -c '%i %U %G %a %Y %y' "$1"; cat "$1"`, managerManifest)
}

// back checks that the original is back: its file, its static pod, and that it leads.
func (s *staticSession) back(t *testing.T) {
	t.Helper()
	s.restored(t)
	if now := s.file(t); now != s.manifest {
		t.Errorf("the manifest is\n%s\nit was\n%s", now, s.manifest)
	}
	if err := s.AwaitStaticPod(within(t), manager, s.pod); err != nil {
		t.Error(err)
	}
	debugged, _, err := s.Leader(within(t), manager)
	if err != nil {
		t.Fatal(err)
	}
	if left := s.ofSession(t, ""); len(left) > 0 {
		t.Errorf("processes of the session are left (the leader is %s): %q", debugged, left)
	}
}

// debugged is "kubedelve debug node/node1:kube-controller-manager".
func (s *staticSession) debugged(args ...string) testcluster.Command {
	return testcluster.Command{
		Dir: s.kube.Dir, Env: testcluster.KubeEnv,
		Args: append([]string{managerTarget, "--program", managerPackage, "--listen", "127.0.0.1:0"}, args...),
	}
}

// container is the container in which the debug build runs.
func (s *staticSession) container(t *testing.T) string {
	t.Helper()
	builds := s.ofSession(t, "bin/")
	if len(builds) != 1 {
		t.Fatalf("the debug builds are processes %q", builds)
	}
	return s.inNode(t, "grep '^0:' /proc/$1/cgroup", builds[0])
}

// A breakpoint in the controller of autoscalers is hit by one that scales a Deployment.
// The controller manager is halted for longer than its Lease and its patience with it last,
// and goes on as the leader. A line is added and saved, and runs in the same container.
func (s *staticSession) breakpoints(t *testing.T, halt time.Duration) {
	s.autoscaled(t)
	path := s.kube.Autoscaler()
	const line = "hpaStatusOriginal := hpa.Status.DeepCopy()"
	at := editor.Breakpoint{Path: path, Line: lineIn(t, path, "func (a *HorizontalController) reconcileAutoscaler(", line)}
	original, _, err := s.Leader(within(t), manager)
	if err != nil {
		t.Fatal(err)
	}

	adapter, err := s.BeginAdapter(testcluster.Command{Dir: s.kube.Dir, Env: testcluster.KubeEnv})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = adapter.Kill() })
	began := time.Now()
	d, _, err := editor.Start(withinBuild(t), adapter, "launch", map[string]any{
		"type": "kubedelve", "request": "launch", "name": manager,
		"target":  map[string]any{"name": managerTarget, "agentImage": s.Refs["agent"]},
		"program": managerPackage,
		"build":   map[string]any{"dir": s.kube.Dir},
	}, at)
	if err != nil {
		_ = d.Close()
		_, stderr, _ := adapter.Wait(within(t))
		t.Fatalf("%v\n%s\n%s", err, d.Output(), stderr)
	}
	t.Logf("from F5 to a controller manager that runs: %.1f s", time.Since(began).Seconds())

	if err := s.namespace.Autoscale(within(t), "back"); err != nil {
		t.Fatal(err)
	}
	objectAtBreakpoint(t, d, at, "reconcileAutoscaler", "hpa", "back")
	leader, err := s.AwaitLeader(within(t), manager, original)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.StepOver(within(t)); err != nil {
		t.Fatal(err)
	}
	if stack, err := d.Stack(within(t)); err != nil || stack[0].Line != at.Line+2 {
		t.Fatalf("a step over line %d leads to %+v, %v", at.Line, stack, err)
	}
	s.leads(t, leader, halt)
	if err := d.SetBreakpoints(within(t), editor.Breakpoint{Path: path, Line: at.Line, Condition: `hpa.ObjectMeta.Name == "nobody"`}); err != nil {
		t.Fatal(err)
	}
	if err := d.Continue(within(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.AwaitOutput(within(t), manager+" renews its Lease again"); err != nil {
		t.Error(err)
	}
	if err := s.namespace.AwaitReplicas(within(t), "back", 2); err != nil {
		t.Fatal(err)
	}
	s.leads(t, leader, 20*time.Second)
	s.fine(t)

	t.Log("one line is added and saved")
	container := s.container(t)
	saved := time.Now()
	if err := editor.Edit(path, editor.InPlace, func(text string) string {
		return strings.Replace(text, line, `klog.Infof("a line more for %s", hpa.Name)`+"\n\t"+line, 1)
	}); err != nil {
		t.Fatal(err)
	}
	at.Line++
	if err := d.Mark(within(t), at); err != nil {
		t.Fatal(err)
	}
	if _, err := d.AwaitOutput(withinBuild(t), "swapped in "); err != nil {
		t.Fatal(err)
	}
	if err := d.AwaitVerified(within(t), at); err != nil {
		t.Fatal(err)
	}
	t.Logf("from the save to a controller manager that runs: %.1f s", time.Since(saved).Seconds())
	objectAtBreakpoint(t, d, at, "reconcileAutoscaler", "hpa", "back")
	if err := d.Continue(within(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.AwaitOutput(within(t), "a line more for back"); err != nil {
		t.Error(err)
	}
	if now := s.container(t); now != container {
		t.Errorf("it runs in container %s, it was %s", now, container)
	}
	if got := ends(d); len(got) > 0 || strings.Contains(d.Output(), "starting it again") {
		t.Errorf("the controller manager has ended (%q): %s", got, d.Output("console", "important"))
	}
	began = time.Now()
	leave(t, d, adapter)
	t.Logf("from stop to everything restored: %.1f s", time.Since(began).Seconds())
	if err := s.namespace.EndAutoscaling(within(t), "back", 1); err != nil {
		t.Fatal(err)
	}
	s.back(t)
}

// autoscaled brings up what autoscalers need: a Deployment, and metrics.
func (s *staticSession) autoscaled(t *testing.T) {
	t.Helper()
	objects, err := s.Shop()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.namespace.Create(within(t), objects.Only("back")); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Programs.Add(within(t), "metrics", "internal/e2e/testdata/metrics"); err != nil {
		t.Fatal(err)
	}
	s.Refs["metrics"], err = s.Load(within(t), testcluster.Image{
		Name: "metrics", User: "65532", Entry: "/metrics", Files: map[string]string{"/metrics": cluster.Programs.Path("metrics")},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.StopMetrics(ctx); err != nil {
			t.Error(err)
		}
	})
	if err := s.namespace.ServeMetrics(within(t), "metrics"); err != nil {
		t.Fatal(err)
	}
	if s.before, err = s.NodeState(within(t)); err != nil {
		t.Fatal(err)
	}
}

// leads checks for a while that a process stays the leader, and its Lease fresh.
func (s *staticSession) leads(t *testing.T, leader string, d time.Duration) {
	t.Helper()
	const lost = 15 * time.Second // the Lease's duration
	for began := time.Now(); time.Since(began) < d; {
		now, renewed, err := s.Leader(within(t), manager)
		if err != nil || now != leader || time.Since(renewed) > lost {
			t.Fatalf("the leader is %s, renewed %v ago, %v; it was %s", now, time.Since(renewed), err, leader)
		}
		select {
		case <-t.Context().Done():
		case <-time.After(time.Second):
		}
	}
}

// The controller manager of a kubeadm cluster, which is a static pod.
func TestIntegrationNodeStatic(t *testing.T) {
	s := newStaticSession(t)
	t.Run("killed client", func(t *testing.T) {
		s.killedClient(t, s.debugged, "looking for", "taking the place", "loading", "ready")
		s.back(t)
	})
	t.Run("kills", s.kills)
	// A leader's Lease lasts 15 s, and it gives up after 10 s.
	t.Run("breakpoints", func(t *testing.T) { s.breakpoints(t, halted(t, time.Minute)) })
}

// Whatever is killed, the session goes on, and all is as before afterwards.
func (s *staticSession) kills(t *testing.T) {
	p, err := s.Begin(s.debugged())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Kill() })
	if _, err := p.AwaitEvent(withinBuild(t), "ready"); err != nil {
		t.Fatal(err)
	}
	for _, kill := range []struct{ name, process string }{{"debug build", "bin/"}, {"Delve", "delve "}, {"agent", "stand-in "}} {
		killed := s.ofSession(t, kill.process)
		if len(killed) != 1 {
			t.Fatalf("the processes of the %s are %q", kill.name, killed)
		}
		t.Log("kill -9 of the", kill.name)
		s.inNode(t, "kill -9 "+killed[0])
		e, err := p.Await(withinBuild(t), "the controller manager to be started again", func(e testcluster.Event) bool { return strings.Contains(e.Text, "started again in node") })
		if err != nil {
			t.Fatal(err)
		}
		t.Log(e.Text)
	}
	end(t, p)
	s.back(t)

	p, err = s.Begin(s.debugged("--ttl", "1h"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.AwaitEvent(withinBuild(t), "ready"); err != nil {
		t.Fatal(err)
	}
	t.Log("a reboot: the client, the helper and all of the static pod's processes are gone at once")
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	processes := append(s.pids(t, "/kubedelve-agent "), s.ofSession(t, "")...)
	s.inNode(t, "kill -9 "+strings.Join(append(processes, s.ofSession(t, "bin/")...), " "))
	if err := s.AwaitStaticPod(withinBuild(t), manager, s.pod); err != nil {
		t.Fatal(err)
	}
	s.inNode(t, "ls /var/lib/kubedelve/*/journal.json") // which no reboot takes away
	s.restore(t, s.debugged())
	s.back(t)
}
