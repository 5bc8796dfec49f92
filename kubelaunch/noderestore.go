package kubelaunch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// disengage brings the original service back. The helper's pod is what tells that it is:
// it succeeds then. If the pod is gone another one takes its place, since what there is
// on the node outlives it.
func (u *undoing) disengage(ctx context.Context, s step) error {
	u.progress("restoring " + u.target.Service + " on node " + u.target.Name)
	r := u.journal.record
	address := podAddress{
		namespace: u.cluster.Namespace, pod: s.Pod, container: helperPod, port: r.Port,
		own: r.Client, agentPin: r.Agent, client: r.Owner,
	}
	ctx, cancel := context.WithTimeoutCause(ctx, undoTimeout, fmt.Errorf("the original did not come back in %v", undoTimeout))
	defer cancel()
	for {
		pod, err := u.pod(ctx, s.Pod)
		switch {
		case err != nil:
			return err
		case pod != nil && pod.Status.Phase == corev1.PodSucceeded:
			return nil
		case pod == nil || pod.Status.Phase == corev1.PodFailed || pod.DeletionTimestamp != nil:
			if pod != nil {
				if err := u.removePod(ctx, s.Pod, ""); err != nil {
					return err
				}
			}
			helper := newHelper(u.target, u.cluster.Namespace, u.journal.secret, r.Image, r.PullPolicy)
			if _, err := u.cluster.Client.CoreV1().Pods(helper.Namespace).Create(ctx, helper, metav1.CreateOptions{FieldManager: fieldManager}); err != nil {
				return fmt.Errorf("creating the helper pod: %w", err)
			}
		}
		if err := u.askRestore(ctx, address); err != nil {
			return fmt.Errorf("restoring %s: %w", u.target, err)
		}
	}
}

// askRestore asks whoever is at the agent's port to restore, until the helper's pod has
// ended or is to be looked at anew. It asks again when it was heard: the helper may begin
// only when the agent in the service's place has gone.
func (u *undoing) askRestore(ctx context.Context, a podAddress) error {
	asking, stop := context.WithCancel(ctx)
	defer stop()
	asked := make(chan struct{})
	go func() { // ends with asking
		defer close(asked)
		retry := time.NewTicker(pollInterval)
		defer retry.Stop()
		for asking.Err() == nil {
			client, err := connectBy(asking, u.cluster, a, ways()[0])
			if err == nil {
				_ = client.Restore(asking)
				_ = client.Close()
			}
			select {
			case <-asking.Done():
			case <-retry.C:
			}
		}
	}()
	err := waitPod(ctx, u.cluster, a.pod, func(pod *corev1.Pod) (bool, error) {
		return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed || pod.DeletionTimestamp != nil, nil
	})
	stop()
	<-asked
	var deleted *PodError
	if errors.As(err, &deleted) {
		return nil
	}
	return err
}

// nodeSessions are the sessions that have a namespace of their own, but for those that
// are known. One whose journal is not there was killed before it changed anything else.
func nodeSessions(ctx context.Context, c *Cluster, known []Info) ([]Info, error) {
	namespaces, err := c.Client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{LabelSelector: labelNode})
	if apierrors.IsForbidden(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the sessions on nodes: %w", err)
	}
	var infos []Info
	for _, n := range namespaces.Items {
		id := n.Labels[labelNode]
		if n.DeletionTimestamp != nil || slices.ContainsFunc(known, func(i Info) bool { return i.Namespace == n.Name && i.journal.secret != nil }) {
			continue
		}
		in := *c
		in.Namespace = n.Name
		found, err := journals(ctx, &in)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			target := n.Annotations[annotationTarget]
			found = []Info{{
				ID: id, Namespace: n.Name, Target: target, Owner: "(journal lost)", Created: n.CreationTimestamp.Time,
				journal: &journal{cluster: &in, record: record{Session: id, Target: target, Steps: []step{{Kind: stepNamespace}}}},
			}}
		}
		infos = append(infos, found...)
	}
	return infos, nil
}

// beneathNamespace is how long the end of a namespace is waited for where the control plane was
// exchanged: who takes namespaces away may itself begin anew and have to become the leader, for minutes.
const beneathNamespace = 30 * time.Second

// deleteNamespace removes a session's own namespace with all that is in it.
func deleteNamespace(ctx context.Context, c *Cluster, session string) error {
	namespace, err := c.Client.CoreV1().Namespaces().Get(ctx, c.Namespace, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the namespace %s: %w", c.Namespace, err)
	}
	if namespace.Labels[labelNode] != session {
		return nil // another session's
	}
	err = c.Client.CoreV1().Namespaces().Delete(ctx, c.Namespace, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &namespace.UID}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("deleting the namespace %s: %w", c.Namespace, err)
	}
	if !c.beneath {
		return awaitNamespaceGone(ctx, c, namespace)
	}
	waiting, cancel := context.WithTimeout(ctx, beneathNamespace)
	defer cancel()
	_ = awaitNamespaceGone(waiting, c, namespace) // it is being removed, whoever looks on, and for how long
	return nil
}

func awaitNamespaceGone(ctx context.Context, c *Cluster, namespace *corev1.Namespace) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		now, err := c.Client.CoreV1().Namespaces().Get(ctx, namespace.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && now.UID != namespace.UID {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the namespace %s to be gone: %w", namespace.Name, context.Cause(ctx))
		case <-tick.C:
		}
	}
}
