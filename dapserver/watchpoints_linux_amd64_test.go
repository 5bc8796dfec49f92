package dapserver

import (
	"encoding/binary"
	"os/exec"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// watchpointsWork tells whether the processor stops a program that writes what a debug
// register watches. Some virtual machines take the registers and then never do: there no
// debugger's data breakpoint is hit. If it can't be told they are taken to work.
var watchpointsWork = sync.OnceValue(func() bool {
	program, err := exec.LookPath("true")
	if err != nil {
		return true
	}
	runtime.LockOSThread() // one thread traces
	defer runtime.UnlockOSThread()
	cmd := exec.Command(program)
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		return true
	}
	pid := cmd.Process.Pid
	defer func() {
		_ = cmd.Process.Kill()
		_, _ = cmd.Process.Wait()
	}()
	var status unix.WaitStatus
	var regs unix.PtraceRegs
	if _, err := unix.Wait4(pid, &status, 0, nil); err != nil || !status.Stopped() || unix.PtraceGetRegs(pid, &regs) != nil {
		return true
	}
	const (
		registers = 848               // offsetof(struct user, u_debugreg), sys/user.h
		control   = registers + 7*8   // DR7
		watch     = 1 | 1<<16 | 2<<18 // DR0, for writes of 8 bytes (Intel SDM 3B, 19.2.4)
	)
	poke := func(offset uintptr, value uint64) bool {
		_, err := unix.PtracePokeUser(pid, offset, binary.LittleEndian.AppendUint64(nil, value))
		return err == nil
	}
	// The first call that a program makes writes its return address there.
	if !poke(registers, regs.Rsp-8) || !poke(control, watch) || unix.PtraceCont(pid, 0) != nil {
		return true
	}
	if _, err := unix.Wait4(pid, &status, 0, nil); err != nil {
		return true
	}
	return status.Stopped()
})
