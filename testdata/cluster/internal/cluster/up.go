package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/kubedelve/kubedelve/testdata/cluster/internal/components"
	"github.com/kubedelve/kubedelve/testdata/cluster/internal/kubeapi"
	"github.com/kubedelve/kubedelve/testdata/cluster/internal/node"
	"github.com/kubedelve/kubedelve/testdata/cluster/internal/rootfs"
	"github.com/kubedelve/kubedelve/testdata/cluster/internal/state"
)

// nodeName is the name of the one node in its cluster.
const nodeName = "node1"

// UpOptions say how a cluster is made.
type UpOptions struct {
	Name    string
	Flavour string // Kubeadm or Plain
	Keep    bool   // leave a node that did not come up, to look into it
}

// Up makes sure that a cluster runs and returns the path of its kubeconfig.
func (m *Manager) Up(ctx context.Context, o UpOptions) (kubeconfig string, err error) {
	if err := state.CheckName(o.Name); err != nil {
		return "", err
	}
	if err := node.Supported(); err != nil {
		return "", err
	}
	p, err := m.prepare(ctx)
	if err != nil {
		return "", err
	}
	seed, err := m.seed(ctx, p)
	if err != nil {
		return "", err
	}
	unlock, err := m.lock(ctx, o.Name)
	if err != nil {
		return "", err
	}
	defer unlock()

	old, err := m.store().Load(o.Name)
	switch {
	case errors.Is(err, state.ErrNotExist):
	case err != nil:
		return "", err
	default:
		problem := m.check(ctx, old)
		if problem == nil && old.Flavour != o.Flavour {
			return "", fmt.Errorf("the cluster %s runs with the flavour %s: take it down first, or use another name", o.Name, old.Flavour)
		}
		if problem == nil {
			m.say("cluster %s runs already", o.Name)
			return m.Kubeconfig(o.Name), nil
		}
		m.say("removing what is left of cluster %s: %v", o.Name, problem)
		if err := m.remove(ctx, o.Name); err != nil {
			return "", err
		}
	}

	if err := node.RoomForInotify(); err != nil {
		return "", err
	}
	rec, err := m.create(ctx, o)
	if err != nil {
		return "", err
	}
	if err := m.start(ctx, &rec, p, seed); err != nil {
		if o.Keep && ctx.Err() == nil {
			return "", fmt.Errorf("%w\n(left as it is: see the commands logs, exec and down)", err)
		}
		m.say("did not come up: removing it")
		return "", errors.Join(err, m.remove(ctx, o.Name))
	}
	return m.Kubeconfig(o.Name), nil
}

// create writes the record of a new cluster: from here on down knows what to remove.
func (m *Manager) create(ctx context.Context, o UpOptions) (state.Record, error) {
	self, err := state.Identify(os.Getpid())
	if err != nil {
		return state.Record{}, err
	}
	return m.store().Create(ctx, state.Record{
		Name:    o.Name,
		Flavour: o.Flavour,
		Phase:   state.Creating,
		Created: time.Now().UTC().Truncate(time.Second),
		Starter: self,
	}, func(index int) bool { return node.Plan{Index: index}.Free() })
}

// machineSettings are the settings that a kubelet makes for the whole machine. The
// node sees its own copies of them.
var machineSettings = map[string]string{
	"vm.overcommit_memory":      "1",
	"vm.panic_on_oom":           "0",
	"kernel.panic":              "10",
	"kernel.panic_on_oops":      "1",
	"kernel.keys.root_maxkeys":  "1000000",
	"kernel.keys.root_maxbytes": "25000000",
}

// start makes a node and turns it into a cluster.
func (m *Manager) start(ctx context.Context, rec *state.Record, p parts, seed string) error {
	if err := m.layOut(ctx, rec, p); err != nil {
		return fmt.Errorf("writing the node's files: %w", err)
	}
	if err := cloneContainerd(seed, m.path(rec.Name, "root", "var", "lib", "containerd")); err != nil {
		return err
	}
	m.say("files of the node are written")
	ctx, stop, err := m.boot(ctx, rec, p)
	if err != nil {
		return err
	}
	defer stop()
	m.say("the node has booted and containerd runs")
	bringUp := m.bringUp
	if rec.Flavour == Plain {
		bringUp = m.bringUpPlain
	}
	if err := bringUp(ctx, rec); err != nil {
		return err
	}
	rec.Phase = state.Running
	return m.store().Save(*rec)
}

