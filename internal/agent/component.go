package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-delve/delve/service/rpc2"
	"golang.org/x/sys/unix"

	"github.com/kubedelve/kubedelve/internal/agentapi"
)

// component is one run of the component under a Delve of its own. Its exported
// state is read through methods, from any goroutine.
type component struct {
	log    *slog.Logger
	socket string
	pid    int
	delve  *exec.Cmd
	life   *os.File // the agent's end of Delve's lifeline

	delveDone chan struct{} // closed when the Delve process was reaped
	exited    chan struct{} // closed when exit is set
	exit      agentapi.Exit
	pumps     sync.WaitGroup // one goroutine per output pipe
}

// startComponent runs argv under Delve and returns when Delve has loaded it. It
// blocks for as long as Delve reads debug information: seconds for a large binary.
func startComponent(ctx context.Context, log *slog.Logger, self, socket string, argv, env []string, dir string, out *output) (*component, error) {
	statusR, statusW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("starting delve: %w", err)
	}
	defer func() { _ = statusR.Close() }()
	lifeR, lifeW, err := os.Pipe()
	if err != nil {
		_ = statusW.Close()
		return nil, fmt.Errorf("starting delve: %w", err)
	}
	c := &component{log: log, socket: socket, life: lifeW, delveDone: make(chan struct{}), exited: make(chan struct{})}
	c.delve = exec.Command(self, append([]string{"delve", "--socket", socket, "--"}, argv...)...) //nolint:gosec // our own executable
	c.delve.Env = environment(os.Environ(), env)
	c.delve.Dir = dir
	c.delve.ExtraFiles = []*os.File{statusW, lifeR} // statusFD, lifelineFD
	// A Ctrl-C in the terminal of a local session is for kubedelve.
	c.delve.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	pipes, err := c.outputPipes()
	if err == nil {
		err = c.delve.Start()
	}
	_ = statusW.Close()
	_ = lifeR.Close()
	for _, p := range pipes {
		_ = p.write.Close()
	}
	if err != nil {
		_ = lifeW.Close()
		for _, p := range pipes {
			_ = p.read.Close()
		}
		return nil, fmt.Errorf("starting delve: %w", err)
	}
	for i, p := range pipes {
		log := []*os.File{os.Stdout, os.Stderr}[i]
		c.pumps.Go(func() { // ends with the last process that holds the pipe
			out.pump(byte(i+1), p.read, log)
			_ = p.read.Close()
		})
	}
	go func() { // ends with the Delve process
		_ = c.delve.Wait()
		close(c.delveDone)
	}()

	stop := context.AfterFunc(ctx, func() { _ = c.delve.Process.Kill() })
	defer stop()
	status, err := io.ReadAll(bufio.NewReader(statusR)) // to its end: Delve may say more than a line
	if text := strings.TrimSpace(string(status)); err != nil || text != "ok" {
		c.kill()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if text == "" {
			text = "delve ended without a word (was it killed for lack of memory?)"
		}
		return nil, errors.New(text)
	}
	client, err := c.dial()
	if err != nil {
		c.kill()
		return nil, err
	}
	c.pid = client.ProcessPid()
	_ = client.Disconnect(false)
	go c.watch() // ends with the component or with Delve
	return c, nil
}

// environment adds changes to a process's environment: NAME=VALUE sets, and NAME
// alone takes away.
func environment(base, changes []string) []string {
	env := slices.Clone(base)
	for _, change := range changes {
		name, _, set := strings.Cut(change, "=")
		env = slices.DeleteFunc(env, func(v string) bool { return strings.HasPrefix(v, name+"=") })
		if set {
			env = append(env, change)
		}
	}
	return env
}

type pipe struct{ read, write *os.File }

// outputPipes gives Delve, and through it the component, a pipe each for stdout
// and stderr. They are not left to os/exec, whose Wait would wait for their ends.
func (c *component) outputPipes() ([]pipe, error) {
	var pipes []pipe
	for range 2 {
		r, w, err := os.Pipe()
		if err != nil {
			return pipes, err
		}
		pipes = append(pipes, pipe{r, w})
	}
	c.delve.Stdout, c.delve.Stderr = pipes[0].write, pipes[1].write
	return pipes, nil
}

// dial connects to Delve's JSON-RPC.
func (c *component) dial() (*rpc2.RPCClient, error) {
	conn, err := net.Dial("unix", c.socket)
	if err != nil {
		return nil, fmt.Errorf("connecting to delve: %w", err)
	}
	return rpc2.NewClientFromConn(conn), nil
}

