package dapserver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-delve/delve/service/dap/daptest"
	"github.com/google/go-dap"
)

// workload is a Parent: several fixtures, each under a Delve of its own.
type workload struct {
	*delve
	children chan Child
}

func (w *workload) Children(ctx context.Context, _ bool, add func(Child)) {
	for {
		select {
		case child := <-w.children:
			add(child)
		case <-ctx.Done():
			return
		}
	}
}

// startWorkload starts n processes; the first is the Parent's own.
func startWorkload(t testing.TB, n int, args ...string) (*workload, []*delve) {
	t.Helper()
	w := &workload{startDelve(t, args...), make(chan Child, n)}
	all := []*delve{w.delve}
	for i := 1; i < n; i++ {
		d := startDelve(t, args...)
		all = append(all, d)
		w.children <- Child{ID: fmt.Sprint(i), Name: childName(i), Session: d}
	}
	return w, all
}

func childName(i int) string { return fmt.Sprintf("web-%d (replica %d)", i, i+1) }

// hosts is an editor that opens child sessions, and how it does.
type hosts struct {
	t    testing.TB
	srv  *Server
	open func(t testing.TB) *editor
}

// parent begins the first session.
func (h *hosts) parent(arguments string) *editor {
	h.t.Helper()
	e := connectTo(context.Background(), h.t, h.srv)
	e.initializeWith(true)
	e.request("launch", arguments)
	e.awaitLaunched()
	want[*dap.LaunchResponse](e)
	return e
}

// initializeWith says what the client can do.
func (e *editor) initializeWith(startDebugging bool) {
	e.t.Helper()
	e.request("initialize", fmt.Sprintf(`{"clientID":"test","clientName":"a test","adapterID":"kubedelve","linesStartAt1":true,"columnsStartAt1":true,"pathFormat":"path","supportsStartDebuggingRequest":%v}`, startDebugging))
	want[*dap.InitializeResponse](e)
}

// answer answers a request of the server's.
func (e *editor) answer(r *dap.StartDebuggingRequest, success bool, text string) {
	e.t.Helper()
	e.nextSeq++
	e.write(frame(fmt.Sprintf(`{"seq":%d,"type":"response","request_seq":%d,"command":"startDebugging","success":%v,"message":%q}`, e.nextSeq, r.Seq, success, text)))
}

// asked are n requests for child sessions, by the name that they ask for.
func asked(e *editor, n int) map[string]*dap.StartDebuggingRequest {
	e.t.Helper()
	all := map[string]*dap.StartDebuggingRequest{}
	for range n {
		r := want[*dap.StartDebuggingRequest](e)
		name, _ := r.Arguments.Configuration["name"].(string)
		if r.Arguments.Request != "attach" || r.Arguments.Configuration["request"] != "attach" || r.Arguments.Configuration["type"] != "kubedelve" {
			e.t.Errorf("asked for %+v", r.Arguments)
		}
		all[name] = r
	}
	return all
}

// attach opens the child session that was asked for, as far as Delve being ready for
// breakpoints.
func (h *hosts) attach(r *dap.StartDebuggingRequest) *editor {
	h.t.Helper()
	e := h.open(h.t)
	e.initializeWith(true)
	e.attachTo(r)
	e.awaitAttached()
	return e
}

func (e *editor) attachTo(r *dap.StartDebuggingRequest) {
	e.t.Helper()
	arguments, err := json.Marshal(r.Arguments.Configuration)
	if err != nil {
		e.t.Fatal(err)
	}
	e.request("attach", string(arguments))
}

// runTo sets a breakpoint and waits for the stop at it; it returns the thread.
func (e *editor) runTo(name string) int {
	e.t.Helper()
	e.SetBreakpointsRequest(fixtureSource(e.t), []int{fixtureLine(e.t, name)})
	if bp := want[*dap.SetBreakpointsResponse](e).Body.Breakpoints; len(bp) != 1 || !bp[0].Verified {
		e.t.Fatalf("got breakpoints %+v, want one that is verified", bp)
	}
	e.ConfigurationDoneRequest()
	want[*dap.ConfigurationDoneResponse](e)
	stopped := want[*dap.StoppedEvent](e)
	if stopped.Body.Reason != "breakpoint" {
		e.t.Errorf("stopped for %q, want breakpoint", stopped.Body.Reason)
	}
	return stopped.Body.ThreadId
}

