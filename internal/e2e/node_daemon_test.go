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

// daemonSession is a cluster one of whose DaemonSets is debugged on its node, and how that was.
type daemonSession struct {
	*nodeSession
	name, program string
	daemon        testcluster.Daemon
}

// daemonSet notes how a DaemonSet of the system is.
func (s *nodeSession) daemonSet(t *testing.T, name string) *daemonSession {
	t.Helper()
	daemon, err := s.Daemon(within(t), metav1.NamespaceSystem, name)
	if err != nil {
		t.Fatal(err)
	}
	return &daemonSession{s, name, kubeProgram + name, daemon}
}

// back checks that the DaemonSet is as before, with a pod of its own: another one, so what the node
// has of it, which is named for its UID, is new.
func (s *daemonSession) back(t *testing.T) {
	t.Helper()
	s.fineAgain(t)
	if left := s.pids(t, "/kubedelve/kubedelve-agent"); len(left) > 0 {
		t.Errorf("processes of the session are left: %q", left)
	}
	now, err := s.Daemon(within(t), metav1.NamespaceSystem, s.name)
	if err != nil || now != s.daemon {
		t.Errorf("the DaemonSet is\n%+v (%v), it was\n%+v", now, err, s.daemon)
	}
	left, err := s.Client.CoreV1().Secrets(metav1.NamespaceSystem).List(within(t), metav1.ListOptions{LabelSelector: "kubedelve.dev/session"})
	if err != nil || len(left.Items) > 0 {
		t.Errorf("%d journals are left, %v", len(left.Items), err)
	}
}

// debugged is "kubedelve debug node/node1:kube-proxy".
func (s *daemonSession) debugged(args ...string) testcluster.Command {
	return testcluster.Command{
		Dir: s.kube.Dir, Env: testcluster.KubeEnv,
		Args: append([]string{"node/node1:" + s.name, "--program", s.program, "--listen", "127.0.0.1:0"}, args...),
	}
}

// A Service that is created stops kube-proxy, in its pod of a DaemonSet. A line is added and saved,
// and runs; requests find their way by the rules that the debug build writes.
func (s *daemonSession) proxy(t *testing.T) {
	path := s.kube.File(testcluster.ProxierSource)
	const line = "proxier.OnServiceUpdate(nil, service)"
	condition := func(name string) string {
		return fmt.Sprintf("service.ObjectMeta.Namespace == %q && service.ObjectMeta.Name == %q && proxier.ipFamily == %q", s.namespace.Name, name, "IPv4")
	}
	at := editor.Breakpoint{Path: path, Line: lineIn(t, path, "func (proxier *Proxier) OnServiceAdd(", line), Condition: condition("first")}
	d, adapter := s.debug(t, testcluster.Command{Dir: s.kube.Dir, Env: testcluster.KubeEnv}, map[string]any{
		"type": "kubedelve", "request": "launch", "name": s.name,
		"target":  map[string]any{"name": "node/node1:" + s.name, "agentImage": s.Refs["agent"]},
		"program": s.program, "build": map[string]any{"dir": s.kube.Dir},
	}, at)
	address := s.creates(t, "first")
	objectAtBreakpoint(t, d, at, "OnServiceAdd", "service", "first")
	if err := d.Continue(within(t)); err != nil {
		t.Fatal(err)
	}
	s.awaitRule(t, address)

	at.Line, at.Condition = at.Line+1, condition("second")
	saves(t, d, at, func(text string) string {
		return strings.Replace(text, line, `proxier.logger.Info("a line more for " + service.Name)`+"\n\t"+line, 1)
	})
	address = s.creates(t, "second")
	objectAtBreakpoint(t, d, at, "OnServiceAdd", "service", "second")
	if err := d.Continue(within(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.AwaitOutput(within(t), "a line more for second"); err != nil {
		t.Error(err)
	}
	s.awaitRule(t, address)
	if got := ends(d); len(got) > 0 {
		t.Errorf("the editor was told of an end: %q", got)
	}
	began := time.Now()
	leave(t, d, adapter)
	t.Logf("from stop to everything restored: %.1f s", time.Since(began).Seconds())
	s.awaitRule(t, s.creates(t, "third"))
	s.back(t)
}

// creates makes a Service and returns its address.
func (s *daemonSession) creates(t *testing.T, name string) string {
	t.Helper()
	service, err := s.Client.CoreV1().Services(s.namespace.Name).Create(within(t), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "nobody"}, Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return service.Spec.ClusterIP
}

// awaitRule waits until the node's packet filter knows a Service's address.
func (s *daemonSession) awaitRule(t *testing.T, address string) {
	t.Helper()
	s.inNode(t, `for i in $(seq 300); do nft list ruleset 2> /dev/null | grep -qF "$1" && exit 0; sleep 0.1; done; echo "no rule in 30 s"; exit 1`, address)
}

// A client that is killed at any stage leaves what restore puts back, and whatever else is killed,
// the session goes on.
func (s *daemonSession) kills(t *testing.T) {
	for _, stage := range []string{"claiming", "starting pod", "taking the place", "waiting for the end", "uploading", "loading", "ready"} {
		p, err := s.Begin(s.debugged("--ttl", "1h"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = p.Await(withinBuild(t), stage, func(e testcluster.Event) bool { return e.Event == stage || strings.HasPrefix(e.Text, stage) })
		if killErr := p.Kill(); err != nil || killErr != nil {
			t.Fatal(err, killErr)
		}
		t.Logf("killed at %q", stage)
		s.restores(t)
	}

	p, err := s.Begin(s.debugged())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Kill() })
	if _, err := p.AwaitEvent(withinBuild(t), "ready"); err != nil {
		t.Fatal(err)
	}
	t.Log("the debug pod is deleted")
	pods, err := s.Client.CoreV1().Pods(metav1.NamespaceSystem).List(within(t), metav1.ListOptions{LabelSelector: "kubedelve.dev/session"})
	if err != nil || len(pods.Items) != 1 {
		t.Fatalf("%d debug pods, %v", len(pods.Items), err)
	}
	system := testcluster.Namespace{Cluster: s.Cluster, Name: metav1.NamespaceSystem}
	if err := system.DeletePod(within(t), pods.Items[0].Name); err != nil {
		t.Fatal(err)
	}
	e, err := p.Await(withinBuild(t), "the component to be started again", func(e testcluster.Event) bool { return strings.Contains(e.Text, "started again in pod") })
	if err != nil {
		t.Fatal(err)
	}
	t.Log(e.Text)
	end(t, p)
	s.back(t)
}

func (s *daemonSession) restores(t *testing.T) {
	t.Helper()
	result, err := s.Run(withinBuild(t), testcluster.Command{Args: []string{"restore", "-n", metav1.NamespaceSystem, "ds/" + s.name + "@node1"}})
	if err != nil || result.Code != 0 {
		t.Fatalf("restore ends with code %d, %v: %s", result.Code, err, result.Stderr)
	}
	s.back(t)
}
