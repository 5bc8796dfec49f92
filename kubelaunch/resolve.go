package kubelaunch

import (
	"context"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubedelve/kubedelve/buildflags"
)

// Placement is a target that was found, and what is known of it. Nothing has
// been changed yet: [Placement.Launch] does that.
type Placement struct {
	Target    Target
	Container string              // empty for the target local
	Platform  buildflags.Platform // of the node that the component runs on; zero if unknown
	// Command is the container's own command line; nil if the pod template leaves
	// it to the image.
	Command []string

	cluster  *Cluster
	object   metav1.Object // the Deployment or DaemonSet
	template *corev1.PodTemplateSpec
	pods     []corev1.Pod // its own, running: of the ReplicaSet, or of the DaemonSet on the node
	revision string       // tells one template from another

	deployment *appsv1.Deployment // nil: a DaemonSet
	replicaSet *appsv1.ReplicaSet
	daemonSet  *appsv1.DaemonSet // nil: a Deployment
}

// Resolve finds a target in the cluster, without changing anything. The container
// may be empty if there is only one, or if the workload names a default
// (annotation kubectl.kubernetes.io/default-container). The errors a user can act
// on are [*ContainerError] and those of the API server.
func Resolve(ctx context.Context, c *Cluster, target Target, container string) (*Placement, error) {
	switch target.Kind {
	case KindDeployment:
	case KindDaemonSet:
		return resolveDaemonSet(ctx, c, target, container)
	default:
		return nil, fmt.Errorf("target %s is not in a cluster", target)
	}
	deployment, err := c.Client.AppsV1().Deployments(c.Namespace).Get(ctx, target.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, notFound(ctx, c, target)
	}
	if apierrors.IsForbidden(err) {
		// The first right that lacks is seldom the only one.
		if lacking := checkRights(ctx, c, deploymentRights(false), false); lacking != nil {
			return nil, lacking
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", target, err)
	}
	p := placementOf(c, target, deployment)
	if err := p.findContainer(container); err != nil {
		return nil, err
	}
	if err := p.findReplicaSet(ctx); err != nil {
		return nil, err
	}
	p.Platform = p.findPlatform(ctx)
	return p, nil
}

func placementOf(c *Cluster, target Target, d *appsv1.Deployment) *Placement {
	return &Placement{Target: target, cluster: c, object: d, template: &d.Spec.Template, deployment: d}
}

// findContainer finds the container and its command line.
func (p *Placement) findContainer(name string) (err error) {
	if p.Container, err = chooseContainer(p.Target, p.template, name); err == nil {
		p.Command = commandOf(p.template, p.Container)
	}
	return err
}

// notFound helps with a name that is wrong or in another namespace.
func notFound(ctx context.Context, c *Cluster, target Target) error {
	err := fmt.Errorf("there is no deployment %q in namespace %q", target.Name, c.Namespace)
	if c.Context != "" {
		err = fmt.Errorf("%w of context %q", err, c.Context)
	}
	list, listErr := c.Client.AppsV1().Deployments(c.Namespace).List(ctx, metav1.ListOptions{Limit: 20})
	if listErr != nil || len(list.Items) == 0 {
		return fmt.Errorf("%w, nor any other; choose the namespace with -n", err)
	}
	var names []string
	for _, d := range list.Items {
		names = append(names, d.Name)
	}
	return fmt.Errorf("%w; there are %v (choose another namespace with -n)", err, names)
}

// chooseContainer finds the container to debug: the one named, the workload's
// default, or the only one.
func chooseContainer(target Target, template *corev1.PodTemplateSpec, name string) (string, error) {
	var names []string
	for _, c := range template.Spec.Containers {
		names = append(names, c.Name)
	}
	if name == "" {
		name = template.Annotations["kubectl.kubernetes.io/default-container"]
	}
	if name == "" && len(names) == 1 {
		name = names[0]
	}
	if !slices.Contains(names, name) {
		return "", &ContainerError{Target: target, Name: name, Containers: names}
	}
	return name, nil
}

func containerOf(template *corev1.PodTemplateSpec, name string) *corev1.Container {
	for i := range template.Spec.Containers {
		if template.Spec.Containers[i].Name == name {
			return &template.Spec.Containers[i]
		}
	}
	return nil
}

// commandOf is the container's command line if the template has all of it.
func commandOf(template *corev1.PodTemplateSpec, container string) []string {
	c := containerOf(template, container)
	if len(c.Command) == 0 {
		return nil
	}
	return append(slices.Clone(c.Command), c.Args...)
}

// revisionKey is what the Deployment controller writes on a Deployment and on the
// ReplicaSet that carries its current template.
const revisionKey = "deployment.kubernetes.io/revision"

// findReplicaSet finds the Deployment's current ReplicaSet and its pods.
func (p *Placement) findReplicaSet(ctx context.Context) error {
	selector, err := metav1.LabelSelectorAsSelector(p.deployment.Spec.Selector)
	if err != nil {
		return fmt.Errorf("reading the selector of %s: %w", p.Target, err)
	}
	sets, err := p.cluster.Client.AppsV1().ReplicaSets(p.deployment.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector.String()})
	if err != nil {
		return fmt.Errorf("reading the replica sets of %s: %w", p.Target, err)
	}
	for i := range sets.Items {
		set := &sets.Items[i]
		if metav1.IsControlledBy(set, p.deployment) && set.Annotations[revisionKey] == p.deployment.Annotations[revisionKey] {
			p.replicaSet = set
		}
	}
	if p.replicaSet == nil {
		return fmt.Errorf("%s has no replica set yet; wait until it was rolled out: kubectl -n %s rollout status %s",
			p.Target, p.deployment.Namespace, p.Target)
	}
	p.revision = p.deployment.Annotations[revisionKey]
	pods, err := p.cluster.Client.CoreV1().Pods(p.deployment.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector.String()})
	if err != nil {
		return fmt.Errorf("reading the pods of %s: %w", p.Target, err)
	}
	for _, pod := range pods.Items {
		if metav1.IsControlledBy(&pod, p.replicaSet) && pod.Status.Phase == corev1.PodRunning && pod.DeletionTimestamp == nil {
			p.pods = append(p.pods, pod)
		}
	}
	return nil
}

