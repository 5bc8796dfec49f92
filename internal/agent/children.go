package agent

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// children are the agent's child processes: the Delves that it starts and waits
// for, and the orphans that come to it, as PID 1 or as their subreaper. Orphans
// are what the component leaves behind, and the component itself if Delve dies.
type children struct {
	// mu is held while a process is started, so that own is complete when orphans
	// are looked for; it guards own.
	mu  sync.Mutex
	own map[int]struct{} // PIDs that somebody waits for
}

// adopt makes the agent the parent of orphans, as PID 1 is anyway, or no longer.
func adopt(orphans bool) error {
	on := uintptr(0)
	if orphans {
		on = 1
	}
	return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, on, 0, 0, 0)
}

func (c *children) start(cmd *exec.Cmd) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	if c.own == nil {
		c.own = map[int]struct{}{}
	}
	c.own[cmd.Process.Pid] = struct{}{}
	return nil
}

func (c *children) wait(cmd *exec.Cmd) {
	_ = cmd.Wait()
	c.mu.Lock()
	delete(c.own, cmd.Process.Pid)
	c.mu.Unlock()
}

// reap collects orphans that have ended, until ctx ends.
func (c *children) reap(ctx context.Context) {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	defer signal.Stop(ended)
	for {
		c.orphans(0, anySession)
		select {
		case <-ctx.Done():
			return
		case <-ended:
		}
	}
}

// anySession stands for all sessions.
const anySession = 0

// orphans collects those that have ended, sends sig (unless it is 0) to the others
// that are of the session and returns how many these are.
func (c *children) orphans(sig syscall.Signal, session int) (living int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, child := range childrenOf(os.Getpid()) {
		if _, own := c.own[child.pid]; own {
			continue
		}
		if child.zombie() {
			_, _ = syscall.Wait4(child.pid, nil, syscall.WNOHANG, nil)
			continue
		}
		if session != anySession && child.session != session {
			continue
		}
		living++
		if sig != 0 {
			_ = syscall.Kill(child.pid, sig) // nobody else could have collected it
		}
	}
	return living
}

// endOrphans ends what components left behind, as the end of their container would:
// all of it, or what is of a session. It gives up on one that even SIGKILL does not
// end.
func (c *children) endOrphans(session int) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	// The end of one makes orphans of its children.
	for deadline := time.Now().Add(2 * time.Second); c.orphans(syscall.SIGKILL, session) > 0 && time.Now().Before(deadline); {
		<-tick.C
	}
}

// endChildren ends the children of this process, of which it may not know.
func endChildren() {
	for _, child := range childrenOf(os.Getpid()) {
		_ = syscall.Kill(child.pid, syscall.SIGKILL)
	}
}

// stat is the beginning of a process's /proc/PID/stat (proc_pid_stat(5)).
type stat struct {
	pid     int
	state   byte
	parent  int
	session int
}

func (s stat) zombie() bool { return s.state == 'Z' || s.state == 'X' }

func childrenOf(parent int) (children []stat) {
	paths, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		if s, ok := parseStat(text); ok && s.parent == parent {
			children = append(children, s)
		}
	}
	return children
}

func parseStat(text []byte) (s stat, ok bool) {
	// The second field is the name in parentheses, which may hold anything.
	open, end := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
	if open < 1 || end < open {
		return s, false
	}
	fields := bytes.Fields(text[end+1:])
	if len(fields) < 4 || len(fields[0]) != 1 {
		return s, false
	}
	pid, pidErr := strconv.Atoi(string(bytes.TrimSpace(text[:open])))
	parent, parentErr := strconv.Atoi(string(fields[1]))
	session, sessionErr := strconv.Atoi(string(fields[3]))
	if pidErr != nil || parentErr != nil || sessionErr != nil || pid <= 0 || parent < 0 || session < 0 {
		return s, false
	}
	return stat{pid, fields[0][0], parent, session}, true
}
