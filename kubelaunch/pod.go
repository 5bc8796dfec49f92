package kubelaunch

import (
	"maps"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/kubedelve/kubedelve/buildflags"
)

// Where the agent lives in the container, and the names of what brings it there.
const (
	agentDir       = "/kubedelve"
	agentConfigDir = "/kubedelve-config"
	agentPath      = agentDir + "/kubedelve-agent"
	agentInImage   = "/kubedelve-agent" // in the agent image
	agentSocket    = "run/agent.sock"   // below the agent's folder
	agentVolume    = "kubedelve-agent"
	configVolume   = "kubedelve-config"
	installName    = "kubedelve-install"

	deletionCost = "controller.kubernetes.io/pod-deletion-cost"
	templateHash = "pod-template-hash"
)

// debugMemory is what Delve may need beside the component: it holds the debug
// information in memory (290 MB were measured for an 88 MB binary).
var debugMemory = resource.MustParse("1Gi")

// podOptions say what the debug pod differs in.
type podOptions struct {
	name       string
	session    string
	container  string
	secret     *corev1.Secret // the journal
	agentImage string
	pullPolicy corev1.PullPolicy
	platform   buildflags.Platform
	ports      []int    // that the component serves
	command    []string // the container's own, with references for the kubelet to expand
	// keepReadiness leaves the container's own readiness probe in place, so that
	// a halted component leaves its Services.
	keepReadiness bool
}

// debugPod returns the pod that runs a workload's container under the agent. It
// changes nothing that it is given, and nothing in the template that debugging
// does not need changed.
func debugPod(template *corev1.PodTemplateSpec, namespace string, o podOptions) *corev1.Pod {
	template = template.DeepCopy()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: o.name, Namespace: namespace,
			Labels: template.Labels, Annotations: template.Annotations, Finalizers: template.Finalizers,
			// A pod whose journal is gone is nobody's: the garbage collector takes
			// it, unless a ReplicaSet has adopted it (then restore finds it). The
			// Secret is no controller, so that one can.
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Secret", Name: o.secret.Name, UID: o.secret.UID}},
		},
		Spec: template.Spec,
	}
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	delete(pod.Labels, templateHash) // it comes when the pod serves
	pod.Labels[labelSession] = o.session
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[deletionCost] = strconv.Itoa(math.MaxInt32)
	pod.Annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] = "false"

	spec := &pod.Spec
	if o.platform.Arch != "" {
		// The binary is for one architecture; the workload may run on several.
		spec.NodeSelector = maps.Clone(spec.NodeSelector)
		if spec.NodeSelector == nil {
			spec.NodeSelector = map[string]string{}
		}
		spec.NodeSelector[corev1.LabelArchStable] = o.platform.Arch
	}
	spec.Volumes = append(spec.Volumes,
		corev1.Volume{Name: agentVolume, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		corev1.Volume{Name: configVolume, VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{
			SecretName: o.secret.Name,
			Items:      []corev1.KeyToPath{{Key: agentKey, Path: agentKey}},
			// The container's user is the image's, and so unknown.
			DefaultMode: ptr.To[int32](0o444),
		}}})
	i := slices.IndexFunc(spec.Containers, func(c corev1.Container) bool { return c.Name == o.container })
	container := &spec.Containers[i]
	wrapContainer(container, o)
	spec.InitContainers = append([]corev1.Container{installContainer(spec.SecurityContext, container, o)}, spec.InitContainers...)
	return pod
}

// wrapContainer puts the agent in the place of the container's command.
func wrapContainer(c *corev1.Container, o podOptions) {
	c.Command = []string{agentPath, "serve", "--dir", agentDir, "--config", path.Join(agentConfigDir, agentKey), "--"}
	c.Args = o.command
	c.VolumeMounts = append(c.VolumeMounts,
		corev1.VolumeMount{Name: agentVolume, MountPath: agentDir},
		corev1.VolumeMount{Name: configVolume, MountPath: agentConfigDir, ReadOnly: true})
	// A breakpoint looks like a hanging program: these would restart it.
	c.LivenessProbe, c.StartupProbe = nil, nil
	if !o.keepReadiness {
		ready := []string{agentPath, "ready", "--dir", agentDir}
		if len(o.ports) > 0 {
			var list []string
			for _, p := range o.ports {
				list = append(list, strconv.Itoa(p))
			}
			ready = append(ready, "--ports", strings.Join(list, ","))
		}
		c.ReadinessProbe = &corev1.Probe{
			ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: ready}},
			PeriodSeconds: 1, TimeoutSeconds: 10, FailureThreshold: 30,
		}
	}
	// It would run against a component that has not begun.
	if c.Lifecycle != nil && c.Lifecycle.PostStart != nil {
		c.Lifecycle.PostStart = nil
	}
	// With the component's memory limit Delve would get both killed; with its
	// CPU limit every step would take as long as the throttling does.
	for name, limit := range c.Resources.Limits {
		if _, ok := c.Resources.Requests[name]; !ok { // what the API server would fill in
			if c.Resources.Requests == nil {
				c.Resources.Requests = corev1.ResourceList{}
			}
			c.Resources.Requests[name] = limit
		}
	}
	delete(c.Resources.Limits, corev1.ResourceCPU)
	if limit, ok := c.Resources.Limits[corev1.ResourceMemory]; ok {
		limit = limit.DeepCopy()
		limit.Add(debugMemory)
		c.Resources.Limits[corev1.ResourceMemory] = limit
	}
}

// installContainer brings the agent into the pod. It asks for no more than the
// container that it serves, so that it passes the same admission.
func installContainer(pod *corev1.PodSecurityContext, c *corev1.Container, o podOptions) corev1.Container {
	small := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("32Mi")}
	return corev1.Container{
		Name: installName, Image: o.agentImage, ImagePullPolicy: o.pullPolicy,
		Command:         []string{agentInImage, "install", agentDir},
		SecurityContext: restrict(pod, c.SecurityContext),
		// A ResourceQuota refuses containers that name neither.
		Resources:    corev1.ResourceRequirements{Requests: small, Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}},
		VolumeMounts: []corev1.VolumeMount{{Name: agentVolume, MountPath: agentDir}},
	}
}

// restrict returns a security context for a container of ours that passes the same
// admission as the one it serves, and PodSecurity "restricted" if that does.
func restrict(pod *corev1.PodSecurityContext, container *corev1.SecurityContext) *corev1.SecurityContext {
	security := &corev1.SecurityContext{}
	if container != nil {
		security = container.DeepCopy()
	}
	security.Privileged = nil
	security.AllowPrivilegeEscalation = ptr.To(false)
	security.ReadOnlyRootFilesystem = ptr.To(true)
	security.Capabilities = &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}
	if security.SeccompProfile == nil && (pod == nil || pod.SeccompProfile == nil) {
		security.SeccompProfile = &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}
	}
	return security
}
