//go:build integration

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/kubedelve/kubedelve/internal/editor"
	"github.com/kubedelve/kubedelve/internal/testcluster"
)

func TestIntegrationNodeContainerd(t *testing.T) {
	needNode(t)
	t.Parallel()
	startNode(t, "node-containerd", "kubeadm").containerd(t)
}

// A breakpoint in the node's container runtime, a unit of Type=notify and KillMode=process, is
// hit by a pod that is created. Pods that run already go on, and whatever is killed comes back.
func (s *nodeSession) containerd(t *testing.T) {
	source, err := s.ContainerdSource(withinBuild(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := testcluster.CompileContainerd(forCompiling(t), source, "./cmd/containerd"); err != nil {
		t.Fatal(err)
	}
	path, err := testcluster.SandboxSource(source)
	if err != nil {
		t.Fatal(err)
	}
	if s.before, err = s.NodeState(within(t)); err != nil {
		t.Fatal(err)
	}
	if unit := s.inNode(t, "systemctl show -p Type -p KillMode containerd"); unit != "Type=notify\nKillMode=process" {
		t.Fatalf("containerd's unit is another one: %s", unit)
	}
	shims := s.pids(t, "/usr/bin/containerd-shim")
	if len(shims) == 0 {
		t.Fatal("no pod runs before the session")
	}
	at := editor.Breakpoint{
		Path: path, Line: lineIn(t, path, ") RunPodSandbox(", "makeSandboxName(metadata)"), Condition: `metadata.Name == "first"`,
	}
	command := testcluster.Command{Dir: source, Env: testcluster.ContainerdEnv}
	d, adapter := s.debug(t, command, map[string]any{
		"type": "kubedelve", "request": "launch", "name": "containerd",
		"target":  map[string]any{"name": "node/node1:containerd", "agentImage": s.Refs["agent"]},
		"program": "./cmd/containerd",
		"build":   map[string]any{"dir": source, "tags": testcluster.ContainerdTags},
	}, at)
	if err := s.namespace.CreatePod(within(t), "first", "middle"); err != nil {
		t.Fatal(err)
	}
	if err := d.AwaitStop(within(t), "breakpoint"); err != nil {
		t.Fatal(err)
	}
	stack, err := d.Stack(within(t))
	if err != nil || !strings.HasSuffix(stack[0].Name, "RunPodSandbox") || stack[0].Line != at.Line {
		t.Fatalf("the stack does not begin with RunPodSandbox at line %d: %+v, %v", at.Line, stack, err)
	}
	locals, _, err := d.Locals(within(t), stack[0].Id)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := editor.Variable(locals, "id"); err != nil || len(strings.Trim(id.Value, `"`)) != 64 {
		t.Errorf("the sandbox's id is %s, %v", id.Value, err)
	}
	if now := s.pids(t, "/usr/bin/containerd-shim"); len(now) < len(shims) {
		t.Errorf("%d shims of %d are left", len(now), len(shims))
	}
	if err := d.Continue(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := s.namespace.AwaitPodRunning(within(t), "first"); err != nil {
		t.Fatal(err)
	}
	s.fineAgain(t)
	for _, kill := range []struct{ name, what string }{{"component", "bin/"}, {"agent", "stand-in "}, {"Delve", "delve "}} {
		killed := s.ofSession(t, kill.what)
		if len(killed) != 1 {
			t.Fatalf("the processes of the %s are %q", kill.name, killed)
		}
		t.Log("kill -9 of the", kill.name)
		s.inNode(t, "kill -9 "+killed[0])
		// Another helper's pod may have to be started by the containerd that has just come back.
		if _, err := d.AwaitOutput(withinBuild(t), "started again in node"); err != nil {
			t.Fatal(err)
		}
		if now := s.ofSession(t, "bin/"); len(now) != 1 || now[0] == killed[0] {
			t.Errorf("the debug builds that run are %q; %s was killed", now, killed[0])
		}
		if left := s.pids(t, "/usr/bin/containerd "); len(left) > 0 {
			t.Errorf("the original runs beside its debug build: %q", left)
		}
	}
	s.fineAgain(t)
	began := time.Now()
	leave(t, d, adapter)
	t.Logf("from stop to everything restored: %.1f s", time.Since(began).Seconds())
	if err := s.namespace.DeletePod(within(t), "first"); err != nil {
		t.Fatal(err)
	}
	s.restored(t)
}
