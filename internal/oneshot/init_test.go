package oneshot

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// start calls the program as a runtime is called, which starts an init that exits with 42.
func (s *site) start(t *testing.T) (*called, *Call) {
	t.Helper()
	call := s.next(t, []string{"start", "42"})
	call.Call.Init = true
	return call.called, call.Call
}

// stagesOf are the processes that are stopped or traced and are a stage of an init.
func stagesOf(t *testing.T, build string) (stopped []int) {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if sameFile(path, build) && IsInit(pid) && stateOf(pid) == 'T' {
			stopped = append(stopped, pid)
		}
	}
	return stopped
}

func TestInitIsStoppedBeforeItBegins(t *testing.T) {
	s := newSite(t)
	s.take(t)
	c, call := s.start(t)
	catcher, err := catchCall(call, s.build)
	if err != nil {
		t.Fatal(err)
	}
	stopped := stagesOf(t, s.build)
	if len(stopped) != 1 || stopped[0] == c.Process.Pid {
		t.Fatalf("stopped is %v, of a call that is process %d", stopped, c.Process.Pid)
	}
	if status, err := os.ReadFile("/proc/" + strconv.Itoa(stopped[0]) + "/status"); err != nil || !strings.Contains(string(status), "TracerPid:\t0\n") {
		t.Errorf("somebody traces the init: %s, %v", status, err)
	}
	if _, err := os.Stat(c.report); err == nil {
		t.Error("the init has begun")
	}
	if err := catcher.letGo(); err != nil {
		t.Error(err)
	}
	c.done(t)
	if _, err := os.Stat(c.report); err != nil {
		t.Error(err)
	}
}

func TestCallWithoutInitNeedsNobody(t *testing.T) {
	s := newSite(t)
	s.take(t)
	call := s.next(t, []string{"exit", "42"})
	call.Call.Init = true
	if _, err := catchCall(call.Call, s.build); err == nil || !strings.Contains(err.Error(), ErrElsewhere.Error()) {
		t.Errorf("the catcher says %v", err)
	}
	call.done(t)
}

func TestInitOfBuildThatCannotBeExecuted(t *testing.T) {
	s := newSite(t)
	s.take(t)
	writer, err := os.OpenFile(s.build, os.O_RDWR, 0) // ETXTBSY
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = writer.Close() }()
	c, call := s.start(t)
	if _, err := catchCall(call, s.build); err == nil || !strings.Contains(err.Error(), ErrElsewhere.Error()) {
		t.Errorf("the catcher says %v", err)
	}
	c.done(t)
}

func TestInitOutlivesWhoDebugsIt(t *testing.T) {
	t.Run("while it is waited for", func(t *testing.T) {
		s := newSite(t)
		s.take(t)
		c, call := s.start(t)
		catcher := exec.Command("/proc/self/exe")
		catcher.Env = append(os.Environ(), envCatch+"="+strconv.Itoa(call.PID), envBuild+"="+s.build, envInit+"=1")
		out, err := catcher.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := catcher.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, len("traced\n"))); err != nil {
			t.Fatal(err)
		}
		_ = catcher.Process.Kill()
		_ = catcher.Wait()
		if err := call.Execute(s.build); err != nil {
			t.Fatal(err)
		}
		c.done(t)
	})
	t.Run("when it is stopped", func(t *testing.T) {
		s := newSite(t)
		s.take(t)
		c, call := s.start(t)
		catcher, err := catchCall(call, s.build)
		if err != nil {
			t.Fatal(err)
		}
		_ = catcher.cmd.Process.Kill()
		_ = catcher.cmd.Wait()
		if stopped := stagesOf(t, s.build); len(stopped) != 1 {
			t.Fatalf("stopped is %v", stopped)
		}
		// The next reboot, or somebody else, has taken the mount away.
		if err := unix.Unmount(s.Program, 0); err != nil {
			t.Fatal(err)
		}
		if err := s.Remove(); err != nil {
			t.Fatal(err)
		}
		c.done(t)
	})
}

func TestSealedCopyIsABuild(t *testing.T) {
	s := newSite(t)
	sealed := filepath.Join(t.TempDir(), "6")
	data, err := os.ReadFile(s.build)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeProgram(sealed, data, 0o755); err != nil {
		t.Fatal(err)
	}
	victim := exec.Command(sealed, filepath.Join(t.TempDir(), "report"), "wait")
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = victim.Process.Kill(); _ = victim.Wait() }()
	if !isCopy(victim.Process.Pid, s.Builds) {
		t.Error("a copy is not recognised")
	}
	if isCopy(os.Getpid(), s.Builds) {
		t.Error("something else is")
	}
}
