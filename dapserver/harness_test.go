package dapserver

import (
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-delve/delve/service/api"
	"github.com/go-delve/delve/service/dap/daptest"
	"github.com/go-delve/delve/service/rpc2"
	"github.com/google/go-dap"

	"github.com/kubedelve/kubedelve/internal/debuginfo"
)

// patience is how long a test waits for anything. It is large, since the
// machine may be busy, and costs nothing when all is well.
const patience = 60 * time.Second

func deadline() time.Time { return time.Now().Add(patience) }

// checkLeaks fails the test if a goroutine of this package's is left over.
func checkLeaks(t testing.TB) {
	t.Helper()
	ours := regexp.MustCompile(`kubedelve/dapserver\.(\(\*(link|session|Server|frameReader)\)|Relay)`)
	t.Cleanup(func() {
		var left []string
		for deadline := time.Now().Add(10 * time.Second); ; {
			left = nil
			buf := make([]byte, 4<<20)
			buf = buf[:runtime.Stack(buf, true)]
			for stack := range strings.SplitSeq(string(buf), "\n\n") {
				if ours.MatchString(stack) {
					left = append(left, stack)
				}
			}
			if len(left) == 0 || time.Now().After(deadline) {
				break
			}
			runtime.Gosched()
		}
		if len(left) > 0 {
			t.Errorf("%d goroutines are left over:\n%s", len(left), strings.Join(left, "\n\n"))
		}
	})
}

// binaries are the fixture as it is, and with its source changed but not its
// path: another text, and a line more at the head; and Delve. They are built before any
// Delve runs, since that would get the compiler's end told as that of a process
// of its own.
type binaries struct{ plain, otherText, oneLineMore, delve string }

var build = sync.OnceValues(func() (*binaries, error) {
	dir, err := os.MkdirTemp("", "dapserver")
	if err != nil {
		return nil, err
	}
	b := &binaries{filepath.Join(dir, "plain"), filepath.Join(dir, "othertext"), filepath.Join(dir, "onelinemore"), filepath.Join(dir, "delve")}
	path, err := filepath.Abs("testdata/fixture/main.go")
	if err != nil {
		return nil, err
	}
	source, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for bin, text := range map[string]string{
		b.plain:       string(source),
		b.otherText:   strings.Replace(string(source), `"hello"`, `"goodbye"`, 1),
		b.oneLineMore: strings.Replace(string(source), "var counter,", "\nvar counter,", 1),
	} {
		overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{path: bin + ".go"}})
		if err != nil {
			return nil, err
		}
		for file, data := range map[string][]byte{bin + ".go": []byte(text), bin + ".json": overlay} {
			if err := os.WriteFile(file, data, 0o600); err != nil {
				return nil, err
			}
		}
		// Only package main without optimisation: the standard library would
		// take a minute to compile again.
		out, err := exec.Command("go", "build", "-gcflags=-N -l", "-overlay", bin+".json", "-o", bin, "./testdata/fixture").CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("building the fixture: %w\n%s", err, out)
		}
	}
	cmd := exec.Command("go", "build", "-o", b.delve, "./testdata/delve")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building Delve: %w\n%s", err, out)
	}
	return b, nil
})

