package kubelaunch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"
)

var podResource = corev1.SchemeGroupVersion.WithResource("pods")

// replicaSet is what a workload's controller does, as far as undo depends on it: it
// releases a pod that loses its label, and makes another in its place.
type replicaSet struct {
	t      *testing.T
	client *fake.Clientset
	set    *appsv1.ReplicaSet

	mu       sync.Mutex // guards made
	made     []string
	lateness int // how often somebody looks before a new pod is ready
}

// newReplicaSet adds the set, which wants so many pods, to a fake cluster, whose lists
// and watches from then on heed the names that they are for, as a real one's do.
func newReplicaSet(t *testing.T, client *fake.Clientset, want int32) *replicaSet {
	t.Helper()
	r := &replicaSet{t: t, client: client, set: &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: "web-5d5f", Namespace: "shop", UID: "set", Labels: map[string]string{templateHash: "5d5f"}},
		Spec:       appsv1.ReplicaSetSpec{Replicas: ptr.To(want), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web", templateHash: "5d5f"}}},
	}}
	if err := client.Tracker().Add(r.set); err != nil {
		t.Fatal(err)
	}
	heed := func(f fields.Selector, pod *corev1.Pod) bool {
		return f == nil || f.Matches(fields.Set{metav1.ObjectNameField: pod.Name})
	}
	client.PrependReactor("list", "pods", func(a k8stesting.Action) (bool, runtime.Object, error) {
		o, err := client.Tracker().List(podResource, corev1.SchemeGroupVersion.WithKind("Pod"), "shop")
		if err != nil {
			return true, nil, err
		}
		list := o.(*corev1.PodList).DeepCopy()
		list.Items = slices.DeleteFunc(list.Items, func(pod corev1.Pod) bool {
			return !heed(a.(k8stesting.ListAction).GetListRestrictions().Fields, &pod)
		})
		return true, list, nil
	})
	client.PrependWatchReactor("pods", func(a k8stesting.Action) (bool, watch.Interface, error) {
		w, err := client.Tracker().Watch(podResource, "shop")
		if err != nil {
			return true, nil, err
		}
		return true, watch.Filter(w, func(e watch.Event) (watch.Event, bool) {
			return e, heed(a.(k8stesting.WatchAction).GetWatchRestrictions().Fields, e.Object.(*corev1.Pod))
		}), nil
	})
	client.PrependReactor("patch", "pods", r.patched)
	client.PrependReactor("get", "replicasets", func(k8stesting.Action) (bool, runtime.Object, error) {
		r.looked()
		return false, nil, nil
	})
	return r
}

// pod makes a pod of the workload's: a debug pod of the session, or an original one.
func (r *replicaSet) pod(name string, member, debug, ready bool) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: name, Namespace: "shop", UID: types.UID(name), Labels: map[string]string{"app": "web"},
	}}
	if debug {
		pod.Labels[labelSession] = "1a2b3c4d"
	}
	if member {
		pod.Labels[templateHash] = "5d5f"
		pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(r.set, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}
	}
	if ready {
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	if err := r.client.Tracker().Add(pod); err != nil {
		r.t.Fatal(err)
	}
	return pod
}

// patched releases a pod: nothing else is patched in these tests.
func (r *replicaSet) patched(a k8stesting.Action) (bool, runtime.Object, error) {
	name := a.(k8stesting.PatchAction).GetName()
	o, err := r.client.Tracker().Get(podResource, "shop", name)
	if err != nil {
		return true, nil, err
	}
	pod := o.(*corev1.Pod).DeepCopy()
	delete(pod.Labels, templateHash)
	pod.OwnerReferences = nil
	if err := r.client.Tracker().Update(podResource, pod, "shop"); err != nil {
		return true, nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	original := fmt.Sprintf("web-5d5f-%d", len(r.made))
	r.made = append(r.made, original)
	r.pod(original, true, false, r.lateness == 0)
	return true, pod, nil
}

// looked makes new pods ready in their time.
func (r *replicaSet) looked() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lateness--; r.lateness != 0 {
		return
	}
	for _, name := range r.made {
		o, err := r.client.Tracker().Get(podResource, "shop", name)
		if err != nil {
			r.t.Error(err)
			return
		}
		pod := o.(*corev1.Pod).DeepCopy()
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		if err := r.client.Tracker().Update(podResource, pod, "shop"); err != nil {
			r.t.Error(err)
		}
	}
}

