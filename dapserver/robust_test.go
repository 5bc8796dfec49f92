package dapserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-dap"
)

// runsOn checks that the component ticks: it would be halted at a breakpoint else.
func (d *delve) runsOn() {
	d.t.Helper()
	stdout := d.last().stdout
	stdout.SetReadDeadline(deadline())
	buf := make([]byte, 100)
	for range 3 {
		if n, err := stdout.Read(buf); err != nil {
			d.t.Fatalf("the component does not run: %q, %v", buf[:n], err)
		}
	}
}

// A client may vanish at any moment: the component runs on without breakpoints, and
// the next client has it at once.
func TestClientVanishes(t *testing.T) {
	tick := fmt.Sprintf(`{"source":{"path":%q},"breakpoints":[{"line":%d}]}`, fixtureSource(t), fixtureLine(t, "tick"))
	// stop brings the component to its breakpoint.
	stop := func(e *editor) (thread int) {
		e.attach()
		e.set("setBreakpoints", tick)
		e.ConfigurationDoneRequest()
		want[*dap.ConfigurationDoneResponse](e)
		return want[*dap.StoppedEvent](e).Body.ThreadId
	}
	moments := []struct {
		name string
		do   func(e *editor)
	}{
		{"at once", func(*editor) {}},
		{"in a header", func(e *editor) { e.write("Content-Len") }},
		{"in the first message", func(e *editor) { e.write("Content-Length: 100\r\n\r\n{\"seq\":1,") }},
		{"in initialize", func(e *editor) { e.request("initialize", `{"adapterID":"x"}`) }},
		{"in attach", func(e *editor) {
			e.initialize()
			e.request("attach", `{"mode":"remote"}`)
		}},
		{"in setBreakpoints", func(e *editor) {
			e.attach()
			e.request("setBreakpoints", tick)
		}},
		{"in configurationDone", func(e *editor) {
			e.attach()
			e.request("setBreakpoints", tick)
			e.request("configurationDone", "{}")
		}},
		{"while it is halted", func(e *editor) { stop(e) }},
		{"in a message while it is halted", func(e *editor) {
			stop(e)
			e.write("Content-Length: 100\r\n\r\n{\"seq\":1,\"type\":\"request\",\"comm")
		}},
		{"in a continue", func(e *editor) { e.request("continue", fmt.Sprintf(`{"threadId":%d}`, stop(e))) }},
		{"in a step", func(e *editor) { e.request("next", fmt.Sprintf(`{"threadId":%d}`, stop(e))) }},
		{"in an evaluate", func(e *editor) {
			stop(e)
			e.request("evaluate", `{"expression":"counter"}`)
		}},
		{"while it runs", func(e *editor) {
			e.attach()
			e.set("setFunctionBreakpoints", `{"breakpoints":[{"name":"main.work"}]}`)
			e.ConfigurationDoneRequest()
			want[*dap.ConfigurationDoneResponse](e)
		}},
		{"in setBreakpoints while it runs", func(e *editor) {
			e.attach()
			e.ConfigurationDoneRequest()
			want[*dap.ConfigurationDoneResponse](e)
			e.request("setBreakpoints", tick)
		}},
		{"in a pause", func(e *editor) {
			e.attach()
			e.ConfigurationDoneRequest()
			want[*dap.ConfigurationDoneResponse](e)
			e.request("pause", `{"threadId":1}`)
		}},
	}
	for _, how := range []string{"closes", "resets"} {
		t.Run(how, func(t *testing.T) {
			checkLeaks(t)
			d := startDelve(t, "loop")
			srv := New(Config{Session: d})
			first := connectTo(context.Background(), t, srv)
			first.attach() // it is halted at its entry until somebody lets it go
			first.ConfigurationDoneRequest()
			want[*dap.ConfigurationDoneResponse](first)
			first.disconnect()
			d.runsOn()
			for _, moment := range moments {
				t.Logf("a client vanishes %s", moment.name)
				e := connectTo(context.Background(), t, srv)
				moment.do(e)
				if how == "resets" {
					if err := e.conn.(*net.TCPConn).SetLinger(0); err != nil {
						t.Fatal(err)
					}
				}
				e.conn.Close()
				// A message that has begun and does not end is told to whoever runs the server.
				cut := how == "closes" && (strings.Contains(moment.name, "header") || strings.Contains(moment.name, "message"))
				if err := e.result(); (err != nil) != cut {
					t.Errorf("%s: ServeConn: %v", moment.name, err)
				}
				d.runsOn()
				if t.Failed() {
					return
				}
			}
			// All is as it was: breakpoints can be set and are hit, once.
			last := connectTo(context.Background(), t, srv)
			stop(last)
			last.disconnect()
			d.runsOn()
		})
	}
}

