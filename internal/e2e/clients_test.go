//go:build integration

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-dap"

	"github.com/kubedelve/kubedelve/internal/editor"
	"github.com/kubedelve/kubedelve/internal/testcluster"
)

// noisy is the folder of the component that writes as much as it is asked to.
func noisy() string {
	return filepath.Join(cluster.Programs.Root, "internal", "e2e", "testdata", "noisy")
}

// asks is a request to a path of the debug pod, which must be answered.
func asks(t *testing.T, n *testcluster.Namespace, pod, path string) string {
	t.Helper()
	answer, err := n.GetPod(within(t), pod, 8080, path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(answer)
}

// written is how many bytes the component has written.
func written(t *testing.T, n *testcluster.Namespace, pod string) int64 {
	t.Helper()
	size, err := strconv.ParseInt(asks(t, n, pod, "written"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return size
}

// agentMemory is the peak of the agent's resident memory, bytes.
func agentMemory(t *testing.T, n *testcluster.Namespace, pod string) int64 {
	t.Helper()
	kilobytes, err := strconv.ParseInt(asks(t, n, pod, "memory"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kilobytes << 10
}

const (
	// most is how much memory kubedelve or the agent may have used at the worst. A
	// quiet kubedelve has some 60 MB with client-go, the agent 25.
	most = 300 << 20
	// stall is how long a client may stop reading, as documented.
	stall = 30 * time.Second
)

func checkMemory(t *testing.T, n *testcluster.Namespace, p *testcluster.Process, pod string) {
	t.Helper()
	memory, err := p.PeakMemory()
	if err != nil {
		t.Fatal(err)
	}
	agent := agentMemory(t, n, pod)
	t.Logf("peak memory: kubedelve %d MB, agent %d MB", memory>>20, agent>>20)
	if memory > most || agent > most {
		t.Errorf("that is more than %d MB", most>>20)
	}
}

// deaf is a connection whose reader stops when it is told to.
type deaf struct {
	net.Conn
	mu      sync.Mutex
	stopped bool
	over    chan struct{}
}

func (d *deaf) Read(p []byte) (int, error) {
	d.mu.Lock()
	stopped := d.stopped
	d.mu.Unlock()
	if stopped {
		<-d.over
		return 0, net.ErrClosed
	}
	return d.Conn.Read(p)
}

func (d *deaf) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopped = true
}

func (d *deaf) Close() error {
	close(d.over)
	return d.Conn.Close()
}

// A client that stops reading, while the component writes all the time, holds it up
// for no longer than is documented; then it is given up, and another one can come.
func TestIntegrationClientStopsReading(t *testing.T) {
	n := namespace(t, nil, "middle")
	p := start(t, n.Kubedelve("deploy/middle", "--program", noisy(), "--listen", "127.0.0.1:0", "--log-level", "info"))
	ready, err := p.AwaitEvent(within(t), "ready")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.AwaitEvent(within(t), "serving"); err != nil {
		t.Fatal(err)
	}
	pod := debugPodOf(t, n).Name
	conn := &deaf{Conn: dial(t, ready.Listen), over: make(chan struct{})}
	d, _, err := editor.Start(within(t), conn, "attach", attachConfig)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	conn.stop()
	asks(t, n, pod, "flood/1000")

	// It writes, is held up, and writes again when the client has been given up.
	began, longest, last := time.Now(), time.Duration(0), written(t, n, pod)
	since := began
	look := func() {
		t.Helper()
		if now := written(t, n, pod); now != last {
			longest = max(longest, time.Since(since))
			last, since = now, time.Now()
		}
		if time.Since(began) > stall+patience {
			t.Fatalf("%d bytes are written, the last %s ago", last, time.Since(since))
		}
	}
	for given := false; !given; {
		look()
		// A second client is refused for as long as the first one is there.
		second, _, err := editor.Start(within(t), dial(t, ready.Listen), "attach", attachConfig)
		if given = err == nil; given {
			t.Logf("the next client came after %.1f s", time.Since(began).Seconds())
			if _, err := second.Next(within(t), "output"); err != nil {
				t.Errorf("the next client gets no output: %v", err)
			}
		}
		_ = second.Close()
	}
	for before := last; last == before; {
		look()
	}
	t.Logf("the component was held up for %.1f s at most, and has written %d MB", longest.Seconds(), last/1e6)
	if longest > stall+10*time.Second {
		t.Errorf("the component was held up for %s", longest)
	}
	checkMemory(t, n, p, pod)
	end(t, p)
}

// A client that sends 10,000 requests without waiting gets 10,000 answers; then it
// vanishes in the middle of a continue, and the component goes on without it.
func TestIntegrationHastyClient(t *testing.T) {
	n := namespace(t, nil, "middle")
	p := start(t, n.Kubedelve("deploy/middle", "--program", noisy(), "--listen", "127.0.0.1:0"))
	ready, err := p.AwaitEvent(within(t), "ready")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.AwaitEvent(within(t), "serving"); err != nil {
		t.Fatal(err)
	}
	pod := debugPodOf(t, n).Name
	at := marked(t, filepath.Join(noisy(), "main.go"))
	conn := dial(t, ready.Listen)
	d, _, err := editor.Start(within(t), conn, "attach", attachConfig, at)
	if err != nil {
		t.Fatal(err)
	}
	answer := make(chan string, 1)
	go func() { // ends with the answer, or with the test
		text, err := n.GetPod(t.Context(), pod, 8080, "work/21")
		answer <- fmt.Sprintf("%s, %v", strings.TrimSpace(text), err)
	}()
	if err := d.AwaitStop(within(t), "breakpoint"); err != nil {
		t.Fatal(err)
	}
	stack, err := d.Stack(within(t))
	if err != nil {
		t.Fatal(err)
	}

	const requests = 10_000
	began := time.Now()
	waiting := make([]*editor.Answer, requests)
	for i := range waiting {
		command, arguments := "evaluate", any(dap.EvaluateArguments{Expression: fmt.Sprintf("n+%d", i), FrameId: stack[0].Id})
		switch i % 4 {
		case 1:
			command, arguments = "threads", struct{}{}
		case 2:
			command, arguments = "scopes", dap.ScopesArguments{FrameId: stack[0].Id}
		}
		if waiting[i], err = d.Send(command, arguments); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience) // Delve answers one after the other
	defer cancel()
	for i, w := range waiting {
		var body struct{ Result string }
		if err := w.Wait(ctx, &body); err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		if i%4 == 0 && body.Result != strconv.Itoa(21+i) {
			t.Fatalf("request %d: n+%d is %s", i, i, body.Result)
		}
	}
	t.Logf("%d requests were answered in %.1f s", requests, time.Since(began).Seconds())
	if _, err := d.Send("continue", dap.ContinueArguments{ThreadId: 1}); err != nil {
		t.Fatal(err)
	}
	_ = d.Close()
	select {
	case text := <-answer:
		if text != "42, <nil>" {
			t.Errorf("the request that was at the breakpoint is answered with %s", text)
		}
	case <-time.After(patience):
		t.Fatal("the component stays halted after its debugger has vanished")
	}
	// No breakpoint is left to stop at.
	for i := range 5 {
		if got := asks(t, n, pod, fmt.Sprintf("work/%d", i)); got != strconv.Itoa(2*i) {
			t.Errorf("twice %d is %s", i, got)
		}
	}
	checkMemory(t, n, p, pod)
	next, _, err := editor.Start(within(t), dial(t, ready.Listen), "attach", attachConfig)
	if err != nil {
		t.Fatalf("the next client is not let in: %v", err)
	}
	if err := next.Disconnect(within(t)); err != nil {
		t.Error(err)
	}
	end(t, p)
}

// marked is the line of a file with the comment BREAKPOINT.
func marked(t *testing.T, path string) editor.Breakpoint {
	t.Helper()
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, _, found := strings.Cut(string(source), "// BREAKPOINT")
	if !found {
		t.Fatalf("%s has no line with the comment BREAKPOINT", path)
	}
	return editor.Breakpoint{Path: path, Line: strings.Count(before, "\n") + 1}
}

// What the component writes reaches the editor complete and in the order of each
// stream, and the editor's requests are answered meanwhile.
func TestIntegrationFloodOfOutput(t *testing.T) {
	const megabytes = 60
	n := namespace(t, nil, "middle")
	config := launchConfig(n)
	config["program"] = noisy()
	d, adapter := launch(t, n, config)
	pod := debugPodOf(t, n).Name
	began := time.Now()
	asks(t, n, pod, fmt.Sprintf("flood/%d", megabytes))

	var worst time.Duration
	ends := map[string]bool{}
	for taken := 0; len(ends) < 2; {
		sent := time.Now()
		if err := d.Call(within(t), "threads", struct{}{}, nil); err != nil {
			t.Fatal(err)
		}
		worst = max(worst, time.Since(sent))
		events := d.Events()
		for _, e := range events[taken:] {
			var body dap.OutputEventBody
			if e.Name == "output" && json.Unmarshal(e.Body, &body) == nil && strings.HasSuffix(body.Output, "\nend\n") {
				ends[body.Category] = true
			}
		}
		taken = len(events)
		if time.Since(began) > 3*patience {
			t.Fatalf("the end has not come; %d events have", taken)
		}
	}
	took := time.Since(began)
	total := 0
	for _, stream := range []string{"stdout", "stderr"} {
		text := d.Output(stream)
		total += len(text)
		_, text, _ = strings.Cut("\n"+text, "\n0 ") // stderr has a log before
		text = "0 " + text
		number := 0
		for line := range strings.Lines(text) {
			want := fmt.Sprintf("%d \x1b[32mGET\x1b[0m /path \"a line of output, ä€\" 200", number)
			if number%1000 == 0 {
				want += "\ufffd\ufffd\ufffd" // a byte each
			}
			if line == "end\n" {
				break
			}
			if line != want+"\n" {
				t.Fatalf("%s: line %d is %q, want %q", stream, number, line, want)
			}
			number++
		}
		if least := megabytes * 1_000_000 / 2 / 60; number < least {
			t.Errorf("%s: %d lines have come, not %d", stream, number, least)
		}
	}
	t.Logf("%.0f MB in %.1f s (%.0f MB/s); the slowest of the requests meanwhile took %.0f ms",
		float64(total)/1e6, took.Seconds(), float64(total)/1e6/took.Seconds(), worst.Seconds()*1e3)
	memory, err := adapter.PeakMemory()
	if err != nil {
		t.Fatal(err)
	}
	agent := agentMemory(t, n, pod)
	t.Logf("peak memory: kubedelve %d MB, agent %d MB", memory>>20, agent>>20)
	if memory > most || agent > most {
		t.Errorf("that is more than %d MB", most>>20)
	}
	leave(t, d, adapter)
}
