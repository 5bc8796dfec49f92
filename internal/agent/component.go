package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-delve/delve/service/api"
	"github.com/go-delve/delve/service/rpc2"

	"github.com/kubedelve/kubedelve/internal/agentapi"
)

// delvePatience bounds what is asked of Delve, which answers in milliseconds.
const delvePatience = 10 * time.Second

// component is one run of the component under a Delve of its own. Its methods may
// be called from any goroutine.
type component struct {
	log      *slog.Logger
	socket   string
	children *children
	out      *output
	delve    *exec.Cmd
	life     *os.File // the agent's end of Delve's lifeline
	sha256   string   // of the binary

	// Of a call, which others have started.

	part     Part          // which; "": it is Delve's child
	told     func(string)  // is called with each news of its Delve
	newsDone chan struct{} // closed after the last

	delveDone chan struct{} // closed when the Delve process was reaped
	exited    chan struct{} // closed when exit is set and the output was spread
	exit      agentapi.Exit

	mu       sync.Mutex // guards all below
	process  *process   // nil until Delve has loaded it; a client can make Delve restart it
	replaced bool       // it ends because the agent wants it to
	call     *process   // what a Delve has stopped or is about to; nil: it is Delve's child
	fate     string     // what became of a call that was let go
}

// starter is what all runs have in common.
type starter struct {
	log      *slog.Logger
	self     string // the agent's own executable
	socket   string // where Delve listens
	children *children
}

// start runs argv under Delve and returns when Delve has loaded it. It blocks for
// as long as Delve reads debug information: seconds for a large binary.
func (s starter) start(ctx context.Context, argv, env []string, dir string) (*component, error) {
	c := s.prepare(append([]string{"--"}, argv...), env, dir)
	status, err := c.fork()
	if errors.Is(err, syscall.EAGAIN) {
		err = fmt.Errorf("%w: the container may have no more processes (pids limit)", err)
	}
	if _, missing := os.Stat(dir); dir != "" && missing != nil && errors.Is(err, syscall.ENOENT) { // the system names Delve
		err = fmt.Errorf("there is no working directory %s on the target: see cwd and --workdir", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("starting delve: %w", err)
	}
	stop := context.AfterFunc(ctx, c.kill)
	err = c.load(status)
	_ = status.Close()
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		c.kill()
		return nil, err
	}
	return c, nil
}

// prepare makes a component that is to be run by a Delve with these arguments.
func (s starter) prepare(args, env []string, dir string) *component {
	c := &component{log: s.log, socket: s.socket, children: s.children, out: newOutput(), delveDone: make(chan struct{}), exited: make(chan struct{})}
	c.delve = exec.Command(s.self, append([]string{"delve", "--socket", s.socket}, args...)...) //nolint:gosec // our own executable
	c.delve.Env = environment(os.Environ(), env)
	c.delve.Dir = dir
	c.newsDone = make(chan struct{})
	// A session of its own: a Ctrl-C in the terminal of a local one is for kubedelve,
	// and what belongs to which run can be told.
	c.delve.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return c
}

// fork starts the Delve process and what serves it: a pipe for each of stdout and
// stderr, the status pipe that it returns, the lifeline, and one for news.
func (c *component) fork() (status *os.File, err error) {
	var ours, theirs []*os.File
	defer func() {
		for _, f := range theirs {
			_ = f.Close()
		}
		if err != nil {
			for _, f := range ours {
				_ = f.Close()
			}
		}
	}()
	for range 5 {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		ours, theirs = append(ours, r), append(theirs, w)
	}
	ours[3], theirs[3] = theirs[3], ours[3] // the lifeline leads to Delve
	c.delve.Stdout, c.delve.Stderr = os.Stderr, os.Stderr
	c.delve.ExtraFiles = []*os.File{theirs[2], theirs[3], theirs[0], theirs[1], theirs[4]} // statusFD, lifelineFD, stdoutFD, stderrFD, newsFD
	var pumps []*pump
	for i, log := range []io.Writer{os.Stdout, os.Stderr} {
		p, err := newPump(i+1, ours[i], log)
		if err != nil {
			return nil, err
		}
		pumps = append(pumps, p)
	}
	if err := c.children.start(c.delve); err != nil {
		return nil, err
	}
	c.life = ours[3]
	c.out.pumps = pumps
	for _, p := range pumps {
		go p.copyTo(c.out) // ends with the last process that holds the pipe
	}
	go c.readNews(ours[4]) // ends with the Delve process
	go func() {            // ends with the Delve process
		c.children.wait(c.delve)
		close(c.delveDone)
	}()
	return ours[2], nil
}