// ticks checks that the process runs and stops nowhere.
func (d *delve) ticks(t testing.TB) {
	t.Helper()
	buf := make([]byte, 100)
	d.last().stdout.SetReadDeadline(deadline())
	for range 3 {
		if n, err := d.last().stdout.Read(buf); err != nil {
			t.Fatalf("the component does not run: %q, %v", buf[:n], err)
		}
	}
}

// kubedelve is the real kubedelve, built when a test needs it first.
var kubedelve = sync.OnceValues(func() (string, error) {
	b, err := build()
	if err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(b.plain), "kubedelve")
	cmd := exec.Command("go", "build", "-o", path, "../cmd/kubedelve")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building kubedelve: %w\n%s", err, out)
	}
	return path, nil
})

// stdioConn is an adapter's standard input and output.
type stdioConn struct {
	io.Reader
	io.WriteCloser
}

func (stdioConn) LocalAddr() net.Addr              { return nil }
func (stdioConn) RemoteAddr() net.Addr             { return nil }
func (stdioConn) SetDeadline(time.Time) error      { return nil }
func (stdioConn) SetReadDeadline(time.Time) error  { return nil }
func (stdioConn) SetWriteDeadline(time.Time) error { return nil }

// adapter starts a "kubedelve dap", which speaks on its standard input and output.
func adapter(t testing.TB) *editor {
	t.Helper()
	path, err := kubedelve()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "dap")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	// Not StdoutPipe, whose reader Wait would close too early.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = w, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	r.SetReadDeadline(deadline())
	conn := stdioConn{r, stdin}
	e := &editor{Client: daptest.NewClientFromConn(conn), t: t, conn: conn, r: bufio.NewReader(conn),
		err: make(chan error, 1), nextSeq: 1000, output: map[string]string{}}
	go func() {
		err := cmd.Wait()
		if err == nil && stderr.Len() > 0 {
			err = errors.New(stderr.String())
		}
		e.err <- err
	}()
	t.Cleanup(func() { stdin.Close(); _ = cmd.Process.Kill(); r.Close() })
	return e
}

// bothWays runs a test with an editor that connects to the same server for each
// session, and with one that starts a process for each.
func bothWays(t *testing.T, n int, args []string, test func(t *testing.T, h *hosts, w *workload, all []*delve)) {
	for _, way := range []string{"same server", "new process"} {
		t.Run(way, func(t *testing.T) {
			checkLeaks(t)
			tmp := shortTemp(t)
			w, all := startWorkload(t, n, args...)
			h := &hosts{t: t, srv: New(Config{Launcher: launches(w)}), open: adapter}
			if way == "same server" {
				h.open = func(t testing.TB) *editor { return connectTo(context.Background(), t, h.srv) }
			}
			test(t, h, w, all)
			wantEmpty(t, tmp)
		})
	}
}

// shortTemp is a folder for temporary files, whose path is short enough for sockets.
func shortTemp(t *testing.T) string {
	t.Helper()
	if _, err := kubedelve(); err != nil { // built into another folder
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp", "dapserver")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv("TMPDIR", dir)
	return dir
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("temporary files are left: %v, %v", left, err)
	}
}

const launchArguments = `{"target":"local","type":"kubedelve","name":"mine","showGlobalVariables":true}`

