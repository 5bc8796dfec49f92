//go:build integration

package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/kubedelve/kubedelve/internal/editor"
	"github.com/kubedelve/kubedelve/internal/testcluster"
)

// back waits until a session that has lost its run has one again, and logs how long
// that took since it began.
func back(t *testing.T, p *testcluster.Process, what string, began time.Time) (lost, back testcluster.Event) {
	t.Helper()
	lost, err := p.Await(within(t), "the news of a loss", func(e testcluster.Event) bool { return e.Event == "lost" || e.Event == "exited" })
	if err != nil {
		t.Fatal(err)
	}
	if back, err = p.AwaitEvent(within(t), "back"); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %q; back after %.1f s: %q", what, lost.Text, time.Since(began).Seconds(), back.Text)
	return lost, back
}

// servesAgain waits until the debug pod has taken over once more.
func servesAgain(t *testing.T, n *testcluster.Namespace, p *testcluster.Process, began time.Time) {
	t.Helper()
	serving, err := p.AwaitEvent(within(t), "serving")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(serving.Text, "now serves deploy/middle") {
		t.Fatalf("the debug pod does not serve: %s", serving.Text)
	}
	t.Logf("it serves again after %.1f s", time.Since(began).Seconds())
	alone(t, n)
}

// sessionPod is the debug pod that is not about to end.
func sessionPod(t *testing.T, n *testcluster.Namespace) *corev1.Pod {
	t.Helper()
	list, err := cluster.Client.CoreV1().Pods(n.Name).List(within(t), metav1.ListOptions{LabelSelector: "kubedelve.dev/session"})
	if err != nil {
		t.Fatal(err)
	}
	var live []*corev1.Pod
	for i := range list.Items {
		if pod := &list.Items[i]; pod.DeletionTimestamp == nil && pod.Status.Phase == corev1.PodRunning {
			live = append(live, pod)
		}
	}
	if len(live) != 1 {
		t.Fatalf("there are %d debug pods, not 1", len(live))
	}
	return live[0]
}

// stopAt takes a debugger to the breakpoint with a request that nobody waits for.
func stopAt(t *testing.T, n *testcluster.Namespace, address string) *editor.Debugger {
	t.Helper()
	at := breakpoint(t, "")
	d, _, err := editor.Start(within(t), dial(t, address), "attach", attachConfig, at)
	if err != nil {
		t.Fatal(err)
	}
	begin(t, n, "front", "buy", "item=tea&count=2")
	atBreakpoint(t, d, at, "tea", 2)
	return d
}

// A debug pod that is deleted is followed by another, in the same session.
func TestIntegrationDeletedPod(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*testcluster.Objects){
		"one replica":    nil,
		"three replicas": func(o *testcluster.Objects) { o.Deployment("middle").Spec.Replicas = ptr.To[int32](3) },
		"recreate":       func(o *testcluster.Objects) { o.Deployment("middle").Spec.Strategy = recreate },
	} {
		t.Run(name, func(t *testing.T) {
			n := namespace(t, change, allTiers...)
			before := snapshot(t, n, "middle")
			p, ready := debugMiddle(t, n)
			first := sessionPod(t, n)

			began := time.Now()
			debugPod(t, n, true)
			if lost, _ := back(t, p, "the pod was deleted", began); !strings.Contains(lost.Text, "pod "+first.Name+" is being deleted") {
				t.Errorf("the loss is told as %q", lost.Text)
			}
			servesAgain(t, n, p, began)
			second := sessionPod(t, n)
			if second.Name == first.Name {
				t.Errorf("the pod has the same name, %s", second.Name)
			}
			hit(t, n, ready.Listen)

			d := stopAt(t, n, ready.Listen)
			began = time.Now()
			debugPod(t, n, true)
			back(t, p, "the pod was deleted at a breakpoint", began)
			_ = d.Close()
			servesAgain(t, n, p, began)
			hit(t, n, ready.Listen)
			end(t, p)
			restored(t, n, "middle", before)
		})
	}
}

