package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-delve/delve/service/api"
	"github.com/go-delve/delve/service/rpc2"

	"github.com/kubedelve/kubedelve/internal/agentapi"
	"github.com/kubedelve/kubedelve/internal/leakcheck"
	"github.com/kubedelve/kubedelve/internal/tunnel"
)

// patience is how long a test waits for anything: much, since the machine may be
// busy, and it costs nothing when all is well.
const patience = 60 * time.Second

// programs are built once: the agent, and two components that differ. With
// AGENT_BUILD_FLAGS=-race in the environment the agent looks for data races, and a
// test that sees one fails; it is slow, since Delve is in the same program.
var programs struct{ dir, agent, component, other string }

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "agent-test-")
		if err == nil {
			defer func() { _ = os.RemoveAll(dir) }()
			err = build(dir)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

func build(dir string) error {
	programs.dir = dir
	programs.agent, programs.component, programs.other = filepath.Join(dir, "kubedelve-agent"), filepath.Join(dir, "component"), filepath.Join(dir, "other")
	for _, args := range [][]string{
		append(strings.Fields(os.Getenv("AGENT_BUILD_FLAGS")), "-o", programs.agent, "../../cmd/kubedelve-agent"), // -race
		// Only package main without optimisation: the standard library would
		// have to be compiled again.
		{"-gcflags=-N -l", "-o", programs.component, "./testdata/component"},
		{"-gcflags=-N -l", "-ldflags=-X=main.unused=other -compressdwarf=false", "-o", programs.other, "./testdata/component"},
	} {
		cmd := exec.Command("go", append([]string{"build"}, args...)...)
		if os.Getenv("AGENT_BUILD_FLAGS") == "" {
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go build %q: %w\n%s", args, err, out)
		}
	}
	return nil
}

// checkLeaks fails the test if a goroutine of ours is left when it is over.
func checkLeaks(t testing.TB) {
	t.Helper()
	leakcheck.Goroutines(t, "hashicorp/yamux")
}

// rig is an agent of its own process and what is needed to talk to it.
type rig struct {
	t      testing.TB
	dir    string
	config agentapi.Config
	keys   struct{ agent, client tunnel.Identity }
	cmd    *exec.Cmd
	exited chan struct{} // closed when the agent was reaped
	said   *text         // what it wrote on stderr
	logged *text         // ... and on stdout, which is the component's output too
}

// text is what a process wrote so far.
type text struct {
	mu     sync.Mutex
	buf    bytes.Buffer
	forget bool
}

func (w *text) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.forget {
		return len(p), nil
	}
	return w.buf.Write(p)
}

// discard is for processes that write more than anybody wants to keep.
func (w *text) discard() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forget = true
}

func (w *text) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

// newRig starts an agent; change, if any, is made to its configuration, and the
// command is what it stands in for.
func newRig(t testing.TB, change func(*agentapi.Config), original ...string) *rig {
	t.Helper()
	// Not t.TempDir: a socket's path must be short.
	dir, err := os.MkdirTemp("", "agent-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return newRigIn(t, dir, change, original...)
}

func newRigIn(t testing.TB, dir string, change func(*agentapi.Config), original ...string) *rig {
	t.Helper()
	checkLeaks(t)
	// The agent has the component already: uploads have tests of their own.
	component, _ := fileOf(t, programs.component)
	if path, err := layout(dir).path(component); err == nil && os.MkdirAll(filepath.Dir(path), 0o700) == nil {
		_ = os.Link(programs.component, path)
	}
	r := &rig{t: t, dir: dir}
	var err error
	if r.keys.agent, r.keys.client, err = tunnel.NewPair(); err != nil {
		t.Fatal(err)
	}
	pin, err := r.keys.client.Pin()
	if err != nil {
		t.Fatal(err)
	}
	r.config = agentapi.Config{
		Session: "test", Identity: r.keys.agent, ClientPin: pin,
		Grace: agentapi.Duration(time.Hour), TTL: agentapi.Duration(time.Hour), Stop: agentapi.Duration(20 * time.Second),
	}
	if change != nil {
		change(&r.config)
	}
	r.run(nil, original...)
	return r
}

// run starts the agent's process.
func (r *rig) run(attr *syscall.SysProcAttr, original ...string) {
	r.t.Helper()
	config, err := json.Marshal(r.config)
	if err != nil {
		r.t.Fatal(err)
	}
	file := filepath.Join(r.dir, "config.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		r.t.Fatal(err)
	}
	args := []string{"serve", "--debug", "--dir", r.dir, "--config", file}
	if len(original) > 0 {
		args = append(append(args, "--"), original...)
	}
	r.said, r.logged, r.exited = &text{}, &text{}, make(chan struct{})
	r.cmd = exec.Command(programs.agent, args...)
	r.cmd.Stdout, r.cmd.Stderr = r.logged, r.said
	r.cmd.SysProcAttr = attr
	r.cmd.WaitDelay = 5 * time.Second // for processes that should not have been left
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	cmd, exited, said := r.cmd, r.exited, r.said
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	r.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(patience):
			_ = cmd.Process.Signal(syscall.SIGQUIT)
			r.t.Error("the agent did not end")
			_ = cmd.Process.Kill()
			<-exited
		}
		for _, race := range strings.Split(said.String(), "WARNING: DATA RACE")[1:] {
			if race, _, _ = strings.Cut(race, "\n====="); strings.Contains(race, "kubedelve/internal/agent.(") { // Delve has its own
				r.t.Errorf("a data race:%s", race)
			}
		}
		if r.t.Failed() {
			r.t.Logf("the agent said:\n%s", said)
		}
	})
}