func TestEachProcessHasASessionOfItsOwn(t *testing.T) {
	bothWays(t, 3, []string{"loop"}, func(t *testing.T, h *hosts, _ *workload, all []*delve) {
		e := h.parent(launchArguments)
		requests := asked(e, 2)
		children := []*editor{}
		for i := 1; i <= 2; i++ {
			r := requests[childName(i)]
			if r == nil {
				t.Fatalf("asked for %v, want %s among them", requests, childName(i))
			}
			if i == 1 { // the answer may come before the session, or after
				e.answer(r, true, "")
			}
			children = append(children, h.attach(r))
			if i == 2 {
				e.answer(r, true, "")
			}
		}
		for _, c := range append([]*editor{e}, children...) {
			thread := c.runTo("tick")
			c.StackTraceRequest(thread, 0, 20)
			frames := want[*dap.StackTraceResponse](c).Body.StackFrames
			if len(frames) < 2 || frames[0].Name != "main.tick" {
				t.Errorf("got frames %+v, want main.tick on top", frames)
			}
			c.ScopesRequest(frames[0].Id)
			if scopes := want[*dap.ScopesResponse](c).Body.Scopes; len(scopes) != 2 { // the child's Delve has the parent's attributes
				t.Errorf("got scopes %+v, want locals and globals", scopes)
			}
		}

		t.Log("a child goes on by itself when its session is left")
		children[0].disconnect()
		all[1].ticks(t)
		if got, want := all[1].counts(), [3]int{1, 0, 1}; got != want {
			t.Errorf("dialled, closed, detached %v, want %v", got, want)
		}

		t.Log("and can be had again")
		again := h.attach(requests[childName(1)])
		again.runTo("tick")

		t.Log("the parent's end is the children's")
		e.disconnect()
		for _, c := range []*editor{again, children[1]} {
			want[*dap.TerminatedEvent](c)
			c.DisconnectRequest()
			want[*dap.DisconnectResponse](c)
			c.wantEOF()
			c.ended()
		}
		for i, d := range all[1:] {
			d.ticks(t)
			if got, want := d.counts(), [][3]int{{2, 0, 2}, {1, 0, 1}}[i]; got != want {
				t.Errorf("child %d: dialled, closed, detached %v, want %v", i+1, got, want)
			}
		}
		if got, want := all[0].counts(), [3]int{1, 1, 0}; got != want {
			t.Errorf("parent: dialled, closed, detached %v, want %v", got, want)
		}
	})
}

func TestAChildsExitIsItsOwn(t *testing.T) {
	bothWays(t, 1, []string{"loop"}, func(t *testing.T, h *hosts, w *workload, _ []*delve) {
		once := startDelve(t)
		gone := make(chan struct{})
		w.children <- Child{ID: "once", Name: "once", Session: once, Gone: gone}
		e := h.parent(launchArguments)
		r := asked(e, 1)["once"]
		c := h.attach(r)
		e.answer(r, true, "")
		thread := c.runTo("work")
		c.ContinueRequest(thread)
		want[*dap.ContinueResponse](c)
		if code := want[*dap.ExitedEvent](c).Body.ExitCode; code != 7 {
			t.Errorf("exit code %d, want 7", code)
		}
		want[*dap.TerminatedEvent](c)
		if c.output["stdout"] != "to stdout: ä\n" || c.output["stderr"] != "to stderr\n" {
			t.Errorf("got output %q before the end", c.output)
		}
		c.DisconnectRequest()
		want[*dap.DisconnectResponse](c)
		c.wantEOF()
		c.ended()
		known := func() int {
			h.srv.mu.Lock()
			defer h.srv.mu.Unlock()
			return len(h.srv.members)
		}
		if n := known(); n != 1 {
			t.Errorf("%d children are known before the one is gone", n)
		}
		close(gone)
		eventually(t, "it is forgotten", func() bool { return known() == 0 })

		e.runTo("tick") // the parent's lives on
		e.disconnect()
	})
}

// A session that runs already has children for each client that comes to it, which
// are asked for with the way that the client itself came.
func TestWhoAttachesToASessionGetsItsChildren(t *testing.T) {
	checkLeaks(t)
	shortTemp(t)
	w, all := startWorkload(t, 2, "loop")
	again := Child{ID: "1", Name: childName(1), Session: all[1]}
	var said bytes.Buffer
	h := &hosts{t: t, srv: New(Config{Session: w, Logger: slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelWarn}))})}
	h.open = func(t testing.TB) *editor { return connectTo(context.Background(), t, h.srv) }
	for n := 1; n <= 2; n++ {
		e := h.open(t)
		e.initializeWith(true)
		e.request("attach", `{"type":"go","mode":"remote","host":"127.0.0.1","port":2345,"name":"mine"}`)
		e.awaitAttached()
		r := want[*dap.StartDebuggingRequest](e)
		config := r.Arguments.Configuration
		if config["type"] != "go" || config["mode"] != "remote" || config["host"] != "127.0.0.1" || config["port"] != 2345.0 || config["name"] != childName(1) {
			t.Errorf("asked for %v", config)
		}
		c := h.attach(r)
		c.runTo("tick")
		e.answer(r, true, "") // VS Code answers when the session is there
		e.runTo("tick")
		e.disconnect()
		want[*dap.TerminatedEvent](c)
		c.DisconnectRequest()
		want[*dap.DisconnectResponse](c)
		c.wantEOF()
		c.ended()
		for i, d := range all {
			d.ticks(t)
			if got, want := d.counts(), [3]int{n, 0, n}; got != want {
				t.Errorf("process %d: dialled, closed, detached %v, want %v", i+1, got, want)
			}
		}
		w.children <- again
	}
	if said.Len() > 0 {
		t.Errorf("it logs %s", &said)
	}
}

