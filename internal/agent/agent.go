package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/kubedelve/kubedelve/internal/agentapi"
	"github.com/kubedelve/kubedelve/internal/entrypoint"
	"github.com/kubedelve/kubedelve/internal/tunnel"
)

// Agent supervises one component. Make it with [New], then call [Agent.Run].
type Agent struct {
	cfg agentapi.Config
	// original is the container's own command line, as the kubelet would have run
	// it; empty if the agent was not put in the place of one.
	original []string
	dir      layout
	log      *slog.Logger
	version  string
	self     string // the agent's own executable
	out      output
	started  time.Time

	starting sync.Mutex // serialises start and end

	mu        sync.Mutex // guards all below
	component *component
	loading   bool
	holder    string   // the client that is connected to Delve
	debug     net.Conn // its stream
	sessions  int      // authenticated clients
	debugged  bool     // a debugger was connected since the last start
	settled   bool     // the debugger was taken off since it was last connected
	absence   absence
	changed   chan struct{} // closed and made anew at every change
}

// New returns an agent for the folder dir, which it makes if need be. The original
// is the command line that it stands in for; it may be empty.
func New(cfg agentapi.Config, original []string, dir, version string, log *slog.Logger) (*Agent, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding the agent's own executable: %w", err)
	}
	a := &Agent{cfg: cfg, original: original, dir: layout(dir), log: log, version: version, self: self, started: time.Now(), changed: make(chan struct{})}
	a.update(func() {}) // the agent begins alone
	return a, a.dir.prepare()
}

// ReadConfig reads the agent's configuration.
func ReadConfig(path string) (cfg agentapi.Config, err error) {
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &cfg)
	}
	if err != nil {
		return cfg, fmt.Errorf("agent configuration: %w", err)
	}
	return cfg, nil
}

// Run serves until ctx ends (the container is being stopped), then ends the
// component and returns its exit code. It does not return if the session expires
// and there is an original program: the process becomes that program.
func (a *Agent) Run(ctx context.Context) (code int, err error) {
	if exists(a.dir.expired()) {
		return 0, a.becomeOriginal()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if os.Getpid() == 1 {
		go reap(ctx, a.isDelve) // ends with ctx
	}
	local, err := listenUnix(a.dir.agentSocket())
	if err != nil {
		return 1, fmt.Errorf("agent socket: %w", err)
	}
	listeners := []net.Listener{local}
	if a.cfg.Listen != "" {
		l, err := net.Listen("tcp", a.cfg.Listen)
		if err != nil {
			_ = local.Close()
			return 1, fmt.Errorf("agent port: %w", err)
		}
		listeners = append(listeners, l)
	}
	var serving sync.WaitGroup
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		serving.Go(func() { // ends with ctx
			if err := tunnel.Listen(ctx, l, a.cfg.Identity, a.cfg.ClientPin, a.log, a.serveSession); err != nil {
				failed <- err
			}
		})
	}
	a.log.Info("agent ready", "session", a.cfg.Session, "listen", a.cfg.Listen, "delve", DelveVersion())

	expired := make(chan struct{})
	serving.Go(func() { // ends with ctx, or when the session expires
		if a.watchAbsence(ctx) {
			close(expired)
		}
	})
	select {
	case <-ctx.Done():
	case err = <-failed:
		code = 1
	case <-expired:
		a.log.Warn("nobody was connected for the session's time to live: back to the original program", "ttl", time.Duration(a.cfg.TTL))
		err = mark(a.dir.expired())
	}
	cancel()
	serving.Wait()
	if exit, ok := a.end(); ok && code == 0 {
		code = max(exit.Code, 0)
	}
	select {
	case <-expired:
		return 0, errors.Join(err, a.becomeOriginal())
	default:
		return code, err
	}
}

// becomeOriginal replaces the process by the container's original program, which
// then is what the kubelet started. It returns only if there is none, or on error.
func (a *Agent) becomeOriginal() error {
	if len(a.original) == 0 {
		return nil
	}
	path, err := exec.LookPath(a.original[0])
	if err != nil {
		return fmt.Errorf("the original program: %w", err)
	}
	if err := syscall.Exec(path, a.original, os.Environ()); err != nil { //nolint:gosec // the container's own command
		return fmt.Errorf("the original program %s: %w", path, err)
	}
	return nil
}