func fixtures(t testing.TB) *binaries {
	t.Helper()
	b, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestMain(m *testing.M) {
	code := m.Run()
	if b, err := build(); err == nil {
		os.RemoveAll(filepath.Dir(b.plain))
	}
	os.Exit(code)
}

func fixtureSource(t testing.TB) string {
	path, err := filepath.Abs("testdata/fixture/main.go")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// fixtureLine is the line of main.go in the fixture with the comment
// "breakpoint: name".
func fixtureLine(t testing.TB, name string) int {
	file, line := fixtureBreakpoint(t, name)
	if file != fixtureSource(t) {
		t.Fatalf("the line %q is in %s", name, file)
	}
	return line
}

// fixtureBreakpoint is the place in the fixture with the comment "breakpoint: name".
func fixtureBreakpoint(t testing.TB, name string) (file string, line int) {
	files, err := filepath.Glob(filepath.Join(filepath.Dir(fixtureSource(t)), "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(string(b), "\n") {
			if strings.HasSuffix(line, "// breakpoint: "+name) {
				return file, i + 1
			}
		}
	}
	t.Fatalf("no line %q in the fixture", name)
	return "", 0
}

// symbol is the address of a function of a binary.
func symbol(t testing.TB, bin, name string) uint64 {
	t.Helper()
	f, err := elf.Open(bin)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	symbols, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range symbols {
		if s.Name == name {
			return s.Value
		}
	}
	t.Fatalf("no %s in %s", name, bin)
	return 0
}

// delve is a Session: the fixture under a headless Delve in this process, or
// under several, one after the other.
type delve struct {
	t    testing.TB
	args []string
	// again makes Dial start the component again when it has ended, as a
	// workload is; else its end is that of the session.
	again   bool
	restart func(context.Context, *LaunchConfig) error
	// grace, if not nil, makes Close end the component as a container's end does: with
	// SIGTERM, and SIGKILL when it is closed. Else Close just kills it.
	grace  chan struct{}
	events chan Event
	over   chan struct{} // closed at the end

	mu               sync.Mutex // guards all below
	runs             []*delveRun
	up               bool          // the last of them can be dialled
	changed          chan struct{} // closed and replaced when the two above change
	dials            int
	closes, detaches int
	exit             *int
	conns            []net.Conn
}

// delveRun is one of them.
type delveRun struct {
	run            Run
	delve          *delveProcess
	addr           string
	stdout, stderr *os.File // read ends
	program        *debuginfo.Program
	stopped        bool
	pid            int
}

func newDelve(t testing.TB, args ...string) *delve {
	d := &delve{t: t, args: args, events: make(chan Event, 10), over: make(chan struct{}), changed: make(chan struct{})}
	t.Cleanup(d.stop)
	return d
}

// start begins another run.
func (d *delve) start(bin string, reload bool) {
	d.t.Helper()
	r := &delveRun{run: Run{Binary: bin, Reload: reload}}
	var err error
	if r.program, err = debuginfo.Open(bin); err != nil {
		d.t.Fatal(err)
	}
	r.run.Program = r.program
	r.process(d.t, append([]string{bin}, d.args...))
	if state := r.state(); state == nil || state.Pid <= 1 {
		d.t.Fatalf("the component has no process: %+v", state)
	} else {
		r.pid = state.Pid
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	r.run.Halted, r.run.Fresh = true, true
	r.run.Number = len(d.runs) + 1
	r.run.Place = fmt.Sprintf("pod web-%d", r.run.Number)
	d.runs, d.up = append(d.runs, r), true
	d.change()
}

// change wakes whoever waits. The caller holds the lock.
func (d *delve) change() {
	close(d.changed)
	d.changed = make(chan struct{})
}

// last is the last run.
func (d *delve) last() *delveRun {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.runs[len(d.runs)-1]
}

// kill ends the last run together with its Delve.
func (d *delve) kill() {
	d.cut()
	r := d.last()
	d.mu.Lock()
	stopped := r.stopped
	r.stopped, d.up = true, false
	d.change()
	d.mu.Unlock()
	if !stopped {
		// Delve may be just about to let the process go on, and would then
		// wait for it forever.
		_ = syscall.Kill(r.pid, syscall.SIGKILL)
		r.delve.end()
	}
}

// swap replaces the last run by a new one.
func (d *delve) swap(bin string, reload bool) {
	d.t.Helper()
	d.kill()
	d.start(bin, reload)
}

// cut closes the connections to Delve, which lives on.
func (d *delve) cut() {
	d.mu.Lock()
	conns := d.conns
	d.conns = nil
	d.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
}

// block makes Dial wait until allow is called.
func (d *delve) block() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.up = false
}

func (d *delve) allow() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.up = true
	d.change()
}

// state is that of the component; its Pid is set only when it is halted. It is
// nil if there is no Delve any more.
func (r *delveRun) state() *api.DebuggerState {
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		return nil
	}
	conn.SetDeadline(deadline())
	client := rpc2.NewClientFromConn(conn)
	defer conn.Close()
	state, err := client.GetStateNonBlocking()
	if err == nil {
		return state
	}
	var code int
	if _, after, found := strings.Cut(err.Error(), "has exited with status "); found {
		if _, err := fmt.Sscan(after, &code); err == nil {
			return &api.DebuggerState{Exited: true, ExitStatus: code}
		}
	}
	return nil
}

