// Package cluster starts, checks and removes test clusters. It is the only package
// that knows all the others.
//
// A cluster is one node: a set of namespaces that hold a systemd (or, in the plain
// flavour, a small supervisor), containerd, a kubelet and a control plane. On the
// host there is of it: processes and their cgroups, one end of a veth pair, and a
// folder. Mounts, sockets, settings and all other devices are inside.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kubedelve/kubedelve/testdata/cluster/internal/cache"
	"github.com/kubedelve/kubedelve/testdata/cluster/internal/components"
	"github.com/kubedelve/kubedelve/testdata/cluster/internal/node"
	"github.com/kubedelve/kubedelve/testdata/cluster/internal/packages"
	"github.com/kubedelve/kubedelve/testdata/cluster/internal/state"
)

// Flavours of a node.
const (
	Kubeadm = "kubeadm" // systemd, units, static pods
	Plain   = "plain"   // processes without systemd
)

// A Manager works on the clusters of this machine.
type Manager struct {
	Cache  cache.Dir
	Source string // folder of this module
	// AllPackages takes every program from the distribution's packages and none from
	// the host, to test what happens on a host that has none.
	AllPackages bool
	Progress    io.Writer // one line per step
	Log         *slog.Logger

	begin time.Time
}

// New makes a manager; progress lines carry the time since now.
func New(dir cache.Dir, source string, progress io.Writer, log *slog.Logger) *Manager {
	return &Manager{Cache: dir, Source: source, Progress: progress, Log: log, begin: time.Now()}
}

func (m *Manager) say(format string, args ...any) {
	fmt.Fprintf(m.Progress, "%6.1fs  %s\n", time.Since(m.begin).Seconds(), fmt.Sprintf(format, args...))
}

func (m *Manager) store() state.Store { return state.Store{Dir: filepath.Join(string(m.Cache), "run")} }

// Paths in a cluster's folder.
func (m *Manager) path(name string, elem ...string) string {
	return filepath.Join(append([]string{m.store().Path(name)}, elem...)...)
}

// Kubeconfig is the path of a cluster's kubeconfig.
func (m *Manager) Kubeconfig(name string) string { return m.path(name, "kubeconfig") }

// parts is all that comes from the cache.
type parts struct {
	packages   packages.Set
	components components.Set
	containerd packages.Version
}

// Build fills the cache.
func (m *Manager) Build(ctx context.Context) error {
	if err := node.Supported(); err != nil {
		return err
	}
	p, err := m.prepare(ctx)
	if err != nil {
		return err
	}
	seed, err := m.seed(ctx, p)
	if err != nil {
		return err
	}
	m.prune(p.packages.Layer, filepath.Dir(p.components.Layer()), filepath.Dir(seed))
	m.say("everything is prepared in %s", m.Cache)
	return nil
}

func (m *Manager) prepare(ctx context.Context) (parts, error) {
	var p parts
	var err error
	if p.packages, err = packages.Prepare(ctx, m.Cache, m.AllPackages, m.say); err != nil {
		return p, fmt.Errorf("preparing the packages: %w", err)
	}
	if p.components, err = components.Prepare(ctx, m.Cache, m.Source, p.packages, m.say); err != nil {
		return p, fmt.Errorf("preparing the components: %w", err)
	}
	if p.containerd, err = p.packages.Containerd(ctx); err != nil {
		return p, fmt.Errorf("finding out the version of containerd: %w", err)
	}
	return p, nil
}

// Down removes a cluster, in whatever state it is. That there is none is no error.
func (m *Manager) Down(ctx context.Context, name string) error {
	if err := state.CheckName(name); err != nil {
		return err
	}
	if err := node.Supported(); err != nil {
		return err
	}
	unlock, err := m.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	return m.remove(ctx, name)
}

// lock waits for whoever works on the cluster.
func (m *Manager) lock(ctx context.Context, name string) (func(), error) {
	quick, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	unlock, err := m.store().Lock(quick, name)
	if err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
		return unlock, err
	}
	m.say("another command works on the cluster %s: waiting for it", name)
	return m.store().Lock(ctx, name)
}

// remove does the work of Down; the caller holds the cluster's lock.
func (m *Manager) remove(ctx context.Context, name string) error {
	rec, err := m.store().Load(name)
	if errors.Is(err, state.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	// Once begun, it goes on: Ctrl-C must not leave half of it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if rec.Index >= 0 {
		rec.Phase = state.Removing
		if err := m.store().Save(rec); err != nil {
			return err
		}
		if err := node.Stop(ctx, rec.Cgroup, planOf(rec)); err != nil {
			return fmt.Errorf("stopping the node of cluster %s: %w", name, err)
		}
		m.say("processes, cgroups and network of %s are gone", name)
	}
	if err := node.RemoveTree(m.path(name)); err != nil {
		return fmt.Errorf("removing the files of cluster %s: %w", name, err)
	}
	m.say("cluster %s is removed", name)
	return nil
}

// DownAll removes all clusters, and goes on after one that fails.
func (m *Manager) DownAll(ctx context.Context) error {
	names, err := m.store().Names()
	if err != nil {
		return err
	}
	var all []error
	for _, n := range names {
		all = append(all, m.Down(ctx, n))
	}
	return errors.Join(all...)
}

// running returns the record of a cluster whose node is alive.
func (m *Manager) running(name string) (state.Record, error) {
	if err := state.CheckName(name); err != nil {
		return state.Record{}, err
	}
	rec, err := m.store().Load(name)
	if err != nil {
		if errors.Is(err, state.ErrNotExist) {
			return rec, fmt.Errorf("there is no cluster %s (see the command up): %w", name, err)
		}
		return rec, err
	}
	if !alive(rec) {
		return rec, fmt.Errorf("the node of cluster %s does not run (phase %s): take it down and up again", name, rec.Phase)
	}
	return rec, nil
}

// planOf is the network of a cluster's node.
func planOf(rec state.Record) node.Plan { return node.Plan{Index: rec.Index, Link: rec.Link} }

// alive says whether the node's PID 1 runs, and is really that.
func alive(rec state.Record) bool {
	return rec.Init.Alive() && node.Member(rec.Cgroup, rec.Init.PID)
}

// tail returns the last lines of a file, for an error message.
func tail(path string, lines int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	all := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