// client connects to the agent through its socket.
func (r *rig) client(name string) *agentapi.Client {
	r.t.Helper()
	return agentapi.NewClient(r.session(), name)
}

func (r *rig) session() *tunnel.Session {
	r.t.Helper()
	var session *tunnel.Session
	r.await("a tunnel", func() bool {
		select {
		case <-r.exited:
			r.t.Fatalf("the agent ended: %s", r.said)
		default:
		}
		var err error
		session, err = r.tunnel(r.t.Context())
		if err != nil && !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ECONNREFUSED) { // it does not listen yet
			r.t.Fatal(err)
		}
		return err == nil
	})
	r.t.Cleanup(func() { _ = session.Close() })
	return session
}

// tunnel opens a tunnel through the agent's socket. It may be called from any
// goroutine.
func (r *rig) tunnel(ctx context.Context) (*tunnel.Session, error) {
	pin, err := r.keys.agent.Pin()
	if err != nil {
		return nil, err
	}
	conn, err := net.Dial("unix", filepath.Join(r.dir, SocketPath))
	if err != nil {
		return nil, err
	}
	stream, err := tunnel.UpgradeStream(conn)
	if err != nil {
		return nil, err
	}
	return tunnel.Client(ctx, stream, r.keys.client, pin)
}

// await returns when the condition holds, which nothing announces.
func (r *rig) await(what string, holds func() bool) {
	r.t.Helper()
	tick := time.NewTicker(3 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			r.t.Fatalf("waited in vain for %s; the agent said:\n%s", what, r.said)
		}
	}
}

// code waits for the agent's exit code.
func (r *rig) code() int {
	r.t.Helper()
	select {
	case <-r.exited:
	case <-time.After(patience):
		r.t.Fatalf("the agent did not end; it said:\n%s", r.said)
	}
	return r.cmd.ProcessState.ExitCode()
}

var files sync.Map // path → sent

type sent struct {
	file    agentapi.File
	content []byte
}

