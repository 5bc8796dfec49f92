package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// errEnter is the exit code of the helper when the command could not be started.
const errEnter = 125

// A visit is what goes to the helper that runs a command in a node.
type visit struct {
	PID    int
	Cgroup string
	Trees  []hierarchy
	Argv   []string
	Env    []string
}

// basicEnv is what a command in the node has, as a root login there would.
var basicEnv = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=/root",
	"LANG=C.UTF-8",
	"SYSTEMD_PAGER=",
	"KUBECONFIG=/etc/kubernetes/admin.conf",
}

// Command prepares a command in all namespaces and cgroups of the node whose init
// is pid. The caller sets the streams and runs it; its exit code is the command's.
// When ctx ends the command gets SIGTERM, and SIGKILL five seconds later.
func Command(ctx context.Context, cgroup string, pid int, argv ...string) (*exec.Cmd, error) {
	if !Member(cgroup, pid) {
		return nil, fmt.Errorf("process %d is not the init of the node %s", pid, cgroup)
	}
	groups, err := hostCgroups(cgroup)
	if err != nil {
		return nil, err
	}
	env := basicEnv
	if term := os.Getenv("TERM"); term != "" {
		env = append(env[:len(env):len(env)], "TERM="+term)
	}
	data, err := json.Marshal(visit{PID: pid, Cgroup: cgroup, Trees: groups.trees, Argv: argv, Env: env})
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = []string{enterName, string(data)}
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	return cmd, nil
}

// enterMain is the helper: it joins the node and runs the command as its child.
func enterMain() {
	// Namespaces are joined by this thread alone; the child inherits them from it.
	// No other thread is ever started from a locked one, so the runtime stays outside.
	runtime.LockOSThread()
	code, err := enter()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func enter() (int, error) {
	if len(os.Args) != 2 {
		return errEnter, errors.New("this command is internal")
	}
	var v visit
	if err := json.Unmarshal([]byte(os.Args[1]), &v); err != nil {
		return errEnter, err
	}
	// All are opened first: /proc shows the node's processes under other PIDs later.
	// The order is that of joining; the mount namespace is last.
	kinds := []struct {
		name string
		flag int
	}{
		{"ipc", unix.CLONE_NEWIPC}, {"uts", unix.CLONE_NEWUTS}, {"net", unix.CLONE_NEWNET},
		{"pid", unix.CLONE_NEWPID}, {"cgroup", unix.CLONE_NEWCGROUP}, {"mnt", unix.CLONE_NEWNS},
	}
	fds := make([]int, len(kinds))
	for i, k := range kinds {
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/%s", v.PID, k.name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return errEnter, fmt.Errorf("opening the node's %s namespace: %w", k.name, err)
		}
		fds[i] = fd
	}
	groups := cgroups{name: v.Cgroup, trees: v.Trees}
	if err := groups.addVisitor(os.Getpid()); err != nil {
		return errEnter, err
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // the kernel asks for it before a mount namespace is joined
		return errEnter, err
	}
	for i, k := range kinds {
		if err := unix.Setns(fds[i], k.flag); err != nil {
			return errEnter, fmt.Errorf("joining the node's %s namespace: %w", k.name, err)
		}
	}
	if err := unix.Chdir("/root"); err != nil {
		_ = unix.Chdir("/")
	}
	os.Clearenv()
	for _, e := range v.Env {
		for i := range e {
			if e[i] == '=' {
				os.Setenv(e[:i], e[i+1:])
				break
			}
		}
	}
	cmd := exec.Command(v.Argv[0], v.Argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// A terminal sends SIGINT and SIGQUIT to the child as well. They are caught and
	// dropped, not ignored: the child would inherit that.
	signal.Notify(make(chan os.Signal, 1), unix.SIGINT, unix.SIGQUIT)
	forward := make(chan os.Signal, 4)
	signal.Notify(forward, unix.SIGTERM, unix.SIGHUP)
	if err := cmd.Start(); err != nil {
		return errEnter, err
	}
	go func() { // ends with the process
		for s := range forward {
			_ = cmd.Process.Signal(s)
		}
	}()
	err := cmd.Wait()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exit):
		if ws, ok := exit.Sys().(unix.WaitStatus); ok && ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return exit.ExitCode(), nil
	default:
		return errEnter, err
	}
}
