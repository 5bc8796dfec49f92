package kubelaunch

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubedelve/kubedelve/buildflags"
	"github.com/kubedelve/kubedelve/internal/remoteshell"
)

// NodePlacement is a service of a node that was found as far as the cluster knows of it.
// Nothing has been changed yet: [NodePlacement.Launch] does that.
type NodePlacement struct {
	Target   Target
	Platform buildflags.Platform // of the node
	Via      NodeVia             // the way into the node

	cluster *Cluster     // with the session's own namespace; nil: by ssh
	node    *corev1.Node // nil: by ssh
	version string       // of Kubernetes, if the service is a part of it
	agent   string       // the agent's program, by ssh
}

// ResolveNode finds a target of the kind [KindNode] in the cluster.
func ResolveNode(ctx context.Context, c *Cluster, via NodeVia, target Target) (*NodePlacement, error) {
	if target.Kind != KindNode {
		return nil, fmt.Errorf("target %s is not on a node", target)
	}
	node, err := c.Client.CoreV1().Nodes().Get(ctx, target.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, noNode(ctx, c, target)
	}
	if err != nil {
		return nil, fmt.Errorf("reading node %s: %w", target.Name, err)
	}
	if target.beneathAPI() && !via.direct() {
		return nil, fmt.Errorf("while %s is halted the cluster's API is, and with it this way to the node: use --node-via direct (target.nodeVia in a launch configuration)", target)
	}
	own := *c
	own.Namespace, own.beneath = nodeNamespace(target), target.beneathAPI()
	return &NodePlacement{
		Target: target, Via: via, cluster: &own, node: node, version: versionOf(ctx, c, target, node),
		Platform: buildflags.Platform{OS: node.Status.NodeInfo.OperatingSystem, Arch: node.Status.NodeInfo.Architecture},
	}, nil
}

// beneathAPI tells whether there is no API server without the target.
func (t Target) beneathAPI() bool {
	return t.Kind == KindNode && slices.Contains([]string{"kube-apiserver", "etcd"}, t.program())
}

// ofKubernetes are the programs that tell the version of Kubernetes they are of.
var ofKubernetes = []string{"kubelet", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy"}

var releasePattern = regexp.MustCompile(`^v\d+\.\d+\.\d+`)

// versionOf is the version of Kubernetes that a service on the node has, or empty if it is
// no part of it.
func versionOf(ctx context.Context, c *Cluster, target Target, node *corev1.Node) string {
	program := target.program()
	switch {
	case program == "kubelet":
		return node.Status.NodeInfo.KubeletVersion
	case !slices.Contains(ofKubernetes, program):
		return ""
	}
	// A static pod is known to the API server by its node's name. Its images have the
	// version for a tag, as a rule.
	if pod, err := c.Client.CoreV1().Pods(metav1.NamespaceSystem).Get(ctx, program+"-"+node.Name, metav1.GetOptions{}); err == nil {
		for _, container := range pod.Spec.Containers {
			if tag := tagOf(container.Image); releasePattern.MatchString(tag) {
				return tag
			}
		}
	}
	if info, err := c.Client.Discovery().ServerVersion(); err == nil {
		return info.GitVersion
	}
	return ""
}

func noNode(ctx context.Context, c *Cluster, target Target) error {
	list, err := c.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{Limit: 20})
	if err != nil {
		return fmt.Errorf("there is no node %q", target.Name)
	}
	var names []string
	for _, n := range list.Items {
		names = append(names, n.Name)
	}
	return fmt.Errorf("there is no node %q; there is %s", target.Name, strings.Join(names, ", "))
}

// LDFlags give a component of Kubernetes the version that the node's has, for
// components whose version the node tells; else they are empty.
func (p *NodePlacement) LDFlags() string { return stampOf(p.version) }

// LDFlags are those of [NodePlacement.LDFlags], for a container whose image tells the version.
func (p *Placement) LDFlags() string {
	c := containerOf(p.template, p.Container)
	if tag := tagOf(c.Image); slices.Contains(ofKubernetes, programOf(c)) && releasePattern.MatchString(tag) {
		return stampOf(tag)
	}
	return ""
}

// stampOf is what gives a component of Kubernetes a version.
func stampOf(version string) string {
	if version == "" {
		return ""
	}
	major, rest, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	minor, _, _ := strings.Cut(rest, ".")
	var flags []string
	// The variables that Kubernetes' own build sets (hack/lib/version.sh).
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		flags = append(flags, "-X "+pkg+".gitVersion="+version, "-X "+pkg+".gitMajor="+major, "-X "+pkg+".gitMinor="+minor)
	}
	return strings.Join(flags, " ")
}

// open returns the way into the node for a session.
func (p *NodePlacement) open(o Options) nodeDoor {
	if p.Via.SSH() {
		return &sshDoor{host: remoteshell.Host{Name: p.Via.ssh}, target: p.Target, options: o, agent: p.agent}
	}
	return &podDoor{placement: p, options: o, cluster: p.cluster}
}
