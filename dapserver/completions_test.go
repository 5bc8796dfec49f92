package dapserver

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/google/go-dap"
)

// completions asks what can stand at the | in the text.
func (e *editor) completions(text string, frame int) []dap.CompletionItem {
	e.t.Helper()
	before, after, ok := strings.Cut(text, "|")
	if !ok {
		e.t.Fatalf("no cursor in %q", text)
	}
	line := 1 + strings.Count(before, "\n")
	last := before[strings.LastIndexByte(before, '\n')+1:]
	arguments, err := json.Marshal(dap.CompletionsArguments{FrameId: frame, Text: before + after, Line: line, Column: len(utf16.Encode([]rune(last))) + 1})
	if err != nil {
		e.t.Fatal(err)
	}
	e.request("completions", string(arguments))
	return want[*dap.CompletionsResponse](e).Body.Targets
}

// labels are those of completions, each with its type.
func labels(items []dap.CompletionItem) []string {
	var all []string
	for _, i := range items {
		all = append(all, i.Label+":"+string(i.Type))
	}
	return all
}

// stopped goes on to the breakpoint with the given name, and returns the stopped
// thread and its frames.
func (e *editor) stopped(name string) (thread int, frames []dap.StackFrame) {
	e.t.Helper()
	file, line := fixtureBreakpoint(e.t, name)
	e.SetBreakpointsRequest(file, []int{line})
	want[*dap.SetBreakpointsResponse](e)
	e.ConfigurationDoneRequest()
	want[*dap.ConfigurationDoneResponse](e)
	stopped := want[*dap.StoppedEvent](e)
	e.StackTraceRequest(stopped.Body.ThreadId, 0, 20)
	frames = want[*dap.StackTraceResponse](e).Body.StackFrames
	if frames[0].Line != line {
		e.t.Fatalf("stopped in line %d, want %d", frames[0].Line, line)
	}
	return stopped.Body.ThreadId, frames
}

