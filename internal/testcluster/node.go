package testcluster

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// NodeState is what a session on a service of a node must leave as it was: files,
// mounts and processes of the node, one per line.
type NodeState []string

// nodeStateScript prints it. Of a process everything counts that another one in its
// place could differ in, but for its number and what systemd gives to each start of a
// unit; of a folder not when it was changed.
const nodeStateScript = `
find /etc /opt /usr/bin /usr/sbin /usr/local /usr/lib/systemd/system /run/systemd/system /run/kubedelve /var/lib -path /var/lib/kubelet -prune -o -path /var/lib/etcd -prune -o -path /var/lib/containerd -prune -o -path /var/lib/systemd -prune -o -path /var/lib/cni -prune -o \
	\( -type d -printf 'folder %p %m %U %G\n' -o -printf 'file %p %y %m %U %G %s %T@ %l\n' \) 2>/dev/null
awk '{ print "mount", $4, $5, $6 }' /proc/1/mountinfo
for p in /proc/[0-9]*; do
	pid=${p#/proc/}
	argv=$(tr '\0' ' ' 2>/dev/null < $p/cmdline)
	[ $pid = $$ ] || [ -z "$argv" ] && continue
	ppid=$(sed 's/.*) . \([0-9]*\) .*/\1/' $p/stat 2>/dev/null)
	[ "$ppid" = $$ ] || [ "$ppid" = 0 -a $pid != 1 ] && continue
	parent=$(tr '\0' ' ' 2>/dev/null < /proc/${ppid#0}/cmdline | cut -c1-60)
	echo "process $argv| child of $parent| $(readlink $p/exe) in $(readlink $p/cwd)" \
		"| $(tr '\n' ' ' < $p/cgroup) | limits $(md5sum < $p/limits) | environment $(sort -z $p/environ | grep -zv '^INVOCATION_ID=\|^JOURNAL_STREAM=\|^SYSTEMD_EXEC_PID=\|^WATCHDOG_PID=' | md5sum)" \
		"| $(cat $p/oom_score_adj) $(grep -h 'Uid\|Gid\|Groups\|CapBnd\|CapEff\|NoNewPrivs\|Seccomp:\|Umask' $p/status | tr '\n\t' '  ')" \
		"| $(for n in mnt net pid ipc uts cgroup; do [ "$(readlink $p/ns/$n)" = "$(readlink /proc/1/ns/$n)" ] && echo host || echo own; done | tr '\n' ' ')" \
		"| $(for n in 0 1 2; do readlink $p/fd/$n | sed 's/^\(socket\|pipe\):.*/\1/'; done | tr '\n' ' ')"
done
true`

// NodeState reads how the node is.
func (c *Cluster) NodeState(ctx context.Context) (NodeState, error) {
	out, err := c.InNode(ctx, "sh", "-c", nodeStateScript)
	if err != nil {
		return nil, err
	}
	// A container that was ended is another one when it comes back.
	lines := strings.Split(strings.Trim(containerID.ReplaceAllString(out, "ID"), "\n"), "\n")
	slices.Sort(lines)
	return lines, nil
}

// containerID matches what containerd numbers: containers, whose numbers are cut where a
// parent's command line is, and their file systems.
var containerID = regexp.MustCompile(`\b[0-9a-f]{64}\b| -id [0-9a-f]+|snapshots/[0-9]+`)

// Diff tells what differs, or nothing.
func (s NodeState) Diff(now NodeState) string {
	var text strings.Builder
	count := map[string]int{}
	for _, line := range s {
		count[line]++
	}
	for _, line := range now {
		count[line]--
	}
	for _, line := range sorted(count) {
		switch n := count[line]; {
		case n > 0:
			fmt.Fprintf(&text, "- %s\n", line)
		case n < 0:
			fmt.Fprintf(&text, "+ %s\n", line)
		}
	}
	return text.String()
}