// A client that vanishes while its launch is under way takes it back, however far
// it has come.
func TestClientVanishesInALaunch(t *testing.T) {
	for _, answers := range []int{0, 1} { // of Delve's, which then is silent
		t.Run(fmt.Sprintf("after %d answers", answers), func(t *testing.T) {
			checkLeaks(t)
			asked := make(chan struct{})
			s := newScript(t, func(conn net.Conn) {
				r := newFrameReader(conn)
				for n := 0; ; n++ {
					_, env, err := readScript(r)
					if err != nil {
						return
					}
					if n == answers {
						close(asked)
						continue
					}
					io.WriteString(conn, frame(fmt.Sprintf(`{"seq":0,"type":"response","request_seq":%d,"success":true,"command":%q,"body":{}}`, env.seq, env.command)))
				}
			})
			e := connect(t, Config{Launcher: launches(s)})
			e.initialize()
			e.request("launch", `{"target":"local"}`)
			<-asked
			e.conn.Close()
			e.ended()
			<-s.closed
		})
	}
}

// peak watches the heap until it is asked for the largest size, in bytes.
func peak() (largest func() uint64) {
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	stop := make(chan struct{})
	highest := make(chan uint64)
	go func() { // ends when it is asked
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		var most uint64
		for {
			var now runtime.MemStats
			runtime.ReadMemStats(&now)
			most = max(most, now.HeapInuse)
			select {
			case <-stop:
				highest <- most - min(most, before.HeapInuse)
				return
			case <-tick.C:
			}
		}
	}()
	return func() uint64 { close(stop); return <-highest }
}

// answers reads so many answers, each to another of the requests with the numbers
// from first to last, and returns them by number. Events may come between.
func (e *editor) answers(n, first, last int) map[int]answer {
	e.t.Helper()
	all := map[int]answer{}
	for len(all) < n {
		e.conn.SetReadDeadline(deadline())
		b := e.raw()
		var m struct {
			Type       string
			Command    string
			RequestSeq int `json:"request_seq"`
			Success    bool
			Body       struct{ Error struct{ ID int } }
		}
		if err := json.Unmarshal(b, &m); err != nil {
			e.t.Fatal(err)
		}
		if m.Type != "response" {
			continue
		}
		if _, twice := all[m.RequestSeq]; twice || m.RequestSeq < first || m.RequestSeq > last {
			e.t.Fatalf("an answer that nobody waits for: %s", b)
		}
		all[m.RequestSeq] = answer{len(all), m.Command, m.Success, m.Body.Error.ID}
	}
	return all
}

type answer struct {
	place   int // among all answers
	command string
	success bool
	errorID int
}

// hurry writes the requests without reading anything meanwhile.
func (e *editor) hurry(n int, request func(i int) (command, arguments string)) (first int) {
	e.t.Helper()
	var all strings.Builder
	first = e.nextSeq + 1
	for i := range n {
		e.nextSeq++
		command, arguments := request(i)
		all.WriteString(frame(fmt.Sprintf(`{"seq":%d,"type":"request","command":%q,"arguments":%s}`, e.nextSeq, command, arguments)))
		if all.Len() > 1<<20 {
			e.write(all.String())
			all.Reset()
		}
	}
	e.write(all.String())
	return first
}

