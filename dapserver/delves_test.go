package dapserver

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/go-delve/delve/pkg/proc"
	"github.com/go-delve/delve/service"
	"github.com/go-delve/delve/service/debugger"
	"github.com/go-delve/delve/service/rpccommon"
)

// Delve waits for any child of its process (wait4 with PID -1): several in one
// process take each other's stops. And it has data races of its own, when it is ended
// or its client goes while it is about to let the component go on, which are not to be
// taken for ours. So each runs in a process of its own: this test program, with its
// arguments in the environment.

// delveProcessEnv has the component's command line, a line for each argument.
const delveProcessEnv = "DAPSERVER_TEST_DELVE"

// runDelveProcess is the whole process: it writes Delve's address as the first line
// of standard error, and ends when standard input does.
func runDelveProcess(argv []string) int {
	_ = os.Unsetenv(delveProcessEnv) // not for the component
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	stdout, stderr := os.NewFile(3, "stdout"), os.NewFile(4, "stderr")
	server := rpccommon.NewServer(&service.Config{
		Listener:    listener,
		ProcessArgs: argv,
		AcceptMulti: true,
		APIVersion:  2,
		Debugger: debugger.Config{
			Backend: "default",
			Stdout:  proc.OutputRedirect{File: stdout},
			Stderr:  proc.OutputRedirect{File: stderr},
		},
	})
	if err := server.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// Only the component is to have them, so that they end with it.
	stdout.Close()
	stderr.Close()
	fmt.Fprintln(os.Stderr, listener.Addr())
	io.Copy(io.Discard, os.Stdin)
	if err := server.Stop(); err != nil {
		return 1
	}
	return 0
}

// delveProcess is a Delve in a process of its own.
type delveProcess struct {
	cmd   *exec.Cmd
	stdin io.Closer
}

// end ends Delve and the component.
func (p *delveProcess) end() {
	p.stdin.Close()
	_ = p.cmd.Wait() // its status may be that of a data race, see above
}

// process starts the run's Delve.
func (r *delveRun) process(t testing.TB, argv []string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), delveProcessEnv+"="+strings.Join(argv, "\n"))
	for _, end := range []**os.File{&r.stdout, &r.stderr} {
		read, write, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		*end = read
		cmd.ExtraFiles = append(cmd.ExtraFiles, write)
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, f := range cmd.ExtraFiles {
		f.Close()
	}
	r.delve = &delveProcess{cmd, stdin}
	line, err := bufio.NewReader(stderr).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "127.") {
		t.Fatalf("starting a Delve: %v, %s", err, line)
	}
	r.addr = strings.TrimSpace(line)
}

// startDelve starts the fixture under a Delve.
func startDelve(t testing.TB, args ...string) *delve {
	t.Helper()
	d := newDelve(t, args...)
	d.start(fixtures(t).plain, false)
	return d
}
