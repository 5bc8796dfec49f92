package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a process that is not the agent's child. With a PID file descriptor
// (Linux 5.3, and not every seccomp profile) a signal can't reach another process
// that got the number later; without one there is /proc.
type process struct {
	pid int
	fd  *os.File // nil: /proc
}

func openProcess(pid int) *process {
	p := &process{pid: pid}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return p
	}
	// A non-blocking descriptor goes to the runtime's poller.
	_ = unix.SetNonblock(fd, true)
	p.fd = os.NewFile(uintptr(fd), "pidfd")
	if p.fd.SetReadDeadline(time.Time{}) != nil { // it does not poll
		_ = p.fd.Close()
		p.fd = nil
	}
	return p
}

func (p *process) close() {
	if p.fd != nil {
		_ = p.fd.Close()
	}
}

func (p *process) signal(sig syscall.Signal) error {
	if p.fd == nil {
		if p.ended() {
			return os.ErrProcessDone
		}
		return syscall.Kill(p.pid, sig)
	}
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = raw.Control(func(fd uintptr) { sendErr = unix.PidfdSendSignal(int(fd), sig, nil, 0) })
	return errors.Join(err, sendErr)
}

// wait returns when the process has ended, or done is closed.
func (p *process) wait(done <-chan struct{}) {
	if p.fd == nil {
		p.poll(done)
		return
	}
	raw, err := p.fd.SyscallConn()
	if err != nil {
		p.poll(done)
		return
	}
	finished := make(chan struct{})
	defer close(finished)
	go func() { // ends with this function
		select {
		case <-done:
			_ = p.fd.SetReadDeadline(time.Unix(0, 1))
		case <-finished:
		}
	}()
	for {
		// A process that was killed while it is halted keeps its zombie threads
		// until its tracer looks, and its descriptor is silent for as long.
		_ = p.fd.SetReadDeadline(time.Now().Add(time.Second))
		select {
		case <-done:
			return
		default:
		}
		first := true
		err = raw.Read(func(uintptr) bool { // is called again when the descriptor is readable: the end
			ready := !first
			first = false
			return ready
		})
		switch {
		case err == nil || errors.Is(err, os.ErrClosed) || p.ended():
			return
		case !errors.Is(err, os.ErrDeadlineExceeded):
			p.poll(done)
			return
		}
	}
}

// stopped tells whether a signal has stopped the process, and it is not traced.
func (p *process) stopped() bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	s, ok := parseStat(text)
	return err == nil && ok && s.state == 'T'
}

func (p *process) poll(done <-chan struct{}) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !p.ended() {
		select {
		case <-done:
			return
		case <-tick.C:
		}
	}
}

// ended tells whether no thread of the process can run any more.
func (p *process) ended() bool {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*/stat", p.pid))
	for _, path := range tasks {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		if s, ok := parseStat(text); ok && !s.zombie() {
			return false
		}
	}
	return true
}