func TestCompletionsWhileHalted(t *testing.T) {
	checkLeaks(t)
	e := connect(t, Config{Launcher: launches(startDelve(t, "shapes"))})
	e.launch()
	_, frames := e.stopped("shapes")
	for _, test := range []struct {
		text string
		// want are all completions in their order, or with ... at the end the
		// first ones.
		want []string
	}{
		{"|", []string{"byName:variable", "c:variable", "list:variable", "pointer:variable", "radius:variable", "shape:variable", "strings:variable", "..."}},
		{"po|", []string{"pointer:variable", "poll:module"}},
		{"PO|", []string{"pointer:variable", "poll:module"}},
		{"radius + shapeC|", []string{"shapeCount:variable"}},
		{"pointer.|", []string{"Area:method", "Radius:field", "..."}},
		{"c.|", nil},
		{"c.R|", []string{"Radius:field", "Rename:method"}},
		{"pointer.in|", []string{"inner:field"}},
		{"pointer.inner.inn|", []string{"inner:field"}},
		{"c.point.|", []string{"X:field", "Y:field"}},
		{"shape.r|", []string{"Radius:field", "Rename:method"}},
		{"len(list[0].n|", []string{"Name:field", "named:field"}},
		{"list[-1].n|", nil},
		{`byName["ring"].n|`, []string{"Name:field", "named:field"}},
		{"(*pointer).r|", []string{"Radius:field", "Rename:method"}},
		{"shape.(*main.circle).r|", []string{"Radius:field", "Rename:method"}},
		{"list.|", nil},
		{"radius.|", nil},
		{"strings.|", nil}, // the variable
		{`"strings".Rep|`, []string{"Repeat:function"}},
		{"os.Arg|", []string{"Args:variable"}},
		{"os.Stdout.fi|", []string{"file:field"}},
		{"os.Stdout.file.n|", []string{"name:field", "nonblock:field"}},
		{"main.sha|", []string{"shapeCount:variable", "shapes:function"}},
		{"pointer.grow(1).|", nil}, // would have to be called
		{"shape.Area().|", nil},
		{"nosuch.|", nil},
		{"call pointer.gr|", []string{"grow:method"}},
		{"call ti|", []string{"tick:function", "time:module"}},
		{"x == \"po|", nil},
		{"'p|", nil},
		{"`po|", nil},
		{"12|", nil},
		{"1.|", nil},
		{`"ä𝄞" + po|`, []string{"pointer:variable", "poll:module"}},
		{"first\n  po|\nlast", []string{"pointer:variable", "poll:module"}},
		{"dlv con|", []string{"config:keyword"}},
		{"dlv x -x po|", []string{"pointer:variable", "poll:module"}},
		{"dlv x -fmt hex -x radius + c.Ra|", []string{"Radius:field"}},
	} {
		got := e.completions(test.text, frames[0].Id)
		g := labels(got)
		if n := len(test.want); n > 0 && test.want[n-1] == "..." {
			g = append(g[:min(n-1, len(g))], "...")
		}
		if test.text == "c.|" || test.text == "pointer.|" {
			all := labels(got)
			slices.Sort(all)
			if want := []string{"Area:method", "Name:field", "Radius:field", "Rename:method", "X:field", "Y:field", "grow:method", "hidden:field", "inner:field", "named:field", "point:field"}; !slices.Equal(all, want) {
				t.Errorf("%s: got %q, want %q", test.text, all, want)
			}
			continue
		}
		if !slices.Equal(g, test.want) {
			t.Errorf("%s: got %q, want %q", test.text, g, test.want)
		}
	}
	// Types, and what is replaced.
	got := e.completions(`"ä𝄞" + poin|ter`, frames[0].Id)
	if wanted := (dap.CompletionItem{Label: "pointer", Text: "pointer", Detail: "*main.circle", Type: "variable", SortText: "0pointer", Start: 9, Length: 4}); len(got) != 1 || got[0] != wanted {
		t.Errorf("got %+v, want %+v", got, wanted)
	}
	// Without a frame there are no variables, of another frame there are others.
	if got := labels(e.completions("po|", 0)); !slices.Equal(got, []string{"poll:module"}) {
		t.Errorf("without a frame: got %q", got)
	}
	if got := labels(e.completions("pointer.|", frames[1].Id)); len(got) > 0 {
		t.Errorf("in the frame of main.main: got %q", got)
	}
	if got := labels(e.completions("r|", 999_999)); !slices.Contains(got, "runtime:module") {
		t.Errorf("in a frame that is not there: got %q", got)
	}
	// What was offered changed nothing.
	e.EvaluateRequest("c.Radius", frames[0].Id, "repl")
	if got := want[*dap.EvaluateResponse](e).Body.Result; got != "4" {
		t.Errorf("the radius is %s", got)
	}
	e.disconnect()
}

func TestCompletionsWhileRunning(t *testing.T) {
	checkLeaks(t)
	e := connect(t, Config{Launcher: launches(startDelve(t, "loop"))})
	e.initialize()
	if got := labels(e.completions("dlv h|", 0)); !slices.Equal(got, []string{"help:keyword"}) {
		t.Errorf("before the launch: got %q", got)
	}
	e.LaunchRequestWithArgs(map[string]any{"target": "local"})
	e.awaitLaunched()
	want[*dap.LaunchResponse](e)
	e.ConfigurationDoneRequest()
	want[*dap.ConfigurationDoneResponse](e)
	for text, wanted := range map[string][]string{
		"os.Arg|": {"Args:variable"}, "os.Args.|": nil, "dl|": {"dlv:keyword"}, "fm|": {"fmt:module", "fmtsort:module"}, "dlv |": {
			"config:keyword", "examinemem:keyword", "help:keyword", "sources:keyword", "target:keyword", "types:keyword"},
	} {
		got := slices.DeleteFunc(labels(e.completions(text, 1000)), func(l string) bool { return l == "fmtsort:module" && len(wanted) == 1 })
		if !slices.Equal(got, wanted) && !slices.Equal(append(got, "fmtsort:module"), wanted) {
			t.Errorf("%s: got %q, want %q", text, got, wanted)
		}
	}
	e.disconnect()
}

