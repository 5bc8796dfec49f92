package kubelaunch

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	k8stesting "k8s.io/client-go/testing"
)

// flannel is a DaemonSet with a pod on each of two nodes, as its controller makes them.
func flannel(nodes ...string) (*appsv1.DaemonSet, []runtime.Object) {
	labels := map[string]string{"app": "flannel", "tier": "node"}
	set := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "flannel", Namespace: "shop", UID: "set"},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "flannel"}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "net", Command: []string{"/opt/bin/flanneld", "--masquerade"}}}},
			},
		},
	}
	objects := []runtime.Object{set}
	for _, node := range nodes {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Name: "flannel-" + node, Namespace: "shop", UID: types.UID("pod-on-" + node),
				Labels:          map[string]string{"app": "flannel", "tier": "node", daemonRevision: "5d5f", "pod-template-generation": "1"},
				OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("DaemonSet"))},
			},
			Spec:   *set.Spec.Template.Spec.DeepCopy(),
			Status: corev1.PodStatus{Phase: corev1.PodRunning},
		}
		pod.Spec.NodeName = node
		pod.Spec.Tolerations = []corev1.Toleration{{Key: "node.kubernetes.io/not-ready", Operator: corev1.TolerationOpExists}}
		pod.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{
				{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{node}},
			}}},
		}}}
		objects = append(objects, pod)
	}
	return set, objects
}

func TestAPodOfADaemonSetNeedsItsNode(t *testing.T) {
	_, objects := flannel("n1", "n2")
	cluster, _ := fakeCluster(nil, objects...)
	for _, node := range []string{"", "n3"} {
		_, err := Resolve(t.Context(), cluster, Target{Kind: KindDaemonSet, Name: "flannel", Node: node}, "")
		if err == nil || !strings.Contains(err.Error(), "2 nodes (n1, n2)") {
			t.Errorf("on node %q: %v", node, err)
		}
	}
	_, objects = flannel("n1")
	cluster, _ = fakeCluster(nil, objects...)
	p, err := Resolve(t.Context(), cluster, Target{Kind: KindDaemonSet, Name: "flannel"}, "")
	if err != nil || p.Target.String() != "ds/flannel@n1" {
		t.Errorf("of one pod: %+v, %v", p, err)
	}
}

func TestTheDebugPodIsWhatTheControllerMakesForTheNode(t *testing.T) {
	_, objects := flannel("n1", "n2")
	cluster, _ := fakeCluster(nil, objects...)
	p, err := Resolve(t.Context(), cluster, Target{Kind: KindDaemonSet, Name: "flannel", Node: "n2"}, "")
	if err != nil {
		t.Fatal(err)
	}
	pod := debugPod(p.template, "shop", podOptions{name: "flannel-debug", session: "1a2b3c4d", container: p.Container, secret: &corev1.Secret{}})
	p.hide(pod)
	if pod.Labels["app"] != "" || pod.Labels["tier"] != "node" || pod.Labels[daemonRevision] != "5d5f" {
		t.Errorf("its labels are %v: the set must not find it yet, and all others are those of its pods", pod.Labels)
	}
	on := pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Values
	if !slices.Equal(on, []string{"n2"}) || len(pod.Spec.Tolerations) != 1 {
		t.Errorf("it goes to %v with the tolerations %v", on, pod.Spec.Tolerations)
	}
	if got := p.hidden(); len(got) != 1 || got["app"] != "flannel" {
		t.Errorf("the labels that come back are %v", got)
	}
}

func TestAServiceOfANodeThatIsInADaemonSet(t *testing.T) {
	_, objects := flannel("n1")
	cluster, _ := fakeCluster(nil, objects...)
	in, target, container, err := FindDaemon(t.Context(), cluster, Target{Kind: KindNode, Name: "n1", Service: "flanneld"})
	if err != nil || in == nil || in.Namespace != "shop" || target.String() != "ds/flannel@n1" || container != "net" {
		t.Errorf("flanneld is %v, container %q, %v", target, container, err)
	}
	in, _, _, err = FindDaemon(t.Context(), cluster, Target{Kind: KindNode, Name: "n1", Service: "kubelet"})
	if err != nil || in != nil {
		t.Errorf("the kubelet is in %+v, %v", in, err)
	}
}

// What is changed is written down before, and the original is gone before the component starts.
func TestSucceedingADaemon(t *testing.T) {
	set, objects := flannel("n1")
	cluster, client := fakeCluster(nil, objects...)
	p, err := Resolve(t.Context(), cluster, Target{Kind: KindDaemonSet, Name: "flannel", Node: "n1"}, "")
	if err != nil {
		t.Fatal(err)
	}
	ours := debugPod(p.template, "shop", podOptions{name: "flannel-debug", session: "1a2b3c4d", container: p.Container, secret: &corev1.Secret{}})
	p.hide(ours)
	ours.UID, ours.OwnerReferences = "ours", nil
	if err := client.Tracker().Add(ours); err != nil {
		t.Fatal(err)
	}
	client.PrependReactor("patch", "pods", func(k8stesting.Action) (bool, runtime.Object, error) {
		member := ours.DeepCopy()
		member.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("DaemonSet"))}
		return true, member, client.Tracker().Update(podResource, member, "shop")
	})
	w := newWorkload(p, Options{}, 1)
	w.journal, w.session, w.pod = openTestJournal(t, cluster), "1a2b3c4d", ours
	client.ClearActions()
	if err := w.succeed(t.Context(), func(string) {}); err != nil {
		t.Fatal(err)
	}
	if got, want := changes(client), []string{"update secrets", "delete pods", "patch pods"}; !slices.Equal(got, want) {
		t.Errorf("succeed did %v, want %v", got, want)
	}
	if !slices.Contains(w.journal.steps(), step{Kind: stepAdopt, Pod: ours.Name}) {
		t.Errorf("the journal has %v", w.journal.steps())
	}
}
