package oneshot

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubedelve/kubedelve/internal/agentapi"
)

// called is a call that has begun.
type called struct {
	*exec.Cmd
	report string
	ended  chan struct{}
}

// begin calls the program, which exits with 42 when it is let.
func begin(t *testing.T, s *site) *called {
	t.Helper()
	return beginWith(t, s, "exit", "42")
}

func beginWith(t *testing.T, s *site, ask ...string) *called {
	t.Helper()
	c := &called{report: filepath.Join(t.TempDir(), "report"), ended: make(chan struct{})}
	c.Cmd = exec.Command(s.Program, append([]string{c.report}, ask...)...)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = c.Wait(); close(c.ended) }()
	t.Cleanup(func() { _ = c.Process.Kill(); <-c.ended })
	return c
}

// done checks that the call comes to its end, with its own exit code.
func (c *called) done(t *testing.T) {
	t.Helper()
	select {
	case <-c.ended:
	case <-time.After(20 * time.Second):
		t.Fatal("the call hangs")
	}
	if code := c.ProcessState.ExitCode(); code != 42 {
		t.Errorf("the call ended with %d", code)
	}
}

// caught is a call that was given to somebody who waits.
func (s *site) caught(t *testing.T) (*called, *Call, *Calls) {
	t.Helper()
	c := s.next(t, []string{"exit", "42"})
	return c.called, c.Call, c.calls
}

// given is a call with who has called and who was given it.
type given struct {
	*called
	Call  *Call
	calls *Calls
}

