//go:build integration

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubedelve/kubedelve/internal/editor"
	"github.com/kubedelve/kubedelve/internal/testcluster"
)

// runcModule is where runc's debug build is made, and runcFile a file of its sources.
func runcModule() string { return filepath.Join(cluster.Programs.Root, "testdata", "runc") }

func runcFile(t *testing.T, name string) string {
	t.Helper()
	return moduleFile(t, runcModule(), "github.com/opencontainers/runc", name)
}

// moduleFile is a file of a module that the one in a folder requires.
func moduleFile(t *testing.T, dir, module, name string) string {
	t.Helper()
	cmd := exec.CommandContext(within(t), "go", "list", "-m", "-f", "{{.Dir}}", module)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), name)
}

// forCalls is a namespace for a test of calls, which is alone on the node. Pods without a
// seccomp profile may be in it.
func forCalls(t *testing.T) *testcluster.Namespace {
	t.Helper()
	n := namespaceAlone(t, nil)
	if !cluster.HasNode() {
		t.Skip("not a test cluster")
	}
	relax(t, n)
	return n
}

// relax lets pods without a seccomp profile into the namespace.
func relax(t *testing.T, n *testcluster.Namespace) {
	t.Helper()
	patch := []byte(`{"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}}`)
	if _, err := cluster.Client.CoreV1().Namespaces().Patch(within(t), n.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

// plainPod is a pod without a seccomp profile, since the tests build runc without libseccomp.
func plainPod(n *testcluster.Namespace, name string) error {
	_, err := n.Client.CoreV1().Pods(n.Name).Create(context.Background(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			Containers:                    []corev1.Container{{Name: "app", Image: n.Refs["middle"], ImagePullPolicy: corev1.PullNever}},
			TerminationGracePeriodSeconds: new(int64),
		},
	}, metav1.CreateOptions{})
	return err
}

// callsOf is F5 on a configuration for the calls of runc.
func callsOf(t *testing.T, target, calls, program, grace string) (*editor.Debugger, *testcluster.Adapter) {
	t.Helper()
	return callsIn(t, runcModule(), target, calls, program, grace)
}

// callsIn is F5 on a configuration for the calls of a program that is built in a folder.
func callsIn(t *testing.T, dir, target, calls, program, grace string) (*editor.Debugger, *testcluster.Adapter) {
	t.Helper()
	return callsBy(t, testcluster.Command{Dir: dir}, startAlone, callsConfig(dir, target, calls, program, grace))
}

// callsConfig is a configuration for the calls of a program that is built in a folder.
func callsConfig(dir, target, calls, program, grace string) map[string]any {
	return map[string]any{
		"type": "kubedelve", "request": "launch", "name": "calls",
		"target":  map[string]any{"name": target, "agentImage": cluster.Refs["agent"], "calls": calls, "grace": grace},
		"program": program,
		"build":   map[string]any{"dir": dir},
	}
}

// startEditor is editor.Start, or what stands for it.
type startEditor func(ctx context.Context, conn io.ReadWriteCloser, request string, config map[string]any) (*editor.Debugger, error)

func startAlone(ctx context.Context, conn io.ReadWriteCloser, request string, config map[string]any) (*editor.Debugger, error) {
	d, _, err := editor.Start(ctx, conn, request, config)
	return d, err
}

func startParent(ctx context.Context, conn io.ReadWriteCloser, request string, config map[string]any) (*editor.Debugger, error) {
	return editor.StartParent(ctx, conn, request, config)
}

// callsBy is F5 on a configuration for calls, in an editor that is started in some way.
func callsBy(t *testing.T, command testcluster.Command, start startEditor, config map[string]any) (*editor.Debugger, *testcluster.Adapter) {
	t.Helper()
	target := config["target"].(map[string]any)["name"].(string) //nolint:forcetypeassert // callsConfig's
	adapter, err := cluster.BeginAdapter(command)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = adapter.Kill()
		if !t.Failed() {
			return
		}
		// What a test leaves behind that has failed must not fail the next.
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if result, err := cluster.Run(ctx, testcluster.Command{Args: []string{"restore", target}}); err != nil || result.Code != 0 {
			t.Log("restoring after the failure:", err, result.Stderr)
		}
	})
	d, err := start(withinBuild(t), adapter, "launch", config)
	if err != nil {
		_ = d.Close()
		_, stderr, _ := adapter.Wait(within(t))
		t.Fatalf("%v\n%s\n%s", err, d.Output(), stderr)
	}
	return d, adapter
}

// armed waits until the session waits for a call. Each time is told once.
func armed(t *testing.T, d *editor.Debugger) {
	t.Helper()
	if _, err := d.Find(within(t), "progressUpdate", func(body json.RawMessage) bool {
		return bytes.Contains(body, []byte("waiting for the next call"))
	}); err != nil {
		t.Fatal(err)
	}
}

