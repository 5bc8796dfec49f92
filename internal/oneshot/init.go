package oneshot

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// runc starts a container's first process, or one that is to run in a container, as
// "runc init": a sealed copy of its own program, so that no wrapper sees it. That one is
// C at first, which forks twice to be born into the new namespaces; only in the second
// child Go begins, and that one executes the container's program in the end:
//
//	runc create ── fork, execve ── stage 0 ── fork ── stage 1 ── fork ── stage 2: Go, execve
//
// So a debugger has to come to stage 2 between its birth and its first instruction.

// initCommand is how users call it in a filter.
const initCommand = "init"

// starters are the commands of an OCI runtime that start an init.
var starters = []string{"create", "exec", "run"}

// CatchInit is [Catch] for the init that a call starts: the call itself goes on, in the
// debug build. It returns the process that is stopped, of the init's second stage.
func CatchInit(pid int, program string, traced func()) (init int, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	t := &tracer{program: program, roles: map[int]role{pid: roleWrapper}, early: map[int]unix.WaitStatus{}}
	if err := ptrace(unix.PTRACE_SEIZE, pid, traceAll); err != nil {
		return 0, fmt.Errorf("tracing process %d: %w", pid, err)
	}
	traced()
	return t.follow()
}

// CatchStage is CatchInit for an init whose first stage has just been executed: the
// process was stopped by SIGSTOP, and its tracer leaves it at any moment. ready is called
// before that is waited for.
func CatchStage(pid int, ready func()) (init int, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	t := &tracer{roles: map[int]role{pid: roleStage0}, early: map[int]unix.WaitStatus{}}
	ready()
	// Whoever traces it wakes it up some 50 ms after it has left: there is no time to lose.
	for deadline := time.Now().Add(stopPatience); ; time.Sleep(50 * time.Microsecond) {
		err := ptrace(unix.PTRACE_SEIZE, pid, traceAll)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EPERM) || time.Now().After(deadline) {
			return 0, fmt.Errorf("tracing process %d: %w", pid, err)
		}
	}
	_ = unix.Kill(pid, unix.SIGCONT) // it may just have been killed, as the next wait tells
	return t.follow()
}

const traceAll = unix.PTRACE_O_TRACEEXEC | unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK | unix.PTRACE_O_TRACECLONE

// role is what a process, or a thread, that is traced is.
type role int

const (
	roleWrapper role = iota + 1
	roleCaller       // the call, its threads, and what it has forked
	roleStage0
	roleStage1
	roleStage2
)

// tracer follows a call to its init. Its methods must be called by the thread that traces.
type tracer struct {
	program string                  // what the wrapper is to execute
	roles   map[int]role            // of all that are traced
	early   map[int]unix.WaitStatus // the first stops of those whose parent has not told of them yet
}

// follow returns the init when it is stopped and nobody is traced any more.
func (t *tracer) follow() (init int, err error) {
	for len(t.roles) > 0 {
		pid, status, err := t.wait()
		if errors.Is(err, unix.ECHILD) {
			break
		}
		if err != nil {
			return 0, err
		}
		if status == 0 {
			continue
		}
		if t.roles[pid] == 0 {
			t.early[pid] = status
			continue
		}
		if t.roles[pid] == roleWrapper && event(status) == unix.PTRACE_EVENT_EXEC && !runs(pid, t.program) {
			return 0, errors.Join(ErrElsewhere, t.leave(pid, status))
		}
		for pid != 0 {
			if t.roles[pid] == roleStage2 {
				return pid, errors.Join(t.hold(pid), t.leave(0, 0))
			}
			// A child may have stopped before its parent has told of it.
			if pid = t.goOn(pid, status); pid != 0 {
				status = t.early[pid]
				delete(t.early, pid)
			}
		}
	}
	return 0, ErrElsewhere
}

// wait waits for a traced process to stop. The status is 0 if none has: one has ended.
func (t *tracer) wait() (pid int, status unix.WaitStatus, err error) {
	for {
		// Not those that other threads trace.
		pid, err = unix.Wait4(-1, &status, unix.WALL|unix.WNOTHREAD, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, 0, fmt.Errorf("waiting for what is traced: %w", err)
		case !status.Stopped():
			delete(t.roles, pid)
			delete(t.early, pid)
			return pid, 0, nil
		}
		return pid, status, nil
	}
}

