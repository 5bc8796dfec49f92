package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kubedelve/kubedelve/internal/agentbinary"
	"github.com/kubedelve/kubedelve/internal/pty"
)

// typist is a user at a terminal.
type typist struct {
	*testing.T
	terminal *pty.Terminal
}

// sees waits until the text is shown, and returns what else is.
func (u typist) sees(text string) string {
	u.Helper()
	shown, err := u.terminal.Await(within(u.T), text)
	if err != nil {
		u.Fatal(err)
	}
	return shown
}

func (u typist) types(keys string) {
	u.Helper()
	if err := u.terminal.Type(keys); err != nil {
		u.Fatal(err)
	}
}

// attachLocal starts "kubedelve attach local" of dapserver's fixture, which ticks.
func attachLocal(t *testing.T, dir string) (typist, string) {
	t.Helper()
	source, err := filepath.Abs("../../dapserver/testdata/fixture/main.go")
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "attach", "local", "--program", filepath.Dir(source), "--", "loop")
	cmd.Dir = filepath.Dir(source)
	cmd.Env = append(os.Environ(), envProgram+"=1", "TERM=xterm", "XDG_CACHE_HOME="+filepath.Join(dir, "cache"), "GOCACHE="+goCache(t),
		"XDG_CONFIG_HOME="+filepath.Join(dir, "config"), agentbinary.Env+"="+filepath.Join(dir, "kubedelve-agent"))
	terminal, err := pty.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = terminal.Close() })
	return typist{t, terminal}, source
}

func TestADebuggerInTheTerminal(t *testing.T) {
	dir := buildAgent(t)
	u, source := attachLocal(t, dir)
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, _ := strings.Cut(string(text), "// breakpoint: tick")
	line := before[strings.LastIndex(before, "\n")+1:] + "// breakpoint: tick"
	if rest == "" {
		t.Fatalf("%s has no breakpoint", source)
	}

	u.sees(`waits at its entry; "continue" lets it go on, "exit" ends the session`)
	u.sees("(dlv) ")
	u.types("brea\t ")
	u.sees("break ") // completed
	u.types("main.tick\n")
	u.sees("Breakpoint 1 set at")
	u.types("continue\n")
	u.sees("> [Breakpoint 1] main.tick()")
	if shown := u.sees("(dlv) "); !strings.Contains(shown, strings.TrimSpace(line)) {
		t.Errorf("the source is not shown: %s", shown)
	}
	u.types("clear 1\n")
	u.sees("cleared")
	u.types("continue\n")
	u.sees("tick\n")
	u.types("\x03") // Ctrl-C halts the program, and ends nothing
	u.sees("received SIGINT, stopping process")
	u.sees("(dlv) ")
	u.types("\x1b[A\x1b[A\n") // the last but one
	u.sees("clear 1")
	u.sees("no breakpoint with id 1")
	u.types("exit\n")
	u.sees("restored")
	if code, err := u.terminal.Wait(within(t)); err != nil || code != exitOK {
		t.Errorf("it ended with code %d, %v", code, err)
	}

	// What was typed is remembered.
	u, _ = attachLocal(t, dir)
	u.sees("(dlv) ")
	u.types("\x1b[A\x1b[A") // exit, and before it
	u.sees("clear 1")
	u.types("\x15exit\n") // Ctrl-U takes the line away
	u.sees("restored")
}
