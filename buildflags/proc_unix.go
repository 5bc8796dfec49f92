//go:build unix

package buildflags

import (
	"os/exec"
	"syscall"
	"time"
)

// killGroup makes cmd the leader of a process group, all of which is killed when
// its context ends: the go command leaves its compilers running otherwise.
func killGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}

// awaitGroup waits until cmd's process group, which has been killed, is gone, at
// most for limit: the dead stay in it until somebody reaps them.
func awaitGroup(cmd *exec.Cmd, limit time.Duration) {
	if cmd.Process == nil {
		return
	}
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if syscall.Kill(-cmd.Process.Pid, 0) != nil {
			return
		}
	}
}
