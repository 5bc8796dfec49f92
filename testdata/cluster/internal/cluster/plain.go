package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/kubedelve/kubedelve/testdata/cluster/internal/kubeapi"
	"github.com/kubedelve/kubedelve/testdata/cluster/internal/node"
	"github.com/kubedelve/kubedelve/testdata/cluster/internal/state"
)

// The plain flavour: the same files and flags as kubeadm's, but every component is a
// process that nobody restarts, with its output in plainLogs. kubeadm's manifests say
// how the control plane is to be called; the processes are started from them, and
// the manifests removed before a kubelet sees them.

const plainLogs = "/var/log/kubernetes"

// kubeadm's phases that need no API server, and those that do and apply here. (The
// phase bootstrap-token also gives the API server its rights on kubelets.)
const (
	skipOnline  = "wait-control-plane,upload-config,upload-certs,mark-control-plane,bootstrap-token,kubelet-finalize,addon,show-join-command"
	skipOffline = "preflight,certs,kubeconfig,etcd,control-plane,kubelet-start,wait-control-plane,upload-certs,kubelet-finalize,addon/kube-proxy,show-join-command"
)

// bringUpPlain turns a node with a bare init into a cluster.
func (m *Manager) bringUpPlain(ctx context.Context, rec *state.Record) error {
	etc := m.path(rec.Name, "root", "etc", "kubernetes")
	if err := m.kubeadmInit(ctx, *rec, "--skip-phases="+skipOnline); err != nil {
		return err
	}
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		manifest := filepath.Join(etc, "manifests", name+".yaml")
		data, err := os.ReadFile(manifest)
		if err != nil {
			return err
		}
		argv, err := commandOf(data)
		if err != nil {
			return fmt.Errorf("reading %s: %w", manifest, err)
		}
		if err := os.Remove(manifest); err != nil {
			return err
		}
		if err := m.spawn(ctx, *rec, name, argv...); err != nil {
			return err
		}
	}
	kubelet := `. /var/lib/kubelet/kubeadm-flags.env
exec /usr/bin/kubelet --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf --config=/var/lib/kubelet/config.yaml $KUBELET_KUBEADM_ARGS`
	if err := m.spawn(ctx, *rec, "kubelet", "sh", "-c", kubelet); err != nil {
		return err
	}
	// The members of kubeadm's administrators group get their rights in a later phase.
	api, err := kubeapi.Load(filepath.Join(etc, "super-admin.conf"))
	if err != nil {
		return err
	}
	defer api.Close()
	if err := within(ctx, 2*time.Minute, "the control plane answers", api.Ready); err != nil {
		return err
	}
	m.say("the processes of the control plane run")
	if err := within(ctx, 2*time.Minute, "the node is registered", func(ctx context.Context) error {
		return api.NodeExists(ctx, nodeName)
	}); err != nil {
		return err
	}
	if err := m.kubeadmInit(ctx, *rec, "--skip-phases="+skipOffline); err != nil {
		return err
	}
	m.say("kubeadm init is done")
	proxy := `umask 077
kubeadm kubeconfig user --config=/etc/kubernetes/kubeadm.yaml --client-name=system:kube-proxy > /etc/kubernetes/proxy.conf || exit 1
exec /usr/bin/kube-proxy --config=/etc/kubernetes/kube-proxy.yaml --hostname-override=` + nodeName
	if err := m.spawn(ctx, *rec, "kube-proxy", "sh", "-c", proxy); err != nil {
		return err
	}
	return m.finish(ctx, rec)
}

// spawn starts a process in the node as a child of its PID 1. (One that is entered
// from outside would become a child of the host's.)
func (m *Manager) spawn(ctx context.Context, rec state.Record, name string, argv ...string) error {
	const script = `mkdir -p ` + plainLogs + `
echo $$ > /run/$0.pid
exec "$@" > ` + plainLogs + `/$0.log 2>&1 < /dev/null`
	cmd, err := node.Command(ctx, rec.Cgroup, rec.Init.PID, append([]string{"setsid", "--fork", "sh", "-c", script, name}, argv...)...)
	if err != nil {
		return err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("starting %s in the node: %w\n%s", name, err, out)
	}
	return nil
}

// commandOf takes the command of the one container out of a static pod's manifest.
func commandOf(manifest []byte) ([]string, error) {
	var pod struct {
		Spec struct {
			Containers []struct {
				Command []string `json:"command"`
				Args    []string `json:"args"`
			} `json:"containers"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(manifest, &pod); err != nil {
		return nil, err
	}
	if len(pod.Spec.Containers) != 1 || len(pod.Spec.Containers[0].Command) == 0 {
		return nil, errors.New("not a pod with one container and a command")
	}
	c := pod.Spec.Containers[0]
	for _, word := range append(c.Command, c.Args...) {
		if strings.Contains(word, "$(") {
			return nil, fmt.Errorf("the argument %q has a variable", word)
		}
	}
	return append(c.Command, c.Args...), nil
}