func TestAClientThatCanNotOpenSessionsGetsTheFirstProcess(t *testing.T) {
	checkLeaks(t)
	w, all := startWorkload(t, 3, "loop")
	e := connect(t, Config{Launcher: launches(w)})
	e.initializeWith(false)
	e.request("launch", launchArguments)
	e.awaitLaunched()
	want[*dap.LaunchResponse](e)
	e.runTo("tick")
	eventually(t, "both others are let go", func() bool { return all[1].counts() == [3]int{0, 0, 1} && all[2].counts() == [3]int{0, 0, 1} })
	e.disconnect()
	if text := e.output["important"]; strings.Count(text, "can't open further debug sessions") != 1 || !strings.Contains(text, "fixture has more processes") {
		t.Errorf("the user reads %q", text)
	}
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := deadline(); !is(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not in %s: %s", patience, what)
		}
	}
}

func TestAnEditorThatRefusesASession(t *testing.T) {
	for _, test := range []struct {
		name string
		act  func(e *editor, r *dap.StartDebuggingRequest)
		says string
	}{
		{"in words", func(e *editor, r *dap.StartDebuggingRequest) { e.answer(r, false, "no room") }, "web-1 (replica 2): the editor has opened none: no room"},
		{"by silence", func(*editor, *dap.StartDebuggingRequest) {}, "the editor has not opened one for 200ms"},
		{"after a yes", func(e *editor, r *dap.StartDebuggingRequest) { e.answer(r, true, "") }, "the editor has not opened one for 200ms"},
	} {
		t.Run(test.name, func(t *testing.T) {
			checkLeaks(t)
			tmp := shortTemp(t)
			w, all := startWorkload(t, 2, "loop")
			cfg := Config{Launcher: launches(w)}
			if test.name != "in words" {
				cfg.HandshakeTimeout = 200 * time.Millisecond
			}
			h := &hosts{t: t, srv: New(cfg)}
			e := h.parent(launchArguments)
			test.act(e, asked(e, 1)[childName(1)])
			eventually(t, "the child is let go", func() bool { return all[1].counts() == [3]int{0, 0, 1} })
			e.disconnect()
			if text := e.output["important"]; !strings.Contains(text, test.says) || !strings.Contains(text, "goes on without a debugger") {
				t.Errorf("the user reads %q, want %q", text, test.says)
			}
			wantEmpty(t, tmp)
		})
	}
}

func TestTheParentVanishes(t *testing.T) {
	bothWays(t, 2, []string{"loop"}, func(t *testing.T, h *hosts, _ *workload, all []*delve) {
		e := h.parent(launchArguments)
		r := asked(e, 1)[childName(1)]
		c := h.attach(r)
		c.runTo("tick")
		e.conn.Close()
		e.ended()
		want[*dap.TerminatedEvent](c)
		all[1].ticks(t)
		c.ThreadsRequest() // answered, whatever it is
		want[*dap.ErrorResponse](c)
		c.DisconnectRequest()
		want[*dap.DisconnectResponse](c)
		c.wantEOF()
		c.ended()

		late := h.open(t)
		late.initializeWith(true)
		late.attachTo(r)
		wantError(late, idFailedToAttach, "has ended")
		late.DisconnectRequest()
		want[*dap.DisconnectResponse](late)
		want[*dap.TerminatedEvent](late)
		late.wantEOF()
		late.ended()
	})
}

func TestAChildVanishes(t *testing.T) {
	bothWays(t, 2, []string{"loop"}, func(t *testing.T, h *hosts, _ *workload, all []*delve) {
		e := h.parent(launchArguments)
		c := h.attach(asked(e, 1)[childName(1)])
		c.runTo("tick")
		c.conn.Close()
		c.ended()
		eventually(t, "the child is let go", func() bool { return all[1].counts() == [3]int{1, 0, 1} })
		all[1].ticks(t)
		e.runTo("tick")
		e.disconnect()
	})
}