// startTimes are how long pods took to run.
type startTimes []time.Duration

// create creates pods one after the other and measures each. Then it deletes them: a node
// takes 110.
func (s *startTimes) create(t *testing.T, n *testcluster.Namespace, prefix string, pods int) {
	t.Helper()
	var deleting sync.WaitGroup
	defer deleting.Wait()
	for range pods {
		name := fmt.Sprintf("%s-%d", prefix, len(*s))
		began := time.Now()
		if err := plainPod(n, name); err != nil {
			t.Fatal(err)
		}
		if err := n.AwaitPodRunning(within(t), name); err != nil {
			t.Fatal(err)
		}
		*s = append(*s, time.Since(began))
		defer deleting.Go(func() { // ends with the pod; not while others are measured
			if err := n.DeletePod(within(t), name); err != nil {
				t.Error(err)
			}
		})
	}
}

func (s startTimes) String() string {
	slices.Sort(s)
	return fmt.Sprintf("%d pods, from create to Running: p50 %.2f s, p99 %.2f s", len(s), s[len(s)/2].Seconds(), s[len(s)*99/100].Seconds())
}

// Pods that the filter is for stop in runc create, with its locals; meanwhile other pods
// are started as if there was nothing. Then they go on, and the next call stops.
func TestIntegrationNodeOneShot(t *testing.T) {
	n := forCalls(t)
	before := runcOnNode(t)
	// The kubelet gives up on a container that is halted for 2 min: several are, in turn.
	rounds, pods := long(10, 2), long(5, 3)
	var without, beside startTimes
	without.create(t, n, "without", rounds*pods/2)

	d, adapter := callsOf(t, "node/node1:runc", "command=create,container=app,pod="+n.Name+"/wanted*", "github.com/opencontainers/runc", "")
	start := runcBreakpoint(t, "container_linux.go", "func (c *linuxContainer) Start(", "c.m.Lock()")
	if err := d.Mark(within(t), start); err != nil {
		t.Fatal(err)
	}
	for i := range rounds {
		name := fmt.Sprintf("wanted-%d", i)
		armed(t, d)
		if err := plainPod(n, name); err != nil {
			t.Fatal(err)
		}
		stopsAt(t, d, start, "linuxContainer).Start", "process")
		beside.create(t, n, "beside", pods)
		goesOn(t, d)
		if err := n.AwaitPodRunning(within(t), name); err != nil {
			t.Fatal(err)
		}
		if _, err := d.AwaitOutput(within(t), name+", container app) exited with code 0"); err != nil {
			t.Error(err)
		}
	}
	leave(t, d, adapter)
	if now := runcOnNode(t); now != before {
		t.Errorf("runc on the node:\n%s\nit was:\n%s", now, before)
	}
	// Half of them afterwards: other programs come and go on the machine.
	without.create(t, n, "without", rounds*pods-len(without))
	t.Logf("without kubedelve: %v", without)
	t.Logf("while another one is halted in runc create: %v", beside)
}

// Two calls are stopped at a time, each in a session of the editor's, and a third passes by.
// When one is over, another one may be stopped. Whatever ends, both go on.
func TestIntegrationNodeOneShotTogether(t *testing.T) {
	n := forCalls(t)
	before := runcOnNode(t)
	d, adapter := callsBy(t, testcluster.Command{Dir: runcModule()}, startParent,
		callsConfig(runcModule(), "node/node1:runc", "command=create,container=app,max=2,namespace="+n.Name, "github.com/opencontainers/runc", ""))
	start := runcBreakpoint(t, "container_linux.go", "func (c *linuxContainer) Start(", "c.m.Lock()")
	if err := d.Mark(within(t), start); err != nil {
		t.Fatal(err)
	}
	create := func(name string) {
		t.Helper()
		if err := plainPod(n, name); err != nil {
			t.Fatal(err)
		}
	}
	runs := func(name string) {
		t.Helper()
		if err := n.AwaitPodRunning(within(t), name); err != nil {
			t.Fatal(err)
		}
	}
	// beside is a session for a call that comes while d has one.
	beside := func(name string) (child *editor.Debugger, childAdapter *testcluster.Adapter) {
		t.Helper()
		create(name)
		child, asked, err := d.OpenChild(within(t), func() (_ io.ReadWriteCloser, err error) {
			childAdapter, err = cluster.BeginAdapter(testcluster.Command{})
			return childAdapter, err
		}, start)
		if err != nil {
			t.Fatal(err)
		}
		if want := "pod " + n.Name + "/" + name + ", container app"; !strings.HasPrefix(asked.Name(), "runc create (") || !strings.Contains(asked.Name(), want) {
			t.Errorf("the session for %s is named %q", want, asked.Name())
		}
		stopsAt(t, child, start, "linuxContainer).Start", "process")
		return child, childAdapter
	}

	armed(t, d)
	create("first")
	stopsAt(t, d, start, "linuxContainer).Start", "process")
	second, secondAdapter := beside("second")
	create("third")
	runs("third")

	goesOn(t, second)
	runs("second")
	ended(t, second, secondAdapter)

	t.Log("what is swapped in is for the next call, and the last one does not come once more")
	if err := d.Restart(within(t), nil); err != nil {
		t.Fatal(err)
	}

	t.Log("the agent is killed: both go on, and the session with another agent")
	fourth, fourthAdapter := beside("fourth")
	killAgents(t)
	runs("first")
	runs("fourth")
	ended(t, fourth, fourthAdapter)

	t.Log("the session is ended: both go on")
	armed(t, d)
	create("fifth")
	stopsAt(t, d, start, "linuxContainer).Start", "process")
	sixth, sixthAdapter := beside("sixth")
	leave(t, d, adapter)
	runs("fifth")
	runs("sixth")
	ended(t, sixth, sixthAdapter)
	if now := runcOnNode(t); now != before {
		t.Errorf("runc on the node:\n%s\nit was:\n%s", now, before)
	}
}

