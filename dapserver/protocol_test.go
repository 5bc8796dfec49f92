package dapserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-dap"
)

func TestWrongOrder(t *testing.T) {
	checkLeaks(t)
	s := newScript(t, func(conn net.Conn) {
		if _, _, r, err := answerHandshake(conn); err == nil {
			readScript(r)
		}
	})
	e := connect(t, Config{Launcher: launches(s)})
	e.ThreadsRequest()
	wantError(e, idNotInitialized, `"threads" came before initialize`)
	e.LaunchRequestWithArgs(nil)
	wantError(e, idNotInitialized, `"launch" came before initialize`)
	e.initialize()
	e.InitializeRequest()
	wantError(e, idAlreadyInitialized, "")
	e.SetBreakpointsRequest("/x.go", []int{1})
	wantError(e, idNotStarted, `"setBreakpoints" is not supported before launch or attach`)
	e.UnknownRequest()
	wantError(e, idNotStarted, `"unknown"`)
	e.LaunchRequestWithArgs(map[string]any{"target": "local"})
	want[*dap.InitializedEvent](e)
	want[*dap.LaunchResponse](e)
	e.AttachRequest(nil)
	wantError(e, idAlreadyStarted, "")
	e.KnownEvent() // ignored
	e.conn.Close()
	e.ended()
}

func TestDisconnectWithoutAnything(t *testing.T) {
	checkLeaks(t)
	e := connect(t, Config{Launcher: launches(nil)})
	e.DisconnectRequest()
	want[*dap.DisconnectResponse](e)
	e.wantEOF()
	e.ended()
}

func TestMalformedMessages(t *testing.T) {
	for _, test := range []struct {
		name, content string
		answer        string // in the error response; "" if there is no number to answer
	}{
		{"no JSON", `hello`, ""},
		{"no number", `{"type":"request","command":"threads"}`, ""},
		{"number is a string", `{"seq":"7","type":"request","command":"threads"}`, ""},
		{"cut off", `{"seq":7,"type":"request","command":"thr`, "no end"},
		{"broken in the arguments", `{"seq":7,"type":"request","command":"threads","arguments":{"a":tru}}`, "broken"},
		{"no command", `{"seq":7,"type":"request"}`, "without"},
		{"unknown type", `{"seq":7,"type":"demand","command":"threads"}`, "demand"},
		{"two numbers", `{"seq":7,"seq":8,"type":"request","command":"threads"}`, "twice"},
		{"something behind", `{"seq":7,"type":"request","command":"threads"} x`, "follows"},
		{"arguments are a list", `{"seq":7,"type":"request","command":"initialize","arguments":[]}`, "array"},
		{"empty", ``, ""},
		{"list", `[1]`, ""},
		{"null", `null`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			checkLeaks(t)
			e := connect(t, Config{Launcher: launches(nil)})
			e.write(frame(test.content))
			if test.answer != "" {
				if m := want[*dap.ErrorResponse](e); m.RequestSeq != 7 || m.Body.Error.Id != idMalformed || !strings.Contains(m.Body.Error.Format, test.answer) {
					t.Errorf("got %+v %+v, want an answer to 7 with %q", m, m.Body.Error, test.answer)
				}
			}
			e.initialize() // goes on
			if test.answer == "" && !strings.Contains(e.output["console"], "ignored a message of the editor") {
				t.Errorf("the user is told %q", e.output)
			}
			e.disconnect()
		})
	}
}

// nvim-dap counts from 0.
func TestTheFirstRequestMayHaveTheNumberZero(t *testing.T) {
	checkLeaks(t)
	e := connect(t, Config{Launcher: launches(nil)})
	e.write(frame(`{"seq":0,"type":"request","command":"initialize","arguments":{"adapterID":"nvim-dap"}}`))
	if m := want[*dap.InitializeResponse](e); m.RequestSeq != 0 || !m.Success {
		t.Errorf("got %+v", m)
	}
	e.disconnect()
}

