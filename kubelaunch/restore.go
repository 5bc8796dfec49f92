package kubelaunch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// replacementPatience is how long undo waits for an original pod to be ready
// before it deletes ours. It is deleted in any case: an original that does not
// become ready did not before, either.
const replacementPatience = 45 * time.Second

// undo puts the cluster back as the journal says, the last change first. It may be
// run again after any failure, from any machine.
func undo(ctx context.Context, j *journal, progress func(string)) error {
	err := j.cluster.patiently(ctx, func(func()) error { return undoSteps(ctx, j, j.record.Steps, progress) })
	// The journal stays while anything is left to do.
	if err != nil {
		return err
	}
	return j.cluster.patiently(ctx, func(func()) error { return j.remove(ctx) })
}

// undoOwn is undo for a session that ends in order. If others have ended it in the
// meantime, the workload is no longer its to put back: only its pods are.
func undoOwn(ctx context.Context, j *journal, progress func(string)) error {
	var lost *LostError
	if err := j.cluster.patiently(ctx, func(func()) error { return j.refresh(ctx) }); errors.As(err, &lost) {
		pods := slices.DeleteFunc(slices.Clone(j.record.Steps), func(s step) bool { return s.Kind != stepPod && s.Kind != stepAdopt })
		return j.cluster.patiently(ctx, func(func()) error { return undoSteps(ctx, j, pods, progress) })
	}
	return undo(ctx, j, progress)
}