// killAgents ends the agents for calls on the node.
func killAgents(t *testing.T) {
	t.Helper()
	agents, err := cluster.InNode(within(t), "pgrep", "-f", "kubedelve-agent calls")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := cluster.InNode(within(t), append([]string{"kill", "-9"}, strings.Fields(agents)...)...); err != nil {
		t.Fatal(err, out)
	}
}

// runcOnNode tells what a session may change on the node.
func runcOnNode(t *testing.T) string {
	t.Helper()
	out, err := cluster.InNode(within(t), "sh", "-c",
		"stat -c '%n %i %d %s %a' /usr/sbin/runc; grep -c . /proc/1/mountinfo >/dev/null; grep runc /proc/1/mountinfo; ls -la /var/lib/kubedelve 2>&1; ps -eo stat,args | grep '^T'; true")
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Whatever ends while a call is halted, the call goes on, and its pod runs.
func TestIntegrationNodeOneShotFaults(t *testing.T) {
	n := forCalls(t)
	before := runcOnNode(t)
	path := runcFile(t, "libcontainer/container_linux.go")
	start := editor.Breakpoint{Path: path, Line: lineIn(t, path, "func (c *linuxContainer) Start(", "c.m.Lock()")}
	halt := func(d *editor.Debugger, pod string) {
		t.Helper()
		armed(t, d)
		if err := plainPod(n, pod); err != nil {
			t.Fatal(err)
		}
		if err := d.AwaitStop(within(t), "breakpoint"); err != nil {
			t.Fatal(err, d.Output())
		}
	}
	restored := func() {
		t.Helper()
		deadline := time.Now().Add(patience)
		for now := ""; now != before; now = runcOnNode(t) {
			if time.Now().After(deadline) {
				t.Fatalf("runc on the node:\n%s\nit was:\n%s", now, before)
			}
		}
	}
	begin := func() (*editor.Debugger, *testcluster.Adapter) {
		t.Helper()
		d, adapter := callsOf(t, "node/node1:runc", "command=create,container=app,namespace="+n.Name, "github.com/opencontainers/runc", "3s")
		if err := d.Mark(within(t), start); err != nil {
			t.Fatal(err)
		}
		return d, adapter
	}
	goesOn := func(pod string) {
		t.Helper()
		if err := n.AwaitPodRunning(within(t), pod); err != nil {
			t.Fatal(err)
		}
	}

	t.Log("the agent is killed: the call goes on, and the session with another agent")
	d, adapter := begin()
	halt(d, "agent-killed")
	killAgents(t)
	goesOn("agent-killed")

	t.Log("the session is ended: the call goes on")
	halt(d, "session-ended")
	leave(t, d, adapter)
	goesOn("session-ended")
	restored()

	t.Log("the adapter is killed: the call goes on after the grace period, and runc is as before")
	d, adapter = begin()
	halt(d, "adapter-killed")
	if err := adapter.Kill(); err != nil {
		t.Fatal(err)
	}
	goesOn("adapter-killed")
	restored()
	_ = d.Close()
	if result, err := cluster.Run(within(t), testcluster.Command{Args: []string{"restore", "node/node1:runc"}}); err != nil || result.Code != 0 {
		t.Error(err, result.Stderr)
	}
	restored()
}
