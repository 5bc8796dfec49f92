package dapterminal

import (
	"slices"
	"strings"
	"testing"
)

// delve is Delve's own server, and what it is to launch.
func delve(t *testing.T, args ...string) (adapter string, configuration map[string]any) {
	t.Helper()
	p := built(t)
	return p.delve + " 127.0.0.1:${port}", map[string]any{"request": "launch", "mode": "exec", "program": p.program, "args": args}
}

func TestDelveFromABreakpointToTheEnd(t *testing.T) {
	adapter, configuration := delve(t)
	u := start(t, adapter, configuration)
	at := line(t)
	u.gets("break "+at, "Breakpoint 1 set at ./"+at)
	u.gets("next", "Command failed: the program has not begun: continue")
	u.gets("continue", "> [Breakpoint 1] main.price ./"+at, "=>", "fmt.Print() // breakpoint")
	u.gets("print total", "6\n")
	u.gets("print o", `main.order {Item: "tea", Count: 1}`)
	u.gets("print -1 o", "\tItem = ", "\tCount = 1")
	u.gets("whatis o.Count", "int\n")
	u.gets("locals", "o = main.order", "total = 6")
	u.gets("stack", " 0  main.price", " 1  main.main")
	u.gets("stack 1", " 0  main.price")
	u.gets("up", "Frame 1: main.main", "=>", "price(order{")
	u.gets("print n", "1\n") // of that frame
	u.gets("up 100", "Command failed: the frames are 0 to ")
	u.gets("down", "Frame 0: main.price")
	u.gets("set total = 4711")
	u.gets("list 1", "   1:", "   6:")
	u.gets("goroutines", "*", "main.price")
	u.gets("stepout", "> [step] main.main")
	u.gets("condition 1 o.Count == 3")
	u.gets("breakpoints", "Breakpoint 1 at ./"+at+" if o.Count == 3")
	u.gets("c", "> [Breakpoint 1] main.price")
	u.prints("the price is 4711", "the price is 12")
	u.gets("print o.Count", "3\n")
	u.gets("clear 1", "Breakpoint 1 cleared")
	u.gets("clear 1", "Command failed: there is no breakpoint 1")
	u.gets("next", "> [step] main.price")
	u.gets("", "> [step] main.main") // an empty line is the last one again
	u.gets("continue", "The program has ended")
	u.prints("the price is 18")
	u.gets("continue", "Command failed: the program has ended: restart or exit")
	u.types("exit")
	if err := u.ends(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(u.all(), "The program has exited with code 3.") {
		t.Errorf("the exit code is not shown: %s", u.all())
	}
}

// Delve restarts the program, as long as there is one: its server serves one session, and the
// terminal starts another.
func TestDelveRestartsWithItsBreakpoints(t *testing.T) {
	adapter, configuration := delve(t)
	u := start(t, adapter, configuration)
	u.gets("b main.price if o.Count == 2", "Breakpoint 1 set at ")
	u.gets("c", "> [Breakpoint 1] main.price")
	u.prints("the price is 6")
	u.gets("restart", "> [Breakpoint 1] main.price")
	u.prints("the price is 6")
	if strings.Contains(u.all(), "restart failed") {
		t.Errorf("Delve did not restart it: %s", u.all())
	}
	u.gets("print o.Count", "2\n")
	u.gets("clearall", "Breakpoint 1 cleared")
	u.gets("c", "The program has ended")
	u.prints("the price is 18")
	u.gets("restart", "The program has ended")
	u.prints("the price is 18")
	u.types("exit")
	if err := u.ends(); err != nil {
		t.Error(err)
	}
}

func TestCtrlCHaltsAProgramThatRuns(t *testing.T) {
	adapter, configuration := delve(t, "for ever")
	u := start(t, adapter, configuration)
	u.types("continue")
	u.awaitRunning()
	u.presses()
	u.sees("> [pause] ")
	u.gets("b main.price", "Breakpoint 1 set at ")
	u.gets("c", "> [Breakpoint 1] main.price")
	u.gets("p o.Item", `"milk"`)
	u.sees(Prompt)
	u.mu.Lock()
	complete := u.complete
	u.mu.Unlock()
	if got := complete("cond"); !slices.Equal(got, []string{"condition"}) {
		t.Errorf("cond is completed to %q", got)
	}
	if got := complete("b testdata/pro"); !slices.Equal(got, []string{"b testdata/program"}) {
		t.Errorf("a path is completed to %q", got)
	}
	u.leaves()
	if err := u.ends(); err != nil {
		t.Error(err)
	}
}

// awaitRunning waits until the first continue has let the program go.
func (u *user) awaitRunning() {
	u.Helper()
	u.sees("continue\n")
	u.sees("Type 'dlv help'") // what Delve says when it does that
}

func TestAProgramThatCannotBeLaunched(t *testing.T) {
	adapter, configuration := delve(t)
	configuration["program"] = "/nowhere"
	u := start(t, adapter, configuration)
	err := u.ends()
	if err == nil || !strings.Contains(err.Error(), "/nowhere") {
		t.Errorf("the error is %v", err)
	}
}
