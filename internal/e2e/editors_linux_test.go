//go:build integration && editors

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kubedelve/kubedelve/internal/testcluster"
)

// Editors in a terminal, driven by their keys, with what "kubedelve init" writes for
// them: "make test-editors" says what it takes. tmux is the terminal, since these draw
// all over it.

// screen is a program in a tmux of its own.
type screen struct {
	*testing.T
	socket string
}

// onScreen starts a program in a folder, with the environment of kubedelve's commands
// in the namespace, and kubedelve in its PATH.
func onScreen(t *testing.T, n *testcluster.Namespace, dir string, words ...string) screen {
	t.Helper()
	k, err := cluster.Command(n.Kubedelve())
	if err != nil {
		t.Fatal(err)
	}
	home, err := os.MkdirTemp("", "tmux") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	s := screen{t, filepath.Join(home, "s")}
	cmd := exec.CommandContext(t.Context(), "tmux", append([]string{"-S", s.socket, "-f", "/dev/null", "new-session", "-d", "-x", "200", "-y", "60"}, words...)...)
	cmd.Dir = dir
	cmd.Env = append(append(k.Env, goSettings(t)...), "TERM=xterm-256color", "LANG=C.UTF-8", "HOME="+home, "XDG_CONFIG_HOME="+filepath.Join(home, "config"),
		"PATH="+filepath.Dir(k.Path)+string(filepath.ListSeparator)+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", cmd.Args, err, out)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the screen at the end:\n%s", s.shows())
		}
		_ = exec.Command("tmux", "-S", s.socket, "kill-server").Run() // if it runs
		_ = os.RemoveAll(home)
	})
	return s
}

func (s screen) tmux(args ...string) (string, error) {
	out, err := exec.CommandContext(s.Context(), "tmux", append([]string{"-S", s.socket}, args...)...).CombinedOutput()
	return string(out), err
}

// shows is what is on the screen; empty if the program has ended.
func (s screen) shows() string {
	out, err := exec.Command("tmux", "-S", s.socket, "capture-pane", "-p").Output() // also after the test
	if err != nil {
		return ""
	}
	return string(out)
}

// sees waits until something is on the screen, or with wanted false until it is not.
func (s screen) sees(pattern string, wanted bool) {
	s.Helper()
	re := regexp.MustCompile("(?m)" + pattern)
	ctx := within(s.T)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for re.MatchString(s.shows()) != wanted {
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.Fatalf("that %q is shown is not %v:\n%s", pattern, wanted, s.shows())
		}
	}
}

// ends waits until the program has.
func (s screen) ends() {
	s.Helper()
	ctx := within(s.T)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := s.tmux("has-session"); err != nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.Fatalf("it does not end, but shows\n%s", s.shows())
		}
	}
}

// does presses keys, types text and looks: "<Enter>" is a key by tmux's name, "/text/"
// is a pattern to be seen, "!/text/" one that is to vanish, and all else is typed.
func (s screen) does(steps ...string) {
	s.Helper()
	for _, step := range steps {
		var err error
		switch {
		case strings.HasPrefix(step, "<") && strings.HasSuffix(step, ">"):
			_, err = s.tmux("send-keys", step[1:len(step)-1])
		case strings.HasPrefix(step, "/") && strings.HasSuffix(step, "/"):
			s.sees(step[1:len(step)-1], true)
		case strings.HasPrefix(step, "!/") && strings.HasSuffix(step, "/"):
			s.sees(step[2:len(step)-1], false)
		default:
			_, err = s.tmux("send-keys", "-l", step)
		}
		if err != nil {
			s.Fatalf("%s: %v", step, err)
		}
	}
}

// tool is what an environment variable of the test names, or else a command in PATH.
func tool(t *testing.T, variable, command string) string {
	t.Helper()
	if value := os.Getenv(variable); value != "" {
		return value
	}
	path, err := exec.LookPath(command)
	if err != nil || command == "" {
		t.Skipf("%s is not set: see \"Editors\" in CONTRIBUTING.md", variable)
	}
	return path
}

