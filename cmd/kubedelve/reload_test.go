package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-dap"

	"github.com/kubedelve/kubedelve/internal/agentbinary"
	"github.com/kubedelve/kubedelve/internal/editor"
)

// These tests run the whole of kubedelve for a program on this machine, with the real
// agent and the real Delve in it.

// edited is a program on this machine that a test edits.
type edited struct {
	t    *testing.T
	dir  string
	main string
}

const localProgram = `package main

import (
	"fmt"
	"os"
	"time"
)

func work(n int) int {
	word := "one"
	fmt.Fprint(os.Stderr, word[:0])
	return n + len(word) // BREAKPOINT
}

func main() {
	fmt.Println("it begins with", os.Args[1:])
	for n := 0; ; n++ {
		work(n)
		time.Sleep(5 * time.Millisecond)
		if _, err := os.Stat(os.Args[len(os.Args)-1]); err != nil {
			os.Exit(7)
		}
	}
}
`

func newEdited(t *testing.T) *edited {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("programs on this machine: on Linux only")
	}
	t.Setenv(agentbinary.Env, filepath.Join(buildAgent(t), "kubedelve-agent"))
	t.Setenv("GOCACHE", goCache(t))
	t.Setenv("XDG_CACHE_HOME", t.TempDir()) // for what kubedelve builds
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l := &edited{t: t, dir: dir, main: filepath.Join(dir, "main.go")}
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module example.com/app\n\ngo 1.26\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.save("one", 0)
	return l
}

// save writes the program with another word in it and so many lines above all.
func (l *edited) save(word string, lines int) {
	l.t.Helper()
	text := strings.Repeat("// one line more\n", lines) + strings.Replace(localProgram, `"one"`, `"`+word+`"`, 1)
	if err := os.WriteFile(l.main, []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
}

// at is where the comment BREAKPOINT is now.
func (l *edited) at() editor.Breakpoint {
	l.t.Helper()
	text, err := os.ReadFile(l.main)
	if err != nil {
		l.t.Fatal(err)
	}
	before, _, _ := strings.Cut(string(text), "// BREAKPOINT")
	return editor.Breakpoint{Path: l.main, Line: strings.Count(before, "\n") + 1}
}

// pipes are an editor's ends of an adapter's standard streams.
type pipes struct {
	io.ReadCloser
	io.WriteCloser
}

func (p pipes) Close() error { return errors.Join(p.WriteCloser.Close(), p.ReadCloser.Close()) }

// startAdapter runs kubedelve dap in this process. It returns the editor's side, and what it
// ended with.
func startAdapter(t *testing.T) (pipes, <-chan int) {
	t.Helper()
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	ended := make(chan int, 1)
	go func() { // ends with the adapter, which ends with its input
		ended <- run(context.Background(), []string{"kubedelve", "dap"}, inR, outW, os.Stderr)
		_ = outW.Close()
	}()
	return pipes{outR, inW}, ended
}

// word waits for a stop at the breakpoint and returns the program's word.
func word(t *testing.T, d *editor.Debugger, at editor.Breakpoint) string {
	t.Helper()
	ctx := within(t)
	if err := d.AwaitStop(ctx, "breakpoint"); err != nil {
		t.Fatal(err)
	}
	stack, err := d.Stack(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(stack) == 0 || stack[0].Name != "main.work" || stack[0].Source == nil || stack[0].Source.Path != at.Path || stack[0].Line != at.Line {
		t.Fatalf("the stack is %+v, want main.work at %s:%d", stack, at.Path, at.Line)
	}
	locals, _, err := d.Locals(ctx, stack[0].Id)
	if err != nil {
		t.Fatal(err)
	}
	v, err := editor.Variable(locals, "word")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Trim(v.Value, `"`)
}

func TestAnEditorsSessionGoesThroughSaves(t *testing.T) {
	l := newEdited(t)
	conn, ended := startAdapter(t)
	config := map[string]any{"target": "local", "program": l.dir, "args": []string{l.dir}}
	at := l.at()
	d, _, err := editor.Start(within(t), conn, "launch", config, at)
	if err != nil {
		t.Fatalf("%v\n%s", err, d.Output())
	}
	defer func() { _ = d.Close() }()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	swapped := func() {
		t.Helper()
		e, err := d.AwaitOutput(within(t), "swapped in ")
		ok(err)
		t.Logf("%s", e.Body)
	}
	if got := word(t, d, at); got != "one" {
		t.Errorf("the word is %q", got)
	}

	t.Log("halted: the new program is halted too")
	l.save("two", 2)
	at = l.at()
	ok(d.Mark(within(t), at))
	swapped()
	ok(d.AwaitStop(within(t), "entry"))
	ok(d.AwaitVerified(within(t), at))
	ok(d.Continue(within(t)))
	if got := word(t, d, at); got != "two" {
		t.Errorf("the word is %q", got)
	}

	t.Log("running: the new program runs")
	ok(d.Call(within(t), "setBreakpoints", dap.SetBreakpointsArguments{Source: dap.Source{Path: l.main}}, nil))
	ok(d.Continue(within(t)))
	l.save("three", 1)
	swapped()
	_, err = d.AwaitOutput(within(t), "it begins with")
	ok(err)
	at = l.at()
	ok(d.SetBreakpoints(within(t), at))
	if got := word(t, d, at); got != "three" {
		t.Errorf("the word is %q", got)
	}
	ok(d.Continue(within(t)))
	if got := word(t, d, at); got != "three" {
		t.Errorf("the word is %q", got)
	}

	t.Log("an error: the old program goes on")
	ok(os.WriteFile(l.main, []byte(strings.Replace(localProgram, "return n", "return m", 1)), 0o600))
	e, err := d.AwaitOutput(within(t), "undefined: m")
	ok(err)
	var output dap.OutputEventBody
	ok(json.Unmarshal(e.Body, &output))
	if output.Source == nil || output.Source.Path != l.main || output.Line != l.at().Line || output.Column != 9 {
		t.Errorf("the compiler's message is no link: %s", e.Body)
	}
	ok(d.Continue(within(t)))
	if got := word(t, d, at); got != "three" {
		t.Errorf("the word is %q", got)
	}

	t.Log("the restart button")
	err = d.Restart(within(t), config)
	if refused := (*editor.RefusedError)(nil); !errors.As(err, &refused) || !strings.Contains(refused.Text, "does not compile") {
		t.Errorf("restart is answered with %v", err)
	}
	l.save("four", 0)
	swapped()
	ok(d.AwaitStop(within(t), "entry")) // it was halted
	config["args"] = []string{"another", l.dir}
	ok(d.Restart(within(t), config))
	_, err = d.AwaitOutput(within(t), "it begins with [another ")
	ok(err)
	at = l.at()
	ok(d.AwaitVerified(within(t), editor.Breakpoint{Path: at.Path, Line: at.Line + 1})) // where the editor has it still
	ok(d.SetBreakpoints(within(t), at))
	if got := word(t, d, at); got != "four" {
		t.Errorf("the word is %q", got)
	}
	for _, e := range d.Events() {
		if e.Name == "terminated" || e.Name == "exited" {
			t.Errorf("the editor was told of an end: %s %s", e.Name, e.Body)
		}
	}
	ok(d.Disconnect(within(t)))
	if code := <-ended; code != exitOK {
		t.Errorf("the adapter ended with code %d", code)
	}
	if left, _ := filepath.Glob(filepath.Join(os.Getenv("XDG_CACHE_HOME"), "kubedelve", "build", "keep-*")); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
}

// command runs kubedelve debug -o json in this process.
type command struct {
	t      *testing.T
	events chan event
	all    []event
	ended  chan int
	stop   context.CancelFunc
}

func startCommand(t *testing.T, args ...string) *command {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	c := &command{t: t, events: make(chan event, 1000), ended: make(chan int, 1), stop: stop}
	r, w := io.Pipe()
	var running sync.WaitGroup
	running.Go(func() { // ends with the command
		c.ended <- run(ctx, append([]string{"kubedelve", "debug", "-o", "json", "--listen", "127.0.0.1:0"}, args...), strings.NewReader(""), w, io.Discard)
		_ = w.Close()
	})
	running.Go(func() { // ends with the command's output
		defer close(c.events)
		for lines := bufio.NewScanner(r); lines.Scan(); {
			var e event
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				t.Errorf("%v in %q", err, lines.Text())
			}
			c.events <- e
		}
	})
	t.Cleanup(func() { stop(); running.Wait() })
	return c
}

// await waits for an event and passes over others.
func (c *command) await(kind string) event {
	c.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case e, ok := <-c.events:
			if !ok {
				c.t.Fatalf("it ended without the event %s; there were %+v", kind, c.all)
			}
			c.all = append(c.all, e)
			if e.Event == kind {
				return e
			}
		case <-timeout:
			c.t.Fatalf("the event %s has not come; these have: %+v", kind, c.all)
		}
	}
}

