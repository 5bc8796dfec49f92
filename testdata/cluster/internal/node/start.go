package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// The program starts itself under these names (argv[0]) for the parts that must run
// inside a node; see Main.
const (
	initName  = "kubedelve-node-init"
	enterName = "kubedelve-node-enter"
)

// Main runs the inside half if the program was started as one, and does not return
// then. The program's main calls it first.
func Main() {
	switch os.Args[0] {
	case initName:
		initMain()
	case enterName:
		enterMain()
	}
}

// namespaces are those a node has of its own. The cgroup namespace comes later: its
// root is the cgroup of the process that makes it.
const namespaces = unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET

// Supported says in one sentence why this machine cannot run a node, if so.
func Supported() error {
	if os.Geteuid() != 0 {
		return errors.New("a test cluster needs root: it makes namespaces, mounts and cgroups")
	}
	for _, ns := range []string{"pid", "mnt", "uts", "ipc", "net", "cgroup"} {
		if _, err := os.Stat("/proc/self/ns/" + ns); err != nil {
			return fmt.Errorf("this kernel has no %s namespaces, which a node needs", ns)
		}
	}
	return nil
}

// Start makes a node: a first process in new namespaces, its cgroups, its network,
// its file system; and lets it become the node's init. It returns once that has
// happened, with the process as the host sees it.
//
// Nothing but cgroups outlives the node's processes: mounts and links belong to its
// namespaces. If this program dies before the end, the first process sees the pipe
// close and ends.
func Start(ctx context.Context, spec Spec, started func(pid int) error) (*exec.Cmd, error) {
	groups, err := hostCgroups(spec.Cgroup)
	if err != nil {
		return nil, err
	}
	console, err := os.OpenFile(spec.Console, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer console.Close()
	specRead, specWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer specWrite.Close()
	errRead, errWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer errRead.Close()

	cmd := &exec.Cmd{
		Path:       "/proc/self/exe",
		Args:       []string{initName},
		Dir:        "/",
		Env:        []string{},
		Stdout:     console,
		Stderr:     console,
		ExtraFiles: []*os.File{specRead, errWrite},
		SysProcAttr: &unix.SysProcAttr{
			Cloneflags: namespaces,
			Setsid:     true,
		},
	}
	err = cmd.Start()
	specRead.Close()
	errWrite.Close()
	if err != nil {
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) {
			return nil, fmt.Errorf("this machine does not let us make pid, mount, uts, ipc and net namespaces: %w", err)
		}
		return nil, err
	}
	fail := func(err error) (*exec.Cmd, error) {
		specWrite.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, err
	}
	if err := started(cmd.Process.Pid); err != nil {
		return fail(err)
	}
	if err := groups.create(); err != nil {
		return fail(fmt.Errorf("making the node's cgroups: %w", err))
	}
	if err := groups.add(cmd.Process.Pid); err != nil {
		return fail(err)
	}
	if err := spec.Plan.connect(cmd.Process.Pid); err != nil {
		return fail(fmt.Errorf("making the node's network: %w", err))
	}
	if err := json.NewEncoder(specWrite).Encode(wire{Spec: spec, Trees: groups.trees}); err != nil {
		return fail(fmt.Errorf("telling the node's first process what to do: %w", err))
	}
	specWrite.Close()

	// The other end closes when the process becomes init, or ends.
	stop := context.AfterFunc(ctx, func() { errRead.Close() })
	defer stop()
	said, err := io.ReadAll(errRead)
	switch {
	case ctx.Err() != nil:
		return fail(ctx.Err())
	case err != nil:
		return fail(err)
	case len(said) > 0:
		return fail(fmt.Errorf("starting the node: %s", strings.TrimSpace(string(said))))
	}
	return cmd, nil
}

// Stop ends all that is left of a node, in whatever state it is, and returns when
// nothing is: no process, no cgroup, no link.
func Stop(ctx context.Context, cgroup string, plan Plan) error {
	groups, err := hostCgroups(cgroup)
	if err != nil {
		return err
	}
	if err := groups.kill(ctx); err != nil {
		return err
	}
	return errors.Join(groups.remove(ctx), plan.disconnect(ctx))
}

// Member says whether a process belongs to the node of that cgroup.
func Member(cgroup string, pid int) bool { return cgroups{name: cgroup}.holds(pid) }
