//go:build integration

package e2e

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kubedelve/kubedelve/internal/editor"
	"github.com/kubedelve/kubedelve/internal/testcluster"
)

// What a small service of the node goes through, a unit or a process: it is ready in a
// second where a kubelet takes ten.
const (
	tickerSource = "internal/e2e/testdata/ticker"
	tickerPath   = "/usr/local/bin/ticker"
	tickerUnit   = "/etc/systemd/system/ticker.service"
	tickerEnv    = "/etc/ticker.env"
)

// ticker is "kubedelve debug node/node1:ticker".
func (s *nodeSession) ticker(args ...string) testcluster.Command {
	return testcluster.Command{
		Dir:  cluster.Programs.Root,
		Args: append([]string{"node/node1:ticker", "--program", "./" + tickerSource, "--listen", "127.0.0.1:0"}, args...),
	}
}

// inNode runs a shell's script in the node.
func (s *nodeSession) inNode(t *testing.T, script string, args ...string) string {
	t.Helper()
	out, err := s.InNode(within(t), append([]string{"sh", "-ec", script, "sh"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// install brings the service's program into the node. At the end of the test it is gone.
func (s *nodeSession) install(t *testing.T) {
	t.Helper()
	if err := cluster.Programs.Add(within(t), "ticker", tickerSource); err != nil {
		t.Fatal(err)
	}
	if err := s.PutInNode(within(t), cluster.Programs.Path("ticker"), tickerPath); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if _, err := s.InNode(ctx, "rm", "-f", tickerPath, tickerUnit, tickerEnv); err != nil {
			t.Error(err)
		}
	})
}

// began notes how the node is with the service.
func (s *nodeSession) began(t *testing.T) {
	t.Helper()
	s.answers(t, tickerPath)
	var err error
	if s.before, err = s.NodeState(within(t)); err != nil {
		t.Fatal(err)
	}
}

// startUnit starts the service as a unit with some settings.
func (s *nodeSession) startUnit(t *testing.T, settings string) {
	t.Helper()
	s.install(t)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if _, err := s.InNode(ctx, "systemctl", "stop", "ticker"); err != nil {
			t.Error(err)
		}
	})
	s.inNode(t, `printf %s "$1" > `+tickerEnv+`; printf %s "$2" > `+tickerUnit+`; systemctl daemon-reload; systemctl reset-failed; systemctl start ticker`,
		"EXTRA=from a file\nARGS=-listen 127.0.0.1:7878\n",
		"[Service]\nEnvironmentFile="+tickerEnv+"\nExecStart="+tickerPath+" $ARGS\nRestart=always\nRestartSec=200ms\nStartLimitIntervalSec=0\n"+
			"LimitNOFILE=2345\nOOMScoreAdjust=-300\nDelegate=yes\n"+settings)
	s.began(t)
}

// startProcess starts the service as a process that nobody supervises.
func (s *nodeSession) startProcess(t *testing.T) {
	t.Helper()
	s.install(t)
	s.inNode(t, `ulimit -n 2345; cd /opt; EXTRA="from a shell" setsid --fork `+tickerPath+` -listen 127.0.0.1:7878 > /dev/null 2>&1 < /dev/null`)
	t.Cleanup(func() {
		for _, pid := range s.pids(t, tickerPath) {
			if _, err := s.InNode(context.Background(), "kill", pid); err != nil {
				t.Error(err)
			}
		}
	})
	s.began(t)
}

// pids are the processes that run a program whose path, with what follows it on the
// command line, begins so.
func (s *nodeSession) pids(t *testing.T, begins string) []string {
	t.Helper()
	out, err := s.InNode(context.WithoutCancel(t.Context()), "sh", "-c", `for p in /proc/[0-9]*; do
	line="$(readlink $p/exe) $(tr '\0' ' ' < $p/cmdline | cut -d' ' -f2-)"
	case $line in $1*) echo ${p#/proc/};; esac
done 2> /dev/null`, "sh", begins)
	if err != nil {
		t.Error(err)
	}
	return strings.Fields(out)
}

