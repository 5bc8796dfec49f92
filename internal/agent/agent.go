package agent

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

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
	children *children
	began    time.Time
	boot     string   // random
	post     Post     // nil: not on a node
	rank     int      // of a lane; 0: it is none
	lanes    []*Agent // the further ones; set before Run

	relays  sync.WaitGroup // counts the debuggers' connections to Delve
	loads   *atomic.Int64  // Delves so far, of all lanes
	inits   chan *heldInit // given to whoever waits for the next call
	handing sync.WaitGroup // counts those that catch inits
	over    chan struct{}  // closed when Run ends

	starting  sync.Mutex // serialises start and end
	attaching sync.Mutex // serialises who becomes Delve's one client: attach and settle; after starting

	mu        sync.Mutex // guards all below
	component *component
	outputs   []*output             // of all runs; the first is run 1's
	loading   string                // SHA-256 of what is being loaded
	abort     context.CancelFunc    // ends the start that is under way; nil: none is
	debugger  *debugging            // who is connected to Delve
	streams   map[string]*debugging // by token: that one, and those that have not yet read their end
	sessions  int                   // authenticated clients
	history   history
	absence   absence
	changed   chan struct{} // closed and made anew at every change
}

// history is what debuggers have done with the component since its start.
type history struct {
	debugged bool // there was one
	settled  bool // the last one was taken off
}

// New returns an agent for the folder dir, which it makes if need be. The original
// is the command line that it stands in for; it may be empty.
func New(cfg agentapi.Config, original []string, dir, version string, log *slog.Logger) (*Agent, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding the agent's own executable: %w", err)
	}
	if dir == "" {
		return nil, errors.New("agent folder: none is given")
	}
	// Delve runs in the component's working directory.
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("agent folder: %w", err)
	}
	a := blank()
	a.cfg, a.original, a.dir, a.log, a.version, a.self = cfg, original, layout(dir), log, version, self
	a.children, a.loads = &children{}, &atomic.Int64{}
	a.update(func() {}) // the agent begins alone
	return a, a.dir.prepare()
}

// blank is an agent without what it is to serve.
func blank() *Agent {
	return &Agent{
		began: time.Now(), boot: rand.Text(), streams: map[string]*debugging{}, changed: make(chan struct{}),
		inits: make(chan *heldInit), over: make(chan struct{}),
	}
}

// Post is the place of a service that an agent has on a node, or is about to take
// (package nodeservice).
type Post interface {
	// Node is what [agentapi.Hello] tells of it.
	Node() agentapi.Node
	// Engage takes the place, or looks whether it can be taken: if it returns true,
	// Leave is called when the client has its answer.
	Engage() (node agentapi.Node, leave bool, err error)
	// Leave ends the agent, by the context given to Run.
	Leave()
}