// Ten thousand requests of a client that waits for nothing are all answered, those of
// a kind in their order, and the last one counts.
func TestTenThousandRequests(t *testing.T) {
	checkLeaks(t)
	d := startDelve(t, "loop")
	e := connect(t, Config{Session: d})
	e.attach()
	e.set("setFunctionBreakpoints", `{"breakpoints":[{"name":"main.tick"}]}`)
	e.ConfigurationDoneRequest()
	want[*dap.ConfigurationDoneResponse](e)
	thread := want[*dap.StoppedEvent](e).Body.ThreadId

	const n = 10_000
	lines := func(of ...string) string {
		text := fmt.Sprintf(`{"source":{"path":%q},"breakpoints":[`, fixtureSource(t))
		for i, name := range of {
			text += strings.Repeat(",", min(i, 1)) + fmt.Sprintf(`{"line":%d}`, fixtureLine(t, name))
		}
		return text + "]}"
	}
	tick, none, work := lines("tick"), lines(), lines("work")
	heap := peak()
	first := e.hurry(n, func(i int) (string, string) {
		if i == n-1 {
			return "setBreakpoints", tick
		}
		switch i % 10 {
		case 0:
			return "stackTrace", fmt.Sprintf(`{"threadId":%d,"levels":20}`, thread)
		case 1:
			return "scopes", `{"frameId":1000}`
		case 2:
			return "variables", `{"variablesReference":1000}`
		case 3, 4:
			return "evaluate", fmt.Sprintf(`{"expression":"counter+%d"}`, i)
		case 5:
			return "setBreakpoints", work
		case 6:
			return "setBreakpoints", none
		case 7:
			return "noSuchRequest", `{}`
		case 8:
			return "cancel", fmt.Sprintf(`{"requestId":%d}`, 1_000_000+i)
		}
		return "threads", `{}`
	})
	all := e.answers(n, first, e.nextSeq)
	used := heap()
	last := map[string]int{}
	failed := map[string]int{}
	for i := first; i < first+n; i++ {
		a := all[i]
		if before, ok := last[a.command]; ok && a.place < before {
			t.Fatalf("the answer to %s, number %d, came before that to an earlier one", a.command, i)
		}
		last[a.command] = a.place
		if !a.success {
			failed[a.command]++
		}
	}
	// The unknown ones fail, for which Delve has no name, and those to cancel what
	// is not there; nothing else does.
	delete(failed, "")
	delete(failed, "cancel")
	if len(failed) > 0 {
		t.Errorf("failed: %v", failed)
	}
	t.Logf("%d requests, heap at most %.1f MB more than before", n, float64(used)/1e6)
	if used > 100<<20 {
		t.Errorf("the heap has grown by %d bytes", used)
	}
	// Delve is there, and has the last of the breakpoints.
	e.set("setFunctionBreakpoints", `{"breakpoints":[]}`)
	e.ContinueRequest(thread)
	want[*dap.ContinueResponse](e)
	thread = want[*dap.StoppedEvent](e).Body.ThreadId
	e.StackTraceRequest(thread, 0, 1)
	if top := want[*dap.StackTraceResponse](e).Body.StackFrames[0]; top.Line != fixtureLine(t, "tick") {
		t.Errorf("stopped in line %d of %s, want %d", top.Line, top.Name, fixtureLine(t, "tick"))
	}
	e.disconnect()
	d.runsOn()
}

