package oneshot

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// What the test binary does when it is started again with a variable set.
const (
	envInside = "ONESHOT_INSIDE"  // runs the tests, in namespaces of their own
	envCatch  = "ONESHOT_CATCH"   // is what debugs a call: this is its PID
	envBuild  = "ONESHOT_PROGRAM" // ... and the debug build
	envInit   = "ONESHOT_INIT"    // ... and it is for the init that the call starts
)

// TestMain runs the tests where their mounts and processes are nobody else's.
func TestMain(m *testing.M) {
	switch {
	case os.Getenv(envCatch) != "":
		os.Exit(catch())
	case os.Getenv(envInside) != "":
		err := unix.Mount("proc", "/proc", "proc", 0, "")
		if err == nil { // as on a node with systemd
			err = unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, "")
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "mounting:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	case os.Getuid() != 0:
		os.Exit(m.Run()) // all that needs root says so
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), envInside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(cmd.ProcessState.ExitCode())
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getenv(envInside) == "" {
		t.Skip("needs root")
	}
}

// catch is the half of Delve's process that comes before Delve.
func catch() int {
	pid, _ := strconv.Atoi(os.Getenv(envCatch))
	traced := func() { fmt.Println("traced") }
	var err error
	if os.Getenv(envInit) != "" {
		pid, err = CatchInit(pid, os.Getenv(envBuild), traced)
	} else {
		err = Catch(pid, os.Getenv(envBuild), traced)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if !runs(pid, os.Getenv(envBuild)) {
		fmt.Println("it is not the debug build that is stopped")
		return 1
	}
	fmt.Println("stopped")
	if line, _ := bufio.NewReader(os.Stdin).ReadString('\n'); line == "" {
		return 1 // the test has ended
	}
	if err := unix.Kill(pid, unix.SIGCONT); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// catcher is a process that has stopped a call.
type catcher struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines *bufio.Reader
}

// catchCall gives a call to a process that stops it in the debug build.
func catchCall(call *Call, build string) (*catcher, error) {
	c := &catcher{cmd: exec.Command("/proc/self/exe")}
	c.cmd.Env = append(os.Environ(), envCatch+"="+strconv.Itoa(call.PID), envBuild+"="+build)
	if call.Init {
		c.cmd.Env = append(c.cmd.Env, envInit+"=1")
	}
	c.cmd.Stderr = os.Stderr
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.lines = bufio.NewReader(stdout)
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	if err := c.await("traced"); err != nil {
		return nil, err
	}
	if err := call.Execute(build); err != nil {
		return nil, err
	}
	return c, c.await("stopped")
}

func (c *catcher) await(want string) error {
	line, err := c.lines.ReadString('\n')
	if err != nil || line != want+"\n" {
		return fmt.Errorf("the catcher said %q (%w), not %q", line, err, want)
	}
	return nil
}

// letGo lets the call go on.
func (c *catcher) letGo() error {
	_, err := io.WriteString(c.stdin, "go\n")
	return errors.Join(err, c.stdin.Close(), c.cmd.Wait())
}

// site is a program on a node, and what takes its place.
type site struct {
	*Place
	build string // the debug build
}

// victim is the program that is called, built once.
var victim = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "victim-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "victim"), "./testdata/victim")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building the victim: %w\n%s", err, out)
	}
	return os.ReadFile(filepath.Join(dir, "victim"))
})

// newSite lays the victim out as a session would.
func newSite(t testing.TB) *site {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := &site{Place: &Place{Program: filepath.Join(dir, "bin", "victim"), Dir: filepath.Join(dir, "session"), Builds: filepath.Join(dir, "builds")}}
	s.build = filepath.Join(s.Builds, "debug", "victim")
	victim, err := victim()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{s.Program, s.build} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := writeProgram(path, victim, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// take puts the wrapper in the program's place until the end of the test.
func (s *site) take(t testing.TB) {
	t.Helper()
	if err := s.Take(func(string, string) {}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Remove(); err != nil {
			t.Error(err)
		}
	})
}

// mounted tells whether something is mounted on a file.
func mounted(path string) bool {
	var x unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, 0, &x)
	return err == nil && x.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

var quiet = slog.New(slog.DiscardHandler)
