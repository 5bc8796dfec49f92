package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kubedelve/kubedelve/testdata/cluster/internal/cache"
	"github.com/kubedelve/kubedelve/testdata/cluster/internal/clonetree"
	"github.com/kubedelve/kubedelve/testdata/cluster/internal/node"
	"github.com/kubedelve/kubedelve/testdata/cluster/internal/state"
)

// seedName is the cluster whose node imports the images once. No user's cluster can
// have it: two builds at a time wait for each other in the cache.
const seedName = "image-seed"

// seed returns a folder with the state of a containerd that has imported all images.
// Importing takes longer than anything else at the start of a cluster, and gives the
// same result every time.
func (m *Manager) seed(ctx context.Context, p parts) (string, error) {
	var key cache.Key
	key.Add("2", p.components.Key(), p.containerd.Text)
	dir, _, err := m.Cache.Ensure(ctx, "containerd", key.String(), func(ctx context.Context, tmp string) (err error) {
		m.say("importing the images into containerd, for all clusters to come")
		quiet := *m
		quiet.Progress = io.Discard
		m := &quiet
		unlock, err := m.lock(ctx, seedName)
		if err != nil {
			return err
		}
		defer unlock()
		if err := m.remove(ctx, seedName); err != nil {
			return err
		}
		rec, err := m.create(ctx, UpOptions{Name: seedName, Flavour: Kubeadm})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, m.remove(ctx, seedName)) }()
		archive := filepath.Join(tmp, "images.tar")
		defer os.Remove(archive)
		if err := p.components.WriteArchive(archive, tmp); err != nil {
			return fmt.Errorf("making the images: %w", err)
		}
		return m.fillSeed(ctx, &rec, p, archive, filepath.Join(tmp, "state"))
	})
	if err != nil {
		return "", fmt.Errorf("importing the images: %w", err)
	}
	return filepath.Join(dir, "state"), nil
}

// prune removes entries of the cache that this version of the program does not use,
// while no cluster that may use them is there.
func (m *Manager) prune(keep ...string) {
	names, err := m.store().Names()
	if err != nil || len(names) > 0 {
		return
	}
	for _, kind := range []string{"packages", "programs", "images", "containerd"} {
		entries, _ := filepath.Glob(filepath.Join(string(m.Cache), kind+"-*"))
		for _, e := range entries {
			// One that is new may belong to another version that is just about to start.
			fi, err := os.Stat(e)
			if err != nil || slices.Contains(keep, e) || time.Since(fi.ModTime()) < 24*time.Hour {
				continue
			}
			m.Log.Info("removing an old cache entry", "path", e)
			if err := os.RemoveAll(e); err != nil {
				m.Log.Warn("removing an old cache entry", "path", e, "error", err)
			}
		}
	}
}

func (m *Manager) fillSeed(ctx context.Context, rec *state.Record, p parts, archive, dst string) error {
	if err := m.layOut(ctx, rec, p); err != nil {
		return err
	}
	ctx, stop, err := m.boot(ctx, rec, p)
	if err != nil {
		return err
	}
	defer stop()
	if err := m.importFile(ctx, *rec, archive); err != nil {
		return err
	}
	cmd, err := node.Command(ctx, rec.Cgroup, rec.Init.PID, "systemctl", "stop", "containerd")
	if err != nil {
		return err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("stopping containerd: %w\n%s", err, out)
	}
	// Through the node's root: its /var may be in memory.
	return clonetree.Clone(fmt.Sprintf("/proc/%d/root/var/lib/containerd", rec.Init.PID), dst, neverWritten)
}

// cloneContainerd gives a node its own copy of a seed.
func cloneContainerd(seed, dst string) error { return clonetree.Clone(seed, dst, neverWritten) }

// neverWritten picks the files of a containerd that are made once and only deleted:
// blobs of content, and what is in the layers of images (a container writes to a
// layer of its own above them).
func neverWritten(path string, fi fs.FileInfo) bool {
	return fi.Size() > 64<<10 && (strings.Contains(path, "/io.containerd.content.v1.content/blobs/") ||
		strings.Contains(path, "/io.containerd.snapshotter.v1.overlayfs/snapshots/"))
}