func TestBrokenFraming(t *testing.T) {
	for _, test := range []struct {
		name, bytes string
		want        string // in the error of ServeConn; "" for none
	}{
		{"garbage", "garbage\r\n\r\n", "not of the form"},
		{"an HTTP request", "POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", "not of the form"},
		{"an HTTP request with a colon", "POST http://127.0.0.1:38697/ HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", "not of the form"},
		{"half a header", "Content-Len", "unexpected EOF"},
		{"half a message", "Content-Length: 100\r\n\r\n{}", "2 of 100 bytes"},
		{"no length", "Content-Type: x\r\n\r\n{}", "no Content-Length"},
		{"length is no number", "Content-Length: -1\r\n\r\n{}", "not a number"},
		{"too long", "Content-Length: 9999999999999\r\n\r\n{}", "over the limit"},
		{"endless header", strings.Repeat("x", maxHeader+1), "over the limit"},
		{"nothing", "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			checkLeaks(t)
			e := connect(t, Config{Launcher: launches(nil)})
			e.initialize()
			e.write(test.bytes)
			e.conn.(*net.TCPConn).CloseWrite()
			err := e.result()
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got error %v, want %q", err, test.want)
			}
		})
	}
}

func TestInitializeRefusesWhatDelveCannotDo(t *testing.T) {
	for arguments, want := range map[string]string{
		`{"pathFormat":"uri"}`:        `"uri"`,
		`{"linesStartAt1":false}`:     "line numbers",
		`{"columnsStartAt1":false}`:   "column numbers",
		`{"supportsMemoryEvent":"x"}`: "supportsMemoryEvent",
	} {
		t.Run(arguments, func(t *testing.T) {
			checkLeaks(t)
			e := connect(t, Config{Launcher: launches(nil)})
			id := idFailedToInitialize
			if strings.HasPrefix(want, "supports") {
				id = idMalformed
			}
			e.request("initialize", arguments)
			wantError(e, id, want)
			e.initialize()
			e.disconnect()
		})
	}
}

// Everything but the envelope's numbers reaches the other side as it was.
func TestUnknownFieldsSurvive(t *testing.T) {
	checkLeaks(t)
	got := make(chan string, 10)
	const answer = `{ "body":{"x":[1,2.50,"ü\u00fc"],"allThreadsContinued":true},"new":null,"success":true,"type":"response","command":"newRequest","request_seq":%d , "seq":99}`
	const event = `{"event":"newEvent","type":"event","seq":0,"body":{"deep":{"er":1e400}}}`
	const reverse = `{"type":"request","seq":55,"command":"runInTerminal","arguments":{"args":["a"],"new":1}}`
	s := newScript(t, func(conn net.Conn) {
		_, _, r, err := answerHandshake(conn)
		if err != nil {
			return
		}
		m, env, _ := readScript(r)
		got <- string(m)
		io.WriteString(conn, frame(fmt.Sprintf(answer, env.seq)))
		io.WriteString(conn, frame(event))
		io.WriteString(conn, frame(reverse))
		m, _, _ = readScript(r)
		got <- string(m)
		readScript(r)
	})
	e := connect(t, Config{Launcher: launches(s)})
	e.initialize()
	e.LaunchRequestWithArgs(map[string]any{"target": "local"})
	want[*dap.InitializedEvent](e)
	last := want[*dap.LaunchResponse](e).Seq

	e.write(frame(`{"new":{"a" : 1.0},"seq":77,"command":"newRequest","type":"request","arguments":{"x":1,"x":2}}`))
	if got, want := <-got, `{"new":{"a" : 1.0},"seq":3,"command":"newRequest","type":"request","arguments":{"x":1,"x":2}}`; got != want {
		t.Errorf("Delve got  %s\nwant       %s", got, want)
	}
	if got, want := string(e.raw()), fmt.Sprintf(strings.Replace(answer, "99", "%d", 1), 77, last+1); got != want {
		t.Errorf("editor got %s\nwant       %s", got, want)
	}
	if got, want := string(e.raw()), strings.Replace(event, `"seq":0`, fmt.Sprintf(`"seq":%d`, last+2), 1); got != want {
		t.Errorf("editor got %s\nwant       %s", got, want)
	}
	if got, want := string(e.raw()), strings.Replace(reverse, "55", fmt.Sprint(last+3), 1); got != want {
		t.Errorf("editor got %s\nwant       %s", got, want)
	}
	e.write(frame(fmt.Sprintf(`{"seq":78,"type":"response","request_seq":%d,"command":"runInTerminal","success":true,"body":{"new":1}}`, last+3)))
	if got, want := <-got, `{"seq":4,"type":"response","request_seq":55,"command":"runInTerminal","success":true,"body":{"new":1}}`; got != want {
		t.Errorf("Delve got  %s\nwant       %s", got, want)
	}
	e.conn.Close()
	e.ended()
}

