//go:build integration

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"

	"github.com/kubedelve/kubedelve/internal/editor"
	"github.com/kubedelve/kubedelve/internal/testcluster"
)

// runcModule's functions in which the tests stop, at their first statement.
func runcBreakpoint(t *testing.T, file, function, statement string) editor.Breakpoint {
	t.Helper()
	path := runcFile(t, "libcontainer/"+file)
	return editor.Breakpoint{Path: path, Line: lineIn(t, path, function, statement)}
}

// stopsAt waits until it stops at a breakpoint, and looks for a local variable.
func stopsAt(t *testing.T, d *editor.Debugger, b editor.Breakpoint, function, local string) {
	t.Helper()
	if err := d.AwaitStop(within(t), "breakpoint"); err != nil {
		t.Fatal(err, d.Output())
	}
	stack, err := d.Stack(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(stack[0].Name, function) || stack[0].Line != b.Line {
		t.Fatalf("it stopped at %+v, not in %s, line %d", stack[0], function, b.Line)
	}
	locals, _, err := d.Locals(within(t), stack[0].Id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := editor.Variable(locals, local); err != nil {
		t.Error(err)
	}
}

// goesOn continues.
func goesOn(t *testing.T, d *editor.Debugger) {
	t.Helper()
	if err := d.Continue(within(t)); err != nil {
		t.Fatal(err)
	}
}

// inPod is kubectl exec.
func inPod(ctx context.Context, n *testcluster.Namespace, pod string, command ...string) (stdout string, code int, err error) {
	req := n.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace(n.Name).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: "app", Command: command, Stdout: true}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(n.Config, "GET", req.URL().String())
	if err != nil {
		return "", -1, err
	}
	var out strings.Builder
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &out})
	var exit utilexec.CodeExitError
	if errors.As(err, &exit) {
		return out.String(), exit.Code, nil
	}
	return out.String(), 0, err
}

// shellPod is a pod in which commands can be run; it has no seccomp profile, see plainPod.
func shellPod(t *testing.T, n *testcluster.Namespace, name string) *corev1.Pod {
	t.Helper()
	image, has := n.Refs["shell"]
	if !has {
		t.Skip("this machine has no shell for the image")
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			Containers:                    []corev1.Container{{Name: "app", Image: image, ImagePullPolicy: corev1.PullNever, Command: []string{"/middle"}}},
			TerminationGracePeriodSeconds: new(int64),
		},
	}
}