// load waits until Delve has loaded the component.
func (c *component) load(status io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(status, 64<<10)) // to its end: Delve may say more than a line
	switch said := strings.TrimSpace(string(text)); {
	case err != nil:
		return fmt.Errorf("waiting for delve: %w", err)
	case said == "":
		return c.silentEnd()
	case said != "ok":
		return errors.New(said)
	}
	client, err := c.dial(delvePatience)
	if err != nil {
		return err
	}
	pid := client.ProcessPid()
	if c.part.followsExec() {
		err = client.FollowExec(true, neverMatches)
	}
	_ = client.Disconnect(false)
	if err != nil {
		return fmt.Errorf("having delve tell what is executed: %w", err)
	}
	if pid <= 0 {
		return errors.New("delve does not tell the component's PID")
	}
	p := openProcess(pid)
	c.setProcess(p)
	go c.watch(p) // ends with the component or with Delve
	return nil
}

// silentEnd says why Delve has ended without loading the component.
func (c *component) silentEnd() error {
	<-c.delveDone // it has closed all that it had open
	state := c.delve.ProcessState
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signal() == syscall.SIGKILL {
		return errors.New("delve was killed while it loaded the program, most likely for lack of memory: " +
			"while one component replaces another, the container's memory limit has to hold two of them, each with its delve")
	}
	return fmt.Errorf("delve ended while it loaded the program (%v); the container's log may tell why: "+
		"perhaps it has no more processes (pids limit) or memory for a second one", state)
}

func (c *component) setProcess(p *process) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.process = p
}

// signal sends a signal to the component, if it has been loaded.
func (c *component) signal(sig syscall.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.process == nil || c.hasExited() {
		return os.ErrProcessDone
	}
	return c.process.signal(sig)
}

func (c *component) pid() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.process.pid
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

// dial connects to Delve's JSON-RPC for as long as patience; 0 is for ever.
func (c *component) dial(patience time.Duration) (*rpc2.RPCClient, error) {
	conn, err := net.DialTimeout("unix", c.socket, delvePatience)
	if err != nil {
		return nil, fmt.Errorf("connecting to delve: %w", err)
	}
	if patience > 0 {
		_ = conn.SetDeadline(time.Now().Add(patience))
	}
	return rpc2.NewClientFromConn(conn), nil
}

// watch waits for the component's end and asks Delve how it ended. If a client made
// Delve restart it, the next process is the component.
func (c *component) watch(p *process) {
	for {
		p.wait(c.delveDone)
		next := c.next(p)
		if next == nil {
			break
		}
		p.close()
		p = next
	}
	c.out.drain()
	c.mu.Lock()
	c.exit.Replaced = c.replaced
	c.mu.Unlock()
	close(c.exited)
	c.out.end()
	c.mu.Lock()
	p.close() // signal does not use it after exited
	c.mu.Unlock()
}

// next returns the process that came in the place of one that has ended, or nil
// after it has set exit.
func (c *component) next(p *process) *process {
	c.exit = agentapi.Exit{Code: -1, Reason: "ended together with delve"}
	// Its end also ends the calls below.
	select {
	case <-c.delveDone:
		if c.isCall() && c.delve.ProcessState.Success() {
			<-c.newsDone
			c.mu.Lock()
			c.exit.Reason = cmp.Or(c.fate, "was let go")
			c.mu.Unlock()
			return nil
		}
		// Without its tracer the component would run on, into breakpoints that
		// nobody handles.
		_ = p.signal(syscall.SIGKILL)
		c.children.endOrphans(c.session())
		return nil
	default:
	}
	client, err := c.dial(0)
	if err != nil {
		return nil
	}
	defer func() { _ = client.Disconnect(false) }()
	for {
		state, err := client.GetStateNonBlocking()
		if err == nil && state.Running {
			// Delve is about to notice, or runs the next process already.
			if pid := tracedBy(c.delve.Process.Pid); pid > 0 && pid != p.pid {
				return c.replace(pid)
			}
			state, err = client.GetState()
		}
		if err == nil && !state.Exited && state.Pid != p.pid {
			return c.replace(state.Pid)
		}
		// State refuses to answer for a process that has exited, but continuing one
		// does nothing and tells its status.
		var out rpc2.CommandOut
		if err := client.CallAPI("Command", &api.DebuggerCommand{Name: api.Continue}, &out); err != nil {
			c.exit.Reason = "delve can't tell how it ended: " + err.Error()
			return nil
		}
		if out.State.Exited {
			c.exit = exitOf(out.State.ExitStatus)
			return nil
		}
	}
}

func (c *component) replace(pid int) *process {
	c.log.Info("component restarted by the debugger", "pid", pid)
	next := openProcess(pid)
	c.setProcess(next)
	return next
}

// tracedBy returns the PID of Delve's child, if it lives.
func tracedBy(delve int) int {
	for _, child := range childrenOf(delve) {
		if !child.zombie() {
			return child.pid
		}
	}
	return 0
}

