package testcluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Daemon is what a session on a DaemonSet leaves as it was. Two of them can be compared.
type Daemon struct {
	Spec string // of the set and its metadata, as JSON
	Pods string // labels and spec of its pods, without their names
}

// Daemon waits until a DaemonSet has a ready pod on each node, and says how it is.
func (c *Cluster) Daemon(ctx context.Context, namespace, name string) (d Daemon, err error) {
	err = until(ctx, "pods of daemonset "+name, func() (bool, string, error) {
		var ready bool
		d, ready, err = c.daemon(ctx, namespace, name)
		return ready, fmt.Sprintf("%+v", d), err
	})
	return d, err
}

func (c *Cluster) daemon(ctx context.Context, namespace, name string) (d Daemon, ready bool, err error) {
	set, err := c.Client.AppsV1().DaemonSets(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return d, false, fmt.Errorf("reading daemonset %s: %w", name, err)
	}
	pods, err := c.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(set.Spec.Selector)})
	if err != nil {
		return d, false, fmt.Errorf("reading the pods of daemonset %s: %w", name, err)
	}
	ready = set.Status.NumberReady == set.Status.DesiredNumberScheduled && set.Status.ObservedGeneration == set.Generation && len(pods.Items) == int(set.Status.DesiredNumberScheduled)
	meta := set.ObjectMeta
	meta.ResourceVersion, meta.ManagedFields = "", nil
	var like []any
	for i := range pods.Items {
		pod := &pods.Items[i]
		ready = ready && Ready(pod) && pod.DeletionTimestamp == nil
		spec := pod.Spec.DeepCopy()
		for i, v := range spec.Volumes {
			if v.Projected != nil { // with a name of its own, from admission
				spec.Volumes[i].Name = "token"
			}
		}
		for i := range spec.Containers {
			for j, m := range spec.Containers[i].VolumeMounts {
				if m.MountPath == "/var/run/secrets/kubernetes.io/serviceaccount" {
					spec.Containers[i].VolumeMounts[j].Name = "token"
				}
			}
		}
		like = append(like, pod.Labels, spec)
	}
	one, err1 := json.Marshal([]any{meta, set.Spec})
	all, err2 := json.Marshal(like)
	return Daemon{string(one), string(all)}, ready, errors.Join(err1, err2)
}