func createPod(t *testing.T, n *testcluster.Namespace, pod *corev1.Pod) {
	t.Helper()
	if _, err := n.Client.CoreV1().Pods(n.Name).Create(within(t), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// In one session a pod stops in runc create, then in its runc init; it runs, and a command
// that is run in it stops in runc exec and in that one's runc init, and keeps its exit code.
func TestIntegrationNodeOneShotInit(t *testing.T) {
	n := forCalls(t)
	before := runcOnNode(t)
	pod := shellPod(t, n, "wanted")
	start := runcBreakpoint(t, "container_linux.go", "func (c *linuxContainer) Start(", "c.m.Lock()")
	standard := runcBreakpoint(t, "standard_init_linux.go", "func (l *linuxStandardInit) Init(", "if !l.config.Config.NoNewKeyring")
	setns := runcBreakpoint(t, "setns_init_linux.go", "func (l *linuxSetnsInit) Init(", "if !l.config.Config.NoNewKeyring")

	d, adapter := callsOf(t, "node/node1:runc", "command=create,command=exec,command=init,container=app,label=app=wanted,namespace="+n.Name, "github.com/opencontainers/runc", "")
	if err := d.Mark(within(t), start, standard, setns); err != nil {
		t.Fatal(err)
	}
	armed(t, d)
	createPod(t, n, pod)
	stopsAt(t, d, start, "linuxContainer).Start", "process")
	goesOn(t, d)
	stopsAt(t, d, standard, "linuxStandardInit).Init", "l")
	goesOn(t, d)
	if err := n.AwaitPodRunning(within(t), "wanted"); err != nil {
		t.Fatal(err, d.Output())
	}
	if _, err := d.AwaitOutput(within(t), "container app) of runc create went on to execute the container's program"); err != nil {
		t.Fatal(err, d.Output())
	}

	armed(t, d)
	type result struct {
		stdout string
		code   int
		err    error
	}
	ran := make(chan result, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	go func() {
		stdout, code, err := inPod(ctx, n, "wanted", "/bin/sh", "-c", "echo said; exit 42")
		ran <- result{stdout, code, err}
	}()
	stopsAt(t, d, start, "linuxContainer).Start", "process")
	goesOn(t, d)
	stopsAt(t, d, setns, "linuxSetnsInit).Init", "l")
	goesOn(t, d)
	if r := <-ran; r.err != nil || r.code != 42 || r.stdout != "said\n" {
		t.Errorf("the command said %q and ended with %d, %v", r.stdout, r.code, r.err)
	}
	leave(t, d, adapter)
	if now := runcOnNode(t); now != before {
		t.Errorf("runc on the node:\n%s\nit was:\n%s", now, before)
	}
}

// Whatever ends while an init is halted, no container hangs: the init goes on, or where it
// could run into a breakpoint that nobody handles it ends, its caller is told, and the
// kubelet tries again.
func TestIntegrationNodeOneShotInitFaults(t *testing.T) {
	n := forCalls(t)
	before := runcOnNode(t)
	standard := runcBreakpoint(t, "standard_init_linux.go", "func (l *linuxStandardInit) Init(", "if !l.config.Config.NoNewKeyring")
	begin := func() (*editor.Debugger, *testcluster.Adapter) {
		t.Helper()
		d, adapter := callsOf(t, "node/node1:runc", "command=init,container=app,namespace="+n.Name, "github.com/opencontainers/runc", "3s")
		if err := d.Mark(within(t), standard); err != nil {
			t.Fatal(err)
		}
		return d, adapter
	}
	halt := func(d *editor.Debugger, pod string) {
		t.Helper()
		armed(t, d)
		if err := plainPod(n, pod); err != nil {
			t.Fatal(err)
		}
		stopsAt(t, d, standard, "linuxStandardInit).Init", "l")
	}
	runs := func(pod string) {
		t.Helper()
		if err := n.AwaitPodRunning(within(t), pod); err != nil {
			t.Fatal(err)
		}
	}
	kill := func(patterns ...string) {
		t.Helper()
		out, err := cluster.InNode(within(t), "pgrep", "-f", "kubedelve-agent ("+strings.Join(patterns, "|")+") ")
		if err != nil {
			t.Fatal(err)
		}
		if out, err := cluster.InNode(within(t), append([]string{"kill", "-9"}, strings.Fields(out)...)...); err != nil {
			t.Fatal(err, out)
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

	t.Log("the agent is killed: the init goes on, and the session with another agent")
	d, adapter := begin()
	halt(d, "agent-killed")
	kill("calls")
	runs("agent-killed")

	t.Log("its Delve is killed: the init ends with it, and stops again when the kubelet tries again")
	halt(d, "delve-killed")
	kill("delve")
	stopsAt(t, d, standard, "linuxStandardInit).Init", "l")
	goesOn(t, d)
	runs("delve-killed")

	t.Log("the session is ended: the init goes on")
	halt(d, "session-ended")
	leave(t, d, adapter)
	runs("session-ended")
	restored()

	t.Log("all are killed at once: the pod runs, and nothing is left")
	d, adapter = begin()
	halt(d, "all-killed")
	if err := adapter.Kill(); err != nil {
		t.Fatal(err)
	}
	kill("calls", "delve")
	runs("all-killed")
	_ = d.Close()
	if result, err := cluster.Run(within(t), testcluster.Command{Args: []string{"restore", "node/node1:runc"}}); err != nil || result.Code != 0 {
		t.Error(err, result.Stderr)
	}
	restored()
}

// An init in a user namespace stops, too: it is not root on the node.
func TestIntegrationNodeOneShotUserNamespace(t *testing.T) {
	forCalls(t)
	before := runcOnNode(t)
	const id, bundle = "kubedelve-userns", "/run/kubedelve-userns"
	node := func(script string, args ...string) string {
		t.Helper()
		out, err := cluster.InNode(within(t), append([]string{"sh", "-ec", script, "sh"}, args...)...)
		if err != nil {
			t.Fatal(err, out)
		}
		return out
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, _ = cluster.InNode(ctx, "sh", "-c", "runc delete --force "+id+"; rm -rf "+bundle)
	})
	spec := node(`mkdir -p "$1/rootfs/usr" && cd "$1" && runc spec >&2 && ln -s usr/bin usr/lib usr/lib64 rootfs && chown -hR 100000:100000 rootfs && cat config.json`, bundle)
	node(`printf %s "$2" > "$1/config.json"`, bundle, inUserNamespace(t, spec, "id -u; cat /proc/self/uid_map; exit 42"))

	standard := runcBreakpoint(t, "standard_init_linux.go", "func (l *linuxStandardInit) Init(", "if !l.config.Config.NoNewKeyring")
	d, adapter := callsOf(t, "node/node1:runc", "command=init,id="+id, "github.com/opencontainers/runc", "")
	if err := d.Mark(within(t), standard); err != nil {
		t.Fatal(err)
	}
	armed(t, d)
	ran := make(chan string, 1)
	ctx := withinBuild(t)
	go func() { // ends with the container
		out, err := cluster.InNode(ctx, "sh", "-c", "runc run --bundle "+bundle+" "+id+"; echo code $?")
		if err != nil {
			out += err.Error()
		}
		ran <- out
	}()
	stopsAt(t, d, standard, "linuxStandardInit).Init", "l")
	goesOn(t, d)
	if out := strings.Fields(<-ran); !slices.Equal(out, []string{"0", "0", "100000", "65536", "code", "42"}) {
		t.Errorf("the container says %q", out)
	}
	leave(t, d, adapter)
	if now := runcOnNode(t); now != before {
		t.Errorf("runc on the node:\n%s\nit was:\n%s", now, before)
	}
}

// inUserNamespace makes a script the program of a container, with IDs of its own and the
// node's /usr.
func inUserNamespace(t *testing.T, spec, script string) string {
	t.Helper()
	var config map[string]any
	if err := json.Unmarshal([]byte(spec), &config); err != nil {
		t.Fatal(err, spec)
	}
	process, _ := config["process"].(map[string]any)
	linux, _ := config["linux"].(map[string]any)
	process["args"], process["terminal"] = []string{"/usr/bin/sh", "-c", script}, false
	// In a node that is itself in namespaces nobody but root may mount proc anew, so it is the node's.
	bind := func(path string) any {
		return map[string]any{"destination": path, "type": "bind", "source": path, "options": []string{"rbind"}}
	}
	config["mounts"] = []any{bind("/proc"), map[string]any{"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}, bind("/usr")}
	linux["namespaces"] = []any{map[string]any{"type": "user"}, map[string]any{"type": "mount"}, map[string]any{"type": "ipc"}, map[string]any{"type": "uts"}}
	delete(linux, "maskedPaths")
	delete(linux, "readonlyPaths")
	ids := []any{map[string]any{"containerID": 0, "hostID": 100000, "size": 65536}}
	linux["uidMappings"], linux["gidMappings"] = ids, ids
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