func TestHandshakePassesTheUsersAttributes(t *testing.T) {
	checkLeaks(t)
	type args struct{ initialize, attach json.RawMessage }
	got := make(chan args, 1)
	s := newScript(t, func(conn net.Conn) {
		i, a, r, err := answerHandshake(conn)
		if err == nil {
			got <- args{i, a}
			readScript(r)
		}
	})
	s.rules = []PathRule{{"/src/long", "m/long"}, {"/src", "m"}}
	var cfg *LaunchConfig
	l := launches(s)
	l.launch = func(_ context.Context, c *LaunchConfig, _ Reporter) (Session, error) { cfg = c; return s, nil }
	e := connect(t, Config{Launcher: l})
	e.request("initialize", `{"adapterID":"x","newCapability":{"y":1}}`)
	want[*dap.InitializeResponse](e)
	e.request("launch", `{"name":"n","target":{"name":"deploy/web","namespace":"shop"},"program":"./cmd/web","args":["a"],"env":{"A":"1","B":null},
		"cwd":"/w","build":{"flags":["-race"]},"stopOnEntry":true,"stackTraceDepth":7,"__new":{"a":1.50},"substitutePath":[{"from":"/mine","to":""}]}`)
	want[*dap.InitializedEvent](e)
	want[*dap.LaunchResponse](e)
	g := <-got
	if got, want := string(g.initialize), `{"adapterID":"x","columnsStartAt1":true,"linesStartAt1":true,"newCapability":{"y":1},"pathFormat":"path"}`; got != want {
		t.Errorf("initialize got %s\nwant %s", got, want)
	}
	if got, want := string(g.attach), `{"__new":{"a":1.50},"mode":"remote","name":"n","request":"attach","stackTraceDepth":7,"stopOnEntry":true,`+
		`"substitutePath":[{"from":"/mine","to":""},{"from":"/src/long","to":"m/long"},{"from":"/src","to":"m"}]}`; got != want {
		t.Errorf("attach got %s\nwant %s", got, want)
	}
	if !reflect.DeepEqual(cfg.Target, Target{Name: "deploy/web", Namespace: "shop"}) || cfg.Program != "./cmd/web" || len(cfg.Args) != 1 || *cfg.Env["A"] != "1" ||
		cfg.Env["B"] != nil || string(cfg.Build) != `{"flags":["-race"]}` || !cfg.StopOnEntry || cfg.Cwd != "/w" {
		t.Errorf("the launcher got %+v", cfg)
	}
	e.conn.Close()
	e.ended()
}

// Requests that come while the launch goes on are sent in order afterwards.
func TestEarlyRequestsWait(t *testing.T) {
	checkLeaks(t)
	s := newScript(t, func(conn net.Conn) {
		_, _, r, err := answerHandshake(conn)
		for err == nil {
			var env envelope
			if _, env, err = readScript(r); err == nil {
				io.WriteString(conn, frame(fmt.Sprintf(`{"seq":1,"type":"response","request_seq":%d,"success":true,"command":%q}`, env.seq, env.command)))
			}
		}
	})
	release := make(chan struct{})
	l := launches(s)
	l.launch = func(context.Context, *LaunchConfig, Reporter) (Session, error) { <-release; return s, nil }
	e := connect(t, Config{Launcher: l})
	e.initialize()
	e.LaunchRequestWithArgs(map[string]any{"target": "local"})
	first := e.request("setBreakpoints", `{"source":{"path":"/a.go"},"breakpoints":[{"line":1}]}`)
	cancelled := e.request("evaluate", `{"expression":"x"}`)
	last := e.request("setFunctionBreakpoints", `{"breakpoints":[]}`)
	e.request("cancel", fmt.Sprintf(`{"requestId":%d}`, cancelled))
	if m := want[*dap.ErrorResponse](e); m.RequestSeq != cancelled || m.Message != "cancelled" {
		t.Errorf("got %+v, want %d cancelled", m, cancelled)
	}
	want[*dap.CancelResponse](e)
	close(release)
	want[*dap.InitializedEvent](e)
	got := map[string]int{}
	for range 3 {
		m := e.any().(dap.ResponseMessage).GetResponse()
		got[m.Command] = m.RequestSeq
	}
	if got["setBreakpoints"] != first || got["setFunctionBreakpoints"] != last || got["launch"] == 0 {
		t.Errorf("got answers %v", got)
	}
	e.disconnect()
}

