package kubelaunch

import (
	"crypto/sha256"
	"encoding/hex"
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// The helper's pod: the one thing in a namespace of its own.
const (
	labelNode   = "kubedelve.dev/node-session" // on namespaces: there is a session in them
	podSecurity = "pod-security.kubernetes.io/"
)

// nodeNamespace is the namespace of a session on a node's service. Its creation is what
// makes a second session impossible.
func nodeNamespace(t Target) string {
	sum := sha256.Sum256([]byte(t.String()))
	readable := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(t.Name+"-"+t.Service))
	// 63 is the most that a label may have (RFC 1123).
	readable = strings.Trim(readable[:min(len(readable), 40)], "-")
	return secretPrefix + readable + "-" + hex.EncodeToString(sum[:4])
}

// newNodeNamespace allows what the helper needs.
func newNodeNamespace(t Target, session string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: nodeNamespace(t),
		Labels: map[string]string{
			labelManagedBy: managedBy, labelNode: session,
			podSecurity + "enforce": "privileged", podSecurity + "warn": "privileged", podSecurity + "audit": "privileged",
		},
		Annotations: map[string]string{annotationTarget: t.String()},
	}}
}

// annotationTarget tells users what a namespace is for.
const annotationTarget = "kubedelve.dev/target"

// newHelper is the pod that makes the agent a process of the node. It is bound to the
// node, not scheduled: the scheduler may be what is paused.
func newHelper(t Target, namespace string, secret *corev1.Secret, image string, pull corev1.PullPolicy) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: helperPod, Namespace: namespace,
			Labels: map[string]string{labelManagedBy: managedBy, labelSession: secret.Labels[labelSession]},
		},
		Spec: corev1.PodSpec{
			NodeName:    t.Name,
			HostPID:     true, // the node's processes are what it is about
			HostNetwork: true, // the agent's port is the node's: it is reached whatever the pod network is in
			Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			// It ends when the original is back.
			RestartPolicy:                 corev1.RestartPolicyNever,
			AutomountServiceAccountToken:  ptr.To(false),
			EnableServiceLinks:            ptr.To(false),
			TerminationGracePeriodSeconds: ptr.To[int64](5),
			DNSPolicy:                     corev1.DNSDefault,
			Containers: []corev1.Container{{
				Name: helperPod, Image: image, ImagePullPolicy: pull,
				Command:                  []string{agentInImage, "node", "--config", path.Join(agentConfigDir, agentKey)},
				SecurityContext:          &corev1.SecurityContext{Privileged: ptr.To(true), RunAsUser: ptr.To[int64](0)},
				TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
				Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
					corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("32Mi"),
				}},
				VolumeMounts: []corev1.VolumeMount{{Name: configVolume, MountPath: agentConfigDir, ReadOnly: true}},
			}},
			Volumes: []corev1.Volume{{Name: configVolume, VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{
				SecretName: secret.Name, Items: []corev1.KeyToPath{{Key: agentKey, Path: agentKey}}, DefaultMode: ptr.To[int32](0o400),
			}}}},
		},
	}
}