func undoSteps(ctx context.Context, j *journal, steps []step, progress func(string)) error {
	u := &undoing{journal: j, cluster: j.cluster, progress: progress}
	target, err := ParseTarget(j.record.Target)
	if err != nil {
		return err
	}
	u.target = target
	var errs []error
	released, deleted := false, false
	for _, s := range slices.Backward(steps) {
		if s.Kind == stepNamespace && len(errs) > 0 {
			break // the journal and the keys are in it
		}
		var err error
		switch {
		case s.Kind == stepAdopt && !released:
			// All at once: the originals come side by side.
			released, err = true, u.release(ctx, ofKind(steps, stepAdopt))
		case s.Kind == stepPod && !deleted:
			if !released { // a pod that came later than others had joined
				released, err = true, u.release(ctx, ofKind(steps, stepAdopt))
			}
			deleted = true
			err = errors.Join(err, u.deletePods(ctx, ofKind(steps, stepPod)), u.step(ctx, s))
		default:
			err = u.step(ctx, s)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil || target.Kind != KindDaemonSet {
		return err
	}
	return u.waitDaemon(ctx)
}

func ofKind(steps []step, kind string) (some []step) {
	for _, s := range steps {
		if s.Kind == kind {
			some = append(some, s)
		}
	}
	return some
}

type undoing struct {
	journal  *journal
	cluster  *Cluster
	target   Target
	progress func(string)
}

func (u *undoing) step(ctx context.Context, s step) error {
	switch s.Kind {
	case stepScale:
		return u.scale(ctx, s)
	case stepAdopt:
		return nil // released together with the last
	case stepPod:
		return u.removePod(ctx, s.Pod, "")
	case stepPeek:
		return u.removePod(ctx, s.Pod, s.UID)
	case stepEngage:
		return u.disengage(ctx, s)
	case stepHelper:
		return u.removePod(ctx, s.Pod, "")
	case stepNamespace:
		if err := u.journal.remove(ctx); err != nil {
			return err
		}
		return deleteNamespace(ctx, u.cluster, u.journal.record.Session)
	}
	return fmt.Errorf("the journal has a step %q that this version of kubedelve does not know", s.Kind)
}

// scale puts spec.replicas back, unless somebody changed it since.
func (u *undoing) scale(ctx context.Context, s step) error {
	current, err := u.cluster.Client.AppsV1().Deployments(u.cluster.Namespace).GetScale(ctx, u.target.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the replicas of %s: %w", u.target, err)
	}
	if current.Spec.Replicas != s.To {
		return nil
	}
	u.progress(fmt.Sprintf("scaling %s back to %d", u.target, s.From))
	return setReplicas(ctx, u.cluster, u.target.Name, current, s.From)
}

// release takes our pods out of their ReplicaSet and waits until as many originals
// serve, so that requests always find one.
func (u *undoing) release(ctx context.Context, adopted []step) error {
	var released []*corev1.Pod
	for _, s := range adopted {
		pod, err := u.pod(ctx, s.Pod)
		if err != nil {
			return err
		}
		if pod == nil || pod.Labels[templateHash] == "" {
			continue
		}
		if err := setHash(ctx, u.cluster, pod.Name, pod.UID, nil); err != nil {
			if apierrors.IsNotFound(err) {
				continue
			}
			return err
		}
		if metav1.GetControllerOf(pod) != nil && pod.DeletionTimestamp == nil {
			released = append(released, pod)
		}
	}
	if len(released) == 0 {
		return nil
	}
	u.progress("waiting for " + countOf(len(released), "an original pod", "original pods"))
	ctx, cancel := context.WithTimeout(ctx, replacementPatience)
	defer cancel()
	err := u.waitOriginals(ctx, released)
	if ctx.Err() != nil {
		u.progress(fmt.Sprintf("the original pods were not ready in %v; going on", replacementPatience))
		return nil
	}
	return err
}

// countOf is "an apple" or "3 apples".
func countOf(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func (u *undoing) waitOriginals(ctx context.Context, released []*corev1.Pod) error {
	for _, pod := range released {
		err := waitPod(ctx, u.cluster, pod.Name, func(pod *corev1.Pod) (bool, error) { return metav1.GetControllerOf(pod) == nil, nil })
		var deleted *PodError
		if err != nil && !errors.As(err, &deleted) {
			return err
		}
	}
	if err := u.waitReady(ctx, metav1.GetControllerOf(released[0]).Name, len(released)); err != nil {
		return err
	}
	return waitRoutes(ctx)
}

// waitReady waits until the ReplicaSet has so many ready pods, if it wants as many.
func (u *undoing) waitReady(ctx context.Context, replicaSet string, want int) error {
	return waitMembers(ctx, u.cluster, replicaSet, func(set *appsv1.ReplicaSet, members []corev1.Pod) bool {
		needed, ready := want, 0
		if set.Spec.Replicas != nil {
			needed = min(want, int(*set.Spec.Replicas))
		}
		for i := range members {
			if podReady(&members[i]) {
				ready++
			}
		}
		return ready >= needed
	})
}

// deletePods begins to delete pods of this session.
func (u *undoing) deletePods(ctx context.Context, made []step) error {
	var errs []error
	for _, s := range made {
		pod, err := u.pod(ctx, s.Pod)
		if err == nil && pod != nil && pod.Labels[labelSession] == u.journal.record.Session {
			err = u.deletePod(ctx, pod)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// removePod deletes a pod of this session and waits until it is gone.
func (u *undoing) removePod(ctx context.Context, name string, uid types.UID) error {
	pod, err := u.pod(ctx, name)
	if err != nil || pod == nil || (uid != "" && pod.UID != uid) {
		return err
	}
	if uid == "" && pod.Labels[labelSession] != u.journal.record.Session {
		return fmt.Errorf("pod %s is not of this session; it is left alone", name)
	}
	if pod.DeletionTimestamp == nil {
		if err := u.deletePod(ctx, pod); err != nil {
			return err
		}
	}
	return waitGone(ctx, u.cluster, pod)
}

func (u *undoing) deletePod(ctx context.Context, pod *corev1.Pod) error {
	u.progress("deleting pod " + pod.Name)
	err := u.cluster.Client.CoreV1().Pods(u.cluster.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("deleting pod %s: %w", pod.Name, err)
	}
	return nil
}

// pod reads a pod; nil means that there is none.
func (u *undoing) pod(ctx context.Context, name string) (*corev1.Pod, error) {
	pod, err := u.cluster.Client.CoreV1().Pods(u.cluster.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil //nolint:nilnil // no pod is a state, not a failure
	}
	if err != nil {
		return nil, fmt.Errorf("reading pod %s: %w", name, err)
	}
	return pod, nil
}

// Info is what a journal tells of a session.
type Info struct {
	ID        string    `json:"id"`
	Namespace string    `json:"namespace"`
	Target    string    `json:"target"`
	Container string    `json:"container"`
	Pod       string    `json:"pod"` // several replicas are separated by commas
	Owner     string    `json:"owner"`
	Created   time.Time `json:"created"`

	journal *journal
	door    *sshDoor // by which the session came to a node, without a journal in a cluster
}

// Where names the target and the namespace that the session is in, if it is in one.
func (i Info) Where() string {
	if i.Namespace == "" {
		return i.Target
	}
	return i.Target + " in namespace " + i.Namespace
}

// Sessions lists the sessions in the cluster's namespace, or in all namespaces if
// that is empty, the oldest first; and those on nodes, which are in no namespace of
// the user's, if the user may see namespaces.
func Sessions(ctx context.Context, c *Cluster) ([]Info, error) {
	infos, err := journals(ctx, c)
	if err != nil {
		return nil, err
	}
	lost, err := lostSessions(ctx, c, infos)
	if err != nil {
		return nil, err
	}
	infos = append(infos, lost...)
	onNodes, err := nodeSessions(ctx, c, infos)
	if err != nil {
		return nil, err
	}
	infos = append(infos, onNodes...)
	slices.SortFunc(infos, func(a, b Info) int { return a.Created.Compare(b.Created) })
	return infos, nil
}

// SessionsFor is [Sessions] for who wants one by its target or id. If the target is what the API
// server is or needs, it waits until that is back, which the agent sees to after its --grace.
func SessionsFor(ctx context.Context, c *Cluster, name string, progress func(stage string)) (infos []Info, err error) {
	target, notTarget := ParseTarget(name)
	if notTarget != nil || !target.beneathAPI() {
		return Sessions(ctx, c)
	}
	in := *c
	in.beneath = true
	told := false
	err = in.patiently(ctx, func(func()) error {
		if infos, err = Sessions(ctx, c); err != nil && !told {
			told = true
			progress(fmt.Sprintf("waiting for the API server, which may be what is to be put back: %v", err))
		}
		return err
	})
	return infos, err
}

// journals are the sessions whose journals are in the cluster's namespace.
func journals(ctx context.Context, c *Cluster) ([]Info, error) {
	list, err := c.Client.CoreV1().Secrets(c.Namespace).List(ctx, metav1.ListOptions{LabelSelector: sessionSelector})
	if err != nil {
		return nil, fmt.Errorf("reading the sessions: %w", err)
	}
	var infos []Info
	for i := range list.Items {
		j, err := decodeJournal(c, &list.Items[i])
		if err != nil {
			return nil, err
		}
		info := Info{
			ID: j.record.Session, Namespace: j.secret.Namespace, Target: j.record.Target, Container: j.record.Container,
			Owner: j.record.Owner, Created: j.record.Created, journal: j,
		}
		info.Pod = strings.Join(podsOf(j.record.Steps), ",")
		infos = append(infos, info)
	}
	return infos, nil
}

// podsOf are the pods that were made last, one for each replica, or the helper's.
func podsOf(steps []step) (names []string) {
	last := map[int]string{}
	for _, s := range steps {
		if s.Kind == stepPod || s.Kind == stepHelper {
			last[s.Replica] = s.Pod
		}
	}
	for _, replica := range slices.Sorted(maps.Keys(last)) {
		names = append(names, last[replica])
	}
	return names
}

// lostSessions finds pods of ours whose journal somebody deleted: the garbage
// collector leaves those that a ReplicaSet has adopted.
func lostSessions(ctx context.Context, c *Cluster, known []Info) ([]Info, error) {
	pods, err := c.Client.CoreV1().Pods(c.Namespace).List(ctx, metav1.ListOptions{LabelSelector: labelSession})
	if err != nil {
		return nil, fmt.Errorf("reading the pods of sessions: %w", err)
	}
	var lost []Info
	for _, pod := range pods.Items {
		id := pod.Labels[labelSession]
		of := func(i Info) bool { return i.ID == id && i.Namespace == pod.Namespace }
		if pod.DeletionTimestamp != nil || slices.ContainsFunc(known, of) {
			continue
		}
		n := slices.IndexFunc(lost, of)
		if n < 0 {
			in := *c
			in.Namespace = pod.Namespace
			workload, _, _ := strings.Cut(pod.Name, podMark(id))
			target := Target{Kind: KindDeployment, Name: workload}
			if isDaemon(&pod) {
				target = Target{Kind: KindDaemonSet, Name: metav1.GetControllerOf(&pod).Name, Node: pod.Spec.NodeName}
			}
			n = len(lost)
			lost = append(lost, Info{
				ID: id, Namespace: pod.Namespace, Target: target.String(), Owner: "(journal lost)", Created: pod.CreationTimestamp.Time,
				journal: &journal{cluster: &in, record: record{Session: id, Target: target.String()}},
			})
		}
		lost[n].Pod = strings.TrimPrefix(lost[n].Pod+","+pod.Name, ",")
		r := &lost[n].journal.record
		r.Steps = append(r.Steps, step{Kind: stepPod, Pod: pod.Name}, step{Kind: stepAdopt, Pod: pod.Name})
	}
	return lost, nil
}

// Find returns the session with the id or the target in the list.
func Find(infos []Info, name string) (Info, error) {
	var ids []string
	for _, i := range infos {
		if i.ID == name || i.Target == name {
			return i, nil
		}
		ids = append(ids, i.ID+" ("+i.Target+")")
	}
	if len(ids) == 0 {
		return Info{}, fmt.Errorf("%w as %q: there is none at all", ErrNoSession, name)
	}
	return Info{}, fmt.Errorf("%w as %q; there is %s", ErrNoSession, name, strings.Join(ids, ", "))
}

// Restore undoes a session that [Sessions] listed, whoever began it.
func Restore(ctx context.Context, info Info, progress func(stage string)) error {
	if progress == nil {
		progress = func(string) {}
	}
	if info.door != nil {
		return info.door.undo(ctx, progress)
	}
	j := info.journal
	if err := j.cluster.patiently(ctx, func(func()) error { return j.end(ctx, owner()) }); err != nil {
		return err
	}
	return undo(ctx, j, progress)
}
