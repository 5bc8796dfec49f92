package agent

import (
	"bytes"
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
)

// reap collects the zombies that the component leaves to PID 1, until ctx ends.
// Processes for which ours is true are left to whoever started them.
func reap(ctx context.Context, ours func(pid int) bool) {
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	defer signal.Stop(children)
	for {
		select {
		case <-ctx.Done():
			return
		case <-children:
		}
		stats, _ := filepath.Glob("/proc/[0-9]*/stat")
		for _, path := range stats {
			stat, err := os.ReadFile(path)
			if err != nil {
				continue
			}
			if pid, orphan := zombieOf(stat, 1); orphan && !ours(pid) {
				_, _ = syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
			}
		}
	}
}

// zombieOf reads /proc/PID/stat (proc_pid_stat(5)) and tells whether the process
// is a zombie whose parent is the given one.
func zombieOf(stat []byte, parent int) (pid int, zombie bool) {
	// The second field is the name in parentheses, which may hold anything.
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 1 || end < open {
		return 0, false
	}
	pid, err := strconv.Atoi(string(bytes.TrimSpace(stat[:open])))
	fields := bytes.Fields(stat[end+1:])
	if err != nil || len(fields) < 2 || string(fields[0]) != "Z" {
		return 0, false
	}
	ppid, err := strconv.Atoi(string(fields[1]))
	return pid, err == nil && ppid == parent
}
