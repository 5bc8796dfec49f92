//go:build unix

package testcluster

import (
	"os"
	"os/exec"
	"syscall"
)

// ownGroup keeps a terminal's signals from the process.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// quit ends a Go program with the stacks of its goroutines.
func quit(p *os.Process) error { return p.Signal(syscall.SIGQUIT) }