// goOn lets a process go on that has stopped, and returns a child that it has told of and
// that has stopped before.
func (t *tracer) goOn(pid int, status unix.WaitStatus) (early int) {
	request, data := unix.PTRACE_CONT, uintptr(0)
	switch event(status) {
	case 0:
		data = uintptr(status.StopSignal())
	case unix.PTRACE_EVENT_STOP:
		// Somebody has stopped it, it goes on after that, or it has just been born.
		if s := status.StopSignal(); s == unix.SIGSTOP || s == unix.SIGTSTP || s == unix.SIGTTIN || s == unix.SIGTTOU {
			request = unix.PTRACE_LISTEN
		}
	case unix.PTRACE_EVENT_EXEC:
		if former := t.message(pid); former != pid {
			delete(t.roles, former)
		}
		if t.executed(pid); t.roles[pid] == 0 {
			request = unix.PTRACE_DETACH
		}
	case unix.PTRACE_EVENT_FORK, unix.PTRACE_EVENT_VFORK, unix.PTRACE_EVENT_CLONE:
		if child := t.message(pid); child != 0 {
			t.roles[child] = t.born(pid, event(status))
			if t.early[child] != 0 {
				early = child
			}
		}
	}
	_ = ptrace(request, pid, data) // it may just have been killed, as the next wait tells
	return early
}

// born is the role of a child.
func (t *tracer) born(parent, event int) role {
	switch r := t.roles[parent]; {
	case event != unix.PTRACE_EVENT_FORK:
		return r
	case r == roleStage0:
		return roleStage1
	case r == roleStage1:
		return roleStage2
	default:
		return r
	}
}

// executed notes that a process has executed a program. The role of one that is none of
// ours is deleted: a hook, or a helper.
func (t *tracer) executed(pid int) {
	switch r := t.roles[pid]; {
	case r == roleWrapper:
		t.roles[pid] = roleCaller
	case IsInit(pid):
		t.roles[pid] = roleStage0 // some execute themselves once more, from memory
	default:
		delete(t.roles, pid)
	}
}

// message is the number that an event comes with; 0: the process was killed.
func (t *tracer) message(pid int) int {
	number, err := unix.PtraceGetEventMsg(pid)
	if err != nil {
		return 0
	}
	return int(number)
}

// hold leaves a process, which is at its first stop, stopped.
func (t *tracer) hold(pid int) error {
	delete(t.roles, pid)
	// Not as the signal of the detach, which is lost here.
	return errors.Join(unix.Kill(pid, unix.SIGSTOP), ptrace(unix.PTRACE_DETACH, pid, 0), awaitStop(pid))
}

// leave ends the tracing of all, of which one is stopped with a status; 0: none is.
func (t *tracer) leave(stopped int, status unix.WaitStatus) error {
	left := map[int]bool{}
	detach := func(pid int, status unix.WaitStatus) {
		signal := uintptr(0)
		switch event(status) {
		case 0:
			signal = uintptr(status.StopSignal())
		case unix.PTRACE_EVENT_FORK, unix.PTRACE_EVENT_VFORK, unix.PTRACE_EVENT_CLONE:
			if child := t.message(pid); child != 0 && !left[child] {
				t.roles[child] = roleCaller
			}
		}
		_ = ptrace(unix.PTRACE_DETACH, pid, signal) // it may just have been killed
		delete(t.roles, pid)
		left[pid] = true
	}
	if stopped != 0 {
		detach(stopped, status)
	}
	for pid, status := range t.early {
		detach(pid, status)
	}
	for pid := range t.roles {
		_ = ptrace(unix.PTRACE_INTERRUPT, pid, 0)
	}
	for len(t.roles) > 0 {
		pid, status, err := t.wait()
		if errors.Is(err, unix.ECHILD) {
			return nil
		}
		if err != nil {
			return err
		}
		if status != 0 {
			detach(pid, status)
		}
	}
	return nil
}

// IsInit tells whether a process is a stage of a runtime's init.
func IsInit(pid int) bool {
	proc := fmt.Sprintf("/proc/%d/", pid)
	args, err := os.ReadFile(proc + "cmdline")
	if words := splitZero(args); err != nil || len(words) != 2 || words[1] != initCommand {
		return false
	}
	env, err := os.ReadFile(proc + "environ")
	return err == nil && slices.ContainsFunc(splitZero(env), func(e string) bool { return strings.HasPrefix(e, "_LIBCONTAINER_") })
}

// isCopy tells whether a process executes a copy of a debug build: an init's program is
// sealed, in memory or below a mount of its own, and has no path.
func isCopy(pid int, builds string) bool {
	exe := fmt.Sprintf("/proc/%d/exe", pid)
	own, err := os.Stat(exe)
	if err != nil {
		return false
	}
	paths, _ := filepath.Glob(filepath.Join(builds, "*", "*"))
	return slices.ContainsFunc(paths, func(path string) bool {
		build, err := os.Stat(path)
		return err == nil && build.Size() == own.Size() && bytes.Equal(head(path), head(exe))
	})
}

// head is the beginning of a program, which has its build ID.
func head(path string) []byte {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	text := make([]byte, 64<<10)
	n, _ := f.ReadAt(text, 0)
	return text[:n]
}
