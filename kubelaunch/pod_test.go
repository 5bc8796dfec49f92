package kubelaunch

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/kubedelve/kubedelve/buildflags"
)

// update rewrites the golden files: UPDATE_GOLDEN=1 go test ./kubelaunch
func update() bool { return os.Getenv("UPDATE_GOLDEN") != "" }

// fullTemplate has something of everything that debugPod touches.
func fullTemplate() *corev1.PodTemplateSpec {
	probe := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{}}}
	return &corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{
			Labels:      map[string]string{"app": "web", templateHash: "5d5f"},
			Annotations: map[string]string{"example.com/a": "b"},
		},
		Spec: corev1.PodSpec{
			InitContainers: []corev1.Container{{Name: "migrate", Image: "migrate:1"}},
			Containers: []corev1.Container{
				{Name: "sidecar", Image: "proxy:1", LivenessProbe: probe.DeepCopy()},
				{
					Name: "app", Image: "web:1", Command: []string{"/web"}, Args: []string{"--port=$(PORT)"},
					Ports:         []corev1.ContainerPort{{ContainerPort: 8080}, {ContainerPort: 53, Protocol: corev1.ProtocolUDP}},
					LivenessProbe: probe.DeepCopy(), ReadinessProbe: probe.DeepCopy(), StartupProbe: probe.DeepCopy(),
					Lifecycle: &corev1.Lifecycle{
						PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"/hello"}}},
						PreStop:   &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"/bye"}}},
					},
					Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{
						corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("64Mi"),
					}},
					SecurityContext: &corev1.SecurityContext{
						RunAsUser: ptr.To[int64](1000), Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"NET_BIND_SERVICE"}},
					},
					VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}},
				},
			},
			Volumes: []corev1.Volume{{Name: "data"}},
		},
	}
}

func fullOptions() podOptions {
	return podOptions{
		name: "web-kubedelve-1a2b3c4d", session: "1a2b3c4d", container: "app",
		secret:     &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "kubedelve-deployment-web", UID: "u1"}},
		agentImage: "agent:1", pullPolicy: corev1.PullIfNotPresent,
		platform: buildflags.Platform{OS: "linux", Arch: "arm64"},
		ports:    []int{8080}, command: []string{"/web", "--port=$(PORT)"},
	}
}

func TestDebugPodIsAsTheGoldenFileSays(t *testing.T) {
	pod := debugPod(fullTemplate(), "shop", fullOptions())
	got, err := yaml.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "debugpod.yaml")
	if update() {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("the debug pod differs from %s (UPDATE_GOLDEN=1 rewrites it), got:\n%s", golden, got)
	}
}

func TestDebugPodLeavesTheTemplateAlone(t *testing.T) {
	template := fullTemplate()
	debugPod(template, "shop", fullOptions())
	if !reflect.DeepEqual(template, fullTemplate()) {
		t.Error("debugPod changed the template that it was given")
	}
}

func TestDebugPodIsNoMemberOfTheReplicaSetYet(t *testing.T) {
	pod := debugPod(fullTemplate(), "shop", fullOptions())
	if hash, ok := pod.Labels[templateHash]; ok {
		t.Errorf("the pod has the label %s=%s, so the ReplicaSet would adopt it before it serves", templateHash, hash)
	}
	if controller := metav1.GetControllerOf(pod); controller != nil {
		t.Errorf("the pod has the controller %v, so no ReplicaSet could adopt it", controller)
	}
}

func TestDebugPodChangesNoOtherContainer(t *testing.T) {
	pod := debugPod(fullTemplate(), "shop", fullOptions())
	got, want := pod.Spec.Containers[0], fullTemplate().Spec.Containers[0]
	if !reflect.DeepEqual(got, want) {
		a, _ := json.Marshal(got)
		b, _ := json.Marshal(want)
		t.Errorf("the sidecar became %s, was %s", a, b)
	}
}

func TestDebugPodKeepsTheReadinessProbeIfAsked(t *testing.T) {
	options := fullOptions()
	options.keepReadiness = true
	pod := debugPod(fullTemplate(), "shop", options)
	if got := pod.Spec.Containers[1].ReadinessProbe; got == nil || got.TCPSocket == nil {
		t.Errorf("the readiness probe became %v", got)
	}
}
