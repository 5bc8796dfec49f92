package dapserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-dap"

	"github.com/kubedelve/kubedelve/internal/debuginfo"
)

var _ Program = (*debuginfo.Program)(nil)

// locations asks where breakpoints can be in a file.
func (e *editor) locations(path string, from, to int) []int {
	e.t.Helper()
	e.request("breakpointLocations", fmt.Sprintf(`{"source":{"path":%q},"line":%d,"endLine":%d}`, path, from, to))
	lines := []int{}
	for _, b := range want[*dap.BreakpointLocationsResponse](e).Body.Breakpoints {
		if b.Column != 0 || b.EndLine != 0 || b.EndColumn != 0 {
			e.t.Errorf("got %+v, want a line and nothing else", b)
		}
		lines = append(lines, b.Line)
	}
	return lines
}

// Each line that is offered binds where it is, and no other does.
func TestBreakpointLocationsAreThoseThatBind(t *testing.T) {
	checkLeaks(t)
	e := connect(t, Config{Launcher: launches(startDelve(t))})
	e.launch()
	for _, file := range []string{fixtureSource(t), filepath.Join(runtime.GOROOT(), "src/fmt/format.go")} { //nolint:staticcheck // the go command that built the fixture is this one's
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all := make([]int, strings.Count(string(content), "\n")+1)
		for i := range all {
			all[i] = i + 1
		}
		e.SetBreakpointsRequest(file, all)
		bound := []int{}
		for i, b := range want[*dap.SetBreakpointsResponse](e).Body.Breakpoints {
			if b.Verified && b.Line == all[i] {
				bound = append(bound, b.Line)
			}
		}
		got := e.locations(file, 1, len(all))
		if !slices.Equal(got, bound) || len(got) == 0 {
			t.Errorf("%s: offered %v, bound %v", file, got, bound)
		}
		middle := got[len(got)/2]
		if one := e.locations(file, middle, 0); !slices.Equal(one, []int{middle}) {
			t.Errorf("asked for line %d only, got %v", middle, one)
		}
		e.SetBreakpointsRequest(file, nil)
		want[*dap.SetBreakpointsResponse](e)
	}
	if got := e.locations("/nowhere/main.go", 1, 100); len(got) > 0 {
		t.Errorf("got lines %v of a file that is not there", got)
	}
	e.disconnect()
}

func (e *editor) loadedSources() []dap.Source {
	e.t.Helper()
	e.LoadedSourcesRequest()
	return want[*dap.LoadedSourcesResponse](e).Body.Sources
}