// resume lets the component go on, as somebody who is no DAP client does.
func (d *delve) resume() {
	d.t.Helper()
	r := d.last()
	r.call(d.t, func(client *rpc2.RPCClient) {
		if err := client.Disconnect(true); err != nil {
			d.t.Error(err)
		}
	})
	d.await("go on", func(state *api.DebuggerState) bool { return state == nil || state.Running || state.Exited })
}

// awaitDialled waits until there is a connection to the last run.
func (d *delve) awaitDialled() {
	for r := d.last(); ; runtime.Gosched() {
		d.mu.Lock()
		dialled := !r.run.Fresh
		d.mu.Unlock()
		if dialled {
			return
		}
	}
}

// await waits until the component does something; state is nil if Delve does not tell.
func (d *delve) await(what string, done func(state *api.DebuggerState) bool) *api.DebuggerState {
	d.t.Helper()
	for end := deadline(); ; runtime.Gosched() {
		state := d.last().state()
		if done(state) {
			return state
		}
		if time.Now().After(end) {
			d.t.Fatalf("the component does not %s: %+v", what, state)
		}
	}
}

// clearBreakpoints takes all breakpoints away from a component that is halted.
func (d *delve) clearBreakpoints() {
	d.t.Helper()
	d.last().call(d.t, func(client *rpc2.RPCClient) {
		all, err := client.ListBreakpoints(false)
		for _, b := range all {
			if err == nil && b.ID > 0 { // Delve's own have negative numbers
				_, err = client.ClearBreakpoint(b.ID)
			}
		}
		if err != nil {
			d.t.Error(err)
		}
	})
}

// call is a JSON-RPC client for a while.
func (r *delveRun) call(t testing.TB, f func(*rpc2.RPCClient)) {
	t.Helper()
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(deadline())
	defer conn.Close()
	f(rpc2.NewClientFromConn(conn))
}

// terminate ends the component as a container's end does, and returns its exit code
// as a shell tells it; nil if there is no component.
func (d *delve) terminate() *int {
	r := d.last()
	if d.ended(r) {
		return nil
	}
	if err := syscall.Kill(r.pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		d.t.Error(err)
	}
	if state := r.state(); state != nil && !state.Running && !state.Exited {
		d.clearBreakpoints() // and it gets the signal when it runs
		d.resume()
	}
	grace := d.grace
	code := d.await("end", func(state *api.DebuggerState) bool {
		select {
		case <-grace:
			_ = syscall.Kill(r.pid, syscall.SIGKILL)
			grace = nil
		default:
		}
		return state != nil && state.Exited
	}).ExitStatus
	if code < 0 { // Delve: the negative number of a signal
		code = 128 - code
	}
	return &code
}

// ended says whether the test has ended a run.
func (d *delve) ended(r *delveRun) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return r.stopped
}

// signal sends a signal to the process of the last run.
func (d *delve) signal(sig syscall.Signal) {
	d.t.Helper()
	if err := syscall.Kill(d.last().pid, sig); err != nil {
		d.t.Fatal(err)
	}
}

// stop ends everything.
func (d *delve) stop() {
	d.mu.Lock()
	runs := d.runs
	d.mu.Unlock()
	d.finish(nil)
	if len(runs) > 0 {
		d.kill()
	}
	for _, r := range runs {
		r.stdout.Close()
		r.stderr.Close()
		if r.program != nil {
			if err := r.program.Close(); err != nil {
				d.t.Error(err)
			}
		}
	}
}

// finish ends the session.
func (d *delve) finish(code *int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	select {
	case <-d.over:
	default:
		d.exit = code
		close(d.over)
	}
}

