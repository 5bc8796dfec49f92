package kubelaunch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// CommandError says that the container's command line is not enough to know the
// program's arguments, or is not known at all.
type CommandError struct {
	Target  Target
	Command []string // empty: not known
	Reason  string
}

func (e *CommandError) Error() string {
	if len(e.Command) == 0 {
		return fmt.Sprintf("the pod template of %s leaves the command line to the image, and %s; give it with --entrypoint", e.Target, e.Reason)
	}
	return fmt.Sprintf("%s starts its program through %q, %s; give the program's arguments after -- (or none, with just --)", e.Target, e.Command, e.Reason)
}

// noPodToRead is why a command line is not known.
const noPodToRead = "no pod runs to read it from"

// peek reads a running container's command line, which only its image knows: a
// container without any rights is added to one of the workload's pods for a
// moment, in the same PID namespace. It can't be taken out again, so the pod is
// one that the session replaces, and undo deletes it.
func (w *workload) peek(ctx context.Context) ([]string, error) {
	p := w.placement
	unknown := func(reason string) error { return &CommandError{Target: p.Target, Reason: reason} }
	if len(p.pods) == 0 {
		return nil, unknown(noPodToRead)
	}
	pod := &p.pods[0]
	cached := commandCache(pod, p.Container)
	if command := cached.read(); command != nil {
		return command, nil
	}
	if pod.Spec.ShareProcessNamespace != nil && *pod.Spec.ShareProcessNamespace {
		return nil, unknown("its containers share one process namespace")
	}
	w.options.Progress("reading the image's command line in pod " + pod.Name)
	if err := w.journal.add(ctx, step{Kind: stepPeek, Pod: pod.Name, UID: pod.UID}); err != nil {
		return nil, err
	}
	name := "kubedelve-peek-" + w.session
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"spec":     map[string]any{"ephemeralContainers": []corev1.EphemeralContainer{peekContainer(pod, p.Container, name, w.options)}},
	})
	if err != nil {
		return nil, fmt.Errorf("reading the command line: %w", err)
	}
	_, err = w.cluster.Client.CoreV1().Pods(w.cluster.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch,
		metav1.PatchOptions{FieldManager: fieldManager}, "ephemeralcontainers")
	if err != nil {
		return nil, fmt.Errorf("adding a container to pod %s to read its command line: %w", pod.Name, err)
	}
	var message string
	err = waitPod(ctx, w.cluster, pod.Name, func(pod *corev1.Pod) (bool, error) {
		for _, s := range pod.Status.EphemeralContainerStatuses {
			if s.Name != name {
				continue
			}
			if err := hopeless(pod.Name, s, w.options.AgentImage); err != nil {
				return false, err
			}
			if t := s.State.Terminated; t != nil {
				message = t.Message
				return true, nil
			}
		}
		return false, nil
	})
	if err != nil {
		return nil, err
	}
	var command []string
	if err := json.Unmarshal([]byte(message), &command); err != nil || len(command) == 0 {
		return nil, unknown(fmt.Sprintf("reading it in pod %s gave %q", pod.Name, message))
	}
	cached.write(command)
	return command, nil
}

// peekContainer passes the same admission as the container that it looks at.
func peekContainer(pod *corev1.Pod, container, name string, o Options) corev1.EphemeralContainer {
	var target *corev1.Container
	for i := range pod.Spec.Containers {
		if pod.Spec.Containers[i].Name == container {
			target = &pod.Spec.Containers[i]
		}
	}
	return corev1.EphemeralContainer{
		TargetContainerName: container,
		EphemeralContainerCommon: corev1.EphemeralContainerCommon{
			Name: name, Image: o.AgentImage, ImagePullPolicy: o.PullPolicy,
			Command:                  []string{agentInImage, "cmdline"},
			SecurityContext:          restrict(pod.Spec.SecurityContext, target.SecurityContext),
			TerminationMessagePath:   corev1.TerminationMessagePathDefault,
			TerminationMessagePolicy: corev1.TerminationMessageReadFile,
		},
	}
}

// literal keeps the kubelet from expanding what is expanded already.
func literal(words []string) []string {
	escaped := make([]string, len(words))
	for i, w := range words {
		escaped[i] = strings.ReplaceAll(w, "$(", "$$(")
	}
	return escaped
}

// cachedCommand is the file that remembers what an image's command line is.
type cachedCommand string

// commandCache names the file by all that the command line depends on; empty if
// it depends on more.
func commandCache(pod *corev1.Pod, container string) cachedCommand {
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	var image string
	for _, s := range pod.Status.ContainerStatuses {
		if s.Name == container {
			image = s.ImageID
		}
	}
	args := containerOf(&corev1.PodTemplateSpec{Spec: pod.Spec}, container).Args
	if image == "" || strings.Contains(strings.Join(args, " "), "$(") {
		return ""
	}
	key := sha256.Sum256([]byte(image + "\x00" + strings.Join(args, "\x00")))
	return cachedCommand(filepath.Join(dir, "kubedelve", "commands", hex.EncodeToString(key[:16])+".json"))
}

func (c cachedCommand) read() (command []string) {
	if data, err := os.ReadFile(string(c)); err == nil {
		_ = json.Unmarshal(data, &command)
	}
	return command
}

// write is best effort: what is not remembered is read again.
func (c cachedCommand) write(command []string) {
	if c == "" {
		return
	}
	data, err := json.Marshal(command)
	if err == nil && os.MkdirAll(filepath.Dir(string(c)), 0o755) == nil {
		_ = os.WriteFile(string(c), data, 0o600)
	}
}
