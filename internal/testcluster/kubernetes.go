package testcluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// KubeEnv is how the components of the test cluster are built.
var KubeEnv = []string{"CGO_ENABLED=0", "GOFLAGS=-buildvcs=false"}

// Kubernetes is a checkout of Kubernetes, of the version that the cluster has, which may
// be edited. There is one on a machine, always in the same folder, since the compiler's
// cache knows packages by where they are: to compile a kubelet for debugging takes ten
// minutes otherwise. Whoever has it holds its lock.
type Kubernetes struct {
	Dir    string // of a module that requires the checkout
	Source string // the checkout
	origin string // what it is a copy of
	lock   *os.File
}

// The files of a checkout that tests may edit: Close and the next one's begin take that back.
const (
	KubeletSource     = "pkg/kubelet/kubelet.go"
	AutoscalerSource  = "pkg/controller/podautoscaler/horizontal.go"
	PodStrategySource = "pkg/registry/core/pod/strategy.go"
	SchedulerSource   = "pkg/scheduler/schedule_one.go"
	ProxierSource     = "pkg/proxy/nftables/proxier.go"
)

// Kubernetes waits until nobody else has the checkout, and brings it into its original state.
func (p *Programs) Kubernetes(ctx context.Context) (k *Kubernetes, err error) {
	kube := filepath.Join(p.Root, "testdata", "cluster", "kube")
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", "k8s.io/kubernetes")
	cmd.Dir = kube
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go mod download k8s.io/kubernetes: %w", err)
	}
	var module struct{ Version, Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		return nil, fmt.Errorf("go mod download k8s.io/kubernetes: %w", err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("a checkout of Kubernetes: %w", err)
	}
	k = &Kubernetes{Dir: filepath.Join(cache, "kubedelve", "test-kubernetes-"+module.Version), origin: module.Dir}
	k.Source = filepath.Join(k.Dir, "kubernetes")
	if err := os.MkdirAll(k.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("a checkout of Kubernetes: %w", err)
	}
	if k.lock, err = lockFile(ctx, filepath.Join(k.Dir, "lock")); err != nil {
		return nil, fmt.Errorf("a checkout of Kubernetes: %w", err)
	}
	if err := errors.Join(k.copySource(), k.copyModule(kube), k.reset()); err != nil {
		return nil, errors.Join(fmt.Errorf("a checkout of Kubernetes: %w", err), k.Close())
	}
	return k, nil
}

// Close gives the checkout to the next one.
func (k *Kubernetes) Close() error { return errors.Join(k.reset(), k.lock.Close()) }

// File is the path of a source file, as one of the constants names it.
func (k *Kubernetes) File(name string) string { return filepath.Join(k.Source, name) }

// EtcdFile is the path of a source file of etcd's server, which may not be edited.
func (k *Kubernetes) EtcdFile(ctx context.Context, name string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", EtcdProgram)
	cmd.Dir = k.Dir
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go list -m %s: %w", EtcdProgram, err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), name), nil
}

// EtcdProgram is the main package of etcd, and its module.
const EtcdProgram = "go.etcd.io/etcd/server/v3"

// Compile fills the compiler's cache with programs for debugging, but for their linking.
func (k *Kubernetes) Compile(ctx context.Context, programs ...string) error {
	return compileIn(ctx, k.Dir, KubeEnv, programs...)
}

// compileIn compiles for debugging, as a session does, so that one only has to link.
func compileIn(ctx context.Context, dir string, env []string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-export", "-deps", "-gcflags=all=-N -l", "-f", ""}, args...)...) //nolint:gosec // the tests say which
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compiling %s: %w\n%s", strings.Join(args, ", "), err, out)
	}
	return nil
}

// copySource makes the checkout, but for what no component is built from.
func (k *Kubernetes) copySource() error {
	if _, err := os.Stat(k.Source); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	incoming := k.Source + ".new"
	if err := os.RemoveAll(incoming); err != nil {
		return err
	}
	entries, err := os.ReadDir(k.origin)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() || slices.Contains([]string{"test", "api"}, e.Name()) {
			continue
		}
		if err := os.CopyFS(filepath.Join(incoming, e.Name()), os.DirFS(filepath.Join(k.origin, e.Name()))); err != nil {
			return err
		}
	}
	text, err := os.ReadFile(filepath.Join(k.origin, "go.mod"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(incoming, "go.mod"), text, 0o644); err != nil { //nolint:gosec // a cache
		return err
	}
	return os.Rename(incoming, k.Source)
}

// copyModule makes the module that requires it the same as the cluster's own.
func (k *Kubernetes) copyModule(kube string) error {
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(kube, name))
		if err != nil {
			return err
		}
		if name == "go.mod" {
			text = append(text, "\nreplace k8s.io/kubernetes => ./kubernetes\n"...)
		}
		if err := writeIfChanged(filepath.Join(k.Dir, name), text); err != nil {
			return err
		}
	}
	return nil
}

// reset takes edits back.
func (k *Kubernetes) reset() error {
	for _, name := range []string{KubeletSource, AutoscalerSource, PodStrategySource, SchedulerSource, ProxierSource} {
		text, err := os.ReadFile(filepath.Join(k.origin, name))
		if err != nil {
			return err
		}
		if err := writeIfChanged(filepath.Join(k.Source, name), text); err != nil {
			return err
		}
	}
	return nil
}

func writeIfChanged(path string, text []byte) error {
	now, err := os.ReadFile(path)
	if err == nil && bytes.Equal(now, text) || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.WriteFile(path, text, 0o644) //nolint:gosec // a cache
}

// lockFile waits for the lock on a file.
func lockFile(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644) //nolint:gosec // a cache
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		switch taken, err := tryLock(f); {
		case err != nil:
			return nil, errors.Join(err, f.Close())
		case taken:
			return f, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("waiting for the lock on %s: %w", path, context.Cause(ctx)), f.Close())
		case <-tick.C:
		}
	}
}

// PutInNode writes a program to a path in the node.
func (c *Cluster) PutInNode(ctx context.Context, local, path string) error {
	f, err := os.Open(local)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	cmd := exec.CommandContext(ctx, c.tool, "exec", "--name", c.named, "--", "sh", "-c", `cat > "$0" && chmod 755 "$0"`, path) //nolint:gosec // built by Start
	cmd.Stdin = f
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("writing %s in the node: %w: %s", path, err, strings.TrimSpace(string(out)))
	}
	return nil
}