// exitOf reads Delve's exit status: a signal's number is negative.
func exitOf(status int) agentapi.Exit {
	if status >= 0 {
		return agentapi.Exit{Code: status}
	}
	sig := syscall.Signal(-status)
	return agentapi.Exit{Code: -1, Signal: int(sig), Reason: fmt.Sprintf("ended by signal %d (%s)", int(sig), sig)}
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

// delveEnded tells without waiting.
func (c *component) delveEnded() bool {
	select {
	case <-c.delveDone:
		return true
	default:
		return false
	}
}

// settle takes the debugger off a component that nobody debugs: no breakpoints,
// no step in flight, running. No debugger may be connected.
func (c *component) settle(patience time.Duration) error {
	for deadline := time.Now().Add(patience); ; {
		left := time.Until(deadline)
		err := c.trySettle(min(left, 2*time.Second))
		// A DAP session that has not yet noticed that its client is gone lets a
		// halted component run on, and the request to halt it has no answer.
		var timeout net.Error
		late := errors.As(err, &timeout) && timeout.Timeout() || errors.Is(err, rpc.ErrShutdown) // the call after one that was late
		if !late || left <= 2*time.Second {
			return err
		}
	}
}

func (c *component) trySettle(patience time.Duration) error {
	if c.hasExited() {
		return nil
	}
	client, err := c.dial(patience)
	if err != nil {
		return err
	}
	// Halting one that is halted would leave a trap behind that halts it later.
	state, err := client.GetStateNonBlocking()
	if err == nil && state.Running {
		state, err = client.Halt()
	}
	if err != nil || state.Exited {
		_ = client.Disconnect(false)
		if err != nil && c.endsSoon() {
			return nil
		}
		if err != nil {
			err = fmt.Errorf("halting the component: %w", err)
		}
		return err
	}
	_ = client.CancelNext() // refused if there is none
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

// endsSoon tells whether the component's process has ended, of which Delve knows
// before watch has found out how.
func (c *component) endsSoon() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hasExited() || c.process.ended()
}

// halted tells whether the component is halted: at its entry, at a breakpoint.
func (c *component) halted() (bool, error) {
	client, err := c.dial(delvePatience)
	if err != nil {
		return false, err
	}
	defer func() { _ = client.Disconnect(false) }()
	state, err := client.GetStateNonBlocking()
	if err != nil {
		return false, fmt.Errorf("asking delve for the component's state: %w", err)
	}
	return !state.Running, nil
}

// resume lets a halted component go on and leaves a running one alone.
func (c *component) resume() error {
	if c.hasExited() {
		return fmt.Errorf("the component has ended: %v", c.exit)
	}
	client, err := c.dial(delvePatience)
	if err != nil {
		return err
	}
	state, err := client.GetStateNonBlocking()
	if err != nil {
		_ = client.Disconnect(false)
		return fmt.Errorf("resuming: %w", err)
	}
	if !state.Running && state.NextInProgress {
		_ = client.CancelNext() // it would halt again at the end of the step
	}
	return client.Disconnect(!state.Running)
}

// terminate ends the component as its container's end would: the stop signal, then
// after grace SIGKILL; then Delve. A component that is halted goes on without
// breakpoints, so that it can handle the signal.
func (c *component) terminate(sig syscall.Signal, grace time.Duration) {
	c.mu.Lock()
	c.replaced = !c.hasExited()
	c.mu.Unlock()
	defer c.kill()
	settle := func() {
		if err := c.settle(delvePatience / 2); err != nil {
			c.log.Debug("settling before the end", "error", err)
		}
	}
	// One that runs serves until its debugger is off. One that is halted must not
	// begin to run just to be ended: it has the signal when it goes on.
	if halted, err := c.halted(); err == nil && !halted {
		settle()
		settle = func() {}
	}
	if c.isCall() {
		settle() // how it ends is its caller's business
		return
	}
	if c.signal(sig) != nil {
		return
	}
	settle()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-c.exited:
	case <-c.delveDone:
	case <-timer.C:
		c.log.Warn("the component did not end in time", "pid", c.pid(), "grace", grace)
	}
}

// kill ends the component and Delve at once and waits for both, and ends what the
// component left behind. It may be called more than once, also while Delve loads. A
// call is let go instead.
func (c *component) kill() {
	if c.isCall() {
		c.release()
		return
	}
	if c.signal(syscall.SIGKILL) == nil {
		// Delve can tell how it ended for as long as it is there.
		c.await(c.exited, time.Second)
	}
	// In order Delve takes a tenth of a second, which the component that comes next
	// has to wait for; it is needed only for what is still traced.
	if !c.hasExited() {
		_ = c.delve.Process.Signal(syscall.SIGTERM)
		c.await(c.delveDone, 3*time.Second)
	}
	_ = c.delve.Process.Kill()
	<-c.delveDone
	_ = c.life.Close()
	_ = os.Remove(c.socket) // gone if Delve ended in order
	c.mu.Lock()
	loaded := c.process != nil
	c.mu.Unlock()
	if !loaded {
		// What another run has left behind goes on with it.
		c.children.endOrphans(c.session())
		return
	}
	c.children.endOrphans(anySession)
	c.await(c.exited, sinkPatience)
}

// session is the session, as setsid(2) makes it, of the run's processes that have
// not begun one of their own.
func (c *component) session() int { return c.delve.Process.Pid }

// await waits for the event, but no longer than patience.
func (c *component) await(event <-chan struct{}, patience time.Duration) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-event:
	case <-timer.C:
	}
}