// Requests that are more than the queue to Delve holds are refused, not kept.
func TestTooManyBytesOfRequests(t *testing.T) {
	const n = 1000
	pad := strings.Repeat("x", 100_000)
	// answered sends them all and counts the errors' ids.
	answered := func(t *testing.T, e *editor, more func()) map[int]int {
		t.Helper()
		heap := peak()
		first := e.hurry(n, func(int) (string, string) { return "scopes", `{"frameId":1,"pad":"` + pad + `"}` })
		more()
		ids := map[int]int{}
		for _, a := range e.answers(n, first, e.nextSeq) {
			ids[a.errorID]++
		}
		used := heap()
		t.Logf("%d MB of requests, refused by id: %v; heap at most %.1f MB more than before", n*len(pad)/1e6, ids, float64(used)/1e6)
		if used > 4*queueLimit { // what the collector has not seen yet is in it, too
			t.Errorf("the heap has grown by %d bytes", used)
		}
		return ids
	}
	t.Run("by Delve as fast as it can", func(t *testing.T) {
		checkLeaks(t)
		e := connect(t, Config{Session: startDelve(t, "loop")})
		e.attach()
		for id, n := range answered(t, e, func() {}) {
			if id != idBusy && (id < 2000 || id >= 3000) { // Delve's own are there
				t.Errorf("%d requests are refused with %d", n, id)
			}
		}
		e.ThreadsRequest() // and Delve is still there
		want[*dap.ThreadsResponse](e)
		e.disconnect()
	})
	t.Run("by one that does not read", func(t *testing.T) {
		checkLeaks(t)
		read := make(chan struct{})
		s := newScript(t, func(conn net.Conn) {
			_, _, r, err := answerHandshake(conn)
			<-read
			for err == nil {
				var env envelope
				if _, env, err = readScript(r); err == nil {
					io.WriteString(conn, frame(fmt.Sprintf(`{"seq":1,"type":"response","request_seq":%d,"success":true,"command":%q}`, env.seq, env.command)))
				}
			}
		})
		e := connect(t, Config{Launcher: launches(s)})
		e.initialize()
		e.request("launch", "{}")
		want[*dap.InitializedEvent](e)
		want[*dap.LaunchResponse](e)
		ids := answered(t, e, func() { close(read) })
		if ids[idBusy] == 0 || ids[0] == 0 || ids[idBusy]+ids[0] != n {
			t.Errorf("got %v, want some answered and the others refused with %d", ids, idBusy)
		}
		e.disconnect()
	})
}

// The same while the launch is under way.
func TestTenThousandEarlyRequests(t *testing.T) {
	checkLeaks(t)
	d := startDelve(t, "loop")
	release := make(chan struct{})
	e := connect(t, Config{Launcher: launchesAfter(release, d)})
	e.initialize()
	launch := e.request("launch", `{"target":"local"}`)
	const n = 10_000
	first := e.hurry(n, func(i int) (string, string) {
		return "setFunctionBreakpoints", fmt.Sprintf(`{"breakpoints":[{"name":"main.f%d"}]}`, i)
	})
	refused := e.answers(n-earlyLimit, first, e.nextSeq) // the first ones wait
	close(release)
	for seq, a := range refused {
		if seq < first+earlyLimit || a.errorID != idBusy {
			t.Fatalf("request %d is answered with %+v", seq-first, a)
		}
	}
	place := -1
	answered := e.answers(earlyLimit+1, launch, e.nextSeq) // the launch among them
	for seq := first; seq < first+earlyLimit; seq++ {
		a := answered[seq]
		if !a.success || a.place < place {
			t.Fatalf("request %d is answered with %+v", seq-first, a)
		}
		place = a.place
	}
	e.disconnect()
}

// flooding is a session whose component never stops writing.
type flooding struct {
	*delve
	mu      sync.Mutex // guards all below
	longest time.Duration
	pieces  int
}

