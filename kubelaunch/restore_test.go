package kubelaunch

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/kubedelve/kubedelve/internal/agentapi"
)

// The whole undo runs on a real cluster in the end-to-end tests. The cases here
// are those that a real API server can't be brought into at will.

// fakeCluster holds the objects; scale is spec.replicas of deployment web.
func fakeCluster(scale *int32, objects ...runtime.Object) (*Cluster, *fake.Clientset) {
	client := fake.NewClientset(objects...)
	// The fake has no scale subresource of its own.
	client.PrependReactor("get", "deployments", func(a k8stesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "scale" {
			return false, nil, nil
		}
		if scale == nil {
			return true, nil, apierrors.NewNotFound(appsv1.Resource("deployments"), "web")
		}
		return true, &autoscalingv1.Scale{Spec: autoscalingv1.ScaleSpec{Replicas: *scale}}, nil
	})
	client.PrependReactor("update", "deployments", func(a k8stesting.Action) (bool, runtime.Object, error) {
		next := a.(k8stesting.UpdateAction).GetObject().(*autoscalingv1.Scale)
		*scale = next.Spec.Replicas
		return true, next, nil
	})
	return &Cluster{Client: client, Namespace: "shop"}, client
}

func openTestJournal(t *testing.T, c *Cluster, steps ...step) *journal {
	t.Helper()
	j, err := openJournal(t.Context(), c, "kubedelve-deployment-web", record{
		Version: journalVersion, Session: "1a2b3c4d", Target: "deploy/web", Steps: steps,
	}, agentapi.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func undoTest(t *testing.T, j *journal) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return undo(ctx, j, func(string) {})
}

// changes are the verbs and resources that changed something.
func changes(client *fake.Clientset) []string {
	var list []string
	for _, a := range client.Actions() {
		if !slices.Contains([]string{"get", "list", "watch"}, a.GetVerb()) {
			list = append(list, a.GetVerb()+" "+a.GetResource().Resource)
		}
	}
	return list
}

func TestUndoOfNothingRemovesTheJournalOnly(t *testing.T) {
	cluster, client := fakeCluster(nil)
	j := openTestJournal(t, cluster, step{Kind: stepPod, Pod: "web-kubedelve-1a2b3c4d"}, step{Kind: stepAdopt, Pod: "web-kubedelve-1a2b3c4d"},
		step{Kind: stepScale, From: 3, To: 1}, step{Kind: stepPeek, Pod: "web-x", UID: "u"})
	client.ClearActions()
	if err := undoTest(t, j); err != nil {
		t.Fatal(err)
	}
	if got, want := changes(client), []string{"delete secrets"}; !slices.Equal(got, want) {
		t.Errorf("undo did %v, want %v", got, want)
	}
}

func TestUndoLeavesReplicasThatSomebodyElseChanged(t *testing.T) {
	for _, test := range []struct {
		name      string
		now, want int32
	}{
		{"as we left them", 1, 3},
		{"changed since", 5, 5},
	} {
		t.Run(test.name, func(t *testing.T) {
			scale := test.now
			cluster, _ := fakeCluster(&scale)
			j := openTestJournal(t, cluster, step{Kind: stepScale, From: 3, To: 1})
			if err := undoTest(t, j); err != nil {
				t.Fatal(err)
			}
			if scale != test.want {
				t.Errorf("got %d replicas, want %d", scale, test.want)
			}
		})
	}
}

func TestUndoLeavesAForeignPodOfTheSameName(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web-kubedelve-1a2b3c4d", Namespace: "shop", UID: "theirs"}}
	cluster, client := fakeCluster(nil, pod)
	j := openTestJournal(t, cluster, step{Kind: stepPod, Pod: pod.Name})
	client.ClearActions()
	if err := undoTest(t, j); err == nil {
		t.Error("undo took no notice of a pod that is not the session's")
	}
	if got := changes(client); len(got) > 0 {
		t.Errorf("undo did %v", got)
	}
}

func TestUndoGoesOnAfterAFailureAndKeepsTheJournal(t *testing.T) {
	scale := int32(1)
	cluster, client := fakeCluster(&scale)
	j := openTestJournal(t, cluster, step{Kind: stepScale, From: 3, To: 1}, step{Kind: stepPod, Pod: "web-kubedelve-1a2b3c4d"})
	client.PrependReactor("get", "pods", func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewInternalError(errors.New("etcd is away"))
	})
	if err := undoTest(t, j); err == nil || !strings.Contains(err.Error(), "etcd is away") {
		t.Errorf("got error %v, want the API server's", err)
	}
	if scale != 3 {
		t.Errorf("got %d replicas, want 3: a failed step stopped the others", scale)
	}
	if _, err := readJournal(t.Context(), cluster, "kubedelve-deployment-web"); err != nil {
		t.Errorf("the journal is gone though something is left to do: %v", err)
	}
}

func TestUndoRefusesAJournalOfAnotherVersion(t *testing.T) {
	cluster, _ := fakeCluster(nil)
	j := openTestJournal(t, cluster, step{Kind: "teleport"})
	if err := undoTest(t, j); err == nil || !strings.Contains(err.Error(), "teleport") {
		t.Errorf("got error %v, want one that names the step", err)
	}
}

func TestASecondSessionOnATargetIsRefused(t *testing.T) {
	cluster, _ := fakeCluster(nil)
	openTestJournal(t, cluster)
	_, err := openJournal(t.Context(), cluster, "kubedelve-deployment-web", record{Target: "deploy/web"}, agentapi.Config{})
	if !errors.Is(err, ErrSession) {
		t.Errorf("got error %v, want ErrSession", err)
	}
}

func TestAJournalIsWrittenOnlyByWhoReadItLast(t *testing.T) {
	cluster, client := fakeCluster(nil)
	j := openTestJournal(t, cluster)
	client.PrependReactor("update", "secrets", func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewConflict(corev1.Resource("secrets"), "kubedelve-deployment-web", errors.New("changed"))
	})
	if err := j.add(t.Context(), step{Kind: stepPod}); err == nil {
		t.Error("a step was added to a journal that somebody else changed")
	}
	if len(j.record.Steps) != 0 {
		t.Errorf("the step is taken for written: %v", j.record.Steps)
	}
}

func TestAPodWhoseJournalIsLostIsFoundAndDeleted(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: "web-kubedelve-1a2b3c4d", Namespace: "shop", UID: "u", Labels: map[string]string{labelSession: "1a2b3c4d", templateHash: "5d5f"},
	}}
	cluster, client := fakeCluster(nil, pod)
	infos, err := Sessions(t.Context(), cluster)
	if err != nil {
		t.Fatal(err)
	}
	if len(infos) != 1 || infos[0].Target != "deploy/web" || infos[0].Pod != pod.Name {
		t.Fatalf("got sessions %+v, want the one of pod %s", infos, pod.Name)
	}
	if err := Restore(t.Context(), infos[0], nil); err != nil {
		t.Fatal(err)
	}
	if left, err := client.CoreV1().Pods("shop").List(t.Context(), metav1.ListOptions{}); err != nil || len(left.Items) != 0 {
		t.Errorf("%d pods are left (%v)", len(left.Items), err)
	}
}