// The agent is killed: the kubelet starts the container again, in the same pod.
func TestIntegrationRestartedContainer(t *testing.T) {
	if noCluster == nil && !cluster.HasNode() {
		t.Skip("nothing can be killed on this cluster's node")
	}
	n := namespace(t, nil, allTiers...)
	before := snapshot(t, n, "middle")
	p, ready := debugMiddle(t, n)
	pod := sessionPod(t, n)
	d := stopAt(t, n, ready.Listen)
	began := time.Now()
	if err := n.KillAgent(within(t), pod.Name); err != nil {
		t.Fatal(err)
	}
	back(t, p, "the agent was killed", began)
	_ = d.Close()
	if now := sessionPod(t, n); now.UID != pod.UID || now.Status.ContainerStatuses[0].RestartCount != 1 {
		t.Errorf("the pod is %s with %d restarts, not %s with 1", now.Name, now.Status.ContainerStatuses[0].RestartCount, pod.Name)
	}
	if err := n.AwaitAnswer(within(t), "front", "buy", "item=tea&count=2", "front: 2 tea cost 12"); err != nil {
		t.Fatal(err)
	}
	hit(t, n, ready.Listen)
	end(t, p)
	restored(t, n, "middle", before)
}

// The component ends by itself: its code is told, and it is started again.
func TestIntegrationExit(t *testing.T) {
	n := namespace(t, nil, allTiers...)
	before := snapshot(t, n, "middle")
	p, ready := debugMiddle(t, n)
	for n1 := range 2 {
		began := time.Now()
		_, _ = n.Get(within(t), "middle", "exit", "code=3") // there is nobody left to answer
		exited, _ := back(t, p, "the program exited", began)
		if exited.Code == nil || *exited.Code != 3 || !strings.Contains(exited.Text, "exited with code 3; starting it again") {
			t.Errorf("the %d. exit is told as %q with code %v", n1+1, exited.Text, exited.Code)
		}
		if err := n.AwaitAnswer(within(t), "front", "buy", "item=tea&count=2", "front: 2 tea cost 12"); err != nil {
			t.Fatal(err)
		}
	}
	hit(t, n, ready.Listen)
	end(t, p)
	restored(t, n, "middle", before)
}

// All connections to the API server are cut in the middle of a halt.
func TestIntegrationCutConnections(t *testing.T) {
	n := namespace(t, nil, allTiers...)
	before := snapshot(t, n, "middle")
	gate, err := n.NewGate(t.Context(), filepath.Join(t.TempDir(), "gate"), 0, func() {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = gate.Close() })
	command := n.Kubedelve("deploy/middle", "--program", "./middle", "--listen", "127.0.0.1:0")
	command.Kubeconfig = gate.Kubeconfig
	p := start(t, command)
	ready, err := p.AwaitEvent(within(t), "ready")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.AwaitEvent(within(t), "serving"); err != nil {
		t.Fatal(err)
	}
	alone(t, n)
	pod := sessionPod(t, n)
	d := stopAt(t, n, ready.Listen)
	began := time.Now()
	if gate.Cut() == 0 {
		t.Fatal("there was nothing to cut")
	}
	back(t, p, "the connections were cut", began)
	_ = d.Close()
	if now := sessionPod(t, n); now.UID != pod.UID || now.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("the pod did not stay as it was: %+v", now.Status)
	}
	hit(t, n, ready.Listen)
	end(t, p)
	restored(t, n, "middle", before)
}

