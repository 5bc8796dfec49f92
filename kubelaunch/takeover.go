package kubelaunch

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
)

// takeOver waits until our pod serves and puts it in the place of the others. The
// component decides when: it may be halted at its entry for as long as it likes,
// and the original serves until then.
func (l *launch) takeOver(ctx context.Context) error {
	err := waitPod(ctx, l.cluster, l.pod.Name, func(pod *corev1.Pod) (bool, error) { return podReady(pod), nil })
	if err != nil {
		return err
	}
	p := l.placement
	if p.exclusive() || p.replicas() == 0 {
		return nil // nothing else runs
	}
	// Until requests find our pod the originals have to stay.
	if err := waitRoutes(ctx); err != nil {
		return err
	}
	hash := p.replicaSet.Labels[templateHash]
	if err := l.journal.add(ctx, step{Kind: stepAdopt, Pod: l.pod.Name, Hash: hash}); err != nil {
		return err
	}
	if err := setHash(ctx, l.cluster, l.pod.Name, l.pod.UID, &hash); err != nil {
		return err
	}
	want := p.replicas()
	if want > 1 && !l.options.KeepReplicas {
		want = 1
		if err := scale(ctx, l.journal, p.deployment.Name, want); err != nil {
			return err
		}
	}
	if err := l.waitAdopted(ctx); err != nil {
		return err
	}
	var members []corev1.Pod
	err = waitMembers(ctx, l.cluster, p.replicaSet.Name, func(_ *appsv1.ReplicaSet, now []corev1.Pod) bool {
		members = now
		return len(members) <= int(want)
	})
	if err != nil {
		return err
	}
	return l.waitReplaced(ctx, members)
}

// waitReplaced waits until the pods that are no members any more have ended: until
// then they may answer on connections that callers keep open.
func (l *launch) waitReplaced(ctx context.Context, members []corev1.Pod) error {
	routes := time.NewTimer(routeDelay)
	defer routes.Stop()
	for i := range l.placement.pods {
		original := &l.placement.pods[i]
		if slices.ContainsFunc(members, func(m corev1.Pod) bool { return m.UID == original.UID }) {
			continue
		}
		if err := waitGone(ctx, l.cluster, original); err != nil {
			return err
		}
	}
	select {
	case <-routes.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l *launch) waitAdopted(ctx context.Context) error {
	return waitPod(ctx, l.cluster, l.pod.Name, func(pod *corev1.Pod) (bool, error) {
		return metav1.GetControllerOf(pod) != nil, nil
	})
}

func podReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// setHash gives our pod the label that makes a ReplicaSet adopt it, or with nil
// takes it away, so that it is released.
func setHash(ctx context.Context, c *Cluster, pod string, uid types.UID, hash *string) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": uid, "labels": map[string]any{templateHash: hash},
	}})
	if err == nil {
		_, err = c.Client.CoreV1().Pods(c.Namespace).Patch(ctx, pod, types.StrategicMergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
	}
	if err != nil {
		return fmt.Errorf("changing the label %s of pod %s: %w", templateHash, pod, err)
	}
	return nil
}

// scale writes the change down and makes it.
func scale(ctx context.Context, j *journal, deployment string, to int32) error {
	scales := j.cluster.Client.AppsV1().Deployments(j.cluster.Namespace)
	current, err := scales.GetScale(ctx, deployment, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("scaling deployment %s: %w", deployment, err)
	}
	if current.Spec.Replicas == to {
		return nil
	}
	if err := j.add(ctx, step{Kind: stepScale, From: current.Spec.Replicas, To: to}); err != nil {
		return err
	}
	return setReplicas(ctx, j.cluster, deployment, current, to)
}

// setReplicas changes a scale that was just read, unless somebody else has changed
// the replicas since.
func setReplicas(ctx context.Context, c *Cluster, deployment string, current *autoscalingv1.Scale, to int32) error {
	scales, from := c.Client.AppsV1().Deployments(c.Namespace), current.Spec.Replicas
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		next := current.DeepCopy()
		next.Spec.Replicas = to
		_, err := scales.UpdateScale(ctx, deployment, next, metav1.UpdateOptions{FieldManager: fieldManager})
		if !apierrors.IsConflict(err) {
			return err
		}
		// The versions are the Deployment's: a new status is a conflict as well.
		var readErr error
		if current, readErr = scales.GetScale(ctx, deployment, metav1.GetOptions{}); readErr != nil {
			return readErr
		}
		if current.Spec.Replicas != from {
			return fmt.Errorf("somebody has scaled it from %d to %d just now", from, current.Spec.Replicas)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("scaling deployment %s to %d: %w", deployment, to, err)
	}
	return nil
}