// ofSession are the processes of the session's folder: "bin/" the debug build, "delve "
// Delve, "stand-in " and "hold " the agent.
func (s *nodeSession) ofSession(t *testing.T, what string) []string {
	t.Helper()
	if what != "bin/" {
		what = "kubedelve-agent " + what
	}
	return s.pids(t, "/var/lib/kubedelve/????????/"+what)
}

// answers waits until the service's answer comes from a program in a folder, and
// returns the answer but for the program's path.
func (s *nodeSession) answers(t *testing.T, begins string) string {
	t.Helper()
	ctx := within(t)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		out, err := s.InNode(ctx, tickerPath, "-ask")
		if err == nil && strings.HasPrefix(out, begins) {
			_, rest, _ := strings.Cut(out, " ")
			return rest
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("no answer from %s: %q, %v", begins, out, err)
		}
	}
}

// beginTicker begins a session, and checks that the debug build runs as the service does.
func (s *nodeSession) beginTicker(t *testing.T, args ...string) (*testcluster.Process, testcluster.Event) {
	t.Helper()
	want := s.answers(t, tickerPath)
	p, err := s.Begin(s.ticker(args...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Kill() })
	ready, err := p.AwaitEvent(within(t), "ready")
	if err != nil {
		t.Fatal(err)
	}
	if got := s.answers(t, "/var/lib/kubedelve/"); got != want {
		t.Errorf("the debug build answers %q, the original %q", got, want)
	}
	return p, ready
}

// serviceKills kills what there is, one after the other, and looks that the session goes on.
func (s *nodeSession) serviceKills(t *testing.T, kill map[string]string) {
	t.Helper()
	p, _ := s.beginTicker(t)
	for _, name := range slices.Sorted(maps.Keys(kill)) {
		killed := s.ofSession(t, kill[name])
		if len(killed) != 1 {
			t.Fatalf("the processes of the %s are %q", name, killed)
		}
		t.Log("kill -9 of the", name)
		s.inNode(t, "kill -9 "+killed[0])
		if name != "keeper" { // which nobody notices
			e, err := p.Await(within(t), "the service to be started again", func(e testcluster.Event) bool { return strings.Contains(e.Text, "started again in node") })
			if err != nil {
				t.Fatal(err)
			}
			t.Log(e.Text)
		}
		s.answers(t, "/var/lib/kubedelve/")
		if left := s.pids(t, tickerPath); len(left) > 0 {
			t.Errorf("the original runs beside its debug build: %q", left)
		}
		if now := s.ofSession(t, "bin/"); len(now) != 1 {
			t.Errorf("%d debug builds run", len(now))
		}
	}
	end(t, p)
	s.answers(t, tickerPath)
	s.restored(t)
}

// agentStages are those at which there is an agent on the node.
var agentStages = []string{"uploading", "looking for", "taking the place", "loading"}

// killedAgent kills all of the agent at each stage of a start, the helper and Delve with it. The
// session goes on, or says why not and leaves nothing: nobody has to restore.
func (s *nodeSession) killedAgent(t *testing.T) {
	t.Helper()
	for _, stage := range agentStages {
		p, err := s.Begin(s.ticker())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Kill() })
		if _, err := p.Await(within(t), stage, func(e testcluster.Event) bool { return strings.HasPrefix(e.Text, stage) }); err != nil {
			t.Fatal(err)
		}
		agents := slices.Concat(s.pids(t, "/kubedelve-agent "), s.ofSession(t, ""))
		if killed := s.inNode(t, `for pid; do kill -9 $pid 2> /dev/null && echo $pid; done; true`, agents...); killed == "" {
			t.Fatalf("none of the agents %q was there to be killed at %q", agents, stage)
		}
		_, err = p.AwaitEvent(within(t), "ready")
		if err == nil {
			t.Logf("all of the agent killed at %q: the session goes on", stage)
			s.answers(t, "/var/lib/kubedelve/")
			end(t, p)
		} else if code, err := p.Wait(within(t)); err != nil || code != 1 || p.Stderr() == "" {
			t.Fatalf("all of the agent killed at %q: kubedelve ends with code %d (%v); %s", stage, code, err, p.Story())
		} else {
			t.Logf("all of the agent killed at %q: %s", stage, strings.TrimSpace(p.Stderr()))
		}
		s.answers(t, tickerPath)
		s.restored(t)
	}
}