func TestLoadedSources(t *testing.T) {
	checkLeaks(t)
	e := connect(t, Config{Launcher: launches(startDelve(t))})
	e.launch()
	sources := map[string]dap.Source{}
	for _, s := range e.loadedSources() {
		if _, err := os.Stat(s.Path); err != nil {
			t.Errorf("%+v: %v", s, err)
		}
		sources[filepath.Base(s.Path)] = s
	}
	if got, want := sources["main.go"], (dap.Source{Name: "main.go", Path: fixtureSource(t), Origin: "github.com/kubedelve/kubedelve"}); got.Name != want.Name ||
		got.Path != want.Path || !strings.HasPrefix(got.Origin, want.Origin) || got.PresentationHint != "" {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got, want := sources["print.go"], "Go standard library "+runtime.Version(); got.Origin != want || got.PresentationHint != "deemphasize" {
		t.Errorf("got %+v, want its origin to be %q", got, want)
	}
	e.disconnect()
}

// A rule of the user's comes before all others, in both directions.
func TestProgramPathsAreMapped(t *testing.T) {
	checkLeaks(t)
	e := connect(t, Config{Launcher: launches(startDelve(t))})
	e.initialize()
	e.LaunchRequestWithArgs(map[string]any{"target": "local",
		"substitutePath": []map[string]string{{"from": "/elsewhere", "to": filepath.Dir(fixtureSource(t))}}})
	e.awaitLaunched()
	want[*dap.LaunchResponse](e)
	if got := e.locations("/elsewhere/main.go", fixtureLine(t, "work"), 0); len(got) != 1 {
		t.Errorf("got %v, want one line", got)
	}
	if !slices.ContainsFunc(e.loadedSources(), func(s dap.Source) bool { return s.Path == "/elsewhere/main.go" }) {
		t.Error("/elsewhere/main.go is not a source")
	}
	e.disconnect()
}

func TestModules(t *testing.T) {
	checkLeaks(t)
	e := connect(t, Config{Launcher: launches(startDelve(t))})
	e.launch()
	e.ModulesRequest()
	m := want[*dap.ModulesResponse](e)
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	all := m.Body.Modules
	if len(all) != 2 || m.Body.TotalModules != 2 {
		t.Fatalf("got %+v, want the main module and the standard library", all)
	}
	if all[0].Id != "github.com/kubedelve/kubedelve" || all[0].Path != root || !all[0].IsUserCode || all[0].SymbolStatus != "Symbols loaded" {
		t.Errorf("got %+v", all[0])
	}
	if all[1].Id != "std" || all[1].Version != runtime.Version() || all[1].IsUserCode || !strings.HasSuffix(all[1].Path, "/src") {
		t.Errorf("got %+v", all[1])
	}
	for page, wanted := range map[string]int{`{"startModule":1}`: 1, `{"startModule":0,"moduleCount":1}`: 1, `{"startModule":2}`: 0, `{"startModule":-1,"moduleCount":-1}`: 2, `{"startModule":99}`: 0} {
		e.request("modules", page)
		if m := want[*dap.ModulesResponse](e); len(m.Body.Modules) != wanted || m.Body.TotalModules != 2 {
			t.Errorf("%s: got %+v", page, m.Body)
		}
	}
	e.disconnect()
}

// The answers come in every phase, also when Delve would not answer.
func TestProgramRequestsInEveryPhase(t *testing.T) {
	checkLeaks(t)
	d := startDelve(t, "loop")
	launched := make(chan struct{})
	e := connect(t, Config{Launcher: launcher{launch: func(ctx context.Context, _ *LaunchConfig, _ Reporter) (Session, error) {
		select {
		case <-launched:
			return d, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}}})
	e.request("loadedSources", "")
	wantError(e, idNotInitialized, "loadedSources")
	e.initialize()
	if got := e.loadedSources(); len(got) > 0 {
		t.Errorf("got %d sources of nothing", len(got))
	}

	// While the launch goes on they wait for it, or are cancelled.
	e.LaunchRequestWithArgs(map[string]any{"target": "local"})
	first := e.request("loadedSources", "")
	second := e.request("modules", "")
	e.request("cancel", fmt.Sprintf(`{"requestId":%d}`, second))
	for range 2 {
		switch m := e.any().(type) {
		case *dap.ErrorResponse:
			if m.RequestSeq != second || m.Message != "cancelled" {
				t.Errorf("got %+v for %d", m, second)
			}
		case *dap.CancelResponse:
		default:
			t.Fatalf("got %T %+v", m, m)
		}
	}
	close(launched)
	seen := map[string]bool{}
	for range 4 {
		switch m := e.any().(type) {
		case *dap.LoadedSourcesResponse:
			if m.RequestSeq != first || len(m.Body.Sources) == 0 {
				t.Errorf("got %d sources for %d", len(m.Body.Sources), m.RequestSeq)
			}
			seen["loadedSources"] = true
		case *dap.CapabilitiesEvent, *dap.InitializedEvent, *dap.LaunchResponse:
			seen[fmt.Sprintf("%T", m)] = true
		default:
			t.Fatalf("got %T %+v", m, m)
		}
	}
	if len(seen) != 4 {
		t.Errorf("got %v", seen)
	}

	line := fixtureLine(t, "tick")
	check := func(when string) {
		t.Helper()
		if got := e.locations(fixtureSource(t), line, line); !slices.Equal(got, []int{line}) {
			t.Errorf("%s: got lines %v, want %d", when, got, line)
		}
	}
	check("halted")
	e.ConfigurationDoneRequest()
	want[*dap.ConfigurationDoneResponse](e)
	check("running")
	code := 3
	d.finish(&code)
	want[*dap.ExitedEvent](e)
	want[*dap.TerminatedEvent](e)
	check("after the end")
	e.DisconnectRequest()
	want[*dap.DisconnectResponse](e)
	e.wantEOF()
	e.ended()
}

// serveHandshake plays Delve up to the answer to attach, and then says yes to all.
func serveHandshake(conn net.Conn) {
	_, _, r, err := answerHandshake(conn)
	for err == nil {
		var env envelope
		if _, env, err = readScript(r); err == nil {
			_, err = io.WriteString(conn, frame(fmt.Sprintf(`{"seq":0,"type":"response","request_seq":%d,"success":true,"command":%q}`, env.seq, env.command)))
		}
	}
}

// launchScript is launch for a script, whose capabilities are those expected.
func (e *editor) launchScript() {
	e.t.Helper()
	e.initialize()
	e.LaunchRequestWithArgs(map[string]any{"target": "local"})
	want[*dap.InitializedEvent](e)
	want[*dap.LaunchResponse](e)
}

// What is not known is empty, and no error.
func TestWithoutProgram(t *testing.T) {
	checkLeaks(t)
	e := connect(t, Config{Launcher: launches(newScript(t, serveHandshake))})
	e.launchScript()
	for _, command := range []string{"loadedSources", "modules", "breakpointLocations"} {
		arguments := map[string]string{"breakpointLocations": `{"source":{"path":"/a.go"},"line":1}`}[command]
		e.request(command, arguments)
		m, err := json.Marshal(e.any())
		if err != nil {
			t.Fatal(err)
		}
		var body struct{ Body map[string]any }
		if err := json.Unmarshal(m, &body); err != nil {
			t.Fatal(err)
		}
		for name, value := range body.Body {
			if list, ok := value.([]any); name != "totalModules" && (!ok || len(list) > 0) {
				t.Errorf("%s: got %s", command, m)
			}
		}
	}
	e.disconnect()
}

// noProgram is one that can't be read.
type noProgram struct{ *debuginfo.Program }

var errNoProgram = errors.New("the disk is full of holes")

func (noProgram) Lines(context.Context, string) ([]int, error) { return nil, errNoProgram }

func TestProgramThatCannotBeRead(t *testing.T) {
	checkLeaks(t)
	d := startDelve(t)
	s := newScript(t, serveHandshake)
	s.program = noProgram{d.last().program}
	e := connect(t, Config{Launcher: launches(s)})
	e.launchScript()
	e.request("breakpointLocations", `{"source":{"path":"/a.go"},"line":1}`)
	wantError(e, idProgram, errNoProgram.Error())
	e.disconnect()
}
