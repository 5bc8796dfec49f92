package testcluster

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// DeletePod deletes a pod, with no time to end in order, and waits until it is gone.
func (n *Namespace) DeletePod(ctx context.Context, name string) error {
	pods := n.Client.CoreV1().Pods(n.Name)
	pod, err := pods.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("deleting pod %s: %w", name, err)
	}
	now := int64(1) // 0 would not wait for the node
	if err := pods.Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		return fmt.Errorf("deleting pod %s: %w", name, err)
	}
	return until(ctx, "the end of pod "+name, func() (bool, string, error) {
		current, err := pods.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, "", nil
		}
		return err == nil && current.UID != pod.UID, describe(current), err
	})
}

// AwaitLog waits until a container has logged the text that many times.
func (n *Namespace) AwaitLog(ctx context.Context, pod, container, text string, times int) error {
	return until(ctx, fmt.Sprintf("%q in the log of pod %s", text, pod), func() (bool, string, error) {
		log, err := n.Client.CoreV1().Pods(n.Name).GetLogs(pod, &corev1.PodLogOptions{Container: container}).DoRaw(ctx)
		return strings.Count(string(log), text) >= times, string(log), err
	})
}

// AwaitNoLeftovers waits until nothing of kubedelve's is there.
func (n *Namespace) AwaitNoLeftovers(ctx context.Context) error {
	return until(ctx, "nothing of kubedelve's in namespace "+n.Name, func() (bool, string, error) {
		left, err := n.Leftovers(ctx)
		return err == nil && len(left) == 0, strings.Join(left, ", "), err
	})
}