func TestLaunchFailsAndMayBeTriedAgain(t *testing.T) {
	checkLeaks(t)
	var tries int
	s := newScript(t, func(conn net.Conn) {
		if _, _, r, err := answerHandshake(conn); err == nil {
			readScript(r)
		}
	})
	l := launches(s)
	l.launch = func(_ context.Context, _ *LaunchConfig, r Reporter) (Session, error) {
		if tries++; tries > 1 {
			return s, nil
		}
		r.Stage("building ./cmd/web", 10)
		r.Stage("building ./cmd/web", 10)
		r.Stage("building ./cmd/web", 55)
		r.Output(Stderr, "undefined: x\n", &Location{Path: "/src/web/main.go", Line: 3, Column: 7})
		return nil, errors.New(`"program" does not compile`)
	}
	e := connect(t, Config{Launcher: l})
	e.InitializeRequestWithArgs(dap.InitializeRequestArguments{PathFormat: "path", LinesStartAt1: true, ColumnsStartAt1: true, SupportsProgressReporting: true})
	want[*dap.InitializeResponse](e)
	seq := e.request("launch", `{"target":"deploy/web"}`)
	begin := want[*dap.ProgressStartEvent](e).Body
	if begin.Title != "Debugging deploy/web" || begin.Message != "building ./cmd/web" || begin.RequestId != seq || begin.Percentage != 10 {
		t.Errorf("got progress %+v", begin)
	}
	if u := want[*dap.ProgressUpdateEvent](e).Body; u.ProgressId != begin.ProgressId || u.Percentage != 55 {
		t.Errorf("got update %+v", u)
	}
	out, err := dap.DecodeProtocolMessage(e.raw())
	if o, ok := out.(*dap.OutputEvent); err != nil || !ok || o.Body.Source.Path != "/src/web/main.go" || o.Body.Line != 3 || o.Body.Column != 7 || o.Body.Category != "stderr" {
		t.Errorf("got %+v, %v, want output with a place in a file", out, err)
	}
	want[*dap.ProgressEndEvent](e)
	if m := wantError(e, idFailedToLaunch, `"program" does not compile`); !m.Body.Error.ShowUser || m.Command != "launch" {
		t.Errorf("got %+v, want it shown to the user", m)
	}
	e.request("launch", `{"target":"deploy/web"}`)
	want[*dap.ProgressStartEvent](e)
	want[*dap.InitializedEvent](e)
	want[*dap.ProgressEndEvent](e)
	want[*dap.LaunchResponse](e)
	e.conn.Close()
	e.ended()
	<-s.closed
}

