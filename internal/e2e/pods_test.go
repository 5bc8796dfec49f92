//go:build integration

package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/kubedelve/kubedelve/internal/editor"
	"github.com/kubedelve/kubedelve/internal/testcluster"
)

// debugPodOf reads the debug pod.
func debugPodOf(t *testing.T, n *testcluster.Namespace) *corev1.Pod {
	t.Helper()
	pod, err := cluster.Client.CoreV1().Pods(n.Name).Get(within(t), debugPod(t, n, false), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

// hit takes a debugger to the breakpoint and on, with a request through front.
func hit(t *testing.T, n *testcluster.Namespace, address string) {
	t.Helper()
	ctx := within(t)
	at := breakpoint(t, "")
	d, _, err := editor.Start(ctx, dial(t, address), "attach", attachConfig, at)
	if err != nil {
		t.Fatal(err)
	}
	buy := begin(t, n, "front", "buy", "item=tea&count=2")
	here := atBreakpoint(t, d, at, "tea", 2)
	if err := d.Set(ctx, here.scope, "total", "4711"); err != nil {
		t.Fatal(err)
	}
	if err := d.Continue(ctx); err != nil {
		t.Fatal(err)
	}
	buy.got(t, "front: 2 tea cost 4711")
	if err := d.Disconnect(ctx); err != nil {
		t.Fatal(err)
	}
}

// The namespaces of all tests enforce PodSecurity "restricted", so this is about
// what the pod is allowed: no more than the original.
func TestIntegrationRestrictedPod(t *testing.T) {
	n := namespace(t, nil, allTiers...)
	before := snapshot(t, n, "middle")
	p, ready := debugMiddle(t, n)
	pod := debugPodOf(t, n)
	if s := pod.Spec.SecurityContext; s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("the pod's security context is %+v", s)
	}
	for _, c := range append(pod.Spec.InitContainers, pod.Spec.Containers...) {
		s := c.SecurityContext
		if s == nil || s.Capabilities == nil || fmt.Sprint(s.Capabilities.Drop) != "[ALL]" || len(s.Capabilities.Add) > 0 ||
			s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation {
			t.Errorf("the security context of container %s is %+v", c.Name, s)
		}
	}
	hit(t, n, ready.Listen)
	end(t, p)
	restored(t, n, "middle", before)
}

func TestIntegrationPodWithShell(t *testing.T) {
	if noCluster == nil && cluster.Refs["shell"] == "" {
		t.Skip("this machine has no shell to make an image of")
	}
	n := namespace(t, func(o *testcluster.Objects) {
		c := &o.Deployment("middle").Spec.Template.Spec.Containers[0]
		c.Image = cluster.Refs["shell"]
		c.Command = []string{"/bin/sh", "-c", "exec /middle --currency EUR"}
	}, allTiers...)
	before := snapshot(t, n, "middle")
	p, ready := debugMiddle(t, n)
	hit(t, n, ready.Listen)
	if !strings.Contains(p.Stderr(), `with arguments ["--currency" "EUR"]`) {
		t.Errorf("the program has not the arguments that the shell gave it: %s", p.Stderr())
	}
	end(t, p)
	restored(t, n, "middle", before)
}

// An image whose command line is in the image only, and other arguments.
func TestIntegrationCommandLineOfTheImage(t *testing.T) {
	n := namespace(t, func(o *testcluster.Objects) {
		c := &o.Deployment("middle").Spec.Template.Spec.Containers[0]
		c.Command, c.Args = nil, []string{"--currency", "CHF"}
	}, allTiers...)
	before := snapshot(t, n, "middle")
	p, ready := debugMiddle(t, n)
	hit(t, n, ready.Listen)
	if !strings.Contains(p.Stderr(), `with arguments ["--currency" "CHF"]`) {
		t.Errorf("the program has not the template's arguments: %s", p.Stderr())
	}
	end(t, p)
	restored(t, n, "middle", before)

	p, _ = debugMiddle(t, n, "--env", "BACK_URL=http://nowhere", "--", "--other")
	if !strings.Contains(p.Stderr(), `with arguments ["--other"]`) {
		t.Errorf("the program has not the arguments after --: %s", p.Stderr())
	}
	end(t, p)
	restored(t, n, "middle", before)
}

// sitting is how long a program stays at a breakpoint.
func sitting() time.Duration {
	if testing.Short() || os.Getenv("KUBEDELVE_SHORT") != "" {
		return 10 * time.Second
	}
	return 3 * time.Minute
}

// A pod with probes of all kinds sits at a breakpoint: nobody restarts it, and the
// Service keeps it.
func TestIntegrationProbesWhileHalted(t *testing.T) {
	n := namespace(t, nil, allTiers...)
	before := snapshot(t, n, "middle")
	p, ready := debugMiddle(t, n)
	at := breakpoint(t, "")
	d, _, err := editor.Start(within(t), dial(t, ready.Listen), "attach", attachConfig, at)
	if err != nil {
		t.Fatal(err)
	}
	buy := begin(t, n, "front", "buy", "item=tea&count=2")
	atBreakpoint(t, d, at, "tea", 2)
	pod := debugPodOf(t, n)
	looks := 0
	timer, tick := time.After(sitting()), time.NewTicker(time.Second)
	defer tick.Stop()
	for halted := true; halted; {
		select {
		case <-timer:
			halted = false
		case <-tick.C:
		}
		endpoints, err := n.Endpoints(t.Context(), "middle")
		if err != nil {
			t.Fatal(err)
		}
		if !endpoints[pod.Status.PodIP] {
			t.Fatalf("after %d s the endpoints of the Service are %v, not %s ready", looks, endpoints, pod.Status.PodIP)
		}
		looks++
	}
	now := debugPodOf(t, n)
	if now.UID != pod.UID || now.Status.ContainerStatuses[0].RestartCount != 0 || !testcluster.Ready(now) {
		t.Errorf("the pod did not stay as it was: %+v", now.Status)
	}
	ctx := within(t)
	if err := d.Continue(ctx); err != nil {
		t.Fatal(err)
	}
	buy.got(t, "front: 2 tea cost 12")
	if err := d.Disconnect(ctx); err != nil {
		t.Fatal(err)
	}
	end(t, p)
	restored(t, n, "middle", before)
}

// With --keep-readiness a halted program gets no more requests.
func TestIntegrationKeepReadiness(t *testing.T) {
	n := namespace(t, nil, allTiers...)
	before := snapshot(t, n, "middle")
	ctx := within(t)
	p, ready := debugMiddle(t, n, "--keep-readiness")
	at := breakpoint(t, "")
	d, _, err := editor.Start(ctx, dial(t, ready.Listen), "attach", attachConfig, at)
	if err != nil {
		t.Fatal(err)
	}
	buy := begin(t, n, "front", "buy", "item=tea&count=2")
	atBreakpoint(t, d, at, "tea", 2)
	pod := debugPodOf(t, n)
	if err := n.AwaitEndpoint(ctx, "middle", pod.Status.PodIP, false); err != nil {
		t.Fatal(err)
	}
	if err := d.Continue(ctx); err != nil {
		t.Fatal(err)
	}
	buy.got(t, "front: 2 tea cost 12")
	if err := d.SetBreakpoints(ctx); err != nil {
		t.Fatal(err)
	}
	if err := n.AwaitEndpoint(ctx, "middle", pod.Status.PodIP, true); err != nil {
		t.Fatal(err)
	}
	if now := debugPodOf(t, n); now.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("the container was restarted: %+v", now.Status.ContainerStatuses)
	}
	if err := d.Disconnect(ctx); err != nil {
		t.Fatal(err)
	}
	end(t, p)
	restored(t, n, "middle", before)
}