// driven is an editor and what one presses in it.
type driven struct {
	name string // as kubedelve init has it
	// start is its command line, for a file with the setup that init has printed.
	start func(t *testing.T, dir, setup string, line int) []string
	mark  []string // sets a breakpoint in the line
	// launch and connect begin a session.
	launch, connect []string
	halted          []string // what is seen at the breakpoint, and how to see variables
	goOn            []string
	// terminate and disconnect end a session.
	terminate, disconnect []string
	quit                  []string
}

func ex(command string) []string { return []string{"<Escape>", ":" + command, "<Enter>"} }

func mx(command string) []string { return []string{"<M-x>", "/M-x/", command, "<Enter>"} }

func all(lists ...[]string) (steps []string) {
	for _, l := range lists {
		steps = append(steps, l...)
	}
	return steps
}

// file writes what an editor begins with.
func file(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

var drivenEditors = []driven{
	{
		name: "nvim",
		start: func(t *testing.T, dir, setup string, line int) []string {
			init := file(t, dir, "init.lua", fmt.Sprintf("vim.opt.runtimepath:append(%q)\nvim.opt.more = false\nvim.cmd('runtime plugin/dap.lua')\n%s", tool(t, "KUBEDELVE_TEST_NVIM_DAP", ""), setup))
			return []string{tool(t, "KUBEDELVE_TEST_NVIM", "nvim"), "-u", init, "-i", "NONE", "-n", "+" + strconv.Itoa(line), "middle/main.go"}
		},
		mark:       all([]string{"/BREAKPOINT/"}, ex("DapToggleBreakpoint"), []string{"/B +return total/"}),
		launch:     all(ex("DapContinue"), []string{"/1: kubedelve: deploy.middle/", "1", "<Enter>"}),
		connect:    all(ex("DapContinue"), []string{"/2: kubedelve: connect/", "2", "<Enter>"}),
		halted:     all([]string{"/→ +return total/"}, ex("lua require('dap.ui.widgets').sidebar(require('dap.ui.widgets').scopes).open()"), []string{"/total: 12/"}),
		goOn:       ex("DapContinue"),
		terminate:  ex("DapTerminate"),
		disconnect: ex("lua require('dap').disconnect({terminateDebuggee = false})"),
		quit:       ex("qall!"),
	},
	{
		name: "vim",
		start: func(t *testing.T, dir, setup string, line int) []string {
			file(t, dir, ".vimspector.json", setup)
			vimspector := tool(t, "KUBEDELVE_TEST_VIMSPECTOR", "")
			rc := file(t, dir, "vimrc", fmt.Sprintf("set nocompatible nomore\nlet g:vimspector_base_dir='%[1]s'\nset rtp+=%[1]s\nfiletype plugin indent on\n", vimspector))
			return []string{tool(t, "KUBEDELVE_TEST_VIM", "vim"), "-Nu", rc, "-i", "NONE", "-n", "+" + strconv.Itoa(line), "middle/main.go"}
		},
		mark:       all([]string{"/BREAKPOINT/"}, ex("call vimspector#ToggleBreakpoint()"), []string{"/● +return total/"}),
		launch:     ex("call vimspector#LaunchWithSettings(#{configuration: 'kubedelve: deploy/middle'})"),
		connect:    ex("call vimspector#LaunchWithSettings(#{configuration: 'kubedelve: connect'})"),
		halted:     []string{"/main.priceOf@main.go:/", "/total.*: 12/"},
		goOn:       ex("call vimspector#Continue()"),
		terminate:  ex("call vimspector#Reset()"),
		disconnect: ex("call vimspector#Reset()"),
		quit:       ex("qall!"),
	},
	{
		name: "emacs",
		start: func(t *testing.T, dir, setup string, line int) []string {
			// A mode stands in for that of the package go-mode.
			init := file(t, dir, "init.el", fmt.Sprintf(`(add-to-list 'load-path %q)
(define-derived-mode go-mode prog-mode "Go")
(add-to-list 'auto-mode-alist '("\\.go\\'" . go-mode))
%s(require 'dape)
`, tool(t, "KUBEDELVE_TEST_DAPE", ""), setup))
			return []string{tool(t, "KUBEDELVE_TEST_EMACS", "emacs"), "-nw", "-Q", "-l", init, "+" + strconv.Itoa(line), "middle/main.go"}
		},
		mark:       all([]string{"/BREAKPOINT/"}, mx("dape-breakpoint-toggle"), []string{"/B +return total/"}),
		launch:     all(mx("dape"), []string{"/Run adapter/", "kubedelve", "<Enter>"}),
		connect:    all(mx("dape"), []string{"/Run adapter/", "kubedelve-session", "<Enter>"}),
		halted:     []string{"/main.priceOf/", "/total +12|12.*total/"},
		goOn:       mx("dape-continue"),
		terminate:  mx("dape-kill"),
		disconnect: mx("dape-disconnect-quit"),
		quit:       []string{"<C-x>", "<C-c>"},
	},
	{
		name: "helix",
		start: func(t *testing.T, dir, setup string, line int) []string {
			if err := os.MkdirAll(filepath.Join(dir, ".helix"), 0o700); err != nil {
				t.Fatal(err)
			}
			file(t, dir, ".helix/languages.toml", setup)
			return []string{tool(t, "KUBEDELVE_TEST_HELIX", "hx"), "middle/main.go:" + strconv.Itoa(line)}
		},
		// What is typed right after Escape would be taken for a key with Alt: the menu has to be gone.
		mark:       []string{"/BREAKPOINT/", "<Space>", "G", "/Toggle breakpoint/", "b", "/◯ +[0-9]+/", "<Escape>", "!/Toggle breakpoint/"},
		launch:     []string{":debug-start deploy/middle", "<Enter>"},
		connect:    []string{":debug-remote 127.0.0.1:2345 connect", "<Enter>"},
		halted:     []string{"/▶.*return total/", "<Space>", "G", "/List variables/", "v", "/order: main.Order/", "<Escape>", "!/order: main.Order/", "<Escape>", "!/List variables/"},
		goOn:       []string{"<Space>", "G", "/Continue program/", "c", "<Escape>", "!/Continue program/"},
		terminate:  []string{"<Space>", "G", "/End debug session/", "t", "<Escape>", "!/End debug session/"},
		disconnect: []string{"<Space>", "G", "/End debug session/", "t", "<Escape>", "!/End debug session/"},
		quit:       []string{":quit-all!", "<Enter>"},
	},
}

func TestIntegrationEditors(t *testing.T) {
	for _, e := range drivenEditors {
		t.Run(e.name, func(t *testing.T) {
			for _, way := range []string{"launch", "connect"} {
				t.Run(way, func(t *testing.T) { drive(t, e, way == "launch") })
			}
		})
	}
}

// drive goes from a breakpoint to the end of a session.
func drive(t *testing.T, e driven, launch bool) {
	p := copyShop(t)
	n := namespaceAlone(t, nil, allTiers...)
	before := snapshot(t, n, "middle")
	setup := n.Kubedelve("init", e.name, "deploy/middle", "--program", "./middle")
	setup.Dir = p.dir
	words := e.start(t, p.dir, run(t, setup, 0).Stdout, breakpoint(t, "").Line)

	var held *testcluster.Process
	if !launch {
		debug := n.Kubedelve("deploy/middle", "--program", "./middle", "--listen", "127.0.0.1:2345") // the default, which init writes
		debug.Dir = p.dir
		held = start(t, debug)
		if _, err := held.AwaitEvent(within(t), "serving"); err != nil {
			t.Fatal(err)
		}
	}
	s := onScreen(t, n, p.dir, words...)
	s.does(e.mark...)
	if launch {
		s.does(e.launch...)
	} else {
		s.does(e.connect...)
	}
	taken(t, n)
	alone(t, n)
	// When the editor has set its breakpoint, only it knows: until then requests go through.
	last := make(chan string, 1)
	enough := make(chan struct{})
	go func() { // ends with the request that is halted, or the test
		for t.Context().Err() == nil {
			answer, err := n.Get(t.Context(), "front", "buy", "item=tea&count=2")
			select {
			case <-enough:
				last <- fmt.Sprint(strings.TrimSpace(answer), " ", err)
				return
			default:
			}
		}
	}()
	s.does(e.halted...)
	close(enough)
	s.does(e.goOn...)
	select {
	case got := <-last:
		if got != "front: 2 tea cost 12 <nil>" {
			t.Errorf("the request that was halted gets %s", got)
		}
	case <-within(t).Done():
		t.Fatal("the request that was halted gets no answer")
	}
	if launch {
		s.does(e.terminate...)
		gone(t, n)
	} else {
		s.does(e.disconnect...)
		begin(t, n, "front", "buy", "item=tea&count=2").got(t, "front: 2 tea cost 12") // without the breakpoint
	}
	s.does(e.quit...)
	s.ends()
	if !launch {
		end(t, held)
	}
	restored(t, n, "middle", before)
}

// taken waits until the debug pod is the only one of the middle tier.
func taken(t *testing.T, n *testcluster.Namespace) {
	t.Helper()
	eventually(t, "the debug pod to serve alone", func() (bool, string) {
		pods, err := n.Pods(within(t), "middle")
		return err == nil && len(pods) == 1 && strings.Contains(pods[0].Name, "-kubedelve-"), fmt.Sprint(len(pods), err)
	})
}

// gone waits until nothing is left of a session.
func gone(t *testing.T, n *testcluster.Namespace) {
	t.Helper()
	eventually(t, "the session to be restored", func() (bool, string) {
		left, err := n.Leftovers(within(t))
		return err == nil && len(left) == 0, fmt.Sprint(left, err)
	})
}

func eventually(t *testing.T, what string, done func() (bool, string)) {
	t.Helper()
	ctx := within(t)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, state := done()
		if ok {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waiting for %s: %s", what, state)
		}
	}
}

