//go:build integration

package e2e

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kubedelve/kubedelve/internal/editor"
	"github.com/kubedelve/kubedelve/internal/testcluster"
)

// The ways into a node besides pods/proxy.
func TestIntegrationNodeVia(t *testing.T) {
	needNode(t)
	t.Parallel()
	s := startNode(t, "node-via", "kubeadm")
	t.Run("direct", func(t *testing.T) { s.via(t, "direct") })
	t.Run("ssh", func(t *testing.T) { s.via(t, "ssh:"+testcluster.SSHHost) })
}

// Another way into the node: this machine dials it, or comes there by ssh. What is done there
// is the same, and so is what must be left.
func (s *nodeSession) via(t *testing.T, via string) {
	t.Helper()
	s.startUnit(t, "Type=notify\n")
	restore := []string{"restore", s.ticker().Args[0]}
	var env []string
	if via != "direct" {
		server, err := s.ServeSSH(t.TempDir())
		if err != nil {
			t.Skip(err)
		}
		t.Cleanup(func() {
			if err := server.Close(); err != nil {
				t.Error(err)
			}
		})
		env, restore = server.Env, append(restore, "--node-via", via)
	}
	begin := func(args ...string) testcluster.Command {
		command := s.ticker(append(args, "--node-via", via)...)
		if env != nil {
			command.Env = env
			// No cluster is asked.
			command.Kubeconfig = filepath.Join(t.TempDir(), "none")
		}
		return command
	}
	undo := func() {
		t.Helper()
		command := testcluster.Command{Args: restore, Env: env}
		result, err := s.Run(within(t), command)
		if err != nil || result.Code != 0 {
			t.Fatalf("restore ends with code %d, %v: %s", result.Code, err, result.Stderr)
		}
	}

	p, err := s.Begin(begin())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Kill() })
	ready, err := p.AwaitEvent(within(t), "ready")
	if err != nil {
		t.Fatal(err)
	}
	if way, _, _ := strings.Cut(via, ":"); ready.Tunnel != way {
		t.Errorf("the tunnel goes by %q", ready.Tunnel)
	}
	s.answers(t, "/var/lib/kubedelve/")
	path := filepath.Join(cluster.Programs.Root, tickerSource, "main.go")
	at := editor.Breakpoint{Path: path, Line: lineIn(t, path, "func tick(", "// BREAKPOINT")}
	d, _, err := editor.Start(within(t), dial(t, ready.Listen), "attach", attachConfig, at)
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() { // ends with the answer
		_, err := s.InNode(t.Context(), tickerPath, "-ask")
		answered <- err
	}()
	if err := d.AwaitStop(within(t), "breakpoint"); err != nil {
		t.Fatal(err)
	}
	if err := d.Continue(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
	if err := d.Disconnect(within(t)); err != nil {
		t.Error(err)
	}
	if env != nil {
		s.onlyOne(t, begin())
		s.listed(t, via, env)
	}
	end(t, p)
	s.answers(t, tickerPath)
	s.restored(t)

	for _, stage := range []string{"starting a helper", "uploading", "taking the place", "loading", "ready"} {
		p, err := s.Begin(begin("--ttl", "1h"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = p.Await(within(t), stage, func(e testcluster.Event) bool { return e.Event == stage || strings.HasPrefix(e.Text, stage) })
		if killErr := p.Kill(); err != nil || killErr != nil {
			t.Fatal(err, killErr)
		}
		undo()
		t.Logf("killed at %q and restored", stage)
		s.answers(t, tickerPath)
		s.restored(t)
	}
	if p, err = s.Begin(begin("--ttl", "5s")); err != nil {
		t.Fatal(err)
	}
	if _, err := p.AwaitEvent(within(t), "ready"); err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	t.Log("killed, and nobody restores")
	if err := s.AwaitNodeState(within(t), s.before); err != nil {
		t.Fatal(err)
	}
	undo()
	s.answers(t, tickerPath)
	s.restored(t)
}

// onlyOne tries to begin a second session.
func (s *nodeSession) onlyOne(t *testing.T, command testcluster.Command) {
	t.Helper()
	command.Args = append([]string{"debug"}, command.Args...)
	result, err := s.Run(within(t), command)
	if err != nil || result.Code != 1 || !strings.Contains(result.Stderr, "debugs it already") {
		t.Errorf("a second session ends with code %d, %v: %s", result.Code, err, result.Stderr)
	}
	if now := s.ofSession(t, "bin/"); len(now) != 1 {
		t.Errorf("%d debug builds run", len(now))
	}
}

// listed looks for the session in "kubedelve status".
func (s *nodeSession) listed(t *testing.T, via string, env []string) {
	t.Helper()
	result, err := s.Run(within(t), testcluster.Command{Args: []string{"status", "--node-via", via, "-o", "json"}, Env: env})
	var list []struct{ Target string }
	if err == nil {
		err = json.Unmarshal([]byte(result.Stdout), &list)
	}
	if err != nil || len(list) != 1 || list[0].Target != s.ticker().Args[0] {
		t.Errorf("the sessions on the node are %s, %v", result.Stdout, err)
	}
}