func TestLaunchIsCancelled(t *testing.T) {
	for _, how := range []string{"disconnect", "vanish", "terminate", "cancel", "server stops", "cancel after all"} {
		t.Run(how, func(t *testing.T) {
			checkLeaks(t)
			s := newScript(t, nil)
			launching := make(chan struct{})
			undone := make(chan struct{})
			l := launches(nil)
			l.launch = func(ctx context.Context, _ *LaunchConfig, r Reporter) (Session, error) {
				close(launching)
				<-ctx.Done()
				close(undone)
				if how == "cancel after all" {
					return s, nil // it was too late
				}
				return nil, ctx.Err()
			}
			ctx, stop := context.WithCancel(context.Background())
			defer stop()
			e := connectTo(ctx, t, New(Config{Launcher: l}))
			e.initialize()
			seq := e.request("launch", `{"target":"deploy/web"}`)
			<-launching
			wantCancelled := func() {
				t.Helper()
				if m := want[*dap.ErrorResponse](e); m.RequestSeq != seq || m.Message != "cancelled" {
					t.Errorf("got %+v, want the launch cancelled", m)
				}
			}
			switch how {
			case "vanish":
				e.conn.Close()
				e.ended()
			case "server stops":
				stop()
				wantCancelled()
				want[*dap.TerminatedEvent](e)
				e.wantEOF()
				e.ended()
			case "disconnect":
				e.DisconnectRequest()
				wantCancelled()
				want[*dap.DisconnectResponse](e)
				want[*dap.TerminatedEvent](e)
				e.ended()
			default:
				if how == "terminate" {
					e.TerminateRequest()
				} else {
					e.request("cancel", fmt.Sprintf(`{"requestId":%d}`, seq))
				}
				// The two answers race.
				for range 2 {
					e.any()
				}
				e.disconnect()
			}
			<-undone
			if how == "cancel after all" {
				<-s.closed
			}
		})
	}
}

func TestPanicInTheLauncher(t *testing.T) {
	checkLeaks(t)
	l := launches(nil)
	l.launch = func(context.Context, *LaunchConfig, Reporter) (Session, error) { panic("oh") }
	e := connect(t, Config{Launcher: l})
	e.initialize()
	e.request("launch", `{}`)
	wantError(e, idInternal, "oh")
	e.disconnect()
}

func TestDelveDies(t *testing.T) {
	for _, test := range []struct {
		name string
		exit bool
	}{{"alone", false}, {"with the component", true}} {
		t.Run(test.name, func(t *testing.T) {
			checkLeaks(t)
			asked := make(chan struct{})
			var s *script
			s = newScript(t, func(conn net.Conn) {
				if _, _, r, err := answerHandshake(conn); err == nil {
					readScript(r)
					<-asked
					if test.exit {
						s.exit <- 42
					}
				}
			})
			if !test.exit {
				s.dialErr = errors.New("the session was ended by kubedelve restore")
			}
			e := connect(t, Config{Launcher: launches(s)})
			e.initialize()
			e.request("launch", `{}`)
			want[*dap.InitializedEvent](e)
			want[*dap.LaunchResponse](e)
			seq := e.request("evaluate", `{"expression":"x"}`)
			close(asked)
			if m := wantError(e, idReconnecting, "script is reconnecting"); m.RequestSeq != seq {
				t.Errorf("answer to %d, want %d", m.RequestSeq, seq)
			}
			if test.exit {
				if code := want[*dap.ExitedEvent](e).Body.ExitCode; code != 42 {
					t.Errorf("exit code %d, want 42", code)
				}
			}
			want[*dap.TerminatedEvent](e)
			if !test.exit && !strings.Contains(e.output["important"], "ended by kubedelve restore") {
				t.Errorf("the user is told %q", e.output)
			}
			e.request("threads", "")
			wantError(e, idNoBackend, "ended")
			e.DisconnectRequest()
			want[*dap.DisconnectResponse](e)
			e.wantEOF()
			e.ended()
			<-s.closed
		})
	}
}

// The session learns of the exit where Delve says nothing, and its code is the
// one that counts.
func TestExitIsToldOnce(t *testing.T) {
	for _, speaks := range []bool{false, true} {
		t.Run(fmt.Sprint("Delve speaks ", speaks), func(t *testing.T) {
			checkLeaks(t)
			s := newScript(t, func(conn net.Conn) {
				_, _, r, err := answerHandshake(conn)
				if err != nil {
					return
				}
				if speaks {
					io.WriteString(conn, frame(`{"seq":0,"type":"event","event":"exited","body":{"exitCode":3}}`)+
						frame(`{"seq":0,"type":"event","event":"exited","body":{"exitCode":4}}`)+
						frame(`{"seq":0,"type":"event","event":"terminated"}`)+
						frame(`{"seq":0,"type":"event","event":"terminated"}`))
				}
				for err == nil {
					_, _, err = readScript(r)
				}
			})
			e := connect(t, Config{Launcher: launches(s)})
			e.initialize()
			e.request("launch", `{}`)
			want[*dap.InitializedEvent](e)
			want[*dap.LaunchResponse](e)
			s.exit <- 5
			if code := want[*dap.ExitedEvent](e).Body.ExitCode; code != 5 {
				t.Errorf("exit code %d, want 5", code)
			}
			want[*dap.TerminatedEvent](e)
			e.request("threads", "")
			wantError(e, idNoBackend, "ended")
			e.DisconnectRequest()
			want[*dap.DisconnectResponse](e)
			e.wantEOF()
			e.ended()
		})
	}
}

