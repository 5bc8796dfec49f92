//go:build integration

package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kubedelve/kubedelve/internal/testcluster"
)

// kubeProgram is the main package of a component of Kubernetes.
const kubeProgram = "k8s.io/kubernetes/cmd/"

// controlPlane are the static pods of a kubeadm cluster, and the programs in them.
var controlPlane = map[string]string{
	"etcd":                    testcluster.EtcdProgram,
	"kube-apiserver":          kubeProgram + "kube-apiserver",
	"kube-controller-manager": kubeProgram + "kube-controller-manager",
	"kube-scheduler":          kubeProgram + "kube-scheduler",
}

// staticSession is a cluster one of whose static pods is debugged, and how that was.
type staticSession struct {
	*nodeSession
	component string // "kube-scheduler"
	via       string // the way into the node (--node-via); empty: the API server
	pod       string // the static pod's UID
	file      string // all of the manifest, and what belongs to its file
}

// The control plane of a kubeadm cluster, which is static pods.
func TestIntegrationNodeStatic(t *testing.T) {
	needNode(t)
	// Before the tests that run side by side: they share the sources of Kubernetes.
	if err := compile(controlPlane["etcd"], controlPlane["kube-apiserver"], controlPlane["kube-controller-manager"], controlPlane["kube-scheduler"], kubeProgram+"kube-proxy"); err != nil {
		t.Fatal(err)
	}
	s := startNode(t, "node-static", "kubeadm")
	s.restartControlPlane(t)
	s.checkOut(t)
	t.Run("kube-controller-manager", func(t *testing.T) {
		m := s.static(t, "kube-controller-manager", "")
		t.Run("killed client", func(t *testing.T) {
			s.killedClient(t, m.debugged, "looking for", "taking the place", "loading", "ready")
			m.back(t)
		})
		t.Run("kills", m.kills)
		// A leader's Lease lasts 15 s, and it gives up after 10 s.
		t.Run("breakpoints", func(t *testing.T) { m.autoscaler(t, halted(t, time.Minute)) })
	})
	t.Run("kube-scheduler", func(t *testing.T) { s.static(t, "kube-scheduler", "").scheduler(t) })
	t.Run("kube-apiserver", func(t *testing.T) {
		a := s.static(t, "kube-apiserver", "direct")
		t.Run("breakpoints", func(t *testing.T) { a.apiServer(t, halted(t, 20*time.Second)) })
		t.Run("killed client", func(t *testing.T) {
			s.killedClient(t, a.debugged, "taking the place", "ready")
			a.back(t)
		})
		t.Run("ssh", a.bySSH)
	})
	t.Run("kube-proxy", func(t *testing.T) { // a DaemonSet, with kubeadm
		d := s.daemonSet(t, "kube-proxy")
		t.Run("breakpoints", d.proxy)
		t.Run("kills", d.kills)
	})
	t.Run("etcd", func(t *testing.T) { s.static(t, "etcd", "direct").etcd(t) })
}

// restartControlPlane gives all static pods the environment that they have whenever they are
// started again: to the first ones of a cluster there were no Services yet.
func (s *nodeSession) restartControlPlane(t *testing.T) {
	t.Helper()
	s.inNode(t, `mv /etc/kubernetes/manifests /etc/kubernetes/.away
mkdir -m 700 /etc/kubernetes/manifests
while ps -e -o comm= | grep -qx '`+strings.Join(processNames(), `\|`)+`'; do sleep 0.1; done
mv /etc/kubernetes/.away/* /etc/kubernetes/manifests
rmdir /etc/kubernetes/.away`)
	ctx := within(t)
	if err := s.AwaitAPI(ctx); err != nil {
		t.Fatal(err)
	}
	for component := range controlPlane {
		if err := s.AwaitStaticPod(ctx, component, ""); err != nil {
			t.Fatal(err)
		}
	}
}

// processNames are those that ps shows of the control plane's programs: 15 letters.
func processNames() (names []string) {
	for component := range controlPlane {
		names = append(names, component[:min(len(component), 15)])
	}
	slices.Sort(names)
	return names
}

// static notes how a static pod is.
func (s *nodeSession) static(t *testing.T, component, via string) *staticSession {
	t.Helper()
	uid, _, err := s.StaticPod(within(t), component)
	if err != nil {
		t.Fatal(err)
	}
	static := &staticSession{nodeSession: s, component: component, via: via, pod: uid}
	static.file = static.manifest(t)
	return static
}

// manifest is the file with its inode, owner, mode and times.
func (s *staticSession) manifest(t *testing.T) string {
	t.Helper()
	return s.inNode(t, `stat -c '%i %U %G %a %Y %y' "$1"; cat "$1"`, "/etc/kubernetes/manifests/"+s.component+".yaml")
}

// back checks that the original is back: its file, its static pod, and for those that have
// one, a leader.
func (s *staticSession) back(t *testing.T) {
	t.Helper()
	s.restored(t)
	if now := s.manifest(t); now != s.file {
		t.Errorf("the manifest is\n%s\nit was\n%s", now, s.file)
	}
	if err := s.AwaitStaticPod(within(t), s.component, s.pod); err != nil {
		t.Error(err)
	}
	if left := s.ofSession(t, ""); len(left) > 0 {
		t.Errorf("processes of the session are left: %q", left)
	}
}

// debugged is "kubedelve debug node/node1:kube-controller-manager", or of another one.
func (s *staticSession) debugged(args ...string) testcluster.Command {
	command := s.command()
	command.Args = append([]string{"node/node1:" + s.component, "--program", controlPlane[s.component], "--listen", "127.0.0.1:0"}, args...)
	if s.via != "" {
		command.Args = append(command.Args, "--node-via", s.via)
	}
	return command
}

// command is how and where the component is built.
func (s *staticSession) command() testcluster.Command {
	return testcluster.Command{Dir: s.kube.Dir, Env: testcluster.KubeEnv}
}

// config is what launch.json says.
func (s *staticSession) config() map[string]any {
	return map[string]any{
		"type": "kubedelve", "request": "launch", "name": s.component,
		"target":  map[string]any{"name": "node/node1:" + s.component, "agentImage": s.Refs["agent"], "nodeVia": s.via},
		"program": controlPlane[s.component],
		"build":   map[string]any{"dir": s.kube.Dir},
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
		e, err := p.Await(withinBuild(t), "the component to be started again", func(e testcluster.Event) bool { return strings.Contains(e.Text, "started again in node") })
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
	if err := s.AwaitStaticPod(withinBuild(t), s.component, s.pod); err != nil {
		t.Fatal(err)
	}
	s.inNode(t, "ls /var/lib/kubedelve/*/journal.json") // which no reboot takes away
	s.restore(t, s.debugged())
	s.back(t)
}