func (f *flooding) Output(ctx context.Context, emit func(Piece) error) error {
	piece := []byte(strings.Repeat("a line of output, as long as lines are\n", 1600))
	for {
		began := time.Now()
		err := emit(Piece{Stream: Stdout, Data: piece, Run: 1, Place: "pod web-1"})
		f.mu.Lock()
		f.longest, f.pieces = max(f.longest, time.Since(began)), f.pieces+1
		f.mu.Unlock()
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// A client that stops reading in a flood of output is given up after StallTimeout;
// nothing is held up for longer, and little is kept for it.
func TestClientStopsReadingInAFlood(t *testing.T) {
	for _, test := range []struct {
		name string
		stop func(e *editor)
	}{
		{"it reads nothing", func(*editor) {}},
		{"it asks and reads nothing", func(e *editor) {
			e.hurry(500, func(int) (string, string) { return "threads", "{}" })
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			checkLeaks(t)
			d := startDelve(t, "loop")
			f := &flooding{delve: d}
			const stall = time.Second
			srv := New(Config{Session: f, StallTimeout: stall})
			e := connectTo(context.Background(), t, srv)
			e.attach()
			e.set("setBreakpoints", fmt.Sprintf(`{"source":{"path":%q},"breakpoints":[{"line":%d}]}`, fixtureSource(t), fixtureLine(t, "tick")))
			e.request("configurationDone", "{}")
			heap := peak()
			var asking sync.WaitGroup
			asking.Go(func() { test.stop(e) })
			err := e.result()
			used := heap()
			asking.Wait()
			if !errors.Is(err, errStalled) {
				t.Errorf("got %v, want %v", err, errStalled)
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			t.Logf("%d pieces were taken, one was held up for %.2f s; heap at most %.1f MB more than before", f.pieces, f.longest.Seconds(), float64(used)/1e6)
			if limit := stall + 20*time.Second; f.longest > limit { // the machine may be busy
				t.Errorf("a piece was held up for %s", f.longest)
			}
			if used > 150<<20 {
				t.Errorf("the heap has grown by %d bytes", used)
			}
			// The component runs on, without its breakpoint.
			d.runsOn()
		})
	}
}

// The component's output passes in the order and with the bytes in which it was
// written, with what JSON has no place for replaced: each byte that is not part of a
// character by U+FFFD. How the pieces were cut makes no difference.
func FuzzOutput(f *testing.F) {
	f.Add([]byte("grün \x1b[31mrot\x1b[0m €\xe2\x82\n\xff\x00\x80\x80<&>\u2028"), uint8(3), uint16(7))
	f.Add([]byte(strings.Repeat("\x80", 70_000)), uint8(0), uint16(60_000))
	f.Fuzz(func(t *testing.T, data []byte, cuts uint8, seed uint16) {
		s := newScript(t, func(conn net.Conn) {
			if _, _, r, err := answerHandshake(conn); err == nil {
				readScript(r)
			}
		})
		s.out = func(_ context.Context, emit func(Piece) error) error {
			at := []int{0, len(data)}
			for i := range int(cuts) {
				at = append(at, (int(seed)*(i+1)*7919)%(len(data)+1))
			}
			slices.Sort(at)
			for i := range len(at) - 1 {
				if err := emit(Piece{Stream: Stdout, Data: data[at[i]:at[i+1]]}); err != nil {
					return err
				}
			}
			return emit(Piece{Stream: Stderr, Data: []byte("end")})
		}
		e := connect(t, Config{Launcher: launches(s)})
		e.initialize()
		e.request("launch", `{}`)
		var got strings.Builder
		events := 0
		for {
			m, err := dap.DecodeProtocolMessage(e.raw())
			if err != nil {
				t.Fatal(err)
			}
			o, ok := m.(*dap.OutputEvent)
			if ok && o.Body.Category == "stderr" {
				break
			}
			if ok && o.Body.Category == "stdout" {
				got.WriteString(o.Body.Output)
				events++
			}
		}
		e.conn.Close()
		e.ended()
		if want := string([]rune(string(data))); got.String() != want && !strings.HasPrefix(want, got.String()) {
			t.Errorf("%q came as %q, want %q", data, got.String(), want)
		}
		if most := len(data)/(32<<10) + int(cuts) + 3; events > most {
			t.Errorf("%d bytes in %d pieces came as %d events, want %d at most", len(data), cuts, events, most)
		}
	})
}