// watch waits for the component's end and asks Delve how it ended.
func (c *component) watch() {
	defer close(c.exited)
	if err := waitPID(c.pid, c.delveDone); err != nil {
		c.log.Warn("can't watch the component", "pid", c.pid, "error", err)
		<-c.delveDone
	}
	c.exit = agentapi.Exit{Code: -1, Reason: "ended together with delve"}
	select {
	case <-c.delveDone:
		return
	default:
	}
	client, err := c.dial()
	if err != nil {
		return
	}
	defer func() { _ = client.Disconnect(false) }()
	// State refuses to answer for a process that has exited, but continuing one
	// does nothing and tells its status.
	for state := range client.Continue() {
		if !state.Exited {
			continue
		}
		c.exit = agentapi.Exit{Code: state.ExitStatus}
		if state.ExitStatus < 0 { // Delve's way to tell a signal
			sig := syscall.Signal(-state.ExitStatus)
			c.exit = agentapi.Exit{Code: -1, Reason: fmt.Sprintf("ended by signal %d (%s)", int(sig), sig)}
		}
		return
	}
}

// waitPID returns when the process has ended, or done is closed.
func waitPID(pid int, done <-chan struct{}) error {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	// A non-blocking descriptor goes to the runtime's poller, which wakes the
	// read below when the process ends; Close wakes it as well.
	f := os.NewFile(uintptr(fd), "pidfd")
	defer func() { _ = f.Close() }()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	finished := make(chan struct{})
	defer close(finished)
	go func() { // ends with this function
		select {
		case <-done:
			_ = f.Close()
		case <-finished:
		}
	}()
	first := true
	err = raw.Read(func(uintptr) bool {
		ready := !first
		first = false
		return ready
	})
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// hasExited tells without waiting.
func (c *component) hasExited() bool {
	select {
	case <-c.exited:
		return true
	default:
		return false
	}
}

// settle takes the debugger off a component that nobody debugs: no breakpoints,
// no step in flight, running.
func (c *component) settle() error {
	if c.hasExited() {
		return nil
	}
	client, err := c.dial()
	if err != nil {
		return err
	}
	if _, err := client.Halt(); err != nil {
		_ = client.Disconnect(false)
		return fmt.Errorf("halting the component: %w", err)
	}
	if state, err := client.GetStateNonBlocking(); err == nil && state.NextInProgress {
		_ = client.CancelNext()
	}
	breakpoints, err := client.ListBreakpoints(false)
	for _, b := range breakpoints {
		if b.ID > 0 { // Delve's own (panics, fatal errors) have negative numbers
			_, clearErr := client.ClearBreakpoint(b.ID)
			err = errors.Join(err, clearErr)
		}
	}
	if err != nil {
		err = fmt.Errorf("clearing breakpoints: %w", err)
	}
	return errors.Join(err, client.Disconnect(true))
}

// resume lets a halted component go on and leaves a running one alone.
func (c *component) resume() error {
	client, err := c.dial()
	if err != nil {
		return err
	}
	state, err := client.GetStateNonBlocking()
	if err != nil {
		_ = client.Disconnect(false)
		return fmt.Errorf("resuming: %w", err)
	}
	return client.Disconnect(!state.Running)
}

// terminate ends the component as its container's end would: SIGTERM, then after
// grace SIGKILL; then Delve.
func (c *component) terminate(grace time.Duration) {
	defer c.kill()
	if c.hasExited() {
		return
	}
	if err := syscall.Kill(c.pid, syscall.SIGTERM); err != nil {
		return
	}
	// A stopped process gets the signal when it runs.
	if err := c.settle(); err != nil {
		c.log.Debug("settling before the end", "error", err)
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-c.exited:
	case <-timer.C:
		c.log.Warn("the component did not end in time", "pid", c.pid, "grace", grace)
	}
}

// kill ends the component and Delve at once and waits for both.
func (c *component) kill() {
	if c.pid > 0 && !c.hasExited() {
		_ = syscall.Kill(c.pid, syscall.SIGKILL)
	}
	_ = c.delve.Process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(2 * time.Second)
	defer timer.Stop()
	select {
	case <-c.delveDone:
	case <-timer.C:
		_ = c.delve.Process.Kill()
		<-c.delveDone
	}
	_ = c.life.Close()
	if c.pid > 0 {
		<-c.exited
	}
	c.drain()
}

// drain waits for the last of the output, but not for a grandchild that keeps
// the pipe open.
func (c *component) drain() {
	drained := make(chan struct{})
	go func() { // ends with the last process that holds an output pipe
		c.pumps.Wait()
		close(drained)
	}()
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case <-drained:
	case <-timer.C:
	}
}