// AwaitNodeState waits until the node is as it was: pods that are gone take their
// mounts and processes with them a moment later.
func (c *Cluster) AwaitNodeState(ctx context.Context, before NodeState) error {
	diff := ""
	return until(ctx, "the node to be as before (- before, + now)", func() (bool, string, error) {
		now, err := c.NodeState(ctx)
		switch {
		case ctx.Err() != nil:
			return false, diff, nil //nolint:nilerr // the time is over, and the difference says more
		case err != nil:
			return false, "", err
		}
		diff = before.Diff(now)
		return diff == "", diff, nil
	})
}

// CreatePod makes a pod that runs until it is deleted, of the image of one of the
// sample's programs.
func (n *Namespace) CreatePod(ctx context.Context, name, image string) error {
	_, err := n.Client.CoreV1().Pods(n.Name).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "app", Image: n.Refs[image], ImagePullPolicy: corev1.PullNever,
			SecurityContext: &corev1.SecurityContext{ // PodSecurity "restricted"
				RunAsNonRoot: ptr.To(true), AllowPrivilegeEscalation: ptr.To(false),
				Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
		}}},
	}, metav1.CreateOptions{})
	return err
}

// AwaitPodRunning waits until the pod runs.
func (n *Namespace) AwaitPodRunning(ctx context.Context, name string) error {
	return until(ctx, "pod "+name+" to run", func() (bool, string, error) {
		pod, err := n.Client.CoreV1().Pods(n.Name).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, "", err
		}
		return pod.Status.Phase == corev1.PodRunning, describe(pod), nil
	})
}

// NodeSessions lists the namespaces of sessions on nodes.
func (c *Cluster) NodeSessions(ctx context.Context) ([]string, error) {
	list, err := c.Client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{LabelSelector: "kubedelve.dev/node-session"})
	if err != nil {
		return nil, fmt.Errorf("reading the namespaces: %w", err)
	}
	var names []string
	for _, n := range list.Items {
		names = append(names, n.Name)
	}
	return names, nil
}

// AwaitNoNodeSessions waits until all such namespaces are gone: after an exchange of the API server or
// etcd that is when the controller manager is a leader again.
func (c *Cluster) AwaitNoNodeSessions(ctx context.Context) error {
	return until(ctx, "no namespaces of sessions", func() (bool, string, error) {
		left, err := c.NodeSessions(ctx)
		return err == nil && len(left) == 0, fmt.Sprint(left, err), nil
	})
}

// NodeCondition is the status of the node's condition Ready, with its reason, its
// taints, and the version that it tells.
func (c *Cluster) NodeCondition(ctx context.Context) (ready string, taints []corev1.Taint, version string, err error) {
	nodes, err := c.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err == nil && len(nodes.Items) != 1 {
		err = fmt.Errorf("there are %d", len(nodes.Items))
	}
	if err != nil {
		return "", nil, "", fmt.Errorf("reading the one node: %w", err)
	}
	for _, condition := range nodes.Items[0].Status.Conditions {
		if condition.Type == corev1.NodeReady {
			ready = string(condition.Status) + " " + condition.Reason
		}
	}
	return ready, nodes.Items[0].Spec.Taints, nodes.Items[0].Status.NodeInfo.KubeletVersion, nil
}

// AwaitAPI waits until the API server answers, which may be what a test has exchanged.
func (c *Cluster) AwaitAPI(ctx context.Context) error {
	return until(ctx, "the API server to answer", func() (bool, string, error) {
		_, err := c.Client.Discovery().ServerVersion()
		return err == nil, fmt.Sprint(err), nil
	})
}

// AwaitNodeReady waits until the node is ready and has no taints.
func (c *Cluster) AwaitNodeReady(ctx context.Context) error {
	return until(ctx, "the node to be ready", func() (bool, string, error) {
		ready, taints, _, err := c.NodeCondition(ctx)
		return err == nil && strings.HasPrefix(ready, "True") && len(taints) == 0, fmt.Sprint(ready, taints, err), nil
	})
}
