package kubelaunch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
)

// takeover is the attempt to put our pod in the place of the workload's others, in the
// background.
type takeover struct {
	stop context.CancelFunc
	done sync.WaitGroup
}

// beginTakeover tells when the pod serves, or why it does not. What fails is tried
// again for as long as the pod is there.
func (w *workload) beginTakeover() *takeover {
	ctx, stop := context.WithCancel(context.Background())
	t := &takeover{stop: stop}
	t.done.Go(func() { // ends when the pod has taken over, is gone, or with end
		for pause := time.Second; ; pause = min(2*pause, maxPause) {
			err := w.takeOver(ctx)
			if err == nil {
				w.events.Tell(Event{Kind: KindServing, Text: fmt.Sprintf("%s now serves %s", w.place(), w.placement.Target)})
				return
			}
			var lost *LostError
			if ctx.Err() != nil || closed(w.watch.gone) || errors.As(err, &lost) {
				return
			}
			w.events.Tell(Event{
				Kind: KindNotServing, Important: true,
				Text: fmt.Sprintf("the debug pod could not take over from the originals: %v; trying again in %v", err, pause),
			})
			timer := time.NewTimer(pause)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return
			}
		}
	})
	return t
}

func (t *takeover) end() {
	t.stop()
	t.done.Wait()
}

// takeOver waits until our pod serves and puts it in the place of the others. The
// component decides when: it may be halted at its entry for as long as it likes,
// and the original serves until then.
func (w *workload) takeOver(ctx context.Context) error {
	err := waitPod(ctx, w.cluster, w.pod.Name, func(pod *corev1.Pod) (bool, error) { return podReady(pod), nil })
	if err != nil {
		return err
	}
	// Until requests find our pod the originals have to stay.
	if err := waitRoutes(ctx); err != nil {
		return err
	}
	p := w.placement
	if p.exclusive() || p.replicas() == 0 {
		return nil // nothing else runs
	}
	want := p.replicas()
	if !w.options.KeepReplicas {
		want = min(want, int32(w.group.pods)) //nolint:gosec // at most as many as there are replicas
	}
	originals, adopted, err := w.adopt(ctx, want)
	if err != nil || !adopted {
		return err
	}
	var members []corev1.Pod
	err = waitMembers(ctx, w.cluster, p.replicaSet.Name, func(_ *appsv1.ReplicaSet, now []corev1.Pod) bool {
		members = now
		return len(members) <= int(want)
	})
	if err != nil {
		return err
	}
	return w.waitReplaced(ctx, originals, members)
}

// adopt makes our pod a member of the workload's ReplicaSet, unless that has as many of
// ours as it wants already: then it would end one of them. It also tells which pods
// of the workload's own there were before.
func (w *workload) adopt(ctx context.Context, want int32) (originals []corev1.Pod, adopted bool, err error) {
	// The pods of a session join one after the other: each counts those before.
	select {
	case w.group.adopting <- struct{}{}:
		defer func() { <-w.group.adopting }()
	case <-ctx.Done():
		return nil, false, context.Cause(ctx)
	}
	p := w.placement
	members, err := membersOf(ctx, w.cluster, p.replicaSet)
	if err != nil {
		return nil, false, err
	}
	ours := int32(0)
	for _, pod := range members {
		switch {
		case pod.Labels[labelSession] != w.session:
			originals = append(originals, pod)
		case pod.UID != w.pod.UID:
			ours++
		}
	}
	if ours >= want {
		return nil, false, nil
	}
	hash := p.replicaSet.Labels[templateHash]
	if err := w.journal.add(ctx, step{Kind: stepAdopt, Pod: w.pod.Name, Hash: hash}); err != nil {
		return nil, false, err
	}
	if err := setHash(ctx, w.cluster, w.pod.Name, w.pod.UID, &hash); err != nil {
		return nil, false, err
	}
	if want < p.replicas() {
		if err := scale(ctx, w.journal, p.deployment.Name, want); err != nil {
			return nil, false, err
		}
	}
	return originals, true, w.waitAdopted(ctx)
}

// waitReplaced waits until the pods that are no members any more have ended: until
// then they may answer on connections that callers keep open.
func (w *workload) waitReplaced(ctx context.Context, originals, members []corev1.Pod) error {
	routes := time.NewTimer(routeDelay)
	defer routes.Stop()
	for i := range originals {
		original := &originals[i]
		if slices.ContainsFunc(members, func(m corev1.Pod) bool { return m.UID == original.UID }) {
			continue
		}
		if err := waitGone(ctx, w.cluster, original); err != nil {
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

func (w *workload) waitAdopted(ctx context.Context) error {
	return waitPod(ctx, w.cluster, w.pod.Name, func(pod *corev1.Pod) (bool, error) {
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
