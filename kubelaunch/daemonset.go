package kubelaunch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
)

// daemonRevision is what the DaemonSet controller writes on its pods: which template they are
// of. It ends those of another, if the set's strategy is a rolling update.
const daemonRevision = appsv1.ControllerRevisionHashLabelKey

// resolveDaemonSet finds the pod of a DaemonSet on a node.
func resolveDaemonSet(ctx context.Context, c *Cluster, target Target, container string) (*Placement, error) {
	set, err := c.Client.AppsV1().DaemonSets(c.Namespace).Get(ctx, target.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("there is no daemonset %q in namespace %q; choose the namespace with -n", target.Name, c.Namespace)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", target, err)
	}
	pods, err := daemonPods(ctx, c, set)
	if err != nil {
		return nil, err
	}
	var nodes []string
	for _, pod := range pods {
		nodes = append(nodes, pod.Spec.NodeName)
	}
	slices.Sort(nodes)
	if nodes = slices.Compact(nodes); target.Node == "" && len(nodes) == 1 {
		target.Node = nodes[0]
	}
	if !slices.Contains(nodes, target.Node) {
		said := fmt.Sprintf("it has none on node %q", target.Node)
		if target.Node == "" {
			said = "say on which node: " + target.String() + "@NODE"
		}
		return nil, fmt.Errorf("%s has pods on %d nodes (%s); %s", target, len(nodes), strings.Join(nodes, ", "), said)
	}
	p := &Placement{Target: target, cluster: c, object: set, daemonSet: set}
	var like *corev1.Pod
	for i := range pods {
		pod := &pods[i]
		if pod.Spec.NodeName != target.Node {
			continue
		}
		if _, ours := pod.Labels[labelSession]; ours {
			if like == nil {
				like = pod
			}
			continue
		}
		like = pod
		if pod.Status.Phase == corev1.PodRunning && pod.DeletionTimestamp == nil {
			p.pods = append(p.pods, *pod)
		}
	}
	p.template, p.revision = daemonTemplate(set, like), like.Labels[daemonRevision]
	if err := p.findContainer(container); err != nil {
		return nil, err
	}
	p.Platform = p.findPlatform(ctx)
	return p, nil
}

// daemonPods are the pods of a DaemonSet that have a node, with ours among them.
func daemonPods(ctx context.Context, c *Cluster, set *appsv1.DaemonSet) ([]corev1.Pod, error) {
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("reading the selector of daemonset %s: %w", set.Name, err)
	}
	list, err := c.Client.CoreV1().Pods(set.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector.String()})
	if err != nil {
		return nil, fmt.Errorf("reading the pods of daemonset %s: %w", set.Name, err)
	}
	return slices.DeleteFunc(list.Items, func(pod corev1.Pod) bool { return pod.Spec.NodeName == "" || !metav1.IsControlledBy(&pod, set) }), nil
}

// daemonTemplate is the set's pod template with what its controller adds for a node, which a pod
// there shows.
func daemonTemplate(set *appsv1.DaemonSet, like *corev1.Pod) *corev1.PodTemplateSpec {
	template := set.Spec.Template.DeepCopy()
	template.Labels = maps.Clone(like.Labels)
	delete(template.Labels, labelSession)
	template.Spec.Affinity, template.Spec.Tolerations = like.Spec.Affinity.DeepCopy(), slices.Clone(like.Spec.Tolerations)
	return template
}

// hide takes those labels off a pod that the DaemonSet would adopt it for.
func (p *Placement) hide(pod *corev1.Pod) {
	for label := range p.hidden() {
		delete(pod.Labels, label)
	}
}

// hidden are the labels that the DaemonSet finds its pods by.
func (p *Placement) hidden() map[string]string {
	hidden := map[string]string{}
	for label := range p.daemonSet.Spec.Selector.MatchLabels {
		hidden[label] = p.template.Labels[label]
	}
	for _, e := range p.daemonSet.Spec.Selector.MatchExpressions {
		if value, ok := p.template.Labels[e.Key]; ok {
			hidden[e.Key] = value
		}
	}
	return hidden
}

// reachAndSucceed puts a new pod in the place of the DaemonSet's own. That one goes on until the
// agent answers, unless both want the same port of the node.
func (w *workload) reachAndSucceed(ctx context.Context, stage func(string)) (link, error) {
	if w.placement.hostPorts() {
		w.patient = true // the scheduler may see a moment later that the port is free
		if err := w.succeed(ctx, stage); err != nil {
			return link{}, err
		}
		return w.reachFirst(ctx, stage)
	}
	l, err := w.reachFirst(ctx, stage)
	if err != nil {
		return link{}, err
	}
	if err := w.succeed(ctx, stage); err != nil {
		_ = l.client.Close()
		return link{}, err
	}
	return l, nil
}

