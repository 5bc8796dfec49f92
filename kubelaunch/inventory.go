package kubelaunch

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubedelve/kubedelve/buildflags"
)

// Inventory is what can be debugged in a cluster.
type Inventory struct {
	Context   string     `json:"context,omitempty"`
	Namespace string     `json:"namespace,omitempty"` // empty: all
	Workloads []Workload `json:"workloads"`
	Nodes     []Node     `json:"nodes"`
	// Notes are what is left out and why, one sentence each.
	Notes []string `json:"notes"`
}

// Workload is one whose containers can be debugged.
type Workload struct {
	Target     string      `json:"target"` // as [ParseTarget] reads it
	Kind       string      `json:"kind"`   // as the API names it
	Namespace  string      `json:"namespace"`
	Name       string      `json:"name"`
	Replicas   int32       `json:"replicas"` // that it is to have
	Ready      int32       `json:"ready"`    // that are
	Containers []Container `json:"containers"`
	Debuggable bool        `json:"debuggable"`
	Reason     string      `json:"reason,omitempty"` // why not
}

// Container is one of a workload's pod template.
type Container struct {
	Name    string `json:"name"`
	Image   string `json:"image"`
	Default bool   `json:"default"` // it is taken if none is named
}

// Node is one whose services can be debugged.
type Node struct {
	Name       string              `json:"name"`
	Platform   buildflags.Platform `json:"platform"`
	Ready      bool                `json:"ready"`
	Components []Component         `json:"components"`
	Debuggable bool                `json:"debuggable"`
	Reason     string              `json:"reason,omitempty"` // why not
}

// Component is a service of a node that the node itself tells of, or a part of Kubernetes
// in a pod there. All of them are programs in Go. There may be others.
type Component struct {
	Target  string `json:"target"` // as [ParseTarget] reads it
	Name    string `json:"name"`
	Version string `json:"version"`
}

// TakeInventory lists what can be debugged in the cluster's namespace, or in all
// namespaces if that is empty. What the user may not list is left out with a note; if
// that is all, it is a [*RightsError].
func TakeInventory(ctx context.Context, c *Cluster) (*Inventory, error) {
	inventory := &Inventory{Context: c.Context, Namespace: c.Namespace, Workloads: []Workload{}, Nodes: []Node{}, Notes: []string{}}
	deployments, err := c.Client.AppsV1().Deployments(c.Namespace).List(ctx, metav1.ListOptions{})
	noDeployments := apierrors.IsForbidden(err)
	if err != nil && !noDeployments {
		return nil, fmt.Errorf("reading the deployments: %w", err)
	}
	nodes, err := c.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	noNodes := apierrors.IsForbidden(err)
	if err != nil && !noNodes {
		return nil, fmt.Errorf("reading the nodes: %w", err)
	}
	switch {
	case noDeployments && noNodes:
		return nil, &RightsError{Namespace: c.Namespace, Missing: []string{right{"list", "apps", "deployments"}.String()}}
	case noDeployments && c.Namespace == "":
		inventory.Notes = append(inventory.Notes, "workloads are left out: you may not list deployments in all namespaces; choose one")
	case noDeployments:
		inventory.Notes = append(inventory.Notes, "workloads are left out: you may not list deployments in namespace "+c.Namespace)
	case noNodes:
		inventory.Notes = append(inventory.Notes, "nodes are left out: you may not list them")
	}
	if !noDeployments {
		for i := range deployments.Items {
			inventory.Workloads = append(inventory.Workloads, workloadOf(&deployments.Items[i]))
		}
	}
	if !noNodes {
		system, err := systemPods(ctx, c)
		if err != nil {
			return nil, err
		}
		for i := range nodes.Items {
			inventory.Nodes = append(inventory.Nodes, nodeOf(&nodes.Items[i], system))
		}
	}
	return inventory, nil
}

// systemPods lists those that kubeadm and others run parts of Kubernetes in on a node, static pods
// and those of DaemonSets, as far as the user may see them.
func systemPods(ctx context.Context, c *Cluster) ([]corev1.Pod, error) {
	pods, err := c.Client.CoreV1().Pods(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{})
	if apierrors.IsForbidden(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the pods of the system: %w", err)
	}
	return slices.DeleteFunc(pods.Items, func(pod corev1.Pod) bool {
		return pod.Annotations[corev1.MirrorPodAnnotationKey] == "" && !isDaemon(&pod) || pod.Labels[labelSession] != ""
	}), nil
}