// halted halts the service at a breakpoint in what answers, calls f, and lets it go on. listen
// is where debuggers connect. The channel has the end of a request that waits for its answer.
func (s *nodeSession) halted(t *testing.T, listen string, f func(answered <-chan error)) {
	t.Helper()
	path := filepath.Join(cluster.Programs.Root, tickerSource, "main.go")
	at := editor.Breakpoint{Path: path, Line: lineIn(t, path, "func tick(", "// BREAKPOINT")}
	d, _, err := editor.Start(within(t), dial(t, listen), "attach", attachConfig, at)
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() { // ends with the answer
		_, err := s.InNode(t.Context(), tickerPath, "-ask")
		answered <- err
	}()
	if err := d.AwaitStop(within(t), "breakpoint"); err != nil {
		t.Fatal(err)
	}
	f(answered)
	if err := d.Continue(within(t)); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-answered:
		if err != nil {
			t.Error(err)
		}
	case <-within(t).Done():
		t.Fatal("it does not answer when it goes on")
	}
	if err := d.Disconnect(within(t)); err != nil {
		t.Error(err)
	}
}

// watchdog halts the service for longer than systemd's watchdog allows.
func (s *nodeSession) watchdog(t *testing.T) {
	t.Helper()
	p, ready := s.beginTicker(t)
	main := s.inNode(t, "systemctl show -p MainPID -p NRestarts ticker")
	s.halted(t, ready.Listen, func(answered <-chan error) {
		select {
		case err := <-answered:
			t.Fatalf("it answers though it is halted: %v", err)
		case <-time.After(6 * time.Second): // WatchdogSec is 2 s
		}
	})
	if now := s.inNode(t, "systemctl show -p MainPID -p NRestarts ticker"); now != main {
		t.Errorf("systemd has restarted it: %q, it was %q", now, main)
	}
	end(t, p)
	s.answers(t, tickerPath)
	s.restored(t)
}

// reboot is what a power cut leaves: the processes and /run are gone, the disk is there.
func (s *nodeSession) reboot(t *testing.T) {
	t.Helper()
	p, _ := s.beginTicker(t)
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	all := slices.Concat(s.pids(t, "/kubedelve-agent "), s.ofSession(t, ""), s.ofSession(t, "bin/")) // the helper first
	if len(all) != 5 {
		t.Fatalf("the processes of the session are %q", all)
	}
	s.inNode(t, `rm -r /run/systemd/system/ticker.service.d; systemctl daemon-reload; kill -9 `+strings.Join(all, " "))
	s.answers(t, tickerPath)
	s.inNode(t, "ls /var/lib/kubedelve/*/journal.json") // which no reboot takes away
	s.restore(t, s.ticker())
	s.restored(t)
}

// hiddenFolder is a unit that can't run our program: nothing is changed, and the user is told.
func (s *nodeSession) hiddenFolder(t *testing.T) {
	t.Helper()
	command := s.ticker()
	command.Args = append([]string{"debug"}, command.Args...)
	result, err := s.Run(within(t), command)
	if err != nil || result.Code != 1 || !strings.Contains(result.Stderr, "taking the place of unit ticker.service") {
		t.Errorf("kubedelve ends with code %d, %v: %s", result.Code, err, result.Stderr)
	}
	s.answers(t, tickerPath)
	s.restored(t)
}
