package kubelaunch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// object is what waitFor watches: one object by its name.
type object struct {
	cluster *Cluster
	what    string
	list    func(context.Context, metav1.ListOptions) (runtime.Object, []runtime.Object, error)
	open    func(context.Context, metav1.ListOptions) (watch.Interface, error)
}

// How long the API server may be away while something is waited for: as a rule, and if the
// session's target is the API server itself or what is beneath it, which a kubelet takes
// that long to bring back as a static pod.
const (
	apiPatience     = 30 * time.Second
	beneathPatience = 2 * time.Minute
)

func (c *Cluster) patience() time.Duration {
	if c.beneath {
		return beneathPatience
	}
	return apiPatience
}

// patiently calls do until it succeeds, fails for another reason than that the API
// server is away, or that has been so for too long. do calls reached, if it goes on
// for long, when the API server has answered.
func (c *Cluster) patiently(ctx context.Context, do func(reached func()) error) error {
	var away time.Time // since when
	for {
		err := do(func() { away = time.Time{} })
		// One that has just begun to serve does not know the rights that are stored.
		if err == nil || ctx.Err() != nil || !unreachable(err) && !(c.beneath && apierrors.IsForbidden(err)) {
			return err
		}
		if away.IsZero() {
			away = time.Now()
		}
		if time.Since(away) > c.patience() {
			return err
		}
		timer := time.NewTimer(apiPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

// apiPause is the time between two tries to reach an API server that is away.
const apiPause = 500 * time.Millisecond

// unreachable tells whether an error is that of an API server that is away, overloaded
// or just comes back.
func unreachable(err error) bool {
	var connection net.Error
	return errors.As(err, &connection) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		apierrors.IsServiceUnavailable(err) || apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) || apierrors.IsTooManyRequests(err)
}

// waitFor returns when done is true for the object (nil: it does not exist), or
// fails, or ctx ends. A watch that the API server ends is opened again.
func waitFor(ctx context.Context, name string, o object, done func(runtime.Object) (bool, error)) error {
	selector := fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
	return o.cluster.patiently(ctx, func(reached func()) error {
		for {
			list, items, err := o.list(ctx, metav1.ListOptions{FieldSelector: selector})
			if err != nil {
				return fmt.Errorf("reading %s %s: %w", o.what, name, err)
			}
			reached()
			var current runtime.Object
			if len(items) > 0 {
				current = items[0]
			}
			if ok, err := done(current); ok || err != nil {
				return err
			}
			version := list.(metav1.ListInterface).GetResourceVersion() //nolint:errcheck // every list is one
			again, err := watchOnce(ctx, name, o, metav1.ListOptions{FieldSelector: selector, ResourceVersion: version}, done)
			if !again || err != nil {
				return err
			}
		}
	})
}

// watchOnce follows one watch; again is true if it ended before done did.
func watchOnce(ctx context.Context, name string, o object, options metav1.ListOptions, done func(runtime.Object) (bool, error)) (again bool, err error) {
	failed := func(err error) (bool, error) { return false, fmt.Errorf("watching %s %s: %w", o.what, name, err) }
	w, err := o.open(ctx, options)
	if err != nil {
		return failed(err)
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return failed(context.Cause(ctx))
		case event, ok := <-w.ResultChan():
			if !ok {
				return true, nil
			}
			current := event.Object
			switch event.Type {
			case watch.Error:
				if err := apierrors.FromObject(event.Object); !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
					return failed(err)
				}
				return true, nil
			case watch.Deleted:
				current = nil
			}
			if ok, err := done(current); ok || err != nil {
				return false, err
			}
		}
	}
}

func pods(c *Cluster) object {
	client := c.Client.CoreV1().Pods(c.Namespace)
	return object{
		cluster: c, what: "pod",
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, []runtime.Object, error) {
			list, err := client.List(ctx, o)
			if err != nil {
				return nil, nil, err
			}
			var items []runtime.Object
			for i := range list.Items {
				items = append(items, &list.Items[i])
			}
			return list, items, nil
		},
		open: client.Watch,
	}
}

// waitPod waits for a pod that exists; its deletion is an error.
func waitPod(ctx context.Context, c *Cluster, name string, done func(*corev1.Pod) (bool, error)) error {
	return waitFor(ctx, name, pods(c), func(o runtime.Object) (bool, error) {
		pod, ok := o.(*corev1.Pod)
		if !ok {
			return false, &PodError{Pod: name, Reason: "it was deleted"}
		}
		return done(pod)
	})
}

