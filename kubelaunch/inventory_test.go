package kubelaunch

import (
	"errors"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func TestInventory(t *testing.T) {
	deployment := func(name string, spec corev1.PodSpec) *appsv1.Deployment {
		return &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "store"},
			Spec:       appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{Spec: spec}},
		}
	}
	one := []corev1.Container{{Name: "app", Image: "a:1"}}
	node := func(name, os, arch, runtime string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{
			OperatingSystem: os, Architecture: arch, KubeletVersion: "v1.37.2", ContainerRuntimeVersion: runtime,
		}}}
	}
	pod := func(node, program, image string, mirror, hostNetwork bool) *corev1.Pod {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: program + "-" + node, Namespace: metav1.NamespaceSystem, Annotations: map[string]string{}},
			Spec: corev1.PodSpec{
				NodeName: node, HostNetwork: hostNetwork, Containers: []corev1.Container{{Name: program, Image: image, Command: []string{"/usr/local/bin/" + program, "--flag"}}},
			},
		}
		if mirror {
			p.Annotations[corev1.MirrorPodAnnotationKey] = "0123"
		}
		return p
	}
	cluster := &Cluster{Namespace: "store", Client: fake.NewClientset(
		pod("n1", "kube-scheduler", "registry:5000/kube-scheduler:v1.37.1@sha256:00", true, true), pod("n1", "etcd", "etcd", true, true),
		pod("n1", "kube-vip", "kube-vip:v1", true, true), pod("n2", "kube-apiserver", "kube-apiserver:v1.37.2", true, false),
		pod("n2", "kube-proxy", "kube-proxy:v1.37.2", false, true),
		deployment("one", corev1.PodSpec{Containers: one}),
		deployment("two", corev1.PodSpec{Containers: append(slices.Clone(one), corev1.Container{Name: "proxy"})}),
		deployment("windows", corev1.PodSpec{Containers: one, NodeSelector: map[string]string{corev1.LabelOSStable: "windows"}}),
		deployment("windows-too", corev1.PodSpec{Containers: one, OS: &corev1.PodOS{Name: corev1.Windows}}),
		deployment("power", corev1.PodSpec{Containers: one, NodeSelector: map[string]string{corev1.LabelArchStable: "ppc64le"}}),
		node("n1", "linux", "arm64", "containerd://2.0"), node("n2", "linux", "amd64", "cri-o://1.33"),
		node("n3", "windows", "amd64", "containerd://2.0"), node("n4", "linux", "amd64", "docker://28"),
	)}
	inventory, err := TakeInventory(t.Context(), cluster)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range inventory.Workloads {
		line := w.Target
		for _, c := range w.Containers {
			line += " " + c.Name
			if c.Default {
				line += "*"
			}
		}
		got = append(got, line+" "+w.Reason)
	}
	for _, n := range inventory.Nodes {
		line := n.Name
		for _, c := range n.Components {
			line += " " + c.Target + "=" + c.Version
		}
		got = append(got, line+" "+n.Reason)
	}
	const supported = "; kubedelve debugs on Linux, on amd64 and arm64"
	want := []string{
		"deploy/one app* ",
		"deploy/power app* it runs on linux/ppc64le" + supported,
		"deploy/two app proxy ",
		"deploy/windows app* it runs on windows" + supported,
		"deploy/windows-too app* it runs on windows" + supported,
		"n1 node/n1:kubelet=v1.37.2 node/n1:containerd=2.0 node/n1:etcd= node/n1:kube-scheduler=v1.37.1 ",
		"n2 node/n2:kubelet=v1.37.2 node/n2:crio=1.33 ",
		"n3 node/n3:kubelet=v1.37.2 node/n3:containerd=2.0 it runs on windows/amd64" + supported,
		"n4 node/n4:kubelet=v1.37.2 ",
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func TestInventoryOfWhatMayBeListed(t *testing.T) {
	for _, test := range []struct {
		name      string
		namespace string
		forbidden []string
		note      string // the only one
		err       string
	}{
		{"all", "store", nil, "", ""},
		{"no nodes", "store", []string{"nodes"}, "nodes are left out: you may not list them", ""},
		{"no workloads", "store", []string{"deployments"}, "workloads are left out: you may not list deployments in namespace store", ""},
		{"no workloads everywhere", "", []string{"deployments"}, "workloads are left out: you may not list deployments in all namespaces; choose one", ""},
		{"nothing", "store", []string{"deployments", "nodes"}, "", "list deployments.apps"},
	} {
		t.Run(test.name, func(t *testing.T) {
			client := fake.NewClientset()
			for _, resource := range test.forbidden {
				client.PrependReactor("list", resource, func(clienttesting.Action) (bool, runtime.Object, error) {
					return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: resource}, "", errors.New("no"))
				})
			}
			inventory, err := TakeInventory(t.Context(), &Cluster{Client: client, Namespace: test.namespace})
			var rights *RightsError
			if test.err != "" {
				if !errors.As(err, &rights) || !strings.Contains(err.Error(), test.err) {
					t.Errorf("got error %v, want one of rights with %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(inventory.Notes, "\n"); got != test.note {
				t.Errorf("got the notes %q, want %q", got, test.note)
			}
		})
	}
}
