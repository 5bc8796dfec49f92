package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"

	"github.com/kubedelve/kubedelve/internal/testcluster"
)

// delvePort is Delve's in the pods.
const delvePort = "2345"

// limit bounds each step on the cluster but the first, which may build one.
const limit = 3 * time.Minute

// cluster compares the ways to a Delve in a pod.
func (b *bench) cluster(ctx context.Context) (err error) {
	if err := testcluster.Supported(); err != nil {
		_, _ = fmt.Fprintf(b.out, "\nRequests to pods are left out: %v\n", err)
		return nil
	}
	_, _ = fmt.Fprintf(b.out, "\nRequests to pods: on the cluster of $KUBEDELVE_TEST_KUBECONFIG or $KUBECONFIG, else on one that is made now (minutes, the first time) and taken down again\n")
	programs, err := testcluster.Build(ctx, b.dir)
	if err != nil {
		return err
	}
	c, err := testcluster.Start(ctx, "bench", programs, os.Stderr)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
		defer cancel()
		err = errors.Join(err, c.Close(ctx))
	}()
	for _, component := range b.components() {
		if err := b.pods(ctx, c, component); err != nil {
			return err
		}
	}
	return nil
}

// pods compares the ways to pods with a component.
func (b *bench) pods(ctx context.Context, c *testcluster.Cluster, component string) (err error) {
	if err := b.buildComponent(ctx, component); err != nil {
		return err
	}
	n, err := c.NewNamespace(ctx, "bench-")
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
		defer cancel()
		err = errors.Join(err, n.Delete(ctx, true))
	}()
	image, err := c.Load(ctx, testcluster.Image{Name: "bench-" + component, User: "65532", Entry: "/component",
		Files: map[string]string{"/delve": b.path("delve"), "/component": b.path(component)}})
	if err != nil {
		return err
	}
	names := []string{"port-forward", "SPDY", "kubedelve"}
	if c.HasNode() { // pods can be reached from here
		names = append([]string{"pod's address"}, names...)
	}
	base := len(names) - 3
	var rows []row
	for range b.runs {
		if err := b.podRun(ctx, n, component, image, names, &rows); err != nil {
			return err
		}
	}
	_, _ = fmt.Fprintf(b.out, "\nRequests to pods with component %s, in ms, %d runs; ratios to kubectl's port-forward (WebSocket):\n", component, b.runs)
	return print(b.out, names, base, rows)
}

// podRun is one run: a pod of its own for each way.
func (b *bench) podRun(ctx context.Context, n *testcluster.Namespace, component, image string, names []string, rows *[]row) (err error) {
	path, line, err := marked()
	if err != nil {
		return err
	}
	var ways []*way
	for i, name := range names {
		address, end, err := b.reach(ctx, n, component, image, name, fmt.Sprintf("delve-%d", i))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		defer func() { err = errors.Join(err, end()) }()
		w, err := open(ctx, name, address, path, line)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, w.close()) }()
		ways = append(ways, w)
	}
	return compare(ctx, ways, b.rounds, b.atLeast, rows)
}

// reach makes a pod with the component under Delve and a way to it.
func (b *bench) reach(ctx context.Context, n *testcluster.Namespace, component, image, way, name string) (address string, end func() error, err error) {
	if way == "kubedelve" {
		return b.debug(ctx, n, component, image, name)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	// Not on loopback, so that the pod's address is one of the ways.
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: podSpec(image, "/delve", "--listen", "0.0.0.0:"+delvePort, "/component")}
	if _, err := n.Client.CoreV1().Pods(n.Name).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return "", nil, fmt.Errorf("creating a pod: %w", err)
	}
	deletePod := func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
		defer cancel()
		return n.DeletePod(ctx, name)
	}
	fail := func(err error) (string, func() error, error) { return "", nil, errors.Join(err, deletePod()) }
	err = wait.PollUntilContextCancel(ctx, 100*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		pod, err = n.Client.CoreV1().Pods(n.Name).Get(ctx, name, metav1.GetOptions{})
		return err == nil && testcluster.Ready(pod), err
	})
	if err == nil {
		err = n.AwaitLog(ctx, name, "app", "API server listening at", 1)
	}
	if err != nil {
		return fail(fmt.Errorf("waiting for pod %s: %w", name, err))
	}
	if way == "pod's address" {
		return pod.Status.PodIP + ":" + delvePort, deletePod, nil
	}
	forward, err := begin("", b.self, way, n.Kubeconfig, n.Name, name)
	if err != nil {
		return fail(err)
	}
	return forward.address, func() error { return errors.Join(forward.end(), deletePod()) }, nil
}

func podSpec(image string, command ...string) corev1.PodSpec {
	yes, no, zero := true, false, int64(0)
	return corev1.PodSpec{
		SecurityContext:               &corev1.PodSecurityContext{RunAsNonRoot: &yes, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
		TerminationGracePeriodSeconds: &zero,
		Containers: []corev1.Container{{
			Name: "app", Image: image, ImagePullPolicy: corev1.PullIfNotPresent, Command: command,
			SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
		}},
	}
}

// debug puts the component into the place of a Deployment that does nothing.
func (b *bench) debug(ctx context.Context, n *testcluster.Namespace, component, image, name string) (address string, end func() error, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	labels := map[string]string{"app": name}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec(image, "/component", "idle")},
	}}
	if err := n.Create(ctx, &testcluster.Objects{Deployments: []*appsv1.Deployment{d}}); err != nil {
		return "", nil, err
	}
	p, err := n.Begin(n.Kubedelve("deploy/"+name, "--program", filepath.Join(root(), "internal", "bench", "testdata", component), "--listen", "127.0.0.1:0", "--stop-on-entry", "--"))
	if err != nil {
		return "", nil, err
	}
	end = func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
		defer cancel()
		err := p.Interrupt()
		if code, waitErr := p.Wait(ctx); waitErr != nil || code != 0 {
			err = errors.Join(err, waitErr, fmt.Errorf("kubedelve debug ended with code %d: %s", code, p.Story()))
		}
		return errors.Join(err, n.Client.AppsV1().Deployments(n.Name).Delete(ctx, name, metav1.DeleteOptions{}))
	}
	ready, err := p.AwaitEvent(ctx, "ready")
	if err != nil {
		return "", nil, errors.Join(err, end())
	}
	return ready.Listen, end, nil
}

// forward is "kubectl port-forward" as a process: it prints the address at which it
// takes connections. The way is "SPDY" or kubectl's default, SPDY inside a WebSocket.
func forward(ctx context.Context, way, kubeconfig, namespace, pod string, stdout io.Writer) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	target := client.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("portforward").URL()
	dialer, err := portforward.NewSPDYOverWebsocketDialer(target, config)
	if err != nil {
		return err
	}
	if way == "SPDY" {
		transport, upgrader, err := spdy.RoundTripperFor(config)
		if err != nil {
			return err
		}
		dialer = spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, target)
	}
	ready := make(chan struct{})
	forwarder, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{"0:" + delvePort}, ctx.Done(), ready, io.Discard, os.Stderr)
	if err != nil {
		return err
	}
	told := make(chan error, 1)
	go func() { // ends when it is ready, or with ctx
		select {
		case <-ready:
			ports, err := forwarder.GetPorts()
			if err == nil {
				_, err = fmt.Fprintf(stdout, "127.0.0.1:%d\n", ports[0].Local)
			}
			told <- err
		case <-ctx.Done():
			told <- nil
		}
	}()
	if err := forwarder.ForwardPorts(); err != nil {
		return err
	}
	return <-told
}
