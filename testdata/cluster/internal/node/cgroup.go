package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A hierarchy is one mounted cgroup tree of the host: a v1 controller (or group of
// them, or a named one), or the v2 tree.
type hierarchy struct {
	Dir  string `json:"dir"`  // where the host has it mounted
	Name string `json:"name"` // "memory", "cpu,cpuacct", "systemd"; empty for v2
	Opts string `json:"opts"` // mount options that pick a v1 tree: "memory", "name=systemd"
}

func (h hierarchy) v2() bool { return h.Opts == "" }

// A cgroups is one cgroup name in all hierarchies: the node's root cgroup.
type cgroups struct {
	name  string
	trees []hierarchy
}

func hostCgroups(name string) (cgroups, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return cgroups{}, err
	}
	defer f.Close()
	trees, err := parseHierarchies(bufio.NewScanner(f))
	if err != nil {
		return cgroups{}, err
	}
	if len(trees) == 0 {
		return cgroups{}, errors.New("no cgroup tree is mounted below /sys/fs/cgroup: a node cannot be started here")
	}
	return cgroups{name: name, trees: trees}, nil
}

// parseHierarchies picks the cgroup mounts out of /proc/self/mountinfo, each tree once.
func parseHierarchies(lines *bufio.Scanner) ([]hierarchy, error) {
	var trees []hierarchy
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 6 || len(right) < 3 {
			continue
		}
		h := hierarchy{Dir: left[4]}
		switch right[0] {
		case "cgroup":
			var names []string
			for _, o := range strings.Split(right[2], ",") {
				switch {
				case o == "rw" || o == "ro" || o == "xattr" || o == "none" || o == "noprefix" || o == "clone_children" || o == "cpuset_v2_mode" || strings.HasPrefix(o, "release_agent="):
				default:
					names = append(names, o)
				}
			}
			h.Opts = strings.Join(names, ",")
			h.Name = strings.TrimPrefix(h.Opts, "name=")
		case "cgroup2":
		default:
			continue
		}
		if !slices.ContainsFunc(trees, func(t hierarchy) bool { return t.Opts == h.Opts }) {
			trees = append(trees, h)
		}
	}
	return trees, lines.Err()
}

// unified says whether the v2 tree is the only one.
func (c cgroups) unified() bool { return len(c.trees) == 1 && c.trees[0].v2() }

func (c cgroups) dir(h hierarchy) string { return filepath.Join(h.Dir, c.name) }

// Controllers of cgroup v2 that a kubelet cannot do without, and those it uses.
var (
	needed = []string{"cpu", "cpuset", "memory", "pids"}
	useful = []string{"io", "hugetlb"}
)

// create makes the cgroup in every hierarchy.
func (c cgroups) create() error {
	for _, h := range c.trees {
		if h.v2() && c.unified() {
			if err := delegate(h.Dir); err != nil {
				return err
			}
		}
		if err := os.Mkdir(c.dir(h), 0o755); err != nil {
			if errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrPermission) {
				return fmt.Errorf("%s cannot be written: in a container, start it privileged and with its own cgroup namespace: %w", h.Dir, err)
			}
			return err
		}
		// A new v1 cpuset is empty and takes no process before it is filled.
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
			if data, err := os.ReadFile(filepath.Join(h.Dir, f)); err == nil && !h.v2() {
				if err := os.WriteFile(filepath.Join(c.dir(h), f), data, 0); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// delegate turns the controllers on for children of a v2 cgroup. In the real root
// that always works (and systemd has done it). In a container's cgroup namespace
// the kernel refuses while processes are in the cgroup itself, so they move to a
// child, as every cgroup manager in a container has to do it.
func delegate(root string) error {
	have, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		return err
	}
	on, err := os.ReadFile(filepath.Join(root, "cgroup.subtree_control"))
	if err != nil {
		return err
	}
	var enable []string
	for _, w := range slices.Concat(needed, useful) {
		if !slices.Contains(strings.Fields(string(have)), w) {
			if slices.Contains(useful, w) {
				continue
			}
			return fmt.Errorf("the cgroup v2 tree at %s has no %s controller (it has: %s): Kubernetes needs it", root, w, strings.TrimSpace(string(have)))
		}
		if !slices.Contains(strings.Fields(string(on)), w) {
			enable = append(enable, "+"+w)
		}
	}
	if len(enable) == 0 {
		return nil
	}
	control := filepath.Join(root, "cgroup.subtree_control")
	err = os.WriteFile(control, []byte(strings.Join(enable, " ")), 0)
	if errors.Is(err, unix.EBUSY) {
		leaf := filepath.Join(root, "init")
		if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		procs, err := os.ReadFile(filepath.Join(root, "cgroup.procs"))
		if err != nil {
			return err
		}
		for _, p := range strings.Fields(string(procs)) {
			// A process that has just ended, or a kernel thread, does not move.
			_ = os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte(p), 0)
		}
		return os.WriteFile(control, []byte(strings.Join(enable, " ")), 0)
	}
	return err
}