// lowerLayers lists the layers of the node's /usr.
func (m *Manager) lowerLayers(rec *state.Record, p parts) []string {
	lower := []string{m.path(rec.Name, "layer", "usr"), filepath.Join(p.components.Layer(), "usr")}
	if rec.Flavour == Plain {
		lower = append(lower, filepath.Join(p.components.PlainLayer(), "usr"))
	}
	return append(lower, p.packages.Lower()...)
}

// layOut writes the node's own files.
func (m *Manager) layOut(ctx context.Context, rec *state.Record, p parts) error {
	name := rec.Name
	plan := planOf(*rec)
	for _, d := range []string{"root", "layer", "upper", "logs"} {
		if err := os.Mkdir(m.path(name, d), 0o755); err != nil {
			return err
		}
	}
	return rootfs.Write(m.path(name, "root"), m.path(name, "layer"), m.lowerLayers(rec, p), rootfs.Config{
		Cluster:         name,
		Node:            nodeName,
		NodeIP:          plan.Node().String(),
		PodRange:        plan.Pods().String(),
		Pods:            plan.PodsHere().String(),
		ServiceRange:    plan.Services().String(),
		Kubernetes:      components.Kubernetes,
		Repository:      components.Repository,
		PauseImage:      components.PauseImage,
		Runc:            p.packages.Program("sbin/runc"),
		ContainerdMajor: p.containerd.Major,
		SystemdCgroup:   rec.Flavour == Kubeadm,
		BridgeFiltered:  bridgeFiltered(ctx),
		Systemd:         rec.Flavour == Kubeadm,
	})
}

// boot starts the node's init and waits for containerd. The context it returns ends
// when the node ends; stop only frees it.
func (m *Manager) boot(ctx context.Context, rec *state.Record, p parts) (nodeCtx context.Context, stop func(), err error) {
	name := rec.Name
	plan := planOf(*rec)
	spec := node.Spec{
		Name:    nodeName,
		Cgroup:  rec.Cgroup,
		Plan:    plan,
		Root:    m.path(name, "root"),
		Lower:   m.lowerLayers(rec, p),
		Upper:   m.path(name, "upper"),
		Shield:  machineSettings,
		Sysctls: map[string]string{"net.ipv4.ip_forward": "1"},
		Init:    []string{"/usr/lib/systemd/systemd", "--system", "--show-status=false"},
		Leaf:    rec.Flavour == Plain,
		Env:     []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "container=kubedelve", "TERM=dumb", "LANG=C.UTF-8"},
		Console: m.path(name, "logs", "console.log"),
	}
	if rec.Flavour == Plain {
		spec.Init = []string{components.PausePath}
	}
	if bridgeFiltered(ctx) {
		spec.Sysctls["net.bridge.bridge-nf-call-iptables"] = "1"
	}
	first, err := node.Start(ctx, spec, func(pid int) error {
		init, err := state.Identify(pid)
		if err != nil {
			return err
		}
		rec.Init = init
		return m.store().Save(*rec)
	})
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	// Ends with the node, at the latest with this process.
	go func() {
		err := first.Wait()
		cancel(fmt.Errorf("the node's PID 1 has ended (%w):\n%s", err, tail(spec.Console, 20)))
	}()
	if rec.Flavour == Plain {
		if err := m.spawn(ctx, *rec, "containerd", "/usr/bin/containerd"); err != nil {
			cancel(nil)
			return nil, nil, err
		}
	}
	if err := within(ctx, time.Minute, "containerd listens", m.containerdListens(*rec)); err != nil {
		cancel(nil)
		return nil, nil, err
	}
	return ctx, func() { cancel(nil) }, nil
}

// bringUp turns a node whose init has begun into a cluster.
func (m *Manager) bringUp(ctx context.Context, rec *state.Record) error {
	if err := rootfs.EnableKubelet(m.path(rec.Name, "root")); err != nil {
		return err
	}
	if err := m.kubeadmInit(ctx, *rec, "--skip-phases=show-join-command"); err != nil {
		return err
	}
	m.say("kubeadm init is done")
	return m.finish(ctx, rec)
}