func TestAChildHasOneDebugger(t *testing.T) {
	bothWays(t, 2, []string{"loop"}, func(t *testing.T, h *hosts, _ *workload, _ []*delve) {
		e := h.parent(launchArguments)
		r := asked(e, 1)[childName(1)]
		c := h.attach(r)
		second := h.open(t)
		second.initializeWith(true)
		second.attachTo(r)
		wantError(second, idInUse, "the session of web-1 (replica 2) is in use by a test (DAP")
		second.disconnect()
		c.disconnect()
		e.disconnect()
	})
}

// What a process that joins passes on keeps the numbers that each side expects.
func TestAJoinedClientCountsForItself(t *testing.T) {
	checkLeaks(t)
	shortTemp(t)
	w, _ := startWorkload(t, 2, "loop")
	h := &hosts{t: t, srv: New(Config{Launcher: launches(w)})}
	e := h.parent(launchArguments)
	r := asked(e, 1)[childName(1)]
	// Another server in this process is as strange to the first as another process.
	c := connect(t, Config{Launcher: launches(nil)})
	c.initializeWith(true)
	c.request("threads", "") // answered before the way is known
	wantError(c, idNotStarted, "")
	c.request("attach", `{"child":{"token":"unknown","socket":"/nowhere"}}`)
	wantError(c, idFailedToAttach, "has ended")
	c.attachTo(r)
	last := int64(0)
	for _, kind := range []string{"capabilities", "capabilities", "initialized", "attach", "threads"} {
		if kind == "threads" {
			c.request("threads", "")
		}
		for {
			env, err := parseEnvelope(c.raw())
			if err != nil {
				t.Fatal(err)
			}
			if env.seq <= last {
				t.Errorf("%+v comes after %d", env, last)
			}
			last = env.seq
			if env.event == "output" {
				continue
			}
			if env.event != kind && env.command != kind {
				t.Fatalf("got %+v, want %s", env, kind)
			}
			if env.kind == "response" && (int(env.requestSeq) != c.nextSeq || !env.success) {
				t.Errorf("%+v is not a good answer to %d", env, c.nextSeq)
			}
			break
		}
	}
	c.disconnect()
	e.disconnect()
}

func TestTheChildrensSocketIsPrivate(t *testing.T) {
	checkLeaks(t)
	tmp := shortTemp(t)
	w, _ := startWorkload(t, 2, "loop")
	h := &hosts{t: t, srv: New(Config{Launcher: launches(w)})}
	e := h.parent(launchArguments)
	r := asked(e, 1)[childName(1)]
	child, _ := r.Arguments.Configuration["child"].(map[string]any)
	socket, _ := child["socket"].(string)
	for path, want := range map[string]fs.FileMode{filepath.Dir(socket): 0o700, socket: 0o600} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode(), want)
		}
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	stranger := &editor{Client: daptest.NewClientFromConn(conn), t: t, conn: conn, r: bufio.NewReader(conn), nextSeq: 1000, output: map[string]string{}}
	conn.SetDeadline(deadline())
	stranger.initializeWith(true)
	for _, attempt := range [][2]string{
		{"attach", `{"child":{"id":"1","token":"guessed"}}`}, {"attach", `{"mode":"remote"}`}, {"launch", `{"target":"local"}`},
		{"attach", `{"child":{"id":"1","token":"guessed","socket":` + fmt.Sprintf("%q", socket) + `}}`},
	} {
		stranger.request(attempt[0], attempt[1])
		wantError(stranger, idFailedToAttach, "has ended")
	}
	e.disconnect()
	want[*dap.TerminatedEvent](stranger)
	stranger.wantEOF()
	wantEmpty(t, tmp)
}

func TestSocketsOfKilledProcessesAreRemoved(t *testing.T) {
	base := shortTemp(t)
	socket := func(name string, live bool, age time.Duration) string {
		t.Helper()
		path := filepath.Join(base, privatePrefix+name, privateName)
		if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		if live {
			t.Cleanup(func() { l.Close() })
		} else {
			l.SetUnlinkOnClose(false) // as if it was killed
			l.Close()
		}
		then := time.Now().Add(-age)
		if err := os.Chtimes(path, then, then); err != nil {
			t.Fatal(err)
		}
		return path
	}
	stale, live, fresh := socket("stale", false, time.Hour), socket("live", true, time.Hour), socket("fresh", false, 0)
	removeStale(base)
	if _, err := os.Stat(filepath.Dir(stale)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a socket of nobody is still there: %v", err)
	}
	for _, path := range []string{live, fresh} {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("%s is gone: %v", path, err)
		}
	}
}