// replicas reads spec.replicas and the pods that there are.
func replicas(t *testing.T, n *testcluster.Namespace) (want int, pods []corev1.Pod) {
	t.Helper()
	ctx := within(t)
	d, err := cluster.Client.AppsV1().Deployments(n.Name).Get(ctx, "middle", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if pods, err = n.Pods(ctx, "middle"); err != nil {
		t.Fatal(err)
	}
	return int(*d.Spec.Replicas), pods
}

func TestIntegrationReplicas(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args []string
		want int // replicas during the session
	}{
		"one during the session": {nil, 1},
		"kept":                   {[]string{"--keep-replicas"}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			n := namespace(t, func(o *testcluster.Objects) {
				o.Deployment("middle").Spec.Replicas = ptr.To[int32](3)
			}, allTiers...)
			before := snapshot(t, n, "middle")
			traffic := n.StartTraffic(t.Context(), "front", "buy", "item=milk&count=3", "front: 3 milk cost 21")
			p, ready := debugMiddle(t, n, c.args...)
			if err := n.Settled(within(t), "middle"); err != nil {
				t.Error(err)
			}
			if want, pods := replicas(t, n); want != c.want || len(pods) != c.want {
				t.Errorf("there are %d replicas and %d pods, not %d", want, len(pods), c.want)
			}
			debugPod(t, n, false)
			if c.want == 1 {
				traffic.Pause()
				hit(t, n, ready.Listen)
				traffic.Resume()
			}
			end(t, p)
			restored(t, n, "middle", before)
			if answers, err := traffic.Stop(); err != nil {
				t.Errorf("with %d answers: %v", answers, err)
			}
		})
	}
}