// Hold tells the agent of its post, before Run.
func (a *Agent) Hold(p Post) {
	a.post = p
	if _, ok := p.(Caller); ok && a.cfg.Calls != nil {
		a.openLanes(a.cfg.Calls.Filter.Lanes())
	}
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

// StopError is the cause of a context given to [Agent.Run] that a signal ended. The
// component gets the same one: an image may ask for another than SIGTERM.
type StopError struct{ Signal syscall.Signal }

func (e *StopError) Error() string { return "stopped by signal " + e.Signal.String() }

// Signal passes a signal on that was meant for the component.
func (a *Agent) Signal(sig syscall.Signal) {
	if c := a.current(); c != nil {
		if err := c.signal(sig); err != nil {
			a.log.Debug("passing a signal on", "signal", sig, "error", err)
		}
	}
}

// Run serves until ctx ends (the container is being stopped), then ends the
// component and returns its exit code. It does not return if the session expires
// and there is an original program: the process becomes that program. With a post
// it returns [agentapi.ErrExpired] instead.
//
// It makes the process the parent of orphans, and ends those with the component.
func (a *Agent) Run(ctx context.Context) (code int, err error) {
	if a.post == nil && exists(a.dir.expired()) {
		return 0, a.becomeOriginal()
	}
	if err := a.dir.clean(); err != nil {
		return 1, err
	}
	ownRuntime()
	if err := adopt(true); err != nil {
		a.log.Warn("processes that the component leaves behind will not be ended", "error", err)
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
	reaping, stopReaping := context.WithCancel(context.WithoutCancel(ctx))
	var reaper sync.WaitGroup
	reaper.Go(func() { a.children.reap(reaping) }) // ends with reaping, after the component
	defer func() { stopReaping(); reaper.Wait() }()

	expired, err := a.serve(ctx, listeners)
	if err != nil {
		code = 1
	}
	if err == nil && !expired {
		a.drain()
	}
	stop := &StopError{syscall.SIGTERM}
	_ = errors.As(context.Cause(ctx), &stop)
	if exit, ok := a.finish(stop.Signal); ok && code == 0 {
		code = exit.Status()
	}
	if !expired {
		return code, err
	}
	if a.post != nil {
		return code, agentapi.ErrExpired
	}
	if err := mark(a.dir.expired()); err != nil {
		a.log.Error("after a restart the container will wait for a client again", "error", err)
	}
	return 0, errors.Join(err, a.becomeOriginal())
}

// finish ends all components, when nobody is served any more, and tells how the own one
// ended.
func (a *Agent) finish(sig syscall.Signal) (exit agentapi.Exit, ok bool) {
	var others sync.WaitGroup
	for _, lane := range a.lanes {
		others.Go(func() { lane.finish(sig) }) // ends with what runs there
	}
	close(a.over)
	exit, ok = a.end(sig)
	a.relays.Wait()
	a.handing.Wait() // nothing adds to it without a component
	others.Wait()
	return exit, ok
}

// drain lets the component serve for a while, whatever a debugger left it in.
func (a *Agent) drain() {
	c := a.current()
	if c == nil || a.cfg.Drain <= 0 {
		return
	}
	if err := a.settle(c, true); err != nil {
		a.log.Debug("taking the debugger off at the end", "error", err)
	}
	timer := time.NewTimer(time.Duration(a.cfg.Drain))
	defer timer.Stop()
	select {
	case <-c.exited:
	case <-timer.C:
	}
}

// serve serves clients until ctx ends, a listener fails, or nobody has been there
// for the session's time to live. It returns when no client is left.
func (a *Agent) serve(ctx context.Context, listeners []net.Listener) (expired bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var serving sync.WaitGroup
	defer func() { cancel(); serving.Wait() }()
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		serving.Go(func() { // ends with ctx
			if err := tunnel.Listen(ctx, l, a.cfg.Identity, a.cfg.ClientPin, a.log, a.serveSession); err != nil {
				failed <- err
			}
		})
	}
	for _, lane := range a.lanes {
		serving.Go(func() { lane.watchAbsence(ctx) }) // ends with ctx
	}
	a.log.Info("agent ready", "session", a.cfg.Session, "listen", a.cfg.Listen, "delve", DelveVersion())
	alone := make(chan struct{})
	serving.Go(func() { // ends with ctx, or when the session expires
		if a.watchAbsence(ctx) {
			close(alone)
		}
	})
	select {
	case <-ctx.Done():
		return false, nil
	case err := <-failed:
		return false, err
	case <-alone:
		a.log.Warn("nobody was connected for the session's time to live: back to the original program", "ttl", time.Duration(a.cfg.TTL))
		return true, nil
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
	_ = adopt(false)                                                     // execve keeps it
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

// requestPatience is how long a request may take to arrive.
const requestPatience = 30 * time.Second

func (a *Agent) serveStream(ctx context.Context, conn *tunnel.Stream) {
	r := bufio.NewReaderSize(conn, 64<<10)
	var req agentapi.Request
	_ = conn.SetReadDeadline(time.Now().Add(requestPatience))
	if err := agentapi.ReadMessage(r, &req); err != nil {
		a.log.Debug("request", "error", err)
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
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
	if req.Lane > 0 && req.Op != agentapi.OpPut { // what is sent is for all
		lane, err := a.lane(req.Lane)
		if err != nil {
			return nil, nil, err
		}
		req.Lane = 0
		return lane.handle(ctx, req, r, conn)
	}
	switch {
	case req.Op == agentapi.OpHello:
		return &agentapi.Reply{Hello: a.hello()}, nil, nil
	case req.Op == agentapi.OpPut && req.Put != nil:
		return a.put(*req.Put, r, conn)
	case req.Op == agentapi.OpStart && req.Start != nil:
		ctx, stop := whileThere(ctx, r, conn)
		defer stop()
		started, err := a.start(ctx, *req.Start)
		return &agentapi.Reply{Started: &started}, nil, err
	case req.Op == agentapi.OpDebug:
		return a.debug(ctx, req, conn)
	case req.Op == agentapi.OpOutput && req.From != nil:
		ctx, stop := whileThere(ctx, r, conn)
		out, from, err := a.outputFrom(ctx, *req.From)
		stop()
		if err != nil {
			return nil, nil, err
		}
		return &agentapi.Reply{At: &from}, func() { out.serve(conn, from.Offset) }, nil
	case req.Op == agentapi.OpEnd:
		a.end(syscall.SIGTERM)
		return &agentapi.Reply{}, nil, nil
	case req.Op == agentapi.OpEngage && a.post != nil:
		node, leave, err := a.post.Engage()
		if err != nil {
			return nil, nil, err
		}
		if leave {
			after = a.post.Leave
		}
		return &agentapi.Reply{Node: &node}, after, nil
	case req.Op == agentapi.OpRestore && a.post != nil:
		return &agentapi.Reply{}, a.post.Leave, nil
	}
	if caller, ok := a.post.(Caller); ok && req.Op == agentapi.OpPods {
		caller.SetPods(req.Pods)
		return &agentapi.Reply{}, nil, nil
	}
	c := a.current()
	switch {
	case c == nil && (req.Op == agentapi.OpResume || req.Op == agentapi.OpSettle || req.Op == agentapi.OpWait):
		return nil, nil, errIdle
	case req.Op == agentapi.OpSettle:
		return &agentapi.Reply{}, nil, a.settle(c, true)
	case req.Op == agentapi.OpResume:
		return &agentapi.Reply{}, nil, c.resume()
	case req.Op == agentapi.OpWait:
		return &agentapi.Reply{}, func() {
			ctx, stop := whileThere(ctx, r, conn)
			defer stop()
			select {
			case <-c.exited:
				_ = agentapi.WriteMessage(conn, agentapi.Reply{Exit: &c.exit, Run: c.out.run})
			case <-ctx.Done():
			}
		}, nil
	}
	return nil, nil, fmt.Errorf("unknown operation %q", req.Op)
}

// whileThere returns a context that ends when the client closes its stream, which
// takes the request back. The returned function must be called.
func whileThere(ctx context.Context, r io.Reader, conn net.Conn) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	var reading sync.WaitGroup
	reading.Go(func() { // ends with the stream, or when the function is called
		_, _ = io.Copy(io.Discard, r)
		cancel(errors.New("the client took the request back"))
	})
	return ctx, func() {
		cancel(nil)
		_ = conn.SetReadDeadline(time.Unix(0, 1))
		reading.Wait()
		_ = conn.SetReadDeadline(time.Time{})
	}
}

func (a *Agent) current() *component {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.component
}

// outputFrom returns the output of a run, and where to begin in it. It waits for the
// run if that is yet to come.
func (a *Agent) outputFrom(ctx context.Context, from agentapi.Position) (*output, agentapi.Position, error) {
	for {
		a.mu.Lock()
		runs, changed := a.outputs, a.changed
		a.mu.Unlock()
		switch {
		case from.Boot == "" || from.Boot == a.boot && from.Run <= 0:
			from = agentapi.Position{Boot: a.boot, Run: max(len(runs), 1)}
		case from.Boot != a.boot:
			from = agentapi.Position{Boot: a.boot, Run: 1}
		}
		if from.Run <= len(runs) {
			return runs[from.Run-1], from, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, from, context.Cause(ctx)
		}
	}
}

func (a *Agent) hello() *agentapi.Hello {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := &agentapi.Hello{
		Version: agentapi.Version, Agent: a.version, Delve: DelveVersion(),
		OS: runtime.GOOS, Arch: runtime.GOARCH, Session: a.cfg.Session, UID: os.Getuid(),
		State: agentapi.StateIdle, Started: a.began, Boot: a.boot, Loading: a.abort != nil,
	}
	if a.post != nil {
		node := a.post.Node()
		h.Node = &node
	}
	if a.debugger != nil {
		h.Client = a.debugger.client
	}
	h.Run = len(a.outputs)
	if c := a.component; c != nil {
		h.State, h.SHA256 = agentapi.StateRunning, c.sha256
		if c.hasExited() {
			h.State, h.Exit = agentapi.StateExited, &c.exit
		}
	}
	return h
}

func (a *Agent) put(file agentapi.File, r io.Reader, conn net.Conn) (*agentapi.Reply, func(), error) {
	path, err := a.dir.path(file)
	if err != nil {
		return nil, nil, err
	}
	a.dir.touch(file)
	if exists(path) {
		return &agentapi.Reply{Have: true}, nil, nil
	}
	a.dir.prune(a.inUse())
	if err := a.dir.room(file); err != nil {
		return nil, nil, err
	}
	return &agentapi.Reply{}, func() {
		var reply agentapi.Reply
		if err := a.dir.store(file, r); err != nil {
			reply.Error = err.Error()
		}
		_ = agentapi.WriteMessage(conn, reply)
	}, nil
}

// inUse are the binaries that must stay: of what runs, and of what is being loaded.
func (a *Agent) inUse() (used []string) {
	for _, lane := range a.lanes {
		used = append(used, lane.inUse()...)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	used = append(used, a.loading)
	if a.component != nil {
		used = append(used, a.component.sha256)
	}
	return used
}

// start loads a component beside the one that runs, if one does, and replaces it.
func (a *Agent) start(ctx context.Context, s agentapi.Start) (started agentapi.Started, err error) {
	path, err := a.dir.path(s.File)
	if err != nil {
		return started, err
	}
	if !exists(path) {
		return started, fmt.Errorf("the binary %s has not been sent", s.File.Name)
	}
	if s.Args == nil && len(a.original) > 0 {
		program, ok := entrypoint.Unwrap(a.original)
		if !ok {
			return started, fmt.Errorf("the container's command %q does not tell the program's arguments", a.original)
		}
		s.Args = slices.Concat(program[1:], a.cfg.Args)
	}
	grace := time.Duration(s.Grace)
	if grace <= 0 {
		grace = time.Duration(a.cfg.Stop)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	a.abortStart() // the later one counts
	a.starting.Lock()
	defer a.starting.Unlock()
	a.update(func() {
		a.abort = func() { cancel(errors.New("another request came before it was loaded")) }
		a.loading = s.File.SHA256
	})
	defer a.update(func() { a.abort, a.loading = nil, "" })
	began := time.Now()
	var c *component
	if caller, ok := a.post.(Caller); ok {
		var call describedCall
		c, call, err = a.nextCall(ctx, caller, path)
		started.Call, started.Limit = call.name, call.limit
	} else {
		c, err = a.starter().start(ctx, append([]string{path}, s.Args...), s.Env, s.Dir)
	}
	if errors.Is(err, unix.EACCES) || err != nil && a.dir.noExec() {
		err = fmt.Errorf("%w (is the folder %s mounted noexec?)", err, a.dir)
	}
	if err != nil {
		return started, fmt.Errorf("delve could not start %s: %w", s.File.Name, err)
	}
	c.sha256 = s.File.SHA256
	loaded := time.Now()
	run := a.replace(c, grace)
	a.log.Info("component loaded", "name", s.File.Name, "pid", c.pid(), "run", run,
		"loading", loaded.Sub(began).Round(time.Millisecond), "replacing", time.Since(loaded).Round(time.Millisecond))
	started.PID, started.Run = c.pid(), run
	return started, nil
}

func (a *Agent) starter() starter {
	return starter{a.log, a.self, a.dir.delveSocket(int(a.loads.Add(1))), a.children}
}

// replace ends the component that runs and puts another in its place, which thereby
// becomes the next run. The caller holds starting.
func (a *Agent) replace(c *component, grace time.Duration) (run int) {
	a.attaching.Lock() // nobody connects to what ends
	defer a.attaching.Unlock()
	if old := a.current(); old != nil {
		a.retire(old, syscall.SIGTERM, grace)
	}
	a.update(func() {
		run = len(a.outputs) + 1
		c.out.run = run
		a.outputs = append(a.outputs, c.out)
		if old := run - 1 - keepOutputs; old >= 1 {
			a.outputs[old-1].forget()
		}
		a.component, a.history = c, history{}
	})
	if err := a.dir.begun(); err != nil {
		a.log.Warn("readiness will not be told", "error", err)
	}
	go func() { // ends with the component
		<-c.exited
		if a.current() == c {
			if err := a.dir.silent(); err != nil {
				a.log.Warn("readiness goes on being told", "error", err)
			}
		}
	}()
	return run
}

// abortStart ends a start that is under way: loading takes as long as Delve likes.
func (a *Agent) abortStart() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.abort != nil {
		a.abort()
	}
}

// end ends the component that runs and tells how it ended.
func (a *Agent) end(sig syscall.Signal) (agentapi.Exit, bool) {
	a.abortStart()
	a.starting.Lock()
	defer a.starting.Unlock()
	return a.endLocked(sig, time.Duration(a.cfg.Stop))
}

func (a *Agent) endLocked(sig syscall.Signal, grace time.Duration) (agentapi.Exit, bool) {
	a.attaching.Lock()
	defer a.attaching.Unlock()
	c := a.current()
	if c == nil {
		return agentapi.Exit{}, false
	}
	a.retire(c, sig, grace)
	a.update(func() { a.component = nil })
	if !c.hasExited() {
		return agentapi.Exit{Code: -1, Reason: "its output could not be passed on"}, true
	}
	return c.exit, true
}

// retire ends a component and what belongs to it; the caller holds attaching.
func (a *Agent) retire(c *component, sig syscall.Signal, grace time.Duration) {
	a.disconnect()
	c.terminate(sig, grace)
}

// settle takes the debugger off the component, if that is still the one. If it is
// not by force, a debugger that is there stays.
func (a *Agent) settle(c *component, force bool) error {
	a.attaching.Lock()
	defer a.attaching.Unlock()
	a.mu.Lock()
	still := a.component == c && (force || !a.attended())
	a.mu.Unlock()
	if !still {
		return nil
	}
	a.disconnect()
	err := c.settle(delvePatience)
	a.update(func() {
		if a.component == c {
			a.history.settled = err == nil
		}
	})
	return err
}