// waitGone waits until the pod with the UID does not exist any more.
func waitGone(ctx context.Context, c *Cluster, pod *corev1.Pod) error {
	return waitFor(ctx, pod.Name, pods(c), func(o runtime.Object) (bool, error) {
		current, ok := o.(*corev1.Pod)
		return !ok || current.UID != pod.UID, nil
	})
}

// pollInterval is for what is not worth a right to watch.
const pollInterval = 100 * time.Millisecond

// routeDelay is how long the way of requests may lag behind the pods: kube-proxy
// collects changes for a second by default (--iptables-min-sync-period), on every
// node for itself, behind the EndpointSlice controller, and nobody tells when it is
// done. With 1.5 s requests were refused on a node of two busy cores.
const routeDelay = 2500 * time.Millisecond

// waitRoutes waits until requests follow what was changed last.
func waitRoutes(ctx context.Context) error {
	timer := time.NewTimer(routeDelay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// waitMembers waits until the pods of a ReplicaSet that are not about to go are as
// wanted. It looks at the pods themselves: for a moment after a change the status
// of a ReplicaSet tells how things were before. It returns when the set is gone.
func waitMembers(ctx context.Context, c *Cluster, replicaSet string, done func(set *appsv1.ReplicaSet, members []corev1.Pod) bool) error {
	return c.patiently(ctx, func(reached func()) error { return pollMembers(ctx, c, replicaSet, reached, done) })
}

func pollMembers(ctx context.Context, c *Cluster, replicaSet string, reached func(), done func(set *appsv1.ReplicaSet, members []corev1.Pod) bool) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		set, err := c.Client.AppsV1().ReplicaSets(c.Namespace).Get(ctx, replicaSet, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading replica set %s: %w", replicaSet, err)
		}
		members, err := membersOf(ctx, c, set)
		if err != nil {
			return err
		}
		reached()
		if done(set, members) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the pods of replica set %s: %w", replicaSet, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// membersOf lists the pods that a ReplicaSet controls and that are not being deleted.
func membersOf(ctx context.Context, c *Cluster, set *appsv1.ReplicaSet) ([]corev1.Pod, error) {
	list, err := c.Client.CoreV1().Pods(c.Namespace).List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(set.Spec.Selector)})
	if err != nil {
		return nil, fmt.Errorf("reading the pods of replica set %s: %w", set.Name, err)
	}
	return slices.DeleteFunc(list.Items, func(pod corev1.Pod) bool {
		return !metav1.IsControlledBy(&pod, set) || pod.DeletionTimestamp != nil
	}), nil
}

// containerRuns tells whether the container has begun, and fails for what will
// not get better by waiting.
func containerRuns(pod *corev1.Pod, container, agentImage string) (bool, error) {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonUnschedulable {
			return false, &PodError{Pod: pod.Name, Reason: "no node takes it", Text: c.Message}
		}
	}
	if pod.Status.Phase == corev1.PodFailed {
		return false, &PodError{Pod: pod.Name, Reason: pod.Status.Reason, Text: pod.Status.Message}
	}
	for _, s := range pod.Status.InitContainerStatuses {
		if err := hopeless(pod.Name, s, agentImage); err != nil {
			return false, err
		}
	}
	for _, s := range pod.Status.ContainerStatuses {
		if s.Name != container {
			continue
		}
		if err := hopeless(pod.Name, s, agentImage); err != nil {
			return false, err
		}
		return s.State.Running != nil && pod.Status.PodIP != "", nil
	}
	return false, nil
}

func hopeless(pod string, s corev1.ContainerStatus, agentImage string) error {
	e := &PodError{Pod: pod}
	if w := s.State.Waiting; w != nil {
		e.Reason, e.Text = w.Reason, w.Message
	}
	switch e.Reason {
	case "ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName":
		if s.Name == installName {
			e.Hint = fmt.Sprintf("the agent image is %s: choose one that the node can pull with --agent-image", agentImage)
		}
		return e
	case "CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError":
		return e
	case "CrashLoopBackOff":
		if t := s.LastTerminationState.Terminated; t != nil {
			e.Text = fmt.Sprintf("container %s exited with code %d: %s", s.Name, t.ExitCode, t.Message)
		}
		return e
	}
	return nil
}
