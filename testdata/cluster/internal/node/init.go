package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kubedelve/kubedelve/testdata/cluster/internal/clonetree"
)

// initMain is the node's first process until it becomes the node's init.
func initMain() {
	// Namespaces belong to a thread until the exec: everything happens on this one.
	runtime.LockOSThread()
	specPipe, errPipe := os.NewFile(3, "spec"), os.NewFile(4, "errors")
	unix.CloseOnExec(3)
	unix.CloseOnExec(4)
	var w wire
	if err := json.NewDecoder(specPipe).Decode(&w); err != nil {
		// The starter is gone, or gave up: nothing has been changed here yet.
		os.Exit(1)
	}
	specPipe.Close()
	err := becomeInit(w)
	fmt.Fprintln(errPipe, err)
	os.Exit(1)
}

func becomeInit(w wire) error {
	unix.Umask(0o022)
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("making a cgroup namespace: %w", err)
	}
	if err := mountRoot(w); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(w.Name)); err != nil {
		return fmt.Errorf("setting the host name: %w", err)
	}
	for name, value := range w.Sysctls {
		path := "/proc/sys/" + strings.ReplaceAll(name, ".", "/")
		if err := os.WriteFile(path, []byte(value), 0); err != nil {
			return fmt.Errorf("setting %s of the node: %w", name, err)
		}
	}
	if w.Leaf && len(w.Trees) == 1 && w.Trees[0].v2() {
		// The kernel gives controllers only to children of a cgroup without processes.
		if err := delegate("/sys/fs/cgroup"); err != nil {
			return fmt.Errorf("delegating cgroups: %w", err)
		}
	}
	null, err := os.Open("/dev/null")
	if err != nil {
		return err
	}
	if err := unix.Dup3(int(null.Fd()), 0, 0); err != nil {
		return err
	}
	if err := unix.Exec(w.Init[0], w.Init, w.Env); err != nil {
		return fmt.Errorf("starting %s as the node's PID 1: %w", w.Init[0], err)
	}
	return nil
}

// mountRoot builds the node's file system on spec.Root and makes it "/".
func mountRoot(w wire) error {
	// Nothing mounted from here on may reach the host.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making the node's mounts private: %w", err)
	}
	if err := unix.Mount(w.Root, w.Root, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("binding the node's root: %w", err)
	}
	m := &mounter{root: w.Root}
	m.overlay("/usr", w.Lower, w.Upper)
	if errors.Is(m.err, unix.EINVAL) {
		// The state folder is itself on an overlay, as in a container, and cannot hold
		// an upper layer. Containers need one below /var, too. Memory can.
		m.err = nil
		m.mount("tmpfs", "/.memory", "tmpfs", 0, "mode=755")
		m.overlay("/usr", w.Lower, filepath.Join(w.Root, ".memory"))
		m.do("moving /var into memory", func() error {
			if err := clonetree.Clone(m.path("/var"), m.path("/.memory/var"), nil); err != nil {
				return err
			}
			return unix.Mount(m.path("/.memory/var"), m.path("/var"), "", unix.MS_BIND, "")
		})
	}
	m.mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	m.mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	m.mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755")
	m.mount("tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777")
	m.devices()
	m.cgroups(w.Trees)
	m.shield(w.Shield)
	if m.err != nil {
		return m.err
	}
	if err := unix.Chdir(w.Root); err != nil {
		return err
	}
	// The old root ends up on top of the new one, and is taken off there.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("making %s the node's root: %w", w.Root, err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leaving the host's root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	// As systemd does it on a real machine: mounts of the node reach its containers.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("sharing the node's mounts: %w", err)
	}
	return nil
}

// A mounter makes mounts below a root and keeps the first error.
type mounter struct {
	root string
	err  error
}

func (m *mounter) path(p string) string { return filepath.Join(m.root, p) }

func (m *mounter) do(what string, f func() error) {
	if m.err != nil {
		return
	}
	if err := f(); err != nil {
		m.err = fmt.Errorf("%s: %w", what, err)
	}
}

func (m *mounter) mkdir(p string) {
	m.do("making "+p, func() error { return os.MkdirAll(m.path(p), 0o755) })
}

