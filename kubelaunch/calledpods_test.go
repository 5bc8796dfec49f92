package kubelaunch

import (
	"maps"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

func TestCalledPodsAreThoseWithTheLabels(t *testing.T) {
	pod := func(namespace, name, app string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": app}}}
	}
	client := fake.NewClientset(pod("a", "there", "web"), pod("b", "elsewhere", "web"), pod("a", "other", "x"))
	watched := make(chan struct{})
	client.PrependWatchReactor("pods", func(k8stesting.Action) (bool, watch.Interface, error) {
		w, err := client.Tracker().Watch(corev1.SchemeGroupVersion.WithResource("pods"), "a")
		close(watched)
		return true, w, err
	})
	p := followCalledPods(&Cluster{Client: client, Namespace: "session"}, CallFilter{Labels: "app=web", Namespace: "a"})
	defer p.end()
	want := func(names ...string) {
		t.Helper()
		var got []string
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			p.mu.Lock()
			got = slices.Sorted(maps.Keys(p.names))
			p.mu.Unlock()
			if slices.Equal(got, names) {
				return
			}
		}
		t.Fatalf("the pods are %q, not %q", got, names)
	}
	want("a/there")
	<-watched
	pods := client.CoreV1().Pods("a")
	if _, err := pods.Create(t.Context(), pod("a", "new", "web"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	want("a/new", "a/there")
	// Its containers are removed later than it.
	if err := pods.Delete(t.Context(), "there", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := pods.Update(t.Context(), pod("a", "new", "x"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	want("a/there")
	if followCalledPods(&Cluster{Client: client}, CallFilter{Namespace: "a"}) != nil {
		t.Error("pods are followed that nobody asks for")
	}
}