// A new pod template ends the debug pod, as a rollout does; the session follows it.
func TestIntegrationRolloutDuringASession(t *testing.T) {
	n := namespace(t, nil, allTiers...)
	p, ready := debugMiddle(t, n)
	d, err := cluster.Client.AppsV1().Deployments(n.Name).Get(within(t), "middle", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d.Spec.Template.Spec.Containers[0].Command = []string{"/middle", "--currency", "CHF"}
	began := time.Now()
	if _, err := cluster.Client.AppsV1().Deployments(n.Name).Update(within(t), d, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Await(within(t), "the news of the template", func(e testcluster.Event) bool {
		return e.Event == "note" && strings.Contains(e.Text, "deploy/middle has a new pod template (revision 2)")
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.AwaitEvent(within(t), "back"); err != nil {
		t.Fatal(err)
	}
	servesAgain(t, n, p, began)
	hit(t, n, ready.Listen)
	if !strings.Contains(p.Stderr(), `with arguments ["--currency" "CHF"]`) {
		t.Errorf("the program has not the new template's arguments: %s", p.Stderr())
	}
	during := snapshot(t, n, "middle")
	end(t, p)
	during.Objects = strings.Replace(during.Objects, "secret/kubedelve-deployment-middle\n", "", 1)
	restored(t, n, "middle", during)
}

// fill makes a ResourceQuota, "full", that no other pod fits in.
func fill(t *testing.T, n *testcluster.Namespace) {
	t.Helper()
	quota := &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "full"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("0")}},
	}
	if _, err := cluster.Client.CoreV1().ResourceQuotas(n.Name).Create(within(t), quota, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := n.AwaitQuota(within(t), "full"); err != nil {
		t.Fatal(err)
	}
}

// Where no other pod can be made, the session tells why and goes on trying.
func TestIntegrationNoRoomForAnotherPod(t *testing.T) {
	n := namespace(t, nil, allTiers...)
	before := snapshot(t, n, "middle")
	p, ready := debugMiddle(t, n)
	fill(t, n)
	began := time.Now()
	debugPod(t, n, true)
	told := 0
	if _, err := p.Await(within(t), "three tries", func(e testcluster.Event) bool {
		if e.Event == "stage" && strings.Contains(e.Text, "exceeded quota: full") && strings.Contains(e.Text, "trying again in") {
			told++
		}
		return told == 3
	}); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Client.CoreV1().ResourceQuotas(n.Name).Delete(within(t), "full", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.AwaitEvent(within(t), "back"); err != nil {
		t.Fatal(err)
	}
	servesAgain(t, n, p, began)
	hit(t, n, ready.Listen)
	end(t, p)
	restored(t, n, "middle", before)
}

// The session can be ended at any moment of this.
func TestIntegrationInterruptedWhileAnotherPodIsMade(t *testing.T) {
	n := namespace(t, nil, "middle")
	before := snapshot(t, n, "middle")
	for _, stage := range []string{"starting pod", "connecting to the agent", "uploading", "loading"} {
		p, _ := debugMiddle(t, n)
		debugPod(t, n, true)
		if _, err := p.AwaitEvent(within(t), "lost"); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Await(within(t), stage, func(e testcluster.Event) bool {
			return e.Event == "stage" && strings.HasPrefix(e.Text, stage)
		}); err != nil {
			t.Fatal(err)
		}
		end(t, p)
		restored(t, n, "middle", before)
	}
}

// The API server does not answer for ten seconds. It runs alone: all others on the
// cluster would be disturbed.
func TestIntegrationStoppedAPIServer(t *testing.T) {
	if noCluster != nil {
		t.Skip(noCluster)
	}
	if !cluster.MayBreak() {
		t.Skip("this cluster is not the tests' own")
	}
	n := namespaceAlone(t, nil, allTiers...)
	before := snapshot(t, n, "middle")
	p, ready := debugMiddle(t, n)
	pod := sessionPod(t, n)
	d := stopAt(t, n, ready.Listen)
	stopped := time.Now()
	if err := cluster.StopAPIServer(within(t), 10*time.Second); err != nil {
		t.Fatal(err)
	}
	t.Logf("the API server was stopped for %.1f s", time.Since(stopped).Seconds())
	if err := d.Disconnect(within(t)); err != nil {
		t.Fatal(err)
	}
	hit(t, n, ready.Listen)
	if now := sessionPod(t, n); now.UID != pod.UID || now.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("the pod did not stay as it was: %+v", now.Status)
	}
	end(t, p)
	restored(t, n, "middle", before)
}