func (m *mounter) symlink(target, p string) {
	m.do("linking "+p, func() error { return os.Symlink(target, m.path(p)) })
}

func (m *mounter) mount(source, p, fstype string, flags uintptr, data string) {
	m.mkdir(p)
	m.do("mounting "+fstype+" at "+p, func() error { return unix.Mount(source, m.path(p), fstype, flags, data) })
}

// overlay mounts the layers copy-on-write; upper is a folder on a file system that
// can hold an upper layer.
func (m *mounter) overlay(p string, lower []string, upper string) {
	data := filepath.Join(upper, "data")
	work := filepath.Join(upper, "work")
	m.do("making "+upper, func() error { return errors.Join(os.MkdirAll(data, 0o755), os.MkdirAll(work, 0o755)) })
	m.mount("overlay", p, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", strings.Join(lower, ":"), data, work))
	if errors.Is(m.err, unix.ENODEV) {
		m.err = errors.New("this kernel has no overlay file system, which a node needs (modprobe overlay)")
	}
}

func (m *mounter) devices() {
	m.mount("tmpfs", "/dev", "tmpfs", unix.MS_NOSUID, "mode=755")
	m.mount("devpts", "/dev/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5")
	m.mount("tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777")
	m.mkdir("/dev/mqueue")
	m.symlink("pts/ptmx", "/dev/ptmx")
	m.symlink("/proc/self/fd", "/dev/fd")
	m.symlink("/proc/self/fd/0", "/dev/stdin")
	m.symlink("/proc/self/fd/1", "/dev/stdout")
	m.symlink("/proc/self/fd/2", "/dev/stderr")
	nodes := []struct {
		name         string
		mode         uint32
		major, minor uint32
	}{
		{"null", 0o666, 1, 3}, {"zero", 0o666, 1, 5}, {"full", 0o666, 1, 7},
		{"random", 0o666, 1, 8}, {"urandom", 0o666, 1, 9}, {"tty", 0o666, 5, 0},
		{"kmsg", 0o600, 1, 11}, // the kubelet's watch for out-of-memory kills reads it
	}
	for _, n := range nodes {
		m.do("making /dev/"+n.name, func() error {
			p := m.path("/dev/" + n.name)
			if err := unix.Mknod(p, unix.S_IFCHR|n.mode, int(unix.Mkdev(n.major, n.minor))); err != nil {
				return err
			}
			return os.Chmod(p, os.FileMode(n.mode))
		})
	}
}

// cgroups mounts every tree of the host anew: in the node's cgroup namespace a tree
// shows the node's own cgroup as its root.
func (m *mounter) cgroups(trees []hierarchy) {
	const base = "/sys/fs/cgroup"
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if len(trees) == 1 && trees[0].v2() {
		m.mount("cgroup2", base, "cgroup2", flags, "")
		return
	}
	m.mount("tmpfs", base, "tmpfs", flags, "mode=755")
	for _, t := range trees {
		if t.v2() {
			m.mount("cgroup2", base+"/unified", "cgroup2", flags, "")
			continue
		}
		m.mount("cgroup", base+"/"+t.Name, "cgroup", flags, t.Opts)
		if names := strings.Split(t.Name, ","); len(names) > 1 {
			for _, n := range names {
				m.symlink(t.Name, base+"/"+n)
			}
		}
	}
	if !slices.ContainsFunc(trees, func(t hierarchy) bool { return t.Name == "systemd" }) {
		m.do("mounting cgroups", func() error {
			return errors.New("this host has cgroup v1 without the tree that systemd needs (name=systemd)")
		})
	}
}

// shield puts files of the node's own over settings of the whole machine, so that
// what the kubelet would write there is there already, and writes end in the node.
func (m *mounter) shield(values map[string]string) {
	m.mkdir("/run/shield")
	for name, value := range values {
		own := "/run/shield/" + name
		m.do("shielding "+name, func() error {
			if err := os.WriteFile(m.path(own), []byte(value+"\n"), 0o644); err != nil {
				return err
			}
			return unix.Mount(m.path(own), m.path("/proc/sys/"+strings.ReplaceAll(name, ".", "/")), "", unix.MS_BIND, "")
		})
	}
}