// next calls the program, and gives the call to somebody who waits.
func (s *site) next(t *testing.T, ask []string) given {
	t.Helper()
	calls := NewCalls(agentapi.CallFilter{}, quiet)
	l, err := Listen(s.Socket())
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	ctx := t.Context() // ends before the cleanups
	go func() { served <- calls.Serve(ctx, l, s.Original()) }()
	t.Cleanup(func() {
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	next := make(chan *Call, 1)
	go func() {
		call, err := calls.Next(ctx, 0)
		if err != nil {
			t.Error(err)
		}
		next <- call
	}()
	await(t, "somebody waits for a call", calls.wanted)
	c := beginWith(t, s, ask...)
	return given{c, <-next, calls}
}

func TestReleasedCallIsTheOriginal(t *testing.T) {
	s := newSite(t)
	s.take(t)
	c, call, calls := s.caught(t)
	if got := call.String(); got != "victim "+c.report+" (process "+strconv.Itoa(c.Process.Pid)+", id exit)" {
		t.Errorf("the call is %q", got)
	}
	begin(t, s).done(t) // one that nobody waits for
	if calls.wanted() {
		t.Error("two calls at a time")
	}
	time.Sleep(patience + thinkingEvery) // longer than a wrapper waits for who has nothing to say
	if s := stateOf(c.Process.Pid); s != 'S' {
		t.Errorf("a call that is thought about is in state %c", s)
	}
	call.Release()
	call.Release()
	if err := call.Execute(s.build); err != nil {
		t.Error(err)
	}
	c.done(t)
}

func TestOriginalIsTheProgramsOwnFile(t *testing.T) {
	s := newSite(t)
	own, err := os.Stat(s.Program)
	if err != nil {
		t.Fatal(err)
	}
	s.take(t)
	_, stop := s.answering(t, agentapi.CallFilter{}, false)
	c := beginWith(t, s, "wait")
	proc := fmt.Sprintf("/proc/%d/", c.Process.Pid)
	await(t, "the call executes the program's own file", func() bool {
		runs, err := os.Stat(proc + "exe")
		return err == nil && os.SameFile(runs, own)
	})
	stop()
	if err := s.Remove(); err != nil {
		t.Fatal(err)
	}
	if path, err := os.Readlink(proc + "exe"); err != nil || path != s.Program {
		t.Errorf("after the session the call runs %s, %v", path, err)
	}
	if name, err := os.ReadFile(proc + "comm"); err != nil || string(name) != filepath.Base(s.Program)+"\n" {
		t.Errorf("its name is %q, %v", name, err)
	}
}

func TestAgentThatHangsIsNotWaitedFor(t *testing.T) {
	s := newSite(t)
	s.take(t)
	l, err := net.Listen("unixpacket", s.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	began := time.Now()
	begin(t, s).done(t)
	if took := time.Since(began); took < patience || took > patience+5*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestOriginalThatIsMissingIsFoundBelow(t *testing.T) {
	s := newSite(t)
	s.take(t)
	if err := os.Remove(s.original()); err != nil {
		t.Fatal(err)
	}
	begin(t, s).done(t)
	if mounted(s.Program) {
		t.Error("the wrapper is still there")
	}
	begin(t, s).done(t)
}

func TestMountThatIsGoneNeedsNothing(t *testing.T) {
	s := newSite(t)
	if err := s.Take(func(string, string) {}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(s.Program, 0); err != nil { // as after a reboot
		t.Fatal(err)
	}
	begin(t, s).done(t)
	for range 2 {
		if err := s.Remove(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(s.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something is left in %s: %v", s.Dir, err)
	}
	begin(t, s).done(t)
}

func TestBuildThatCannotBeExecutedIsTheOriginal(t *testing.T) {
	s := newSite(t)
	s.take(t)
	writer, err := os.OpenFile(s.build, os.O_RDWR, 0) // ETXTBSY
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = writer.Close() }()
	c, call, _ := s.caught(t)
	if _, err := catchCall(call, s.build); err == nil || !strings.Contains(err.Error(), ErrElsewhere.Error()) {
		t.Errorf("the catcher says %v", err)
	}
	c.done(t)
}

func TestCallOutlivesWhoDebugsIt(t *testing.T) {
	for _, traced := range []bool{true, false} {
		s := newSite(t)
		s.take(t)
		c, call, _ := s.caught(t)
		if traced {
			catcher := exec.Command("/proc/self/exe")
			catcher.Env = append(os.Environ(), envCatch+"="+strconv.Itoa(call.PID), envBuild+"="+s.build)
			out, err := catcher.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := catcher.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(out, make([]byte, len("traced\n"))); err != nil {
				t.Fatal(err)
			}
			_ = catcher.Process.Kill()
			_ = catcher.Wait()
			if err := call.Execute(s.build); err != nil {
				t.Fatal(err)
			}
			c.done(t)
			continue
		}
		catcher, err := catchCall(call, s.build)
		if err != nil {
			t.Fatal(err)
		}
		_ = catcher.cmd.Process.Kill()
		_ = catcher.cmd.Wait()
		if state := stateOf(c.Process.Pid); state != 'T' {
			t.Fatalf("the call is in state %c", state)
		}
		if err := s.Remove(); err != nil {
			t.Fatal(err)
		}
		c.done(t)
	}
}

func TestSignalsReachCallsThatWait(t *testing.T) {
	s := newSite(t)
	s.take(t)
	c, call, _ := s.caught(t)
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-c.ended
	if status := c.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != syscall.SIGTERM {
		t.Errorf("the call ended with %v", c.ProcessState)
	}
	select {
	case <-call.answered: // nobody has to think about it any more
	case <-time.After(20 * time.Second):
		t.Error("the call is still kept")
	}
}

func TestWrapperIsProtectedAndIsNotLeftHalfway(t *testing.T) {
	s := newSite(t)
	s.take(t)
	if f, err := os.OpenFile(s.Program, os.O_WRONLY, 0); err == nil {
		_ = f.Close()
		t.Error("a package manager could write into the wrapper")
	}
	long := *s.Place
	long.Dir = filepath.Join(s.Dir+"2", strings.Repeat("a-long-name/", 10))
	if err := long.Take(func(string, string) {}); err == nil {
		t.Error("a socket with too long a path was taken")
	}
	if _, err := os.Stat(long.Dir); err == nil {
		t.Error("something is left")
	}
	// The other's wrapper is not this one's to remove.
	if !mounted(s.Program) {
		t.Error("the first wrapper is gone")
	}
}

func TestCallerWithMountsOfItsOwnIsFound(t *testing.T) {
	s := newSite(t)
	// As containerd with a mount namespace that nothing propagates to.
	apart := exec.Command("sleep", "1000")
	apart.Args[0] = "containerd"
	apart.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := apart.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = apart.Process.Kill(); _ = apart.Wait() }()
	await(t, "the process is there", func() bool { return len(findCallers()) == 1 })
	err := s.Take(func(string, string) {})
	if err == nil || !strings.Contains(err.Error(), "containerd (process "+strconv.Itoa(apart.Process.Pid)+") does not see it") {
		t.Errorf("taking the place: %v", err)
	}
	if mounted(s.Program) {
		t.Error("the wrapper was left")
	}
	begin(t, s).done(t)
}

// BenchmarkCall is what a call takes from fork to wait. Run it with -count, and compare.
func BenchmarkCall(b *testing.B) {
	s := newSite(b)
	program := "/bin/true"
	s.Program = filepath.Join(filepath.Dir(s.Program), "true")
	data, err := os.ReadFile(program)
	if err != nil {
		b.Fatal(err)
	}
	if err := writeProgram(s.Program, data, 0o755); err != nil {
		b.Fatal(err)
	}
	run := func(b *testing.B) {
		var took []time.Duration
		for b.Loop() {
			began := time.Now()
			if err := exec.Command(s.Program).Run(); err != nil {
				b.Fatal(err)
			}
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
		b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
	}
	b.Run("original", run)
	s.take(b)
	b.Run("nobody listens", run)
	for _, c := range []struct {
		name  string
		waits bool
	}{{"nobody waits", false}, {"no match", true}} {
		b.Run(c.name, func(b *testing.B) {
			calls := NewCalls(agentapi.CallFilter{Pod: "other"}, quiet)
			l, err := Listen(s.Socket())
			if err != nil {
				b.Fatal(err)
			}
			done := make(chan struct{})
			go func() { _ = calls.Serve(b.Context(), l, s.Original()); close(done) }()
			if c.waits {
				go func() { _, _ = calls.Next(b.Context(), 0) }()
			}
			b.Cleanup(func() { <-done })
			run(b)
		})
	}
}