// TestDelveCommandsAreDelves holds the tables against the real Delve.
func TestDelveCommandsAreDelves(t *testing.T) {
	checkLeaks(t)
	e := connect(t, Config{Launcher: launches(startDelve(t, "shapes"))})
	e.launch()
	_, frames := e.stopped("shapes")
	say := func(command string) string {
		e.EvaluateRequest(command, frames[0].Id, "repl")
		return want[*dap.EvaluateResponse](e).Body.Result
	}
	var commands []string
	for _, c := range dlvCommands() {
		line := "dlv " + c.name
		if c.alias != "" {
			line += " (alias: " + c.alias + ")"
		}
		commands = append(commands, line+" \t "+c.help)
	}
	var real []string
	for line := range strings.SplitSeq(say("dlv help"), "\n") {
		if strings.HasPrefix(line, "    dlv ") {
			real = append(real, strings.TrimSpace(line))
		}
	}
	if !slices.Equal(commands, real) {
		t.Errorf("got commands %q,\nDelve has %q", commands, real)
	}
	var parameters []string
	for _, p := range dlvParameters() {
		parameters = append(parameters, p.name)
	}
	real = nil
	for line := range strings.SplitSeq(say("dlv config -list"), "\n") {
		if name, value, ok := strings.Cut(line, "\t"); ok {
			real = append(real, name)
			for _, p := range dlvParameters() {
				if p.name == name && (value == "true" || value == "false") != slices.Equal(p.values, onOff) {
					t.Errorf("%s is %s and can be %q", name, value, p.values)
				}
			}
		}
	}
	slices.Sort(real)
	if !slices.Equal(parameters, real) {
		t.Errorf("got parameters %q,\nDelve has %q", parameters, real)
	}
	for text, wanted := range map[string][]string{
		"dlv help ty|":                {"types:keyword"},
		"dlv help types |":            nil,
		"dlv config show|":            {"showGlobalVariables:property", "showPprofLabels:property", "showRawStrings:property", "showRegisters:property"},
		"dlv config -|":               {"-list:keyword"},
		"dlv config -list stack|":     {"stackTraceDepth:property"},
		"dlv config showRegisters |":  {"false:value", "true:value"},
		"dlv config substitutePath |": {"-clear:value"},
		"dlv target |":                {"follow-exec:keyword", "list:keyword", "switch:keyword"},
		"dlv target follow-exec |":    {"-off:keyword", "-on:keyword"},
		"dlv x -fmt |":                {"bin:keyword", "dec:keyword", "hex:keyword", "oct:keyword", "raw:keyword"},
		"dlv examinemem -f|":          {"-fmt:keyword"},
		"dlv x -count |":              nil,
		"dlv sources shap|":           {"shapes.go:file"},
		"dlv nosuch |":                nil,
		"dlv types x |":               nil,
	} {
		if got := labels(e.completions(text, 0)); !slices.Equal(got, wanted) {
			t.Errorf("%s: got %q, want %q", text, got, wanted)
		}
	}
	e.disconnect()
}

// Half of all completions come within 10 ms.
func TestCompletionsAreFast(t *testing.T) {
	checkLeaks(t)
	e := connect(t, Config{Launcher: launches(startDelve(t, "shapes"))})
	e.launch()
	_, frames := e.stopped("shapes")
	e.completions("|", frames[0].Id) // makes the index
	var took []time.Duration
	for range 50 {
		for _, text := range []string{"|", "po|", "pointer.|", "os.|"} {
			begin := time.Now()
			if len(e.completions(text, frames[0].Id)) == 0 {
				t.Fatalf("%s: nothing", text)
			}
			took = append(took, time.Since(begin))
		}
	}
	slices.Sort(took)
	t.Logf("median %s, 99 %% %s", took[len(took)/2], took[len(took)*99/100])
	if took[len(took)/2] > 10*time.Millisecond {
		t.Errorf("half of the completions take longer than %s", took[len(took)/2])
	}
	e.disconnect()
}

func TestColumns(t *testing.T) {
	for _, test := range []struct {
		s          string
		column, at int
	}{
		{"abc", 1, 0}, {"abc", 4, 3}, {"abc", 99, 3}, {"abc", 0, 0}, {"abc", -7, 0},
		{"äb", 2, 2}, {"𝄞b", 2, 0}, {"𝄞b", 3, 4}, {"", 1, 0}, {"\xffb", 2, 1},
	} {
		if got := offset(test.s, test.column); got != test.at {
			t.Errorf("column %d of %q is at byte %d, want %d", test.column, test.s, got, test.at)
		}
	}
	for _, test := range []struct {
		text string
		line int
		want string
	}{{"a\r\nb", 1, "a"}, {"a\r\nb", 2, "b"}, {"a", 0, "a"}, {"a\nb", 9, "a"}, {"", 1, ""}} {
		if got := lineOf(test.text, test.line); got != test.want {
			t.Errorf("line %d of %q is %q, want %q", test.line, test.text, got, test.want)
		}
	}
}

