package kubelaunch

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// podWatch looks out for the end of a pod.
type podWatch struct {
	gone chan struct{} // closed when the pod is being deleted, has failed or does not exist
	why  *goneError    // set before gone is closed

	stop context.CancelFunc
	done sync.WaitGroup // counts the watch
}

func watchPod(c *Cluster, pod *corev1.Pod) *podWatch {
	ctx, stop := context.WithCancel(context.Background())
	w := &podWatch{gone: make(chan struct{}), stop: stop}
	w.done.Go(func() { // ends with the pod, or with end
		for ctx.Err() == nil {
			err := waitFor(ctx, pod.Name, pods(c), func(o runtime.Object) (bool, error) {
				now, _ := o.(*corev1.Pod)
				w.why = whyGone(now, pod)
				return w.why != nil, nil
			})
			if err == nil {
				close(w.gone)
				return
			}
			// The API server is away: it is asked again, for as long as it takes.
			timer := time.NewTimer(time.Second)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
			}
		}
	})
	return w
}

// end stops looking. It is idempotent.
func (w *podWatch) end() {
	w.stop()
	w.done.Wait()
}

// whyGone tells why the agent in a pod won't come back, from what is there now in the
// place of the pod (nil: nothing); nil means that it will.
func whyGone(now, pod *corev1.Pod) *goneError {
	switch {
	case now == nil || now.UID != pod.UID:
		return &goneError{fmt.Sprintf("pod %s was deleted", pod.Name)}
	case now.DeletionTimestamp == nil && (now.Status.Phase == corev1.PodFailed || now.Status.Phase == corev1.PodSucceeded):
		return &goneError{fmt.Sprintf("pod %s has ended%s", pod.Name, reason(now.Status.Reason, now.Status.Message))}
	case now.DeletionTimestamp == nil:
		return nil
	}
	for _, c := range now.Status.Conditions {
		if c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue {
			return &goneError{fmt.Sprintf("pod %s is taken away%s", pod.Name, reason(c.Reason, c.Message))}
		}
	}
	return &goneError{fmt.Sprintf("pod %s is being deleted", pod.Name)}
}

// reason is what a status says, in brackets.
func reason(word, text string) string {
	switch {
	case word == "" && text == "":
		return ""
	case text == "":
		return " (" + word + ")"
	case word == "":
		return " (" + text + ")"
	}
	return fmt.Sprintf(" (%s: %s)", word, text)
}