// The debugger in the terminal, as people see it: completion, history, source and the
// keys that move in a line.
func TestIntegrationAttachInTmux(t *testing.T) {
	n := namespaceAlone(t, nil, allTiers...)
	before := snapshot(t, n, "middle")
	p, _ := debugMiddle(t, n)
	at := breakpoint(t, "")
	k, err := cluster.Command(n.Kubedelve())
	if err != nil {
		t.Fatal(err)
	}
	s := onScreen(t, n, cluster.Programs.Shop(), k.Path, "attach", "-n", n.Name)
	s.does(`/^\(dlv\)$/`, "brea", "<Tab>", `/\(dlv\) break/`, fmt.Sprintf(" middle/main.go:%d", at.Line), "<Enter>", "/Breakpoint 1 set at/")
	s.does("continue", "<Enter>")
	buy := begin(t, n, "front", "buy", "item=tea&count=2")
	s.does(fmt.Sprintf(`/=> *%d:\s+return total, nil .. BREAKPOINT/`, at.Line))
	s.does("print tota", "<Tab>", "/print total/", "<Enter>", `/\n12\n/`)
	s.does("goroutines -with user", "<Enter>", "/main.priceOf/")
	s.does("<Up>", "<Up>", "/print total$/", "<C-a>", "<C-k>", "clear 1", "<Enter>", "/Breakpoint 1 cleared/")
	s.does("exit", "<Enter>")
	s.ends()
	buy.got(t, "front: 2 tea cost 12")
	end(t, p)
	restored(t, n, "middle", before)
}
