package testcluster

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
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

// Alone waits until no pod of the app is about to end.
func (n *Namespace) Alone(ctx context.Context, app string) error {
	return until(ctx, "the original pods of "+app+" to end", func() (bool, string, error) {
		pods, err := n.Pods(ctx, app)
		state := ""
		for _, pod := range pods {
			if pod.DeletionTimestamp != nil {
				state += " " + pod.Name + ": " + describe(&pod)
			}
		}
		return err == nil && state == "", state, err
	})
}

// AwaitLog waits until a container has logged the text that many times.
func (n *Namespace) AwaitLog(ctx context.Context, pod, container, text string, times int) error {
	return until(ctx, fmt.Sprintf("%q in the log of pod %s", text, pod), func() (bool, string, error) {
		log, err := n.Client.CoreV1().Pods(n.Name).GetLogs(pod, &corev1.PodLogOptions{Container: container}).DoRaw(ctx)
		return strings.Count(string(log), text) >= times, string(log), err
	})
}

// AwaitEndpoint waits until a Service sends requests to the address, or with ready
// false no more does.
func (n *Namespace) AwaitEndpoint(ctx context.Context, service, address string, ready bool) error {
	return until(ctx, fmt.Sprintf("the endpoint %s of service %s to be ready: %v", address, service, ready), func() (bool, string, error) {
		endpoints, err := n.Endpoints(ctx, service)
		return err == nil && endpoints[address] == ready, fmt.Sprint(endpoints), err
	})
}

// AwaitQuota waits until a ResourceQuota counts.
func (n *Namespace) AwaitQuota(ctx context.Context, name string) error {
	return until(ctx, "the quota "+name+" to count", func() (bool, string, error) {
		quota, err := n.Client.CoreV1().ResourceQuotas(n.Name).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, "", err
		}
		return len(quota.Status.Hard) == len(quota.Spec.Hard), fmt.Sprint(quota.Status), nil
	})
}

// GetPod sends a request to a port of a pod, through the API server.
func (n *Namespace) GetPod(ctx context.Context, pod string, port int, path string) (string, error) {
	out, err := n.Client.CoreV1().RESTClient().Get().Namespace(n.Name).Resource("pods").
		Name(fmt.Sprintf("%s:%d", pod, port)).SubResource("proxy").Suffix(path).DoRaw(ctx)
	if err != nil {
		return "", fmt.Errorf("GET %s:%d/%s: %w: %s", pod, port, path, err, out)
	}
	return string(out), nil
}

// WatchPods calls look with the pods of an app, by name, after each change, until
// ctx ends.
func (n *Namespace) WatchPods(ctx context.Context, app string, look func(map[string]*corev1.Pod)) error {
	pods := map[string]*corev1.Pod{}
	w, err := n.Client.CoreV1().Pods(n.Name).Watch(ctx, metav1.ListOptions{LabelSelector: "app=" + app})
	if err != nil {
		return fmt.Errorf("watching the pods of %s: %w", app, err)
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case event, ok := <-w.ResultChan():
			pod, isPod := event.Object.(*corev1.Pod)
			if !ok || !isPod {
				return fmt.Errorf("watching the pods of %s: it broke off: %v", app, event)
			}
			if pods[pod.Name] = pod; event.Type == watch.Deleted {
				delete(pods, pod.Name)
			}
			look(pods)
		}
	}
}

// AwaitNoLeftovers waits until nothing of kubedelve's is there.
func (n *Namespace) AwaitNoLeftovers(ctx context.Context) error {
	return until(ctx, "nothing of kubedelve's in namespace "+n.Name, func() (bool, string, error) {
		left, err := n.Leftovers(ctx)
		return err == nil && len(left) == 0, strings.Join(left, ", "), err
	})
}