func TestTheCommandKeepsUpWithSaves(t *testing.T) {
	l := newEdited(t)
	flag := filepath.Join(l.dir, "goon")
	if err := os.WriteFile(flag, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := startCommand(t, "local", "--program", l.dir, "--", flag)
	c.await("ready")
	l.save("two", 1)
	if e := c.await("rebuilding"); !strings.Contains(e.Text, "main.go saved") {
		t.Errorf("it begins with %+v", e)
	}
	e := c.await("swapped")
	if e.Took <= 0 || !strings.Contains(e.Text, "build ") || !strings.Contains(e.Text, "load ") {
		t.Errorf("it ends with %+v", e)
	}
	t.Log(e.Text)
	if err := os.WriteFile(l.main, []byte("package main\n\nfunc main() { x() }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if e := c.await("build-error"); e.File != l.main || e.Line != 3 || e.Column != 15 || !strings.Contains(e.Text, "undefined: x") {
		t.Errorf("the compiler's message is %+v", e)
	}
	c.await("failed")
	// It ends by itself, and so does the command.
	if err := os.Remove(flag); err != nil {
		t.Fatal(err)
	}
	if e := c.await("exited"); e.Code == nil || *e.Code != 7 {
		t.Errorf("the end is told as %+v", e)
	}
	c.await("restored")
	if code := <-c.ended; code != exitError {
		t.Errorf("the command ended with code %d", code)
	}
	if i := slices.IndexFunc(c.all, func(e event) bool { return e.Event == "exited" && e.Code != nil && *e.Code != 7 }); i >= 0 {
		t.Errorf("the swap was taken for an end: %+v", c.all[i])
	}
}