// ready counts the pods that serve requests.
func (r *replicaSet) ready() (n int) {
	o, err := r.client.Tracker().List(podResource, corev1.SchemeGroupVersion.WithKind("Pod"), "shop")
	if err != nil {
		r.t.Error(err)
		return 0
	}
	for _, pod := range o.(*corev1.PodList).Items {
		if podReady(&pod) {
			n++
		}
	}
	return n
}

const (
	firstPod  = "web-kubedelve-1a2b3c4d"
	secondPod = "web-kubedelve-1a2b3c4d-2"
)

func TestUndoReleasesAllReplicasBeforeItDeletesOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scale := int32(2)
		cluster, client := fakeCluster(&scale)
		set := newReplicaSet(t, client, 2)
		set.lateness = 3
		set.pod(firstPod, true, true, true)
		set.pod(secondPod, true, true, true)
		client.PrependReactor("delete", "pods", func(k8stesting.Action) (bool, runtime.Object, error) {
			if n := set.ready(); n < 3 {
				t.Errorf("a pod is deleted when %d are ready", n)
			}
			return false, nil, nil
		})
		j := openTestJournal(t, cluster, step{Kind: stepPod, Pod: firstPod}, step{Kind: stepPod, Pod: secondPod, Replica: 1},
			step{Kind: stepAdopt, Pod: firstPod}, step{Kind: stepScale, From: 3, To: 2}, step{Kind: stepAdopt, Pod: secondPod})
		client.ClearActions()
		if err := undoTest(t, j); err != nil {
			t.Fatal(err)
		}
		want := []string{"patch pods", "patch pods", "update deployments", "delete pods", "delete pods", "delete secrets"}
		if got := changes(client); !slices.Equal(got, want) {
			t.Errorf("undo did %v, want %v", got, want)
		}
		if scale != 3 {
			t.Errorf("got %d replicas, want 3", scale)
		}
	})
}

// Wherever a session of two replicas was cut off, restore leaves nothing of it, and as
// many originals as there were.
func TestRestoreOfAHalfMadeSession(t *testing.T) {
	pods := []step{{Kind: stepPod, Pod: firstPod}, {Kind: stepPod, Pod: secondPod, Replica: 1}}
	adopt := func(pod string) step { return step{Kind: stepAdopt, Pod: pod, Hash: "5d5f"} }
	scaled := step{Kind: stepScale, From: 3, To: 2}
	for _, test := range []struct {
		name          string
		steps         []step
		first, second string // what there is of them: "", "made", "adopted"
		originals     int
		scale         int32
		restored      int32 // spec.replicas
		listed        string
	}{
		{"claimed only", nil, "", "", 3, 3, 3, ""},
		{"a pod is about to be made", pods[:1], "", "", 3, 3, 3, firstPod},
		{"one is made", pods, "made", "", 3, 3, 3, firstPod + "," + secondPod},
		{"the other is made", pods, "", "made", 3, 3, 3, firstPod + "," + secondPod},
		{"one is about to join", slices.Concat(pods, []step{adopt(firstPod)}), "made", "made", 3, 3, 3, firstPod + "," + secondPod},
		{"one has joined", slices.Concat(pods, []step{adopt(firstPod)}), "adopted", "made", 2, 3, 3, firstPod + "," + secondPod},
		{"it is scaled", slices.Concat(pods, []step{adopt(firstPod), scaled}), "adopted", "made", 1, 2, 3, firstPod + "," + secondPod},
		{"both have joined", slices.Concat(pods, []step{adopt(secondPod), scaled, adopt(firstPod)}), "adopted", "adopted", 0, 2, 3, firstPod + "," + secondPod},
		{"one was replaced", slices.Concat(pods, []step{adopt(secondPod), scaled, {Kind: stepPod, Pod: firstPod + "-3"}}), "", "adopted", 1, 2, 3, firstPod + "-3," + secondPod},
		{"somebody has scaled it since", slices.Concat(pods, []step{adopt(firstPod), scaled, adopt(secondPod)}), "adopted", "adopted", 3, 5, 5, firstPod + "," + secondPod},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				scale := test.scale
				cluster, client := fakeCluster(&scale)
				set := newReplicaSet(t, client, test.scale)
				for name, is := range map[string]string{firstPod: test.first, secondPod: test.second} {
					if is != "" {
						set.pod(name, is == "adopted", true, true)
					}
				}
				for i := range test.originals {
					set.pod(fmt.Sprintf("web-5d5f-original-%d", i), true, false, true)
				}
				openTestJournal(t, cluster, test.steps...)
				infos, err := Sessions(t.Context(), cluster)
				if err != nil || len(infos) != 1 || infos[0].Pod != test.listed {
					t.Fatalf("the sessions are %+v, %v, want one with the pods %q", infos, err, test.listed)
				}
				for range 2 { // the second time there is nothing to do
					if err := Restore(t.Context(), infos[0], nil); err != nil {
						t.Fatal(err)
					}
				}
				left, err := client.CoreV1().Pods("shop").List(t.Context(), metav1.ListOptions{})
				if err != nil {
					t.Fatal(err)
				}
				adopted := strings.Count(test.first+test.second, "adopted")
				if len(left.Items) != test.originals+adopted {
					t.Errorf("%d pods are there, want %d", len(left.Items), test.originals+adopted)
				}
				for _, pod := range left.Items {
					if pod.Labels[labelSession] != "" {
						t.Errorf("pod %s is left", pod.Name)
					}
				}
				if scale != test.restored {
					t.Errorf("got %d replicas, want %d", scale, test.restored)
				}
				if now, err := Sessions(t.Context(), cluster); err != nil || len(now) > 0 {
					t.Errorf("the sessions are %+v, %v, want none", now, err)
				}
			})
		})
	}
}

