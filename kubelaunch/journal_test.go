package kubelaunch

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/kubedelve/kubedelve/internal/agentapi"
)

const journalName = "kubedelve-deployment-web"

func TestAStepWhoseAnswerWasLostIsNotAnError(t *testing.T) {
	cluster, client := fakeCluster(nil)
	j := openTestJournal(t, cluster)
	conflicts := 1
	client.PrependReactor("update", "secrets", func(k8stesting.Action) (bool, runtime.Object, error) {
		if conflicts == 0 {
			return false, nil, nil
		}
		conflicts--
		return true, nil, apierrors.NewConflict(corev1.Resource("secrets"), journalName, errors.New("changed"))
	})
	if err := j.add(t.Context(), step{Kind: stepPod, Pod: "web-1"}); err != nil {
		t.Fatal(err)
	}
	now, err := readJournal(t.Context(), cluster, journalName)
	if err != nil || len(now.record.Steps) != 1 {
		t.Errorf("the journal has the steps %+v (%v)", now.record.Steps, err)
	}
}

func TestASessionThatOthersHaveEndedChangesNothing(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(t *testing.T, c *Cluster)
		want string
	}{
		{"restored", func(t *testing.T, c *Cluster) {
			infos, err := Sessions(t.Context(), c)
			if err != nil || len(infos) != 1 {
				t.Fatalf("%d sessions (%v)", len(infos), err)
			}
			if err := Restore(t.Context(), infos[0], nil); err != nil {
				t.Fatal(err)
			}
		}, "did somebody run kubedelve restore?"},
		{"being restored", func(t *testing.T, c *Cluster) {
			j, err := readJournal(t.Context(), c, journalName)
			if err != nil {
				t.Fatal(err)
			}
			if err := j.end(t.Context(), "jane@desk"); err != nil {
				t.Fatal(err)
			}
		}, "jane@desk has run kubedelve restore"},
		{"another session has begun", func(t *testing.T, c *Cluster) {
			if err := c.Client.CoreV1().Secrets(c.Namespace).Delete(t.Context(), journalName, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			_, err := openJournal(t.Context(), c, journalName, record{Version: journalVersion, Session: "ffffffff", Target: "deploy/web", Owner: "jane@desk"}, agentapi.Config{})
			if err != nil {
				t.Fatal(err)
			}
		}, "jane@desk has ended it and begun another one"},
	} {
		t.Run(test.name, func(t *testing.T) {
			scale := int32(1)
			cluster, client := fakeCluster(&scale)
			// The fake does not number versions: a write after another one goes through.
			stale := false
			client.PrependReactor("update", "secrets", func(k8stesting.Action) (bool, runtime.Object, error) {
				if !stale {
					return false, nil, nil
				}
				return true, nil, apierrors.NewConflict(corev1.Resource("secrets"), journalName, errors.New("changed"))
			})
			j := openTestJournal(t, cluster, step{Kind: stepScale, From: 3, To: 1}, step{Kind: stepPod, Pod: "web-kubedelve-1a2b3c4d"})
			test.do(t, cluster)
			scale, stale = 1, true
			var lost *LostError
			if err := j.add(t.Context(), step{Kind: stepPod, Pod: "web-2"}); !errors.As(err, &lost) || !strings.Contains(lost.Reason, test.want) {
				t.Errorf("a step: %v, want a LostError with %q", err, test.want)
			}
			if err := j.refresh(t.Context()); !errors.As(err, &lost) {
				t.Errorf("refresh: %v", err)
			}
			client.ClearActions()
			if err := undoOwn(t.Context(), j, func(string) {}); err != nil {
				t.Error(err)
			}
			if got := changes(client); len(got) > 0 || scale != 1 {
				t.Errorf("the lost session's end did %v, and there are %d replicas", got, scale)
			}
		})
	}
}

func TestALostSessionTakesItsOwnPodAway(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: "web-kubedelve-1a2b3c4d", Namespace: "shop", UID: "u", Labels: map[string]string{labelSession: "1a2b3c4d"},
	}}
	cluster, client := fakeCluster(nil, pod)
	j := openTestJournal(t, cluster, step{Kind: stepPod, Pod: pod.Name})
	if err := cluster.Client.CoreV1().Secrets("shop").Delete(t.Context(), journalName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	client.ClearActions()
	if err := undoOwn(t.Context(), j, func(string) {}); err != nil {
		t.Fatal(err)
	}
	if got, want := changes(client), []string{"delete pods"}; !slices.Equal(got, want) {
		t.Errorf("it did %v, want %v", got, want)
	}
}

