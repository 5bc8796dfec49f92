package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-delve/delve/pkg/version"
	"github.com/go-delve/delve/service"
	"github.com/go-delve/delve/service/debugger"
	"github.com/go-delve/delve/service/rpccommon"
)

// The descriptors that a Delve process gets from the agent.
const (
	statusFD   = 3 // written once: "ok\n", or why the component could not be loaded
	lifelineFD = 4 // closed when the agent is gone
)

// DelveVersion is the linked-in Delve's.
func DelveVersion() string {
	v := version.DelveVersion
	return fmt.Sprintf("%s.%s.%s", v.Major, v.Minor, v.Patch)
}

// RunDelve is the process between the agent and the component: a headless Delve
// on a unix socket that runs argv as its child. The agent starts it from its own
// executable; it returns the exit code.
//
// The component is halted at its entry. The process ends on SIGTERM, when a
// client asks Delve to end, or when the agent is gone, and takes the component
// with it.
func RunDelve(socket string, argv []string) int {
	// What the component inherits is its own business: not these two.
	syscall.CloseOnExec(statusFD)
	syscall.CloseOnExec(lifelineFD)
	status := os.NewFile(statusFD, "status")
	lifeline := os.NewFile(lifelineFD, "lifeline")
	fail := func(err error) int {
		_, _ = fmt.Fprintln(status, err)
		return 1
	}
	listener, err := listenUnix(socket)
	if err != nil {
		return fail(err)
	}
	disconnected := make(chan struct{})
	server := rpccommon.NewServer(&service.Config{
		Listener:       listener,
		ProcessArgs:    argv,
		AcceptMulti:    true,
		APIVersion:     2,
		DisconnectChan: disconnected,
		Debugger: debugger.Config{
			Backend:        "native",
			CheckGoVersion: true,
			ExecuteKind:    debugger.ExecutingExistingFile,
		},
	})
	if err := server.Run(); err != nil {
		return fail(err)
	}
	_, _ = io.WriteString(status, "ok\n")
	_ = status.Close()

	ends := make(chan os.Signal, 1)
	signal.Notify(ends, syscall.SIGTERM, syscall.SIGINT)
	orphaned := make(chan struct{})
	go func() { // ends with the agent, or with this process
		_, _ = io.Copy(io.Discard, lifeline)
		close(orphaned)
	}()
	select {
	case <-ends:
	case <-orphaned:
	case <-disconnected:
	}
	if err := server.Stop(); err != nil {
		return 1
	}
	return 0
}

// listenUnix listens on a socket that only this user may connect to. A socket
// that a killed process left behind is replaced.
func listenUnix(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	// The umask is the process's; the agent and Delve both want it narrow, and
	// a chmod after the listen would leave a moment in between.
	old := syscall.Umask(0o177)
	defer syscall.Umask(old)
	return net.Listen("unix", path)
}