// Restore of several pods without a journal finds all of them.
func TestPodsWhoseJournalIsLostAreOneSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster, client := fakeCluster(nil)
		set := newReplicaSet(t, client, 2)
		set.pod(firstPod, true, true, true)
		set.pod(secondPod, true, true, true)
		infos, err := Sessions(t.Context(), cluster)
		if err != nil || len(infos) != 1 || infos[0].Target != "deploy/web" || infos[0].Pod != firstPod+","+secondPod {
			t.Fatalf("the sessions are %+v, %v", infos, err)
		}
		if err := Restore(t.Context(), infos[0], nil); err != nil {
			t.Fatal(err)
		}
		left, err := client.CoreV1().Pods("shop").List(t.Context(), metav1.ListOptions{LabelSelector: labelSession})
		if err != nil || len(left.Items) > 0 || set.ready() != 2 {
			t.Errorf("%d pods are left (%v), %d originals are ready", len(left.Items), err, set.ready())
		}
	})
}

func TestPodsMadeSideBySideAreInOneJournal(t *testing.T) {
	const replicas = 8
	cluster, client := fakeCluster(nil)
	set := newReplicaSet(t, client, replicas)
	p := placementOf(cluster, Target{Kind: KindDeployment, Name: "web"}, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}}}}},
	})
	p.Container, p.replicaSet = "app", set.set
	w := newWorkload(p, Options{Progress: func(string) {}}, replicas)
	w.journal, w.session = openTestJournal(t, cluster), "1a2b3c4d"
	w.secret = w.journal.secret
	sites := w.replicas()
	create := func(ctx context.Context, i int) error { return sites[i].createPod(ctx, func(string) {}) }
	if err := together(t.Context(), replicas, create); err != nil {
		t.Fatal(err)
	}
	want := []string{firstPod}
	for n := 2; n <= replicas; n++ {
		want = append(want, fmt.Sprintf("%s-%d", firstPod, n))
	}
	check := func() {
		t.Helper()
		written, err := readJournal(t.Context(), cluster, "kubedelve-deployment-web")
		if err != nil {
			t.Fatal(err)
		}
		if got := podsOf(written.record.Steps); !slices.Equal(got, want) {
			t.Errorf("the journal has the pods %q, want %q", got, want)
		}
		for i, name := range want {
			pod, err := client.CoreV1().Pods("shop").Get(t.Context(), name, metav1.GetOptions{})
			if err != nil || pod.Labels[labelSession] != "1a2b3c4d" || sites[i].pod.Name != name {
				t.Errorf("replica %d has pod %s, not %s (%v)", i+1, sites[i].pod.Name, name, err)
			}
		}
	}
	check()
	sites[3].rest()
	if err := create(t.Context(), 3); err != nil { // in the place of one that was lost
		t.Fatal(err)
	}
	want[3] = firstPod + "-9"
	check()
	for _, site := range sites {
		site.rest()
	}
}

