package testcluster

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Snapshot is what must be the same before and after a session.
type Snapshot struct {
	// Deployment is all of it, as indented JSON, but for what the API server
	// keeps for itself (resourceVersion, managedFields, generation) and its status.
	Deployment string
	Generation int64 // changes with every change of the spec
	// Objects are the names of all objects in the namespace of the kinds that
	// could be left over, but for pods, whose names are not to stay.
	Objects string
}

// Snapshot takes one.
func (n *Namespace) Snapshot(ctx context.Context, deployment string) (Snapshot, error) {
	var s Snapshot
	d, err := n.Client.AppsV1().Deployments(n.Name).Get(ctx, deployment, metav1.GetOptions{})
	if err != nil {
		return s, fmt.Errorf("taking a snapshot: %w", err)
	}
	s.Generation = d.Generation
	d.ResourceVersion, d.ManagedFields, d.Generation, d.Status = "", nil, 0, appsv1.DeploymentStatus{}
	text, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return s, fmt.Errorf("taking a snapshot: %w", err)
	}
	s.Deployment = string(text) + "\n"
	versions, err := n.Versions(ctx)
	if err != nil {
		return s, err
	}
	for _, name := range sorted(versions) {
		if kind, _, _ := strings.Cut(name, "/"); kind != "pod" && kind != "endpointslice" {
			s.Objects += name + "\n"
		}
	}
	return s, nil
}

// Diff is empty if nothing has changed.
func (s Snapshot) Diff(now Snapshot) string {
	return diff(s.Deployment, now.Deployment) + diff(s.Objects, now.Objects)
}

// diff shows the lines between the first and the last difference.
func diff(before, after string) string {
	if before == after {
		return ""
	}
	a, b := strings.SplitAfter(before, "\n"), strings.SplitAfter(after, "\n")
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	var text strings.Builder
	for _, line := range a {
		text.WriteString("-" + line)
	}
	for _, line := range b {
		text.WriteString("+" + line)
	}
	return text.String()
}

// Versions tell the states of the namespace's objects apart, by kind and name. What
// the node and the controllers write of their own accord (the status, and with it the
// resource version) is not part of them; what clients write is, see also [Gate].
func (n *Namespace) Versions(ctx context.Context) (map[string]string, error) {
	versions := map[string]string{}
	for _, kind := range []struct {
		name string
		list func() (runtime.Object, error)
	}{
		{"deployment", func() (runtime.Object, error) {
			return n.Client.AppsV1().Deployments(n.Name).List(ctx, metav1.ListOptions{})
		}},
		{"replicaset", func() (runtime.Object, error) {
			return n.Client.AppsV1().ReplicaSets(n.Name).List(ctx, metav1.ListOptions{})
		}},
		{"controllerrevision", func() (runtime.Object, error) {
			return n.Client.AppsV1().ControllerRevisions(n.Name).List(ctx, metav1.ListOptions{})
		}},
		{"pod", func() (runtime.Object, error) {
			return n.Client.CoreV1().Pods(n.Name).List(ctx, metav1.ListOptions{})
		}},
		{"secret", func() (runtime.Object, error) {
			return n.Client.CoreV1().Secrets(n.Name).List(ctx, metav1.ListOptions{})
		}},
		{"configmap", func() (runtime.Object, error) {
			return n.Client.CoreV1().ConfigMaps(n.Name).List(ctx, metav1.ListOptions{})
		}},
		{"service", func() (runtime.Object, error) {
			return n.Client.CoreV1().Services(n.Name).List(ctx, metav1.ListOptions{})
		}},
		{"serviceaccount", func() (runtime.Object, error) {
			return n.Client.CoreV1().ServiceAccounts(n.Name).List(ctx, metav1.ListOptions{})
		}},
		{"endpointslice", func() (runtime.Object, error) {
			return n.Client.DiscoveryV1().EndpointSlices(n.Name).List(ctx, metav1.ListOptions{})
		}},
		{"lease", func() (runtime.Object, error) {
			return n.Client.CoordinationV1().Leases(n.Name).List(ctx, metav1.ListOptions{})
		}},
		{"role", func() (runtime.Object, error) {
			return n.Client.RbacV1().Roles(n.Name).List(ctx, metav1.ListOptions{})
		}},
		{"poddisruptionbudget", func() (runtime.Object, error) {
			return n.Client.PolicyV1().PodDisruptionBudgets(n.Name).List(ctx, metav1.ListOptions{})
		}},
	} {
		list, err := kind.list()
		if err != nil {
			return nil, fmt.Errorf("listing each %s in %s: %w", kind.name, n.Name, err)
		}
		if err := eachObject(list, func(o metav1.Object) { versions[kind.name+"/"+o.GetName()] = version(o) }); err != nil {
			return nil, err
		}
	}
	return versions, nil
}

// version is an object without its status, as JSON.
func version(o metav1.Object) string {
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return err.Error() + o.GetResourceVersion() // differs from every other
	}
	delete(fields, "status")
	metadata, _ := fields["metadata"].(map[string]any)
	delete(metadata, "resourceVersion")
	delete(metadata, "managedFields")
	if endpoints, ok := fields["endpoints"].([]any); ok { // the status of pods, which may fail a probe, is in it
		delete(metadata, "generation")
		if annotations, ok := metadata["annotations"].(map[string]any); ok {
			delete(annotations, "endpoints.kubernetes.io/last-change-trigger-time")
		}
		for _, e := range endpoints {
			if endpoint, ok := e.(map[string]any); ok {
				delete(endpoint, "conditions")
			}
		}
	}
	text, err := json.Marshal(fields)
	if err != nil {
		return err.Error() + o.GetResourceVersion()
	}
	return string(text)
}

// Leftovers are the objects and marks of kubedelve's in the namespace.
func (n *Namespace) Leftovers(ctx context.Context) ([]string, error) {
	versions, err := n.Versions(ctx)
	if err != nil {
		return nil, err
	}
	var left []string
	for _, name := range sorted(versions) {
		if strings.Contains(name, "kubedelve") {
			left = append(left, name)
		}
	}
	pods, err := n.Client.CoreV1().Pods(n.Name).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("looking for leftovers: %w", err)
	}
	for i := range pods.Items {
		if mark := marked(&pods.Items[i]); mark != "" {
			left = append(left, "pod/"+pods.Items[i].Name+": "+mark)
		}
	}
	return left, nil
}

// marked tells what of kubedelve's is in a pod.
func marked(pod *corev1.Pod) string {
	for _, m := range []map[string]string{pod.Labels, pod.Annotations} {
		for _, key := range sorted(m) {
			if strings.Contains(key, "kubedelve") || key == "controller.kubernetes.io/pod-deletion-cost" {
				return key
			}
		}
	}
	for _, c := range pod.Spec.InitContainers {
		if strings.Contains(c.Name, "kubedelve") {
			return "init container " + c.Name
		}
	}
	for _, c := range pod.Spec.EphemeralContainers {
		return "ephemeral container " + c.Name
	}
	return ""
}

// StableVersions are [Namespace.Versions] once they have stayed the same for a
// while: controllers and the node write what they see a little later.
func (n *Namespace) StableVersions(ctx context.Context) (versions map[string]string, err error) {
	const enough = 10 // looks
	same := 0
	err = until(ctx, "the objects of namespace "+n.Name+" to stay as they are", func() (bool, string, error) {
		now, err := n.Versions(ctx)
		if maps.Equal(now, versions) {
			same++
		} else {
			versions, same = now, 0
		}
		return err == nil && same >= enough, fmt.Sprint(now), err
	})
	return versions, err
}