// update changes the state below mu and wakes watchAbsence.
func (a *Agent) update(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
	a.note()
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *Agent) serveSession(ctx context.Context, s *tunnel.Session) {
	a.update(func() { a.sessions++ })
	defer a.update(func() { a.sessions-- })
	s.Serve(ctx, a.log, a.serveStream)
}

func (a *Agent) serveStream(ctx context.Context, conn *tunnel.Stream) {
	r := bufio.NewReaderSize(conn, 64<<10)
	var req agentapi.Request
	if err := agentapi.ReadMessage(r, &req); err != nil {
		a.log.Debug("request", "error", err)
		return
	}
	a.log.Debug("request", "op", req.Op, "client", req.Client)
	reply, after, err := a.handle(ctx, req, r, conn)
	if err != nil {
		reply = &agentapi.Reply{Error: err.Error()}
		var coded *codedError
		if errors.As(err, &coded) {
			reply.Code = coded.code
		}
	}
	if err := agentapi.WriteMessage(conn, reply); err != nil {
		a.log.Debug("reply", "op", req.Op, "error", err)
	}
	if after != nil {
		after()
	}
}

// codedError is one that clients tell apart.
type codedError struct{ code, text string }

func (e *codedError) Error() string { return e.text }

var errIdle = &codedError{agentapi.CodeIdle, "no component has been started"}

// handle answers a request; what it returns as after runs when the reply is out.
func (a *Agent) handle(ctx context.Context, req agentapi.Request, r io.Reader, conn net.Conn) (reply *agentapi.Reply, after func(), err error) {
	switch {
	case req.Op == agentapi.OpHello:
		return &agentapi.Reply{Hello: a.hello()}, nil, nil
	case req.Op == agentapi.OpPut && req.Put != nil:
		return a.put(*req.Put, r, conn)
	case req.Op == agentapi.OpStart && req.Start != nil:
		pid, err := a.start(ctx, *req.Start)
		return &agentapi.Reply{PID: pid}, nil, err
	case req.Op == agentapi.OpDebug:
		return a.connect(req.Client, r, conn)
	case req.Op == agentapi.OpOutput:
		return &agentapi.Reply{}, func() { a.out.serve(conn) }, nil
	case req.Op == agentapi.OpEnd:
		a.end()
		return &agentapi.Reply{}, nil, nil
	}
	c := a.current()
	switch {
	case c == nil && (req.Op == agentapi.OpResume || req.Op == agentapi.OpSettle || req.Op == agentapi.OpWait):
		return nil, nil, errIdle
	case req.Op == agentapi.OpSettle:
		return &agentapi.Reply{}, nil, c.settle()
	case req.Op == agentapi.OpResume:
		return &agentapi.Reply{}, nil, c.resume()
	case req.Op == agentapi.OpWait:
		return &agentapi.Reply{}, func() {
			select {
			case <-c.exited:
				c.drain()
				_ = agentapi.WriteMessage(conn, agentapi.Reply{Exit: &c.exit})
			case <-ctx.Done():
			}
		}, nil
	}
	return nil, nil, fmt.Errorf("unknown operation %q", req.Op)
}

func (a *Agent) current() *component {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.component
}

// isDelve tells whether a process is a Delve that this agent started.
func (a *Agent) isDelve(pid int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.loading || a.component != nil && a.component.delve.Process.Pid == pid
}

func (a *Agent) hello() *agentapi.Hello {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := &agentapi.Hello{
		Version: agentapi.Version, Agent: a.version, Delve: DelveVersion(),
		OS: runtime.GOOS, Arch: runtime.GOARCH, Session: a.cfg.Session, UID: os.Getuid(),
		State: agentapi.StateIdle, Client: a.holder, Started: a.started,
	}
	switch {
	case a.loading:
		h.State = agentapi.StateLoading
	case a.component != nil && a.component.hasExited():
		h.State = agentapi.StateExited
	case a.component != nil:
		h.State = agentapi.StateRunning
	}
	return h
}

