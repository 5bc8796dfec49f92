//go:build integration

package e2e

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

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
	var env []string
	if via != "direct" {
		env = s.servesSSH(t)
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
	s.halted(t, ready.Listen, func(<-chan error) {})
	if env != nil {
		s.onlyOne(t, begin())
		s.listed(t, via, env)
	}
	end(t, p)
	s.answers(t, tickerPath)
	s.restored(t)
	s.killedClient(t, begin, "starting a helper", "uploading", "taking the place", "loading", "ready")
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

// servesSSH has the node take users by ssh until the test ends. It returns what their
// environment has to have.
func (s *nodeSession) servesSSH(t *testing.T) []string {
	t.Helper()
	server, err := s.ServeSSH(t.TempDir())
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return server.Env
}
