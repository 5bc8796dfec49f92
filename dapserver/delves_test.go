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

	"github.com/go-delve/delve/service/rpccommon"
)

// Delve waits for any child of its process (wait4 with PID -1): several in one
// process take each other's stops. So tests with more than one run each in a process
// of its own: this test program, with its arguments in the environment.

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
	server := rpccommon.NewServer(delveConfig(listener, argv, os.NewFile(3, "stdout"), os.NewFile(4, "stderr")))
	if err := server.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
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

// Stop ends Delve and the component.
func (p *delveProcess) Stop() error {
	p.stdin.Close()
	return p.cmd.Wait()
}

// startDelveProcess is startDelve for tests with several of them.
func startDelveProcess(t testing.TB, args ...string) *delve {
	t.Helper()
	bin := fixtures(t).plain
	d, run := newDelve(t, args...), &delveRun{run: Run{Binary: bin}}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), delveProcessEnv+"="+strings.Join(append([]string{bin}, args...), "\n"))
	for _, r := range []**os.File{&run.stdout, &run.stderr} {
		read, write, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		*r = read
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
	run.server = &delveProcess{cmd, stdin}
	line, err := bufio.NewReader(stderr).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "127.") {
		t.Fatalf("starting a Delve: %v, %s", err, line)
	}
	run.addr = strings.TrimSpace(line)
	d.add(run)
	return d
}