// succeed ends the DaemonSet's own pod and has ours adopted instead. The controller makes no other
// while the old one ends; and if it is faster all the same, it takes the younger one away again,
// which is not ours.
func (w *workload) succeed(ctx context.Context, stage func(string)) error {
	p := w.placement
	if err := w.journal.add(ctx, step{Kind: stepAdopt, Pod: w.pod.Name}); err != nil {
		return err
	}
	stage("taking the place of " + p.Target.String())
	pods, err := daemonPods(ctx, w.cluster, p.daemonSet)
	if err != nil {
		return err
	}
	originals := slices.DeleteFunc(pods, func(pod corev1.Pod) bool { return pod.Spec.NodeName != p.Target.Node || pod.UID == w.pod.UID })
	u := &undoing{cluster: w.cluster, progress: stage}
	for i := range originals {
		if err := u.deletePod(ctx, &originals[i]); err != nil {
			return err
		}
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": w.pod.UID, "labels": p.hidden()}})
	if err == nil {
		_, err = w.cluster.Client.CoreV1().Pods(w.cluster.Namespace).Patch(ctx, w.pod.Name, types.StrategicMergePatchType, patch,
			metav1.PatchOptions{FieldManager: fieldManager})
	}
	if err != nil {
		return fmt.Errorf("giving pod %s the labels of %s: %w", w.pod.Name, p.Target, err)
	}
	if err := w.waitAdopted(ctx); err != nil {
		return err
	}
	for i := range originals {
		stage("waiting for the end of pod " + originals[i].Name)
		if err := waitGone(ctx, w.cluster, &originals[i]); err != nil {
			return err
		}
	}
	return nil
}

// waitDaemon waits until the DaemonSet has a pod of its own on the node that is ready, if it
// wants one there and that does not take too long.
func (u *undoing) waitDaemon(ctx context.Context) error {
	u.progress("waiting for an original pod")
	ctx, cancel := context.WithTimeout(ctx, replacementPatience)
	defer cancel()
	err := u.cluster.patiently(ctx, func(reached func()) error {
		for {
			set, err := u.cluster.Client.AppsV1().DaemonSets(u.cluster.Namespace).Get(ctx, u.target.Name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("reading %s: %w", u.target, err)
			}
			pods, err := daemonPods(ctx, u.cluster, set)
			if err != nil {
				return err
			}
			reached()
			if slices.ContainsFunc(pods, func(pod corev1.Pod) bool {
				return pod.Spec.NodeName == u.target.Node && pod.Labels[labelSession] == "" && pod.DeletionTimestamp == nil && podReady(&pod)
			}) {
				return nil
			}
			timer := time.NewTimer(pollInterval)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return context.Cause(ctx)
			}
		}
	})
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		u.progress(fmt.Sprintf("the original pod was not ready in %v; going on", replacementPatience))
		return nil
	}
	return err
}

// FindDaemon finds a service of a node that is no process of the node's own but the container of a
// DaemonSet's pod there: kube-proxy of kubeadm, flanneld. The cluster that it returns is that of the
// pod's namespace; it is nil if there is no such pod, or if the user may not look for it.
func FindDaemon(ctx context.Context, c *Cluster, target Target) (_ *Cluster, found Target, container string, err error) {
	pods, err := c.Client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("spec.nodeName", target.Name).String(),
	})
	if apierrors.IsForbidden(err) {
		return nil, Target{}, "", nil // what that user may do is found out later
	}
	if err != nil {
		return nil, Target{}, "", fmt.Errorf("reading the pods on node %s: %w", target.Name, err)
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if !isDaemon(pod) {
			continue
		}
		for i := range pod.Spec.Containers {
			if c0 := &pod.Spec.Containers[i]; programOf(c0) == target.program() {
				in := *c
				in.Namespace = pod.Namespace
				return &in, Target{Kind: KindDaemonSet, Name: metav1.GetControllerOf(pod).Name, Node: target.Name}, c0.Name, nil
			}
		}
	}
	return nil, Target{}, "", nil
}

// isDaemon tells whether a pod is of a DaemonSet.
func isDaemon(pod *corev1.Pod) bool {
	owner := metav1.GetControllerOf(pod)
	return owner != nil && owner.Kind == "DaemonSet"
}

// programOf is what a container's command line says that it runs; else the container's name.
func programOf(c *corev1.Container) string {
	if len(c.Command) > 0 {
		return path.Base(c.Command[0])
	}
	return c.Name
}
