package nodeservice

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// evictGrace is how long Delve and the debug build have to end by themselves when the
// agent above them is gone: Delve notices, and ends the component.
const evictGrace = 5 * time.Second

// evict returns when no process but this one runs a program of the session's folder. The
// original must not begin before: the debug build may still have its ports, its sockets
// and its locks.
func evict(dir string, grace time.Duration) error {
	deadline := time.Now().Add(grace)
	for range 5 { // Delve may be about to start the component
		builds, delves, err := tenants(dir)
		if err != nil || len(builds)+len(delves) == 0 {
			return err
		}
		// The debug build first, so that Delve can still tell of its end.
		for _, pid := range append(builds, delves...) {
			if err := endTenant(pid, deadline); err != nil {
				return fmt.Errorf("ending process %d of the session: %w", pid, err)
			}
		}
	}
	return errors.New("there are ever more processes of the session")
}

// endTenant waits for the end of a process until the deadline, and then kills it.
func endTenant(pid int, deadline time.Time) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if awaitEnd(fd, time.Until(deadline)) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	if !awaitEnd(fd, 10*time.Second) {
		return errors.New("not even SIGKILL does it")
	}
	return nil
}

// tenants are the processes that run programs of a folder, but for this one: debug builds,
// and Delve or agents.
func tenants(dir string) (builds, delves []int, err error) {
	all, err := processes()
	if err != nil {
		return nil, nil, err
	}
	for pid := range all {
		exe, err := os.Readlink(proc(pid, "exe"))
		if err != nil || pid == os.Getpid() || !strings.HasPrefix(exe, dir+"/") {
			continue
		}
		if strings.TrimSuffix(exe, " (deleted)") == dir+"/"+executable {
			delves = append(delves, pid)
		} else {
			builds = append(builds, pid)
		}
	}
	slices.Sort(delves)
	slices.Sort(builds)
	return builds, delves, nil
}
