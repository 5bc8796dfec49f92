package dapserver

import (
	"bufio"
	"bytes"
	"context"
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
	"testing"
	"time"

	"github.com/go-delve/delve/pkg/proc"
	"github.com/go-delve/delve/service"
	"github.com/go-delve/delve/service/dap/daptest"
	"github.com/go-delve/delve/service/debugger"
	"github.com/go-delve/delve/service/rpccommon"
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

var fixture = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "dapserver")
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "fixture")
	// Only package main without optimisation: the standard library would take
	// a minute to compile again.
	out, err := exec.Command("go", "build", "-gcflags=-N -l", "-o", bin, "./testdata/fixture").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building the fixture: %w\n%s", err, out)
	}
	return bin, nil
})

func TestMain(m *testing.M) {
	if args := os.Getenv(delveProcessEnv); args != "" {
		os.Exit(runDelveProcess(strings.Split(args, "\n")))
	}
	code := m.Run()
	if bin, err := fixture(); err == nil {
		os.RemoveAll(filepath.Dir(bin))
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

// delve is a Session: the fixture under a headless Delve in this process.
type delve struct {
	server         interface{ Stop() error }
	addr           string
	stdout, stderr *os.File // read ends
	program        *debuginfo.Program

	exitCode chan int // what Wait returns

	mu               sync.Mutex
	dials            int
	closes, detaches int
	stopped          bool
}

func startDelve(t testing.TB, args ...string) *delve {
	t.Helper()
	bin, err := fixture()
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &delve{addr: listener.Addr().String(), exitCode: make(chan int, 1)}
	if d.program, err = debuginfo.Open(bin); err != nil {
		t.Fatal(err)
	}
	var ends [2]*os.File
	for i, r := range []**os.File{&d.stdout, &d.stderr} {
		if *r, ends[i], err = os.Pipe(); err != nil {
			t.Fatal(err)
		}
	}
	server := rpccommon.NewServer(delveConfig(listener, append([]string{bin}, args...), ends[0], ends[1]))
	if err := server.Run(); err != nil {
		t.Fatal(err)
	}
	d.server = server
	ends[0].Close()
	ends[1].Close()
	t.Cleanup(func() {
		d.stop()
		if err := d.program.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func delveConfig(listener net.Listener, argv []string, stdout, stderr *os.File) *service.Config {
	return &service.Config{
		Listener:    listener,
		ProcessArgs: argv,
		AcceptMulti: true,
		APIVersion:  2,
		Debugger: debugger.Config{
			Backend: "default",
			Stdout:  proc.OutputRedirect{File: stdout},
			Stderr:  proc.OutputRedirect{File: stderr},
		},
	}
}

func (d *delve) stop() {
	d.mu.Lock()
	stopped := d.stopped
	d.stopped = true
	d.mu.Unlock()
	if !stopped {
		_ = d.server.Stop()
		d.stdout.Close()
		d.stderr.Close()
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
	d.mu.Unlock()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", d.addr)
	if err != nil {
		return nil, err
	}
	return connection{conn, Run{Number: 1, Halted: true, Fresh: true, Program: d.program}}, nil
}

func (d *delve) Follow(ctx context.Context, _ func(Event)) { <-ctx.Done() }

func (d *delve) Restart(context.Context, *LaunchConfig) error { return errors.New("not in this test") }

func (d *delve) Output(ctx context.Context, emit func(Piece) error) error {
	var mu sync.Mutex
	var wg sync.WaitGroup
	stop := context.AfterFunc(ctx, func() {
		d.stdout.SetReadDeadline(time.Now())
		d.stderr.SetReadDeadline(time.Now())
	})
	defer stop()
	for stream, r := range map[OutputStream]*os.File{Stdout: d.stdout, Stderr: d.stderr} {
		r.SetReadDeadline(time.Time{})
		wg.Go(func() {
			buf := make([]byte, 100)
			for {
				n, err := r.Read(buf)
				if err != nil {
					return
				}
				mu.Lock()
				err = emit(Piece{Stream: stream, Data: buf[:n]})
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
	case code := <-d.exitCode:
		return code, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
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
	d.stop()
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
}

func newScript(t testing.TB, serve func(conn net.Conn)) *script {
	s := &script{serve: serve, exit: make(chan int, 1), closed: make(chan struct{})}
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

func (s *script) Follow(ctx context.Context, _ func(Event)) { <-ctx.Done() }

func (s *script) Restart(context.Context, *LaunchConfig) error { return errors.New("not in this test") }

func (s *script) Dial(context.Context) (Connection, error) {
	if s.serve == nil {
		return nil, errors.New("nobody is there")
	}
	ours, theirs := net.Pipe()
	s.wg.Go(func() {
		defer theirs.Close()
		s.serve(theirs)
	})
	return connection{ours, Run{Number: 1, Halted: true, Fresh: true, SubstitutePath: s.rules, Program: s.program}}, nil
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