// findPlatform reads the platform off the node of one of the pods. Developers
// often may not read nodes: it is no error not to know.
func (p *Placement) findPlatform(ctx context.Context) buildflags.Platform {
	if arch := p.template.Spec.NodeSelector[corev1.LabelArchStable]; arch != "" {
		return buildflags.Platform{OS: "linux", Arch: arch}
	}
	for _, pod := range p.pods {
		node, err := p.cluster.Client.CoreV1().Nodes().Get(ctx, pod.Spec.NodeName, metav1.GetOptions{})
		if err == nil {
			return buildflags.Platform{OS: node.Status.NodeInfo.OperatingSystem, Arch: node.Status.NodeInfo.Architecture}
		}
		if apierrors.IsForbidden(err) {
			break
		}
	}
	return buildflags.Platform{}
}

// exclusive tells whether two pods of the workload must not run side by side.
func (p *Placement) exclusive() bool {
	if p.daemonSet != nil || p.deployment.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return true
	}
	return p.template.Spec.HostNetwork || p.hostPorts()
}

// hostPorts tells whether the scheduler keeps two pods of the workload from one node.
func (p *Placement) hostPorts() bool {
	for _, c := range p.template.Spec.Containers {
		for _, port := range c.Ports {
			if port.HostPort != 0 {
				return true
			}
		}
	}
	return false
}

// replicas are those that there are to be: of a DaemonSet one on the node.
func (p *Placement) replicas() int32 {
	if p.daemonSet != nil {
		return 1
	}
	return replicasOf(p.deployment)
}

// replicasOf is what the Deployment asks for; it defaults to 1 in the API server.
func replicasOf(d *appsv1.Deployment) int32 {
	if d.Spec.Replicas == nil {
		return 1
	}
	return *d.Spec.Replicas
}