func (m *Manager) kubeadmInit(ctx context.Context, rec state.Record, args ...string) error {
	return m.logged(ctx, rec, "kubeadm", append([]string{"kubeadm", "init", "-v=3",
		"--config=/etc/kubernetes/kubeadm.yaml", "--ignore-preflight-errors=all"}, args...)...)
}

// finish copies the kubeconfig and waits until the cluster is of use.
func (m *Manager) finish(ctx context.Context, rec *state.Record) error {
	data, err := os.ReadFile(m.path(rec.Name, "root", "etc", "kubernetes", "admin.conf"))
	if err != nil {
		return fmt.Errorf("reading the kubeconfig that kubeadm wrote: %w", err)
	}
	if err := os.WriteFile(m.Kubeconfig(rec.Name), data, 0o600); err != nil {
		return err
	}
	api, err := kubeapi.Load(m.Kubeconfig(rec.Name))
	if err != nil {
		return err
	}
	defer api.Close()
	steps := []struct {
		what  string
		check func(context.Context) error
	}{
		{"the control plane answers", api.Ready},
		{"the node is ready", func(ctx context.Context) error { return api.NodeReady(ctx, nodeName) }},
		{"the default service account exists", func(ctx context.Context) error { return api.ServiceAccountExists(ctx, "default", "default") }},
		{"kube-proxy runs", func(ctx context.Context) error { return api.DaemonSetReady(ctx, "kube-system", "kube-proxy") }},
		{"cluster DNS is available", func(ctx context.Context) error { return api.DeploymentAvailable(ctx, "kube-system", "coredns") }},
	}
	for _, s := range steps {
		if rec.Flavour == Plain && s.what == "kube-proxy runs" {
			continue // a process there, and no DaemonSet
		}
		if err := within(ctx, 3*time.Minute, s.what, s.check); err != nil {
			return err
		}
		m.say("%s", s.what)
	}
	return nil
}

func within(ctx context.Context, d time.Duration, what string, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return kubeapi.Await(ctx, what, check)
}

// containerdListens checks that containerd takes connections.
func (m *Manager) containerdListens(rec state.Record) func(context.Context) error {
	return func(ctx context.Context) error {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", fmt.Sprintf("/proc/%d/root/run/containerd/containerd.sock", rec.Init.PID))
		if err != nil {
			return err
		}
		return conn.Close()
	}
}

// importFile imports an archive of images into the node's containerd.
func (m *Manager) importFile(ctx context.Context, rec state.Record, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return m.importImages(ctx, rec, f)
}

// importImages imports an archive of images that comes as a stream.
func (m *Manager) importImages(ctx context.Context, rec state.Record, archive io.Reader) error {
	cmd, err := node.Command(ctx, rec.Cgroup, rec.Init.PID, "ctr", "--namespace=k8s.io", "images", "import", "-")
	if err != nil {
		return err
	}
	cmd.Stdin = archive
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("importing images into containerd: %w\n%s", err, out)
	}
	return nil
}

// logged runs a command in the node with its output in a log file.
func (m *Manager) logged(ctx context.Context, rec state.Record, log string, argv ...string) error {
	path := m.path(rec.Name, "logs", log+".log")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	cmd, err := node.Command(ctx, rec.Cgroup, rec.Init.PID, argv...)
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Run(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return fmt.Errorf("running %s in the node: %w\n%s", strings.Join(argv, " "), err, tail(path, 30))
	}
	return nil
}

// bridgeFiltered says whether the kernel can pass bridged packets through the
// rules of kube-proxy. Without, pods are linked without a bridge.
func bridgeFiltered(ctx context.Context) bool {
	const setting = "/proc/sys/net/bridge/bridge-nf-call-iptables"
	if _, err := os.Stat(setting); err == nil {
		return true
	}
	// The module does nothing before a bridge exists, and every node needs it.
	_ = exec.CommandContext(ctx, "modprobe", "br_netfilter").Run()
	_, err := os.Stat(setting)
	return err == nil
}
