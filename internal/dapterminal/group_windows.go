package dapterminal

import (
	"os"
	"syscall"
)

// ownGroup keeps the console's signals from a process.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

// terminate ends a process: there is no asking.
func terminate(p *os.Process) { _ = p.Kill() }
