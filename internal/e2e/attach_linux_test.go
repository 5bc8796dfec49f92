//go:build integration

package e2e

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/kubedelve/kubedelve/internal/editor"
	"github.com/kubedelve/kubedelve/internal/pty"
	"github.com/kubedelve/kubedelve/internal/testcluster"
)

// typist is a user at a terminal.
type typist struct {
	*testing.T
	terminal *pty.Terminal
}

// atTerminal starts kubedelve on a terminal.
func atTerminal(t *testing.T, k testcluster.Command) typist {
	t.Helper()
	k.Env = append(k.Env, "TERM=xterm", "XDG_CONFIG_HOME="+t.TempDir())
	cmd, err := cluster.Command(k)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err := pty.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = terminal.Close() })
	return typist{t, terminal}
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

// says types a line when the debugger waits for one.
func (u typist) says(line string) {
	u.Helper()
	u.sees("(dlv) ")
	if err := u.terminal.Type(line + "\n"); err != nil {
		u.Fatal(err)
	}
}

func (u typist) ends(code int) {
	u.Helper()
	if got, err := u.terminal.Wait(within(u.T)); err != nil || got != code {
		u.Errorf("it ended with code %d, %v, want %d", got, err, code)
	}
}

// A terminal joins a session that another process keeps, one debugger at a time, and
// leaves it as it would have been.
func TestIntegrationAttachToASession(t *testing.T) {
	n := namespace(t, nil, allTiers...)
	before := snapshot(t, n, "middle")
	p, ready := debugMiddle(t, n)
	at := breakpoint(t, "")
	source, err := os.ReadFile(at.Path)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.TrimSpace(strings.Split(string(source), "\n")[at.Line-1])

	u := atTerminal(t, n.Kubedelve("attach"))
	u.sees("session " + ready.Session + " of deploy/middle, begun by ")
	u.says("break " + at.Path + ":" + strconv.Itoa(at.Line))
	u.sees("Breakpoint 1 set at")
	u.says("continue")
	buy := begin(t, n, "front", "buy", "item=tea&count=2")
	u.sees("> [Breakpoint 1] main.priceOf() ./middle/main.go:" + strconv.Itoa(at.Line))
	u.sees(line) // of this machine's file
	u.says("print order")
	u.sees(`Item: "tea"`)
	u.says("set total = 4711")

	t.Log("nobody else comes in meanwhile")
	if r := run(t, n.Kubedelve("attach", "deploy/middle"), 1); !strings.Contains(r.Stderr, "take it over with --take-over") {
		t.Errorf("a second terminal reads %q", r.Stderr)
	}
	if d, _, err := editor.Start(within(t), dial(t, ready.Listen), "attach", attachConfig); err == nil {
		t.Error("an editor comes in while a terminal is connected")
	} else {
		t.Logf("an editor reads: %v", err)
		_ = d.Close()
	}

	t.Log("the terminal leaves")
	u.says("exit")
	u.ends(0)
	buy.got(t, "front: 2 tea cost 4711")
	begin(t, n, "front", "buy", "item=tea&count=2").got(t, "front: 2 tea cost 12")

	t.Log("a terminal takes over from another one")
	first := atTerminal(t, n.Kubedelve("attach", ready.Session))
	first.sees("(dlv) ")
	second := atTerminal(t, n.Kubedelve("attach", "deploy/middle", "--take-over"))
	second.sees("(dlv) ")
	first.sees("the debugger was taken over by ")
	first.ends(1)
	if err := second.terminal.Type("exit\n"); err != nil {
		t.Fatal(err)
	}
	second.ends(0)
	begin(t, n, "front", "buy", "item=tea&count=2").got(t, "front: 2 tea cost 12")
	end(t, p)
	restored(t, n, "middle", before)
	if r := run(t, n.Kubedelve("attach"), 1); !strings.Contains(r.Stderr, "kubedelve attach TARGET --program PKG") {
		t.Errorf("without a session it says %q", r.Stderr)
	}
}

// A terminal begins a session, which ends with it.
func TestIntegrationAttachToANewSession(t *testing.T) {
	n := namespace(t, nil, allTiers...)
	before := snapshot(t, n, "middle")
	at := breakpoint(t, "")
	u := atTerminal(t, n.Kubedelve("attach", "deploy/middle", "--program", "./middle"))
	u.sees(`"exit" ends the session`)
	u.says("break " + at.Path + ":" + strconv.Itoa(at.Line))
	u.sees("Breakpoint 1 set at")
	u.says("continue")
	u.sees("now serves deploy/middle")
	alone(t, n)
	buy := begin(t, n, "front", "buy", "item=tea&count=2")
	u.sees("> [Breakpoint 1] main.priceOf()")
	u.says("exit")
	u.sees("restored")
	u.ends(0)
	buy.got(t, "front: 2 tea cost 12")
	restored(t, n, "middle", before)
}