func TestPodsThatAreGoneLeaveTheJournal(t *testing.T) {
	cluster, _ := fakeCluster(nil)
	j := openTestJournal(t, cluster, step{Kind: stepPeek, Pod: "web-x"}, step{Kind: stepPod, Pod: "web-1"}, step{Kind: stepAdopt, Pod: "web-1"},
		step{Kind: stepScale, From: 3, To: 1})
	j.forget("web-1")
	if err := j.add(t.Context(), step{Kind: stepPod, Pod: "web-2"}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range j.record.Steps {
		got = append(got, s.Kind+s.Pod)
	}
	if want := []string{"peekweb-x", "scale", "podweb-2"}; !slices.Equal(got, want) {
		t.Errorf("the steps are %v, want %v", got, want)
	}
}

func TestSeveralPodsOfALostSessionAreOneSession(t *testing.T) {
	labels := map[string]string{labelSession: "1a2b3c4d", templateHash: "5d5f"}
	var pods []runtime.Object
	for i := 1; i <= 2; i++ {
		pods = append(pods, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: podName("web", "1a2b3c4d", i), Namespace: "shop", UID: types.UID(fmt.Sprint(i)), Labels: labels}})
	}
	cluster, client := fakeCluster(nil, pods...)
	infos, err := Sessions(t.Context(), cluster)
	if err != nil || len(infos) != 1 || infos[0].Target != "deploy/web" || infos[0].Pod != "web-kubedelve-1a2b3c4d,web-kubedelve-1a2b3c4d-2" {
		t.Fatalf("got sessions %+v (%v)", infos, err)
	}
	if err := Restore(t.Context(), infos[0], nil); err != nil {
		t.Fatal(err)
	}
	if left, err := client.CoreV1().Pods("shop").List(t.Context(), metav1.ListOptions{}); err != nil || len(left.Items) != 0 {
		t.Errorf("%d pods are left (%v)", len(left.Items), err)
	}
}

func TestPodNamesAreHostNames(t *testing.T) {
	long := strings.Repeat("long-", 20)
	for _, test := range []struct {
		workload string
		number   int
		want     string
	}{
		{"web", 1, "web-kubedelve-1a2b3c4d"},
		{"web", 2, "web-kubedelve-1a2b3c4d-2"},
		{long, 1, long[:44] + "-kubedelve-1a2b3c4d"},
		{long, 1234, long[:39] + "-kubedelve-1a2b3c4d-1234"},
	} {
		if got := podName(test.workload, "1a2b3c4d", test.number); got != test.want || len(got) > 63 {
			t.Errorf("pod %d of %s is called %s, want %s", test.number, test.workload, got, test.want)
		}
	}
}

func TestWhyAPodIsGone(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web-1", UID: "u"}}
	change := func(change func(*corev1.Pod)) *corev1.Pod {
		now := pod.DeepCopy()
		now.Status.Phase = corev1.PodRunning
		change(now)
		return now
	}
	deleted := func(p *corev1.Pod) { p.DeletionTimestamp = ptr.To(metav1.Now()) }
	for _, test := range []struct {
		name string
		now  *corev1.Pod
		want string // empty: it is not
	}{
		{"it runs", change(func(*corev1.Pod) {}), ""},
		{"it does not exist", nil, "pod web-1 was deleted"},
		{"another one has its name", change(func(p *corev1.Pod) { p.UID = "v" }), "pod web-1 was deleted"},
		{"it ends", change(deleted), "pod web-1 is being deleted"},
		{"it is drained", change(func(p *corev1.Pod) {
			deleted(p)
			p.Status.Conditions = []corev1.PodCondition{{
				Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting",
			}}
		}), "pod web-1 is taken away (EvictionByEvictionAPI: Eviction API: evicting)"},
		{"it was evicted", change(func(p *corev1.Pod) {
			p.Status.Phase, p.Status.Reason, p.Status.Message = corev1.PodFailed, "Evicted", "The node was low on resource: memory."
		}), "pod web-1 has ended (Evicted: The node was low on resource: memory.)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := ""
			if why := whyGone(test.now, pod); why != nil {
				got = why.text
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestAWaitBearsWithAnAPIServerThatIsAway(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web-1", Namespace: "shop"}}
	cluster, client := fakeCluster(nil, pod)
	away := 2
	client.PrependReactor("list", "pods", func(k8stesting.Action) (bool, runtime.Object, error) {
		if away == 0 {
			return false, nil, nil
		}
		away--
		return true, nil, apierrors.NewServiceUnavailable("it starts")
	})
	if err := waitPod(t.Context(), cluster, "web-1", func(*corev1.Pod) (bool, error) { return true, nil }); err != nil {
		t.Error(err)
	}
	if away != 0 {
		t.Errorf("it was asked %d times less", away)
	}
	client.PrependReactor("list", "pods", func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(corev1.Resource("pods"), "", errors.New("no"))
	})
	if err := waitPod(t.Context(), cluster, "web-1", func(*corev1.Pod) (bool, error) { return true, nil }); !apierrors.IsForbidden(err) {
		t.Errorf("without rights: %v", err)
	}
}