func FuzzColumns(f *testing.F) {
	for _, s := range []string{"", "abc", "ä", "𝄞", "a𝄞b", "e\u0301", "\xff\xfe", "a\x00b", "👩‍👩‍👧", "\u2028", "ﷺ"} {
		for _, c := range []int{-1, 0, 1, 2, 3, 100} {
			f.Add(s, c)
		}
	}
	f.Fuzz(func(t *testing.T, s string, c int) {
		// The standard library counts the same.
		if got, want := units(s), len(utf16.Encode([]rune(s))); got != want {
			t.Fatalf("%q has %d units, want %d", s, got, want)
		}
		at := offset(s, c)
		if at < 0 || at > len(s) || at < len(s) && !utf8.RuneStart(s[at]) && utf8.ValidString(s) {
			t.Fatalf("column %d of %q is at byte %d", c, s, at)
		}
		back := column(s, at)
		if c >= 1 && (back > c || back < c-1 && at < len(s)) {
			t.Errorf("column %d of %q is at byte %d, which is column %d", c, s, at, back)
		}
		if offset(s, back) != at {
			t.Errorf("byte %d of %q is in column %d, which is at byte %d", at, s, back, offset(s, back))
		}
	})
}

// FuzzConsole looks for text that is taken apart wrongly.
func FuzzConsole(f *testing.F) {
	for _, s := range []string{"", "a.b", "dlv config ", "call f(x).y.", `m["a\"b"].x`, "(*p).x.(T).", "x[[(", `"a/b".C`, "f(a, b.", "`a", "'", "dlv x -x a.b", "\xff.", "a..b", "(((((((((", "x.)].", "1e3.", "call\t", `"`, `"".`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		q := parseConsole(s)
		if q.kind == queryNothing {
			return
		}
		if q.from < 0 || q.from > len(s) || s[q.from:] != q.word {
			t.Fatalf("%q: the word %q is not at %d", s, q.word, q.from)
		}
		if (q.kind == querySelector) != (q.operand != "") {
			t.Errorf("%q: got operand %q", s, q.operand)
		}
		if q.kind == querySelector && (!strings.HasSuffix(s[:q.from], q.operand+".") || strings.Contains(q.operand, "()")) {
			t.Errorf("%q: the operand %q is not before the dot, or calls", s, q.operand)
		}
		for _, w := range q.words {
			if strings.ContainsAny(w, " \t") {
				t.Errorf("%q: got words %q", s, q.words)
			}
		}
	})
}

func TestHarmless(t *testing.T) {
	for expression, want := range map[string]bool{
		"a": true, "a.b": true, "a[1].b": true, "a[i].b": true, `a["x"]`: true, "(*p).b": true, "a.(T)": true, "a.(*b.T).c": true,
		`"a/b".C`: true, "&a": true, "a[-1]": true,
		"f()": false, "a.f().b": false, "a[f()].b": false, "<-c": false, "a + b": false, "func() {}": false, "T{}": false, "*(*int)(0)": false,
		"a[1:2]": false, "": false, "a b": false, "a.(func())": false, "a.(type)": false, "1": false, "a[-f()]": false,
	} {
		if got := isHarmless(expression); got != want {
			t.Errorf("%s: got %t, want %t", expression, got, want)
		}
	}
	for text, want := range map[string]string{
		"x + a.b": "a.b", "f(a.b": "a.b", "f(a, b)[1].c": "f(a, b)[1].c", `x["]"].y`: `x["]"].y`, `1 + "a/b".C`: `"a/b".C`, "a.(T)": "a.(T)",
		"x)": "", "": "", "+": "", "(a).b": "(a).b", "!a": "a", "*a.b": "a.b", "a[1][2]": "a[1][2]",
	} {
		if got := operandBefore(text); got != want {
			t.Errorf("%s: the operand is %q, want %q", text, got, want)
		}
	}
}
