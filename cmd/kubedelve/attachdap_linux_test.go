package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kubedelve/kubedelve/internal/agentbinary"
	"github.com/kubedelve/kubedelve/internal/pty"
)

// A terminal is a client of kubedelve's own adapter, as an editor would be.
func TestATerminalForADebugAdapter(t *testing.T) {
	dir := buildAgent(t)
	source, err := filepath.Abs("../../dapserver/testdata/fixture/main.go")
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	configuration, err := json.Marshal(map[string]any{"target": "local", "program": filepath.Dir(source), "args": []string{"loop"}})
	if err != nil {
		t.Fatal(err)
	}
	begin := func() typist {
		t.Helper()
		cmd := exec.Command(exe, "attach", "--dap", exe+" dap", "--config", string(configuration))
		cmd.Dir = filepath.Dir(source)
		cmd.Env = append(os.Environ(), envProgram+"=1", "TERM=xterm", "XDG_CACHE_HOME="+filepath.Join(dir, "cache"), "GOCACHE="+goCache(t),
			"XDG_CONFIG_HOME="+filepath.Join(dir, "config"), agentbinary.Env+"="+filepath.Join(dir, "kubedelve-agent"))
		terminal, err := pty.Start(cmd)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = terminal.Close() })
		u := typist{t, terminal}
		u.sees(`"continue" lets the program begin`)
		u.sees("(dap) ")
		return u
	}

	u := begin()
	u.types("brea\t main.tick\n") // completed
	u.sees("Breakpoint 1 set at ./main.go:")
	u.types("continue\n")
	u.sees("> [Breakpoint 1] main.tick ./main.go:")
	if shown := u.sees("(dap) "); !strings.Contains(shown, "func tick(n int) {") {
		t.Errorf("the source is not shown: %s", shown)
	}
	u.types("print addresse\t\n") // the adapter completes expressions
	u.sees("print addressed")
	u.sees("main.addressed\n")
	u.types("stack\n")
	u.sees(" 1  main.main ./main.go:")
	u.types("clear 1\n")
	u.sees("Breakpoint 1 cleared")
	u.types("continue\n")
	u.sees("tick\n")
	u.types("\x03") // Ctrl-C halts the program, and ends nothing
	u.sees("> [pause] ")
	u.sees("(dap) ")
	u.types("break main.tick\n")
	u.sees("Breakpoint 2 set at")
	u.types("restart\n")
	u.sees("> [Breakpoint 2] main.tick")
	u.types("print counter\n")
	u.sees("print counter")
	u.sees("0\n")
	u.types("exit\n")
	u.sees("Restoring local")
	if code, err := u.terminal.Wait(within(t)); err != nil || code != exitOK {
		t.Errorf("it ended with code %d, %v", code, err)
	}

	// What was typed is remembered.
	u = begin()
	u.types("\x1b[A\x1b[A") // exit, and before it
	u.sees("print counter")
	u.types("\x15exit\n") // Ctrl-U takes the line away
	if code, err := u.terminal.Wait(within(t)); err != nil || code != exitOK {
		t.Errorf("it ended with code %d, %v", code, err)
	}
}

func TestWhatATerminalForADebugAdapterRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"a target":             {[]string{"--dap", "127.0.0.1:1", "deploy/web"}, "--dap takes no target"},
		"other flags":          {[]string{"--dap", "127.0.0.1:1", "--program", "."}, "--program: with --dap all is in --config"},
		"only a configuration": {[]string{"--config", "{}"}, "--config takes --dap"},
		"flags of all":         {[]string{"--dap", "127.0.0.1:1", "--context", "c"}, "--context: with --dap all is in --config"},
		"no JSON":              {[]string{"--dap", "127.0.0.1:1", "--config", "{"}, "that is no JSON object"},
		"no file":              {[]string{"--dap", "127.0.0.1:1", "--config", "nowhere.json"}, "it is taken for a file"},
		"no adapter":           {[]string{"--dap", ":1"}, "write HOST:PORT"},
	} {
		t.Run(name, func(t *testing.T) {
			code, _, stderr := runIn(t, nil, append([]string{"attach"}, test.args...)...)
			if code != exitUsage || !strings.Contains(stderr, test.want) {
				t.Errorf("exit code %d: %q is not in %s", code, test.want, stderr)
			}
		})
	}
}
