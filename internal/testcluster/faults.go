package testcluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Faults that only the node can bring about, see [Cluster.HasNode].

// KillAgent kills the agent in a pod with SIGKILL, and with it its container.
func (n *Namespace) KillAgent(ctx context.Context, pod string) error {
	p, err := n.Client.CoreV1().Pods(n.Name).Get(ctx, pod, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("killing the agent in pod %s: %w", pod, err)
	}
	// systemd writes the dashes of a UID as underscores in a slice's name.
	uid := strings.ReplaceAll(string(p.UID), "-", "[-_]")
	out, err := n.InNode(ctx, "/bin/sh", "-c", `
		for p in /proc/[0-9]*; do
			if tr '\0' ' ' <$p/cmdline | grep -q 'kubedelve-agent serve' && grep -q 'pod`+uid+`' $p/cgroup; then
				kill -KILL ${p#/proc/} && echo killed
			fi
		done 2>/dev/null`)
	if strings.TrimSpace(out) != "killed" {
		return errors.Join(err, fmt.Errorf("killing the agent in pod %s: there is not one, but: %q", pod, out))
	}
	return nil
}

// StopAPIServer stops the API server for a time: it does not answer, and its
// connections stay. It returns when the API server goes on. All else that uses the
// cluster is disturbed.
func (c *Cluster) StopAPIServer(ctx context.Context, d time.Duration) error {
	out, err := c.InNode(ctx, "/bin/sh", "-c", fmt.Sprintf(`
		for p in /proc/[0-9]*; do
			if tr '\0' '\n' <$p/cmdline | head -n 1 | grep -Eq '(^|/)kube-apiserver$'; then
				p=${p#/proc/}
				kill -STOP $p && sleep %.1f && kill -CONT $p && echo stopped
			fi
		done 2>/dev/null`, d.Seconds()))
	if strings.TrimSpace(out) != "stopped" {
		return errors.Join(err, fmt.Errorf("stopping the API server: there is not one, but: %q", out))
	}
	return nil
}