func workloadOf(d *appsv1.Deployment) Workload {
	target, template := Target{Kind: KindDeployment, Name: d.Name}, &d.Spec.Template
	w := Workload{
		Target: target.String(), Kind: "Deployment", Namespace: d.Namespace, Name: d.Name,
		Replicas: replicasOf(d), Ready: d.Status.ReadyReplicas,
	}
	chosen, err := chooseContainer(target, template, "")
	for _, c := range template.Spec.Containers {
		w.Containers = append(w.Containers, Container{Name: c.Name, Image: c.Image, Default: err == nil && c.Name == chosen})
	}
	platform := buildflags.Platform{OS: "linux"}
	if template.Spec.OS != nil {
		platform.OS = string(template.Spec.OS.Name)
	}
	if os := template.Spec.NodeSelector[corev1.LabelOSStable]; os != "" {
		platform.OS = os
	}
	platform.Arch = template.Spec.NodeSelector[corev1.LabelArchStable]
	w.Reason = notSupported(platform)
	w.Debuggable = w.Reason == ""
	return w
}

// runtimes are the container runtimes that are programs in Go and services of the same
// name, by the scheme of the version that the kubelet tells.
var runtimes = map[string]string{"containerd": "containerd", "cri-o": "crio"}

func nodeOf(n *corev1.Node, system []corev1.Pod) Node {
	info := n.Status.NodeInfo
	node := Node{Name: n.Name, Platform: buildflags.Platform{OS: info.OperatingSystem, Arch: info.Architecture}}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			node.Ready = c.Status == corev1.ConditionTrue
		}
	}
	add := func(service, version string) {
		node.Components = append(node.Components, Component{
			Target: Target{Kind: KindNode, Name: n.Name, Service: service}.String(), Name: service, Version: version,
		})
	}
	add("kubelet", info.KubeletVersion)
	scheme, version, _ := strings.Cut(info.ContainerRuntimeVersion, "://")
	if service := runtimes[scheme]; service != "" {
		add(service, version)
	}
	for _, pod := range system {
		// A static pod with a network of its own can't be reached (package nodeservice).
		if pod.Spec.NodeName != n.Name || !pod.Spec.HostNetwork && !isDaemon(&pod) {
			continue
		}
		for _, container := range pod.Spec.Containers {
			// The others need not be programs in Go.
			if program := programOf(&container); program == "etcd" || slices.Contains(ofKubernetes, program) {
				add(program, tagOf(container.Image))
			}
		}
	}
	node.Reason = notSupported(node.Platform)
	node.Debuggable = node.Reason == ""
	return node
}

// tagOf is an image's tag, or empty.
func tagOf(image string) string {
	image, _, _ = strings.Cut(image, "@")
	_, tag, _ := strings.Cut(path.Base(image), ":")
	return tag
}

// architectures are those that there are agents for.
var architectures = []string{"amd64", "arm64"}

// notSupported is why nothing can be debugged on a platform; empty if it can, or if
// the architecture is not known.
func notSupported(p buildflags.Platform) string {
	if p.OS != "linux" || p.Arch != "" && !slices.Contains(architectures, p.Arch) {
		return fmt.Sprintf("it runs on %s; kubedelve debugs on Linux, on %s", strings.TrimSuffix(p.String(), "/"), strings.Join(architectures, " and "))
	}
	return ""
}

// Namespaces lists the names of the cluster's namespaces.
func Namespaces(ctx context.Context, c *Cluster) ([]string, error) {
	list, err := c.Client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if apierrors.IsForbidden(err) {
		return nil, &RightsError{Missing: []string{right{"list", "", "namespaces"}.String()}}
	}
	if err != nil {
		return nil, fmt.Errorf("reading the namespaces: %w", err)
	}
	names := make([]string, len(list.Items))
	for i := range list.Items {
		names[i] = list.Items[i].Name
	}
	return names, nil
}