func TestAReplicaJoinsOnlyWhereThereIsRoomForIt(t *testing.T) {
	for _, test := range []struct {
		name    string
		others  int // of the session's, that are members
		want    int32
		adopted bool
	}{
		{"the second of two", 1, 2, true},
		{"the third of two", 2, 2, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			cluster, client := fakeCluster(ptr.To(test.want))
			set := newReplicaSet(t, client, test.want)
			for i := range test.others {
				set.pod(fmt.Sprintf("%s-%d", firstPod, i), true, true, true)
			}
			set.pod("web-5d5f-original", true, false, true)
			ours := set.pod(secondPod, false, true, true)
			client.PrependReactor("patch", "pods", func(k8stesting.Action) (bool, runtime.Object, error) {
				member := ours.DeepCopy()
				member.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set.set, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}
				return true, member, client.Tracker().Update(podResource, member, "shop")
			})
			p := placementOf(cluster, Target{Kind: KindDeployment, Name: "web"}, &appsv1.Deployment{
				ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.DeploymentSpec{Replicas: ptr.To(test.want)},
			})
			p.replicaSet = set.set
			w := newWorkload(p, Options{}, 2)
			w.journal, w.session, w.pod = openTestJournal(t, cluster), "1a2b3c4d", ours
			originals, adopted, err := w.adopt(t.Context(), test.want)
			if err != nil || adopted != test.adopted {
				t.Fatalf("adopt: %v, %v, want %v", adopted, err, test.adopted)
			}
			if adopted && (len(originals) != 1 || originals[0].Name != "web-5d5f-original") {
				t.Errorf("the originals are %v", originals)
			}
			steps := w.journal.steps()
			if slices.Contains(steps, step{Kind: stepAdopt, Pod: secondPod, Hash: "5d5f"}) != test.adopted {
				t.Errorf("the journal has %v", steps)
			}
		})
	}
}

func TestHowManyPods(t *testing.T) {
	for _, test := range []struct {
		has   *int32
		asked int
		want  int // 0: refused
	}{
		{nil, 0, 1},
		{ptr.To[int32](3), 0, 1},
		{ptr.To[int32](3), 1, 1},
		{ptr.To[int32](3), 3, 3},
		{ptr.To[int32](3), 4, 0},
		{ptr.To[int32](3), -2, 0},
		{ptr.To[int32](3), AllReplicas, 3},
		{ptr.To[int32](0), 0, 1},
		{ptr.To[int32](0), AllReplicas, 1},
		{ptr.To[int32](0), 2, 0},
		{nil, 2, 0},
	} {
		p := placementOf(nil, Target{Kind: KindDeployment, Name: "web"}, &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Replicas: test.has}})
		got, err := p.Pods(Options{Replicas: test.asked})
		if got != test.want || (err == nil) != (test.want > 0) {
			t.Errorf("%d of %v: got %d, %v, want %d", test.asked, test.has, got, err, test.want)
		}
		if err != nil && !strings.Contains(err.Error(), "debug fewer, or scale it first") {
			t.Errorf("%v names no way out", err)
		}
	}
}

func TestTheFirstFailureEndsWhatGoesOnBesideIt(t *testing.T) {
	broken := errors.New("broken")
	ended := 0
	var mu sync.Mutex
	err := together(t.Context(), 3, func(ctx context.Context, i int) error {
		if i == 1 {
			return broken
		}
		<-ctx.Done()
		mu.Lock()
		defer mu.Unlock()
		ended++
		return ctx.Err()
	})
	if !errors.Is(err, broken) || ended != 2 {
		t.Errorf("got %v, with %d others ended", err, ended)
	}
}
