package oneshot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubedelve/kubedelve/internal/agentapi"
)

// outcome is what a caller sees of a call, and what the program sees of its caller.
type outcome struct {
	Given  map[string]any
	Status syscall.WaitStatus
	Stdout string
	Stderr string
}

// callVictim calls the program as a caller would that makes use of all that there is. term
// has it get a SIGTERM when it is ready.
func callVictim(t *testing.T, program string, term bool, ask ...string) (o outcome) {
	t.Helper()
	dir := t.TempDir()
	report := filepath.Join(dir, "report")
	content := filepath.Join(dir, "content")
	if err := os.WriteFile(content, []byte("preserved"), 0o600); err != nil {
		t.Fatal(err)
	}
	inherited, err := os.Open(content)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = inherited.Close() }()
	terminal := openTerminal(t)
	cmd := exec.Command(program, append([]string{report}, ask...)...)
	cmd.Args[0] = "a name of its own"
	cmd.Dir = "/usr"
	cmd.Env = []string{"_LIBCONTAINER_INITPIPE=3", "LISTEN_FDS=1", "EMPTY=", "TWO=a b"}
	cmd.ExtraFiles = []*os.File{inherited, nil, nil, nil, inherited, nil, terminal} // 3, 7 and 9
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 9}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	if !term {
		_, _ = io.WriteString(stdin, "some input\n")
		_ = stdin.Close()
	} else {
		ready := make([]byte, len("ready\n"))
		if _, err := io.ReadFull(stdout, ready); err != nil {
			t.Errorf("waiting for the victim: %v", err)
		}
		said.Write(ready)
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
	}
	_, _ = io.Copy(&said, stdout)
	err = cmd.Wait()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	o.Status, o.Stdout, o.Stderr = cmd.ProcessState.Sys().(syscall.WaitStatus), said.String(), stderr.String()
	text, err := os.ReadFile(report)
	if err == nil {
		err = json.Unmarshal(text, &o.Given)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, o.Stderr)
	}
	if o.Given["pid"] != float64(cmd.Process.Pid) {
		t.Errorf("the process that its caller knows as %d is %v", cmd.Process.Pid, o.Given["pid"])
	}
	// What differs from call to call by its nature.
	for _, name := range []string{"pid", "group"} {
		if o.Given[name] != float64(cmd.Process.Pid) {
			t.Errorf("%s is %v, not that of the process, %d", name, o.Given[name], cmd.Process.Pid)
		}
		delete(o.Given, name)
	}
	if o.Given["session"] != fmt.Sprint(cmd.Process.Pid) {
		t.Errorf("the session is %v, not %d", o.Given["session"], cmd.Process.Pid)
	}
	delete(o.Given, "session")
	files, _ := o.Given["files"].(map[string]any)
	for fd, file := range files {
		text := strings.ReplaceAll(fmt.Sprint(file), dir, "DIR")
		files[fd] = strings.ReplaceAll(text, terminal.Name(), "TERMINAL")
		if strings.HasPrefix(text, "/sys/") { // its own runtime has opened it
			delete(files, fd)
		}
	}
	var device unix.Stat_t
	if err := unix.Stat(terminal.Name(), &device); err != nil {
		t.Fatal(err)
	}
	if o.Given["terminal"] != fmt.Sprint(device.Rdev) {
		t.Errorf("the controlling terminal is %v, not %d", o.Given["terminal"], device.Rdev)
	}
	delete(o.Given, "terminal")
	return o
}

// openTerminal makes a pseudo terminal, and returns the side that programs have.
func openTerminal(t *testing.T) *os.File {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = slave.Close() })
	return slave
}

// answering serves a filter's calls until stop is called. With debug each call is stopped in
// the debug build, and let go; ready waits until there is somebody for the next one.
func (s *site) answering(t *testing.T, filter agentapi.CallFilter, debug bool) (ready func(), stop func() (debugged int)) {
	t.Helper()
	calls := NewCalls(filter, quiet)
	l, err := Listen(s.Socket())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served, debugged := make(chan error, 1), make(chan int, 1)
	go func() { served <- calls.Serve(ctx, l, s.Original()) }()
	go func() {
		n := 0
		for debug {
			call, err := calls.Next(ctx, 0)
			if err != nil {
				break
			}
			c, err := catchCall(call, s.build)
			if err == nil {
				err = c.letGo()
			}
			if err != nil {
				t.Error(err)
			}
			n++
		}
		debugged <- n
	}()
	ready = func() {
		t.Helper()
		if debug {
			await(t, "somebody waits for a call", calls.wanted)
		}
	}
	return ready, func() int {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		return <-debugged
	}
}

func TestCallsAreAsWithoutAWrapper(t *testing.T) {
	s := newSite(t)
	unix.Umask(0o027)
	limit := unix.Rlimit{Cur: 4096, Max: 8192}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &limit); err != nil {
		t.Fatal(err)
	}
	signal.Ignore(syscall.SIGHUP)
	defer signal.Reset(syscall.SIGHUP)
	requests := []struct {
		name string
		term bool
		ask  []string
		want syscall.WaitStatus
	}{
		{"exits with 0", false, []string{"exit", "0"}, 0},
		{"exits with 42", false, []string{"exit", "42"}, 42 << 8},
		{"ends by a signal", false, []string{"kill", "15"}, 15},
		{"is killed", false, []string{"kill", "9"}, 9},
		{"handles a signal", true, []string{"wait"}, 7 << 8},
	}
	want := map[string]outcome{}
	for _, r := range requests {
		want[r.name] = callVictim(t, s.Program, r.term, r.ask...)
		if got := want[r.name].Status &^ 0x80; got != r.want { // 0x80: it has dumped its core
			t.Fatalf("a victim that %s ended with %#x", r.name, got)
		}
	}
	s.take(t)
	ways := []struct {
		name     string
		listen   bool
		filter   agentapi.CallFilter
		debug    bool
		debugged int
	}{
		{name: "nobody listens"},
		{name: "nobody waits", listen: true},
		{name: "no match", listen: true, filter: agentapi.CallFilter{Args: []string{"other"}}, debug: true},
		{name: "match", listen: true, filter: agentapi.CallFilter{Env: []string{"TWO=a*"}}, debug: true, debugged: len(requests)},
	}
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			ready, stop := func() {}, func() int { return 0 }
			if way.listen {
				ready, stop = s.answering(t, way.filter, way.debug)
			}
			for _, r := range requests {
				ready()
				got := callVictim(t, s.Program, r.term, r.ask...)
				if !reflect.DeepEqual(got, want[r.name]) {
					t.Errorf("a call that %s:\n%+v\nwithout a wrapper:\n%+v", r.name, got, want[r.name])
				}
			}
			if n := stop(); n != way.debugged {
				t.Errorf("%d calls were debugged, not %d", n, way.debugged)
			}
		})
	}
}

// await waits until something holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not in 20 s", what)
		}
	}
}
