//go:build integration

package e2e

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kubedelve/kubedelve/internal/editor"
	"github.com/kubedelve/kubedelve/internal/testcluster"
)

// unchanged remembers all objects in a namespace, and returns a check that they are
// the same.
func unchanged(t *testing.T, n *testcluster.Namespace) func(*testing.T) {
	t.Helper()
	before, err := n.StableVersions(within(t))
	if err != nil {
		t.Fatal(err)
	}
	return func(t *testing.T) {
		t.Helper()
		after, err := n.Versions(within(t))
		if err != nil {
			t.Fatal(err)
		}
		for name, version := range after {
			if before[name] != version {
				t.Errorf("%s was changed or made: %s, then %s", name, before[name], version)
			}
		}
		for name := range before {
			if after[name] == "" {
				t.Errorf("%s was deleted", name)
			}
		}
	}
}

// goPackage writes a Go module of one file.
func goPackage(t *testing.T, source string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, text := range map[string]string{"go.mod": "module example.com/wrong\n\ngo 1.26\n", "wrong.go": source} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// oneSentence checks an error as users read it.
func oneSentence(t *testing.T, stderr string, says []string) {
	t.Helper()
	text := stderr[strings.LastIndex("\n"+stderr, "\nerror: "):]
	for _, part := range says {
		if !strings.Contains(text, part) {
			t.Errorf("the error does not say %q:\n%s", part, text)
		}
	}
	for _, bad := range []string{"%!", "goroutine ", "context deadline", "panic"} {
		if strings.Contains(text, bad) {
			t.Errorf("the error has %q in it:\n%s", bad, text)
		}
	}
}

// Bad input is answered with one sentence that names the thing and the way out, and
// nothing has changed on the cluster.
func TestIntegrationBadInput(t *testing.T) {
	n := namespace(t, withSidecar, "middle")
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	dead := filepath.Join(t.TempDir(), "kubeconfig")
	if err := cluster.WriteKubeconfig(dead, "https://127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	gate, err := n.NewGate(t.Context(), t.TempDir(), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = gate.Close() }()
	as := developer(t, n, "create pods", "delete secrets", "get pods/proxy", "create pods/exec")
	same := unchanged(t, n)
	good := []string{"debug", "deploy/middle", "-c", "app", "--program", "./middle", "--listen", "127.0.0.1:0"}
	with := func(args ...string) []string { return append(append([]string{}, good...), args...) }
	for _, c := range []struct {
		name    string
		command testcluster.Command
		code    int
		says    []string
	}{
		{"no such deployment", n.Kubedelve("debug", "deploy/nothing", "--program", "./middle", "--listen", "127.0.0.1:0"), 1,
			[]string{`there is no deployment "nothing" in namespace "` + n.Name + `"`, "middle", "-n"}},
		{"no such namespace", testcluster.Command{Namespace: "nowhere", Args: good}, 1,
			[]string{`there is no deployment "middle" in namespace "nowhere"`, "-n"}},
		{"two containers and no -c", n.Kubedelve("debug", "deploy/middle", "--program", "./middle", "--listen", "127.0.0.1:0"), 1,
			[]string{"deploy/middle has 2 containers", "-c", "app, helper"}},
		{"no such container", n.Kubedelve(with("-c", "sidecar")...), 1, []string{`no container "sidecar"`, "app, helper"}},
		{"no rights", n.Kubedelve(with("--as", as)...), 1,
			[]string{n.Name, "create pods", "delete secrets", "get pods/proxy or create pods/exec", "Role"}},
		{"no rights at all", n.Kubedelve(with("--as", "nobody")...), 1, []string{n.Name, "deployments"}},
		{"does not compile", testcluster.Command{
			Namespace: n.Name, Dir: goPackage(t, "package main\n\nfunc main() {\n\tnothing()\n}\n"),
			Args: with("--program", "."),
		}, 1, []string{"wrong.go:4:2: undefined: nothing"}},
		{"not a main package", testcluster.Command{
			Namespace: n.Name, Dir: goPackage(t, "package wrong\n"), Args: with("--program", "."),
		}, 1, []string{"wrong", "package main"}},
		{"no such package", n.Kubedelve(with("--program", "./nowhere")...), 1, []string{"nowhere"}},
		{"cluster unreachable", testcluster.Command{Namespace: n.Name, Kubeconfig: dead, Args: good}, 1,
			[]string{"127.0.0.1:1", "does not answer", "--context"}},
		{"no kubeconfig", testcluster.Command{Namespace: n.Name, Kubeconfig: "/nowhere/kubeconfig", Env: []string{"HOME=/nowhere"}, Args: good}, 1,
			[]string{"KUBECONFIG"}},
		{"no such context", n.Kubedelve(with("--context", "moon")...), 1, []string{"moon", "context"}},
		{"port in use", n.Kubedelve(with("--listen", taken.Addr().String())...), 1,
			[]string{taken.Addr().String(), "in use", "127.0.0.1:0"}},
		{"a port for everybody", n.Kubedelve(with("--listen", "0.0.0.0:2345")...), 2, []string{"0.0.0.0:2345", "loopback"}},
		{"no port", n.Kubedelve(with("--listen", "here")...), 2, []string{`"here"`, "127.0.0.1:2345"}},
		{"no target", n.Kubedelve("debug"), 2, []string{"deploy/web"}},
		{"another kind of target", n.Kubedelve("debug", "svc/middle"), 2, []string{`"svc/middle"`, "deploy/NAME"}},
		{"no such flag", n.Kubedelve(with("--fast")...), 2, []string{"--fast"}},
		{"no such command", n.Kubedelve("fly"), 2, []string{`"fly"`}},
		{"no such format", n.Kubedelve(with("-o", "xml")...), 2, []string{`"xml"`, "json"}},
		{"no such session", n.Kubedelve("restore", "0a1b2c3d"), 1, []string{"no such session", "0a1b2c3d"}},
		{"session and all", n.Kubedelve("restore", "deploy/other", "--all"), 2, []string{"--all"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.command.Kubeconfig == "" {
				c.command.Kubeconfig = gate.Kubeconfig
			}
			r := run(t, c.command, c.code)
			if writes := gate.Writes(); len(writes) > 0 {
				t.Errorf("it has written to the cluster: %q", writes)
			}
			if r.Stdout != "" {
				t.Errorf("it prints %q", r.Stdout)
			}
			oneSentence(t, r.Stderr, c.says)
			same(t)
			if !t.Failed() {
				t.Log(strings.TrimSpace(r.Stderr[strings.LastIndex("\n"+r.Stderr, "\nerror: "):]))
			}
		})
	}
}

// A build for another platform than the node's is refused before anything happens.
func TestIntegrationWrongPlatform(t *testing.T) {
	n := namespace(t, nil, "middle")
	same := unchanged(t, n)
	node, err := cluster.NodeArch(within(t))
	if err != nil {
		t.Fatal(err)
	}
	other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[node]

	t.Log("in the launch configuration")
	config := launchConfig(n)
	config["build"] = map[string]any{"platform": "linux/" + other}
	adapter, err := cluster.BeginAdapter(testcluster.Command{})
	if err != nil {
		t.Fatal(err)
	}
	d, _, err := editor.Start(within(t), adapter, "launch", config)
	var refused *editor.RefusedError
	if !errors.As(err, &refused) {
		t.Errorf("the launch is not refused: %v", err)
	} else {
		t.Log(refused.Text)
		for _, part := range []string{"linux/" + other, "linux/" + node, "build.platform"} {
			if !strings.Contains(refused.Text, part) {
				t.Errorf("the refusal does not say %q: %s", part, refused.Text)
			}
		}
	}
	_ = d.Close()
	if code, stderr, err := adapter.Wait(within(t)); err != nil || stderr != "" {
		t.Errorf("kubedelve dap ended with code %d (%v): %s", code, err, stderr)
	}
	same(t)

	t.Log("in the environment, where it is about other programs: the node's platform is built for")
	before := snapshot(t, n, "middle")
	command := n.Kubedelve("deploy/middle", "--program", "./middle", "--listen", "127.0.0.1:0")
	command.Env = []string{"GOARCH=" + other, "GOOS=windows"}
	p := start(t, command)
	if _, err := p.AwaitEvent(within(t), "ready"); err != nil {
		t.Fatal(err)
	}
	end(t, p)
	restored(t, n, "middle", before)
}

// A second session on a target is refused, with the first one's owner; the first
// lives on.
func TestIntegrationTargetInUse(t *testing.T) {
	n := namespace(t, nil, allTiers...)
	before := snapshot(t, n, "middle")
	p, ready := debugMiddle(t, n)
	if err := n.Settled(within(t), "middle"); err != nil {
		t.Fatal(err)
	}
	same := unchanged(t, n)
	r := run(t, n.Kubedelve("debug", "deploy/middle", "--program", "./middle", "--listen", "127.0.0.1:0"), 1)
	oneSentence(t, r.Stderr, []string{"deploy/middle", "a session runs already", "kubedelve restore -n " + n.Name + " deploy/middle"})
	same(t)
	hit(t, n, ready.Listen)
	end(t, p)
	restored(t, n, "middle", before)
}

// An agent image that can't be pulled is told, and all is undone.
func TestIntegrationAgentImageMissing(t *testing.T) {
	n := namespace(t, nil, "middle")
	before := snapshot(t, n, "middle")
	for _, args := range [][]string{
		{"--agent-image", "registry.invalid/agent:1"},
		{"--agent-image", "kubedelve.test/nothing:1", "--agent-image-pull-policy", "Never"},
	} {
		r := run(t, n.Kubedelve(append([]string{"debug", "deploy/middle", "--program", "./middle", "--listen", "127.0.0.1:0"}, args...)...), 1)
		oneSentence(t, r.Stderr, []string{"the debug pod", args[1], "--agent-image"})
		restored(t, n, "middle", before)
	}
}