func (a *Agent) put(file agentapi.File, r io.Reader, conn net.Conn) (*agentapi.Reply, func(), error) {
	path, err := a.dir.path(file)
	if err != nil {
		return nil, nil, err
	}
	if exists(path) {
		return &agentapi.Reply{Have: true}, nil, nil
	}
	return &agentapi.Reply{}, func() {
		var reply agentapi.Reply
		if err := a.dir.store(file, r); err != nil {
			reply.Error = err.Error()
		}
		_ = agentapi.WriteMessage(conn, reply)
	}, nil
}

// start replaces the component that runs, if one does.
func (a *Agent) start(ctx context.Context, s agentapi.Start) (pid int, err error) {
	path, err := a.dir.path(s.File)
	if err != nil {
		return 0, err
	}
	if !exists(path) {
		return 0, fmt.Errorf("the binary %s has not been sent", s.File.Name)
	}
	if s.Args == nil && len(a.original) > 0 {
		program, ok := entrypoint.Unwrap(a.original)
		if !ok {
			return 0, fmt.Errorf("the container's command %q does not tell the program's arguments", a.original)
		}
		s.Args = program[1:]
	}
	a.starting.Lock()
	defer a.starting.Unlock()
	a.endLocked()
	a.update(func() { a.loading, a.debugged, a.settled = true, false, false })
	c, err := startComponent(ctx, a.log, a.self, a.dir.delveSocket(), append([]string{path}, s.Args...), s.Env, s.Dir, &a.out)
	a.update(func() { a.loading, a.component = false, c })
	if err != nil {
		return 0, fmt.Errorf("delve could not start %s: %w", s.File.Name, err)
	}
	a.log.Info("component loaded", "name", s.File.Name, "pid", c.pid)
	return c.pid, nil
}

// end ends the component that runs and tells how it ended.
func (a *Agent) end() (agentapi.Exit, bool) {
	a.starting.Lock()
	defer a.starting.Unlock()
	return a.endLocked()
}

func (a *Agent) endLocked() (agentapi.Exit, bool) {
	var c *component
	a.update(func() {
		c, a.component = a.component, nil
		if a.debug != nil {
			_ = a.debug.Close()
		}
	})
	if c == nil {
		return agentapi.Exit{}, false
	}
	c.terminate(time.Duration(a.cfg.Stop))
	return c.exit, true
}

// connect gives a client Delve's own connection. Delve serves one at a time: a
// second one would wait for an answer for ever.
func (a *Agent) connect(client string, r io.Reader, conn net.Conn) (*agentapi.Reply, func(), error) {
	var c *component
	var holder string
	a.update(func() {
		c, holder = a.component, a.holder
		if c != nil && holder == "" {
			a.holder, a.debug, a.debugged, a.settled = client, conn, true, false
			if client == "" {
				a.holder = "another client"
			}
		}
	})
	switch {
	case c == nil:
		return nil, nil, errIdle
	case holder != "":
		return nil, nil, &codedError{agentapi.CodeInUse, "the debugger is in use by " + holder}
	}
	release := func() { a.update(func() { a.holder, a.debug = "", nil }) }
	delve, err := net.Dial("unix", c.socket)
	if err != nil {
		release()
		return nil, nil, fmt.Errorf("connecting to delve: %w", err)
	}
	return &agentapi.Reply{}, func() {
		defer release()
		splice(conn, r, delve)
	}, nil
}

// splice passes bytes both ways until either side ends, then closes both: Delve
// must see its socket close as soon as the tunnel does.
func splice(conn net.Conn, buffered io.Reader, delve net.Conn) {
	var both sync.WaitGroup
	both.Go(func() { // client to Delve
		_, _ = io.Copy(delve, buffered)
		_ = delve.Close()
	})
	_, _ = io.Copy(conn, delve)
	_ = conn.Close()
	both.Wait()
}