func (d *delve) Name() string { return "fixture" }

// connection is one to a run.
type connection struct {
	io.ReadWriteCloser
	run Run
}

func (c connection) Run() Run { return c.run }

func (d *delve) Dial(ctx context.Context) (Connection, error) {
	d.mu.Lock()
	d.dials++
	first := d.dials == 1
	d.mu.Unlock()
	for {
		d.mu.Lock()
		up, changed, r := d.up, d.changed, d.runs[len(d.runs)-1]
		run := r.run
		d.mu.Unlock()
		if up && !first {
			state := r.state()
			switch {
			case state == nil || d.ended(r): // killed in this moment
				select {
				case <-changed:
				case <-ctx.Done():
					return nil, ctx.Err()
				}
				continue
			case state.Exited && d.again:
				d.kill()
				d.start(run.Binary, false)
				continue
			case state.Exited:
				d.finish(&state.ExitStatus)
				return nil, &ExitError{state.ExitStatus}
			}
			run.Halted = !state.Running
		}
		if up {
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", r.addr)
			if err != nil && d.ended(r) {
				continue
			}
			if err != nil {
				return nil, err
			}
			d.mu.Lock()
			defer d.mu.Unlock()
			r.run.Fresh = false
			d.conns = append(d.conns, conn)
			return connection{conn, run}, nil
		}
		select {
		case <-changed:
		case <-d.over:
			return nil, errors.New("the session is over")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (d *delve) Follow(ctx context.Context, tell func(Event)) {
	for {
		select {
		case e := <-d.events:
			tell(e)
		case <-d.over:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (d *delve) Restart(ctx context.Context, cfg *LaunchConfig) error {
	if d.restart == nil {
		return errors.New("not in this test")
	}
	return d.restart(ctx, cfg)
}

func (d *delve) Output(ctx context.Context, emit func(Piece) error) error {
	for n := 0; ; n++ {
		d.mu.Lock()
		changed := d.changed
		var r *delveRun
		if n < len(d.runs) {
			r = d.runs[n]
		}
		d.mu.Unlock()
		if r != nil {
			if err := r.output(ctx, emit); err != nil {
				return err
			}
			continue
		}
		n--
		select {
		case <-changed:
		case <-d.over:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *delveRun) output(ctx context.Context, emit func(Piece) error) error {
	var mu sync.Mutex
	var wg sync.WaitGroup
	stop := context.AfterFunc(ctx, func() {
		r.stdout.SetReadDeadline(time.Now())
		r.stderr.SetReadDeadline(time.Now())
	})
	defer stop()
	for stream, f := range map[OutputStream]*os.File{Stdout: r.stdout, Stderr: r.stderr} {
		f.SetReadDeadline(time.Time{})
		wg.Go(func() {
			buf := make([]byte, 100)
			for {
				n, err := f.Read(buf)
				if err != nil {
					return
				}
				mu.Lock()
				err = emit(Piece{Stream: stream, Data: buf[:n], Run: r.run.Number, Place: r.run.Place})
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return ctx.Err()
}

func (d *delve) Wait(ctx context.Context) (int, error) {
	select {
	case <-d.over:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.exit == nil {
		return 0, errors.New("nobody has looked")
	}
	return *d.exit, nil
}

func (d *delve) Detach(context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.detaches++
	return nil
}

func (d *delve) Close(context.Context) error {
	d.mu.Lock()
	d.closes++
	d.mu.Unlock()
	var code *int
	if d.grace != nil {
		code = d.terminate()
	}
	d.finish(code)
	d.kill()
	return nil
}

// counts are how often the session was dialled, closed and detached from.
func (d *delve) counts() [3]int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return [3]int{d.dials, d.closes, d.detaches}
}

// launcher is a Launcher out of two functions.
type launcher struct {
	launch func(context.Context, *LaunchConfig, Reporter) (Session, error)
	attach func(context.Context, *LaunchConfig, Reporter) (Session, error)
}

func (l launcher) Launch(ctx context.Context, cfg *LaunchConfig, r Reporter) (Session, error) {
	return l.launch(ctx, cfg, r)
}

func (l launcher) Attach(ctx context.Context, cfg *LaunchConfig, r Reporter) (Session, error) {
	return l.attach(ctx, cfg, r)
}

// launches is a launcher that always gives the same session.
func launches(session Session) launcher {
	give := func(context.Context, *LaunchConfig, Reporter) (Session, error) { return session, nil }
	return launcher{give, give}
}

// launchesAfter launches when release is closed.
func launchesAfter(release <-chan struct{}, session Session) launcher {
	l := launches(session)
	l.launch = func(context.Context, *LaunchConfig, Reporter) (Session, error) { <-release; return session, nil }
	return l
}

// editor is a scripted client. It remembers what it skipped.
type editor struct {
	*daptest.Client
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
	// err gets what ServeConn returned.
	err     chan error
	nextSeq int
	output  map[string]string // by category
}

// connect starts a server for one client.
func connect(t testing.TB, cfg Config) *editor {
	t.Helper()
	return connectTo(context.Background(), t, New(cfg))
}

func connectTo(ctx context.Context, t testing.TB, srv *Server) *editor {
	t.Helper()
	// TCP rather than net.Pipe: a test that writes while the server does must
	// not block, as no editor would.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	served, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(patience))
	e := &editor{Client: daptest.NewClientFromConn(conn), t: t, conn: conn, r: bufio.NewReader(conn),
		err: make(chan error, 1), nextSeq: 1000, output: map[string]string{}}
	go func() { e.err <- srv.ServeConn(ctx, served) }()
	t.Cleanup(func() { conn.Close() })
	return e
}

// ended waits until the server is done with this client.
func (e *editor) ended() {
	e.t.Helper()
	if err := e.result(); err != nil {
		e.t.Errorf("ServeConn: %v", err)
	}
}

func (e *editor) result() error {
	e.t.Helper()
	select {
	case err := <-e.err:
		return err
	case <-time.After(patience):
		buf := make([]byte, 1<<20)
		e.t.Fatalf("ServeConn does not return:\n%s", buf[:runtime.Stack(buf, true)])
		return nil
	}
}

// raw reads the next message as it is.
func (e *editor) raw() []byte {
	e.t.Helper()
	b, err := (&frameReader{e.r}).next()
	if err != nil {
		e.t.Fatalf("reading a message: %v", err)
	}
	return b
}

// any reads the next message that is not component output, which may come at
// any time and is collected.
func (e *editor) any() dap.Message {
	e.t.Helper()
	for {
		b := e.raw()
		m, err := dap.DecodeProtocolMessage(b)
		if err != nil {
			e.t.Fatalf("decoding %s: %v", b, err)
		}
		if o, ok := m.(*dap.OutputEvent); ok {
			e.output[o.Body.Category] += o.Body.Output
			continue
		}
		return m
	}
}

// want reads the next message, which must be a T.
func want[T dap.Message](e *editor) T {
	e.t.Helper()
	m := e.any()
	typed, ok := m.(T)
	if !ok {
		b, _ := json.Marshal(m)
		e.t.Fatalf("got %T %s, want %T", m, b, typed)
	}
	return typed
}

func wantError(e *editor, id int, text string) *dap.ErrorResponse {
	e.t.Helper()
	m := want[*dap.ErrorResponse](e)
	if m.Body.Error == nil || m.Body.Error.Id != id || !strings.Contains(m.Body.Error.Format, text) {
		b, _ := json.Marshal(m)
		e.t.Errorf("got error %s, want id %d with %q", b, id, text)
	}
	return m
}

// awaitOutput reads until the output of a category has the text; nothing but
// output may come before it.
func (e *editor) awaitOutput(category, text string) {
	e.t.Helper()
	for !strings.Contains(e.output[category], text) {
		b := e.raw()
		m, err := dap.DecodeProtocolMessage(b)
		o, ok := m.(*dap.OutputEvent)
		if err != nil || !ok {
			e.t.Fatalf("got %s while waiting for %q in %q", b, text, e.output)
		}
		e.output[o.Body.Category] += o.Body.Output
	}
}

// set sends a request that sets breakpoints and returns what the answer says.
func (e *editor) set(command, arguments string) []dap.Breakpoint {
	e.t.Helper()
	seq := e.request(command, arguments)
	return e.wasSet(seq)
}

func (e *editor) wasSet(seq int) []dap.Breakpoint {
	e.t.Helper()
	m, ok := e.any().(dap.ResponseMessage)
	if !ok || m.GetResponse().RequestSeq != seq || !m.GetResponse().Success {
		b, _ := json.Marshal(m)
		e.t.Fatalf("got %s, want the answer to %d", b, seq)
	}
	b, err := json.Marshal(m)
	if err != nil {
		e.t.Fatal(err)
	}
	var answer struct {
		Body struct{ Breakpoints []dap.Breakpoint }
	}
	if err := json.Unmarshal(b, &answer); err != nil {
		e.t.Fatal(err)
	}
	return answer.Body.Breakpoints
}

// awaitLive waits until a Delve answers again.
func (e *editor) awaitLive() {
	e.t.Helper()
	for {
		e.ThreadsRequest()
		if threads := want[*dap.ThreadsResponse](e).Body.Threads; !strings.HasPrefix(threads[0].Name, "waiting for") {
			return
		}
		runtime.Gosched()
	}
}

// awaitBroken checks that requests are answered without a Delve.
func (e *editor) awaitBroken() {
	e.t.Helper()
	e.ThreadsRequest()
	if threads := want[*dap.ThreadsResponse](e).Body.Threads; len(threads) != 1 || threads[0].Name != "waiting for fixture" {
		e.t.Fatalf("got threads %+v, want the one that waits", threads)
	}
	e.EvaluateRequest("1+1", 0, "watch")
	if m := wantError(e, idReconnecting, "fixture is reconnecting"); m.Body.Error.ShowUser {
		e.t.Error("an error that nobody can do anything about is shown to the user")
	}
}

// write sends bytes as they are; frame puts a header before them.
func (e *editor) write(b string) {
	e.t.Helper()
	if _, err := io.WriteString(e.conn, b); err != nil {
		e.t.Fatal(err)
	}
}

func frame(content string) string {
	return fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(content), content)
}

// request sends a request with a sequence number that the client library
// doesn't use, and returns it.
func (e *editor) request(command, arguments string) int {
	e.t.Helper()
	e.nextSeq++
	if arguments != "" {
		arguments = `,"arguments":` + arguments
	}
	e.write(frame(fmt.Sprintf(`{"seq":%d,"type":"request","command":%q%s}`, e.nextSeq, command, arguments)))
	return e.nextSeq
}

func (e *editor) initialize() {
	e.t.Helper()
	e.InitializeRequest()
	want[*dap.InitializeResponse](e)
}

// launch goes as far as Delve being ready for breakpoints.
func (e *editor) launch() {
	e.t.Helper()
	e.initialize()
	e.LaunchRequestWithArgs(map[string]any{"target": "local"})
	e.awaitLaunched()
	want[*dap.LaunchResponse](e)
}

func (e *editor) awaitLaunched() {
	e.t.Helper()
	want[*dap.CapabilitiesEvent](e)
	want[*dap.InitializedEvent](e)
}

// attach is launch for a session that runs already.
func (e *editor) attach() {
	e.t.Helper()
	e.initialize()
	e.AttachRequest(map[string]any{"mode": "remote"})
	e.awaitAttached()
}

func (e *editor) awaitAttached() {
	e.t.Helper()
	want[*dap.CapabilitiesEvent](e) // terminate is not supported
	e.awaitLaunched()
	want[*dap.AttachResponse](e)
}

// disconnect ends the session and checks that nothing but its end comes.
func (e *editor) disconnect() {
	e.t.Helper()
	e.DisconnectRequest()
	want[*dap.DisconnectResponse](e)
	want[*dap.TerminatedEvent](e)
	e.wantEOF()
	e.ended()
}

func (e *editor) wantEOF() {
	e.t.Helper()
	if rest, err := io.ReadAll(e.r); err != nil || len(rest) > 0 {
		e.t.Errorf("got %q, %v after the end, want EOF", rest, err)
	}
}

// script is a Session with a backend that the test writes itself: faults that
// a real Delve doesn't have.
type script struct {
	serve func(conn net.Conn) // called in a goroutine of its own per connection
	rules []PathRule
	// program, if set, is that of its runs.
	program Program
	out     func(ctx context.Context, emit func(Piece) error) error
	exit    chan int
	closed  chan struct{}

	closeErr error
	once     sync.Once
	wg       sync.WaitGroup

	// again makes a further Dial lead to another run; else it waits for the end, or
	// returns dialErr if that is set. beforeDial is called first.
	again      bool
	dialErr    error
	beforeDial func(context.Context)
	// events are what Follow tells.
	events chan Event

	mu    sync.Mutex // guards dials
	dials int
}

func newScript(t testing.TB, serve func(conn net.Conn)) *script {
	s := &script{serve: serve, exit: make(chan int, 1), closed: make(chan struct{}), events: make(chan Event, 10)}
	t.Cleanup(s.wg.Wait)
	return s
}

func (s *script) Name() string { return "script" }
func (s *script) Detach(context.Context) error {
	return nil
}
func (s *script) Close(context.Context) error {
	s.once.Do(func() { close(s.closed) })
	return s.closeErr
}

func (s *script) Follow(ctx context.Context, tell func(Event)) {
	for {
		select {
		case e := <-s.events:
			tell(e)
		case <-ctx.Done():
			return
		}
	}
}

func (s *script) Restart(context.Context, *LaunchConfig) error { return errors.New("not in this test") }

func (s *script) Dial(ctx context.Context) (Connection, error) {
	if s.serve == nil {
		return nil, errors.New("nobody is there")
	}
	s.mu.Lock()
	s.dials++
	number := s.dials
	s.mu.Unlock()
	if number > 1 && s.beforeDial != nil {
		s.beforeDial(ctx)
	}
	switch {
	case number == 1 || s.again:
	case s.dialErr != nil:
		return nil, s.dialErr
	default:
		select {
		case <-s.closed:
			return nil, errors.New("closed")
		case code := <-s.exit:
			s.exit <- code // for Wait
			return nil, &ExitError{code}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	ours, theirs := net.Pipe()
	s.wg.Go(func() {
		defer theirs.Close()
		s.serve(theirs)
	})
	return connection{ours, Run{Number: number, Halted: true, Fresh: true, SubstitutePath: s.rules, Program: s.program}}, nil
}

func (s *script) Output(ctx context.Context, emit func(Piece) error) error {
	if s.out != nil {
		return s.out(ctx, emit)
	}
	return nil
}

func (s *script) Wait(ctx context.Context) (int, error) {
	select {
	case code := <-s.exit:
		s.exit <- code // for Dial
		return code, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// answerHandshake plays Delve up to the answer to attach. It returns the
// arguments of both requests and the reader for what follows.
func answerHandshake(conn net.Conn) (initialize, attach json.RawMessage, r *frameReader, err error) {
	r = newFrameReader(conn)
	for _, args := range []*json.RawMessage{&initialize, &attach} {
		m, env, err := readScript(r)
		if err != nil {
			return nil, nil, nil, err
		}
		*args = bytes.Clone(env.body.in(m))
		if env.command == "attach" {
			io.WriteString(conn, frame(`{"seq":0,"type":"event","event":"initialized"}`))
		}
		body := ""
		if env.command == "initialize" {
			b, _ := json.Marshal(capabilities())
			body = `,"body":` + string(b)
		}
		io.WriteString(conn, frame(fmt.Sprintf(`{"seq":0,"type":"response","request_seq":%d,"success":true,"command":%q%s}`, env.seq, env.command, body)))
	}
	return initialize, attach, r, nil
}

func readScript(r *frameReader) ([]byte, envelope, error) {
	m, err := r.next()
	if err != nil {
		return nil, envelope{}, err
	}
	env, err := parseEnvelope(m)
	return m, env, err
}