func TestOutput(t *testing.T) {
	checkLeaks(t)
	s := newScript(t, func(conn net.Conn) {
		if _, _, r, err := answerHandshake(conn); err == nil {
			readScript(r)
			io.WriteString(conn, frame(`{"seq":0,"type":"event","event":"exited","body":{"exitCode":3}}`))
			readScript(r)
		}
	})
	go1 := make(chan struct{})
	s.out = func(ctx context.Context, emit func(Piece) error) error {
		for _, b := range []byte("grün €") { // a byte at a time
			emit(Piece{Stream: Stdout, Data: []byte{b}})
		}
		<-go1
		emit(Piece{Stream: Stderr, Data: []byte("last words\n")})
		emit(Piece{Stream: Stderr, Data: []byte{0xe2, 0x82}}) // half a character
		return nil
	}
	e := connect(t, Config{Launcher: launches(s)})
	e.initialize()
	e.request("launch", `{}`)
	want[*dap.InitializedEvent](e)
	want[*dap.LaunchResponse](e)
	e.request("evaluate", `{"expression":"x"}`)
	wantError(e, idReconnecting, "")
	close(go1)
	s.exit <- 3
	want[*dap.ExitedEvent](e)
	if e.output["stdout"] != "grün €" || !strings.HasPrefix(e.output["stderr"], "last words\n") {
		t.Errorf("got output %q before the exit", e.output)
	}
	e.conn.Close()
	e.ended()
}

// A client that stops reading is given up, and the session put back.
func TestClientStopsReading(t *testing.T) {
	checkLeaks(t)
	s := newScript(t, func(conn net.Conn) {
		_, _, r, err := answerHandshake(conn)
		if err != nil {
			return
		}
		go io.Copy(io.Discard, r.r)
		// net.Conn fails when the other side is closed.
		big := frame(`{"seq":0,"type":"event","event":"output","body":{"output":"` + strings.Repeat("x", 1<<20) + `"}}`)
		for err == nil {
			_, err = io.WriteString(conn, big)
		}
	})
	var inFlight sync.WaitGroup
	s.out = func(ctx context.Context, emit func(Piece) error) (err error) {
		inFlight.Add(1)
		defer inFlight.Done()
		for err == nil {
			err = emit(Piece{Stream: Stdout, Data: make([]byte, 10_000)})
		}
		return err
	}
	e := connect(t, Config{Launcher: launches(s), StallTimeout: 200 * time.Millisecond})
	e.initialize()
	e.request("launch", `{}`)
	if err := e.result(); !errors.Is(err, errStalled) {
		t.Errorf("got %v, want %v", err, errStalled)
	}
	<-s.closed
	inFlight.Wait()
}

func TestRestoreFailsAndTheUserIsTold(t *testing.T) {
	checkLeaks(t)
	s := newScript(t, func(conn net.Conn) {
		if _, _, r, err := answerHandshake(conn); err == nil {
			readScript(r)
		}
	})
	s.closeErr = errors.New("deploy/web was changed by somebody else")
	e := connect(t, Config{Launcher: launches(s)})
	e.initialize()
	e.request("launch", `{}`)
	want[*dap.InitializedEvent](e)
	want[*dap.LaunchResponse](e)
	e.DisconnectRequest()
	if m := wantError(e, idDisconnect, "restoring script: deploy/web was changed"); !m.Body.Error.ShowUser {
		t.Error("not shown to the user")
	}
	want[*dap.TerminatedEvent](e)
	if err := e.result(); !errors.Is(err, s.closeErr) {
		t.Errorf("ServeConn: %v, want %v", err, s.closeErr)
	}
}
