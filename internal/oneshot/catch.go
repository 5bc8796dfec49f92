package oneshot

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrElsewhere says that a call has executed something else than the debug build, or has
// ended: it needs nobody any more.
var ErrElsewhere = errors.New("the call went on without the debug build")

// Catch traces a process that is a wrapper, calls traced when it does, and waits until
// the process executes the program. Then the process is stopped (as by SIGSTOP) at the
// first instruction, nobody traces it, and Catch returns nil: the caller has to send it
// SIGCONT. With any error the process goes on as if it had not been traced.
//
// If the tracing process ends meanwhile, the kernel lets the call go on.
func Catch(pid int, program string, traced func()) error {
	runtime.LockOSThread() // only the thread that traces may ask for anything
	defer runtime.UnlockOSThread()
	if err := ptrace(unix.PTRACE_SEIZE, pid, unix.PTRACE_O_TRACEEXEC); err != nil {
		return fmt.Errorf("tracing process %d: %w", pid, err)
	}
	traced()
	for {
		var status unix.WaitStatus
		_, err := unix.Wait4(pid, &status, unix.WALL, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("waiting for process %d: %w", pid, err)
		case status.Exited() || status.Signaled():
			return ErrElsewhere
		case event(status) == unix.PTRACE_EVENT_EXEC:
			if !runs(pid, program) {
				return errors.Join(ErrElsewhere, ptrace(unix.PTRACE_DETACH, pid, 0))
			}
			// Not as the signal of the detach, which is lost here.
			return errors.Join(unix.Kill(pid, unix.SIGSTOP), ptrace(unix.PTRACE_DETACH, pid, 0), awaitStop(pid))
		case event(status) == unix.PTRACE_EVENT_STOP:
			// Somebody has stopped it, or it goes on after that.
			request := unix.PTRACE_CONT
			if s := status.StopSignal(); s == unix.SIGSTOP || s == unix.SIGTSTP || s == unix.SIGTTIN || s == unix.SIGTTOU {
				request = unix.PTRACE_LISTEN
			}
			_ = ptrace(request, pid, 0) // it may just have been killed, as the next wait tells
		default:
			_ = ptrace(unix.PTRACE_CONT, pid, uintptr(status.StopSignal()))
		}
	}
}

// event is which PTRACE_EVENT_ a stop is; 0: a signal.
func event(status unix.WaitStatus) int {
	if !status.Stopped() {
		return 0
	}
	return int(status >> 16)
}

func ptrace(request, pid int, data uintptr) error {
	_, _, errno := syscall.Syscall6(syscall.SYS_PTRACE, uintptr(request), uintptr(pid), 0, data, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// runs tells whether a process executes the program.
func runs(pid int, program string) bool {
	own, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
	want, wantErr := os.Stat(program)
	return err == nil && wantErr == nil && os.SameFile(own, want)
}

// stopPatience is how long a signal may take to stop a process that does nothing.
const stopPatience = 5 * time.Second

func awaitStop(pid int) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(stopPatience); ; <-tick.C {
		state := stateOf(pid)
		switch {
		case state == 'T':
			return nil
		case state == 0 || state == 'Z' || state == 'X':
			return ErrElsewhere
		case time.Now().After(deadline):
			return fmt.Errorf("process %d does not stop", pid)
		}
	}
}

// stateOf is the letter of a process's state (proc_pid_stat(5)); 0: there is no such.
func stateOf(pid int) byte {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name before it, in parentheses, may hold anything.
	_, rest, _ := strings.Cut(string(text[strings.LastIndexByte(string(text), ')')+1:]), " ")
	if rest == "" {
		return 0
	}
	return rest[0]
}
