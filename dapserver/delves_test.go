package dapserver

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Delve waits for any child of its process (wait4 with PID -1): several in one
// process take each other's stops. And it has data races of its own, when it is ended
// or its client goes while it is about to let the component go on, which are not to be
// taken for ours. So each runs in a process of its own, testdata/delve, which is built
// without the race detector: with it, loading a binary takes several times as long.

// delveProcess is a Delve in a process of its own.
type delveProcess struct {
	cmd   *exec.Cmd
	stdin io.Closer
}

// end ends Delve and the component.
func (p *delveProcess) end() {
	p.stdin.Close()
	_ = p.cmd.Wait() // Delve fails to stop if the component is gone already
}

// process starts the run's Delve.
func (r *delveRun) process(t testing.TB, argv []string) {
	t.Helper()
	cmd := exec.Command(fixtures(t).delve, argv...)
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