// recreate is the strategy for workloads whose pods can't live side by side.
var recreate = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}

// Where two pods can't live side by side, the original ends first.
func TestIntegrationRecreate(t *testing.T) {
	n := namespace(t, func(o *testcluster.Objects) {
		o.Deployment("middle").Spec.Strategy = recreate
	}, allTiers...)
	before := snapshot(t, n, "middle")
	// Never are there two that run.
	watching, stop := context.WithCancel(t.Context())
	defer stop()
	most, watched := 0, make(chan error, 1)
	go func() { // ends with stop
		watched <- n.WatchPods(watching, "middle", func(pods map[string]*corev1.Pod) {
			running := 0
			for _, pod := range pods {
				for _, s := range pod.Status.ContainerStatuses {
					if s.State.Running != nil {
						running++
					}
				}
			}
			most = max(most, running)
		})
	}()
	p, ready := debugMiddle(t, n)
	if err := n.AwaitAnswer(within(t), "front", "buy", "item=tea&count=2", "front: 2 tea cost 12"); err != nil {
		t.Fatal(err)
	}
	hit(t, n, ready.Listen)
	end(t, p)
	restored(t, n, "middle", before)
	stop()
	if err := <-watched; err != nil {
		t.Error(err)
	}
	if most != 1 {
		t.Errorf("%d pods ran at a time, not 1", most)
	}
}

// withSidecar gives the middle tier a second container.
func withSidecar(o *testcluster.Objects) {
	spec := &o.Deployment("middle").Spec.Template.Spec
	spec.Containers = append(spec.Containers, corev1.Container{
		Name: "helper", Image: cluster.Refs["helper"], ImagePullPolicy: corev1.PullIfNotPresent,
		Ports: []corev1.ContainerPort{{ContainerPort: 8090}},
		ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
			HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8090)},
		}},
		SecurityContext: spec.Containers[0].SecurityContext.DeepCopy(),
	})
}

func TestIntegrationSidecar(t *testing.T) {
	n := namespace(t, withSidecar, allTiers...)
	before := snapshot(t, n, "middle")
	p, ready := debugMiddle(t, n, "-c", "app")
	pod := debugPodOf(t, n)
	answer, err := n.GetPod(within(t), pod.Name, 8090, "healthz")
	if err != nil || strings.TrimSpace(answer) != "ok" {
		t.Errorf("the sidecar answers %q (%v)", answer, err)
	}
	hit(t, n, ready.Listen)
	end(t, p)
	restored(t, n, "middle", before)
}
