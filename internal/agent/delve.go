package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/go-delve/delve/pkg/proc"
	"github.com/go-delve/delve/pkg/version"
	"github.com/go-delve/delve/service"
	"github.com/go-delve/delve/service/debugger"
	"github.com/go-delve/delve/service/rpccommon"
)

// The descriptors that a Delve process gets from the agent.
const (
	statusFD   = 3 // written once: "ok\n", or why the component could not be loaded
	lifelineFD = 4 // closed when the agent is gone
	stdoutFD   = 5 // the component's; Delve's own are the agent's log
	stderrFD   = 6
	newsFD     = 7 // what becomes of a call, see news; a line each
)

// DelveVersion is the linked-in Delve's.
func DelveVersion() string {
	v := version.DelveVersion
	return fmt.Sprintf("%s.%s.%s", v.Major, v.Minor, v.Patch)
}

// stopPatience is how long Delve may take to end the component.
const stopPatience = 2 * time.Second

// RunDelve is the process between the agent and the component: a headless Delve
// on a unix socket that runs argv as its child. The agent starts it from its own
// executable; it returns the exit code, and the process must end then.
//
// If there is a call, that is debugged instead of a child, or the part of it that is
// wanted; argv[0] is the program that it executes. It is let go in the end.
//
// The component is halted at its entry. RunDelve ends on SIGTERM, when a client
// asks Delve to end, or when the agent is gone, also while Delve still loads, and
// takes the component with it: untraced it would run on with breakpoints in it.
func RunDelve(socket string, call Called, argv []string) int {
	// What the component inherits is its own business: not these.
	for fd := statusFD; fd <= newsFD; fd++ {
		syscall.CloseOnExec(fd)
	}
	ownRuntime()
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, syscall.SIGTERM, syscall.SIGINT)
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) // the log's reader is gone: no reason to end
	orphaned := make(chan struct{})
	acks := make(chan struct{})
	go func() { // ends with the agent, or with this process
		lifeline := os.NewFile(lifelineFD, "lifeline")
		for ack := make([]byte, 1); ; {
			if _, err := io.ReadFull(lifeline, ack); err != nil {
				close(orphaned)
				return
			}
			select {
			case acks <- struct{}{}:
			default: // it came too late
			}
		}
	}()
	defer endChildren()

	status := os.NewFile(statusFD, "status")
	listener, err := listenUnix(socket)
	if err != nil {
		_, _ = fmt.Fprintln(status, err)
		return 1
	}
	pid := 0
	if call.PID != 0 {
		argv0 := argv[0]
		argv = nil
		var said error
		select {
		case c := <-catch(call, argv0, status):
			pid, said = c.pid, c.err
		case <-ends:
			said = errEnds
		case <-orphaned:
			said = errEnds
		}
		if said != nil {
			_, _ = fmt.Fprintln(status, said)
			return 1
		}
		followNews(call.Part, pid, acks)
	}
	disconnected := make(chan struct{})
	server := rpccommon.NewServer(&service.Config{
		Listener:       listener,
		ProcessArgs:    argv,
		AcceptMulti:    true,
		APIVersion:     2,
		DisconnectChan: disconnected,
		Debugger: debugger.Config{
			AttachPid:      pid,
			Backend:        "native",
			CheckGoVersion: true,
			ExecuteKind:    debugger.ExecutingExistingFile,
			// By path, so that a debugger's restart can open them again.
			Stdout: proc.OutputRedirect{Path: fmt.Sprintf("/proc/self/fd/%d", stdoutFD)},
			Stderr: proc.OutputRedirect{Path: fmt.Sprintf("/proc/self/fd/%d", stderrFD)},
		},
	})
	loaded := make(chan error, 1)
	go func() { loaded <- server.Run() }() // ends when the component is loaded, or with this process
	select {
	case err := <-loaded:
		if err != nil {
			_, _ = fmt.Fprintln(status, err)
			return 1
		}
	case <-ends:
		return endLoading(pid, server, loaded)
	case <-orphaned:
		return endLoading(pid, server, loaded)
	}
	if pid != 0 {
		// Delve has it: that it was stopped before is over.
		_ = syscall.Kill(pid, syscall.SIGCONT)
	}
	_, _ = io.WriteString(status, "ok\n")
	_ = status.Close()

	select {
	case <-ends:
	case <-orphaned:
	case <-disconnected:
	}
	return stopServer(server)
}

// stopServer ends Delve, and returns the process's exit code.
func stopServer(server *rpccommon.ServerImpl) int {
	stopped := make(chan error, 1)
	go func() { stopped <- server.Stop() }() // ends with the component, or with this process
	timer := time.NewTimer(stopPatience)
	defer timer.Stop()
	select {
	case err := <-stopped:
		if err == nil {
			return 0
		}
	case <-timer.C:
	}
	return 1
}

// endLoading ends a Delve that has not loaded its component yet, and returns the
// process's exit code.
func endLoading(pid int, server *rpccommon.ServerImpl, loaded <-chan error) int {
	if pid == 0 {
		awaitChild(loaded)
		return 1
	}
	defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }()
	// A tracer that ends before it has attached may leave the call stopped for good.
	if err := <-loaded; err != nil {
		return 1
	}
	return stopServer(server)
}

// ownRuntime undoes what the container's environment says about the component's
// memory and processors: Delve has its variables so that the component inherits
// them, and a GOMEMLIMIT that suits the component would keep Delve collecting.
func ownRuntime() {
	debug.SetMemoryLimit(math.MaxInt64)
	debug.SetGCPercent(100)
	runtime.SetDefaultGOMAXPROCS()
}

// maxSocketPath is the size of sun_path (unix(7)), with its final zero.
const maxSocketPath = 108

// awaitChild waits until Delve has forked the component, or has given up: one that
// it is just forking would run, with nobody to trace it, if this process ended
// without ending it first.
func awaitChild(loaded <-chan error) {
	timer := time.NewTimer(stopPatience)
	defer timer.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for len(childrenOf(os.Getpid())) == 0 {
		select {
		case <-loaded: //nolint:errcheck // it is about to end in any case
			return
		case <-timer.C:
			return
		case <-tick.C:
		}
	}
}

// listenUnix listens on a socket that only this user may connect to. A socket
// that a killed process left behind is replaced.
func listenUnix(path string) (net.Listener, error) {
	if len(path) >= maxSocketPath {
		return nil, fmt.Errorf("the path %s is longer than a socket's may be (%d bytes): use a shorter folder", path, maxSocketPath-1)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	// The umask is the process's; the agent and Delve both want it narrow, and
	// a chmod after the listen would leave a moment in between.
	old := syscall.Umask(0o177)
	defer syscall.Umask(old)
	return net.Listen("unix", path)
}
