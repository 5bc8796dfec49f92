package kubelaunch

import (
	"errors"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestParseTarget(t *testing.T) {
	for _, test := range []struct {
		text string
		want Target // zero: refused
	}{
		{"deploy/web", Target{Kind: KindDeployment, Name: "web"}},
		{"deployment/web", Target{Kind: KindDeployment, Name: "web"}},
		{"Deployments.apps/web", Target{Kind: KindDeployment, Name: "web"}},
		{"local", Target{Kind: KindLocal}},
		{"node/n1:kubelet", Target{Kind: KindNode, Name: "n1", Service: "kubelet"}},
		{"no/n1.example.com:kubelet.service", Target{Kind: KindNode, Name: "n1.example.com", Service: "kubelet.service"}},
		{"node/n1:runc", Target{Kind: KindNode, Name: "n1", Service: "runc"}},
		{"node/n1:path:/opt/cni/bin/bridge", Target{Kind: KindNode, Name: "n1", Service: "path:/opt/cni/bin/bridge"}},
		{"node/n1:path:bridge", Target{}},
		{"node/n1:path:", Target{}},
		{"node/n1:path:/", Target{}},
		{"deploy/web:path:/x", Target{}},
		{"ds/kube-proxy@n1", Target{Kind: KindDaemonSet, Name: "kube-proxy", Node: "n1"}},
		{"daemonset/kube-proxy", Target{Kind: KindDaemonSet, Name: "kube-proxy"}},
		{"ds/kube-proxy@", Target{}},
		{"ds/@n1", Target{}},
		{"node/a/b:path:/x", Target{}},
		{"node/n1", Target{}},
		{"node/:kubelet", Target{}},
		{"node/n1:", Target{}},
		{"web", Target{}},
		{"deploy/", Target{}},
		{"deploy/a/b", Target{}},
		{"pod/x", Target{}},
		{"", Target{}},
	} {
		t.Run(test.text, func(t *testing.T) {
			got, err := ParseTarget(test.text)
			if got != test.want || (err == nil) != (test.want != Target{}) {
				t.Errorf("ParseTarget(%q) = %v, %v; want %v", test.text, got, err, test.want)
			}
		})
	}
}

func TestChooseContainer(t *testing.T) {
	for _, test := range []struct {
		name       string
		containers []string
		byDefault  string // the annotation
		asked      string
		want       string // empty: refused
	}{
		{"the only one", []string{"app"}, "", "", "app"},
		{"the one asked for", []string{"app", "proxy"}, "", "proxy", "proxy"},
		{"the workload's default", []string{"proxy", "app"}, "app", "", "app"},
		{"asked for against the default", []string{"proxy", "app"}, "app", "proxy", "proxy"},
		{"two and none asked for", []string{"app", "proxy"}, "", "", ""},
		{"none of that name", []string{"app"}, "", "web", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			template := &corev1.PodTemplateSpec{}
			if test.byDefault != "" {
				template.ObjectMeta = metav1.ObjectMeta{Annotations: map[string]string{"kubectl.kubernetes.io/default-container": test.byDefault}}
			}
			for _, name := range test.containers {
				template.Spec.Containers = append(template.Spec.Containers, corev1.Container{Name: name})
			}
			got, err := chooseContainer(Target{Kind: KindDeployment, Name: "web"}, template, test.asked)
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			var refused *ContainerError
			if test.want == "" && (!errors.As(err, &refused) || !slices.Equal(refused.Containers, test.containers)) {
				t.Errorf("got error %v, want one that lists %v", err, test.containers)
			}
		})
	}
}

func TestContainerRunsTellsWhatIsHopeless(t *testing.T) {
	waiting := func(name, reason string) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: name, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}}
	}
	running := corev1.ContainerStatus{Name: "app", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
	for _, test := range []struct {
		name   string
		status corev1.PodStatus
		runs   bool
		reason string // of the error; empty: none
	}{
		{"just made", corev1.PodStatus{}, false, ""},
		{"being made", corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{waiting("app", "ContainerCreating")}}, false, ""},
		{"runs", corev1.PodStatus{PodIP: "10.0.0.1", ContainerStatuses: []corev1.ContainerStatus{running}}, true, ""},
		{"runs without an address yet", corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{running}}, false, ""},
		{"agent image missing", corev1.PodStatus{InitContainerStatuses: []corev1.ContainerStatus{waiting(installName, "ErrImageNeverPull")}}, false, "ErrImageNeverPull"},
		{"back-off", corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{waiting("app", "ImagePullBackOff")}}, false, "ImagePullBackOff"},
		{"refused by the kubelet", corev1.PodStatus{Phase: corev1.PodFailed, Reason: "OutOfcpu"}, false, "OutOfcpu"},
		{"no node", corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Reason: corev1.PodReasonUnschedulable}}}, false, "no node takes it"},
		{"crashes", corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{waiting("app", "CrashLoopBackOff")}}, false, "CrashLoopBackOff"},
	} {
		t.Run(test.name, func(t *testing.T) {
			runs, err := containerRuns(&corev1.Pod{Status: test.status}, "app", "agent:1")
			var pod *PodError
			if errors.As(err, &pod); runs != test.runs || (err != nil) != (test.reason != "") || (pod != nil && pod.Reason != test.reason) {
				t.Errorf("got %v, %v; want %v, %q", runs, err, test.runs, test.reason)
			}
		})
	}
}
