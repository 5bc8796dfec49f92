//go:build unix

package buildflags

import (
	"os/exec"
	"syscall"
)

// killGroup makes cmd the leader of a process group, all of which is killed when
// its context ends: the go command leaves its compilers running otherwise.
func killGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