// add moves a process into the node's root cgroups.
func (c cgroups) add(pid int) error {
	for _, h := range c.trees {
		if err := os.WriteFile(filepath.Join(c.dir(h), "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			return fmt.Errorf("moving process %d into %s: %w", pid, c.dir(h), err)
		}
	}
	return nil
}

// addVisitor moves a process that comes from outside into the node's cgroups. A v2
// cgroup that has children with controllers takes no process, so there visitors get
// a leaf of their own.
func (c cgroups) addVisitor(pid int) error {
	for _, h := range c.trees {
		dir := c.dir(h)
		if h.v2() {
			dir = filepath.Join(dir, "visitors")
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			return fmt.Errorf("moving process %d into %s: %w", pid, dir, err)
		}
	}
	return nil
}

// pids lists the processes in the cgroup and below, in all hierarchies.
func (c cgroups) pids() []int {
	seen := map[int]bool{}
	for _, h := range c.trees {
		_ = filepath.WalkDir(c.dir(h), func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.IsDir() {
				return nil //nolint:nilerr // a cgroup may go away while one looks
			}
			data, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
			if err != nil {
				return nil //nolint:nilerr // the same
			}
			for _, p := range strings.Fields(string(data)) {
				if pid, err := strconv.Atoi(p); err == nil && pid > 0 {
					seen[pid] = true
				}
			}
			return nil
		})
	}
	pids := make([]int, 0, len(seen))
	for p := range seen {
		pids = append(pids, p)
	}
	slices.Sort(pids)
	return pids
}

// holds says whether a process is in the cgroup (of any hierarchy) or below it.
func (c cgroups) holds(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return false
	}
	for _, line := range strings.Split(string(data), "\n") {
		parts := strings.SplitN(line, ":", 3)
		if len(parts) == 3 && slices.Contains(strings.Split(parts[2], "/"), c.name) {
			return true
		}
	}
	return false
}

// kill ends every process in the cgroup and returns when none is left. The first
// one killed should be the node's PID 1: the kernel then ends its PID namespace.
func (c cgroups) kill(ctx context.Context) error {
	for {
		pids := c.pids()
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			if err := c.killOne(ctx, pid); err != nil {
				return err
			}
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("waiting for the processes %v of cgroup %s to end: %w", pids, c.name, err)
		}
	}
}

// killOne kills one process of the cgroup and waits for its end. The pidfd pins the
// process before membership is checked, so a PID used anew is never hit.
func (c cgroups) killOne(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
			return nil
		}
		return fmt.Errorf("opening process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if pid == os.Getpid() || !c.holds(pid) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("killing process %d: %w", pid, err)
	}
	return awaitExit(ctx, fd)
}

// awaitExit waits until the process of a pidfd has ended.
func awaitExit(ctx context.Context, pidfd int) error {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n > 0 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("waiting for a killed process to end: %w", err)
		}
	}
}

// remove deletes the cgroup and all below it, which must be without processes.
func (c cgroups) remove(ctx context.Context) error {
	for _, h := range c.trees {
		err := retry(ctx, func() error {
			var dirs []string
			_ = filepath.WalkDir(c.dir(h), func(path string, e fs.DirEntry, err error) error {
				if err == nil && e.IsDir() {
					dirs = append(dirs, path)
				}
				return nil
			})
			var failed error
			for _, d := range slices.Backward(dirs) {
				if err := os.Remove(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
					failed = err
				}
			}
			return failed
		})
		if err != nil {
			return fmt.Errorf("removing the cgroup %s: %w", c.dir(h), err)
		}
	}
	return nil
}