func fileOf(t testing.TB, path string) (agentapi.File, []byte) {
	t.Helper()
	if known, ok := files.Load(path); ok {
		s := known.(sent)
		return s.file, s.content
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s := sent{describe(content, filepath.Base(path)), content}
	files.Store(path, s)
	return s.file, s.content
}

// put sends a program.
func put(t testing.TB, c *agentapi.Client, path string) agentapi.File {
	t.Helper()
	file, content := fileOf(t, path)
	if _, err := c.Put(t.Context(), file, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	return file
}

// start runs the component with steps, halted at its entry.
func start(t testing.TB, c *agentapi.Client, steps ...string) int {
	t.Helper()
	started, err := c.Start(t.Context(), agentapi.Start{File: put(t, c, programs.component), Args: steps})
	if err != nil {
		t.Fatal(err)
	}
	return started.PID
}

// launch runs the component with steps.
func launch(t testing.TB, c *agentapi.Client, steps ...string) int {
	t.Helper()
	pid := start(t, c, steps...)
	if err := c.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	return pid
}

func wait(t testing.TB, c *agentapi.Client) agentapi.Exit {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	exit, err := c.Wait(ctx)
	if err != nil {
		t.Fatalf("Wait: %v", err)
	}
	return exit
}

// outputs collects the component's output until it ends.
type outputs struct {
	out, err text
	done     chan error
}

func collect(t testing.TB, c *agentapi.Client) *outputs {
	t.Helper()
	o := &outputs{done: make(chan error, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		o.done <- c.Output(ctx, agentapi.Position{}, func(piece agentapi.Output) error {
			w := &o.out
			if piece.FD == 2 {
				w = &o.err
			}
			_, err := w.Write(piece.Data)
			return err
		})
	}()
	t.Cleanup(cancel)
	return o
}

func (o *outputs) wait(t testing.TB) {
	t.Helper()
	select {
	case err := <-o.done:
		if err != nil {
			t.Fatalf("Output: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("Output did not end")
	}
}

// debugger connects to Delve as GoLand does.
type attached struct {
	*rpc2.RPCClient
	t    testing.TB
	conn net.Conn
}

// Halt asks again when there is no answer: Delve loses the signal that halts a program if that
// is what a new thread begins with (proc_linux.go: addThread takes whatever stops it first for
// the stop of a new thread). All that wait are answered by the next one.
func (d *attached) Halt() (*api.DebuggerState, error) {
	type answer struct {
		state *api.DebuggerState
		err   error
	}
	answers := make(chan answer, 3) // all that come
	for try := 1; ; try++ {
		go func() { // ends with the answer or the connection
			state, err := d.RPCClient.Halt()
			answers <- answer{state, err}
		}()
		select {
		case a := <-answers:
			return a.state, a.err
		case <-time.After(patience / 4):
			if try == cap(answers) {
				return nil, fmt.Errorf("the component is not halted, asked %d times", try)
			}
			d.t.Logf("no answer to halt; asking again")
		}
	}
}

// dial connects to Delve by one client, for as long as that one lives.
func dial(t testing.TB, c *agentapi.Client) (*agentapi.DebugConn, error) {
	t.Helper()
	return agentapi.Debug(t.Context(), only(c), false)
}

// only is for connections that have no other way when a client's is lost.
func only(c *agentapi.Client) func(context.Context) (*agentapi.Client, error) {
	return func(context.Context) (*agentapi.Client, error) {
		select {
		case <-c.Done():
			return nil, errLost
		default:
			return c, nil
		}
	}
}

var errLost = errors.New("the tunnel is lost")

func attach(t testing.TB, c *agentapi.Client) *attached {
	t.Helper()
	conn, err := dial(t, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &attached{rpc2.NewClientFromConn(conn), t, conn}
}

// hit sets a breakpoint in count and continues to it.
func (d *attached) hit() *api.DebuggerState {
	d.t.Helper()
	if state, err := d.GetStateNonBlocking(); err == nil && state.Running {
		if _, err := d.Halt(); err != nil {
			d.t.Fatal(err)
		}
	}
	if _, err := d.CreateBreakpoint(&api.Breakpoint{FunctionName: "main.count"}); err != nil {
		d.t.Fatal(err)
	}
	return d.goOn()
}

func (d *attached) goOn() *api.DebuggerState {
	d.t.Helper()
	select {
	case state := <-d.Continue():
		if state.Err != nil {
			d.t.Fatal(state.Err)
		}
		return state
	case <-time.After(patience):
		d.t.Fatal("no breakpoint was hit")
		return nil
	}
}

func alive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	s, ok := parseStat(text)
	return err == nil && ok && !s.zombie()
}

// delveOf is the Delve that runs the component.
func delveOf(t testing.TB, component int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", component))
	s, ok := parseStat(text)
	if err != nil || !ok {
		t.Fatalf("no stat of process %d: %v", component, err)
	}
	return s.parent
}

// gone fails the test unless the processes end.
func (r *rig) gone(pids ...int) {
	r.t.Helper()
	for _, pid := range pids {
		r.await(fmt.Sprintf("the end of process %d", pid), func() bool { return !alive(pid) })
	}
}
