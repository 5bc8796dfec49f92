package nodeservice

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// helperLock is held by a helper that no pod has, for as long as it lives.
const helperLock = "helper.lock"

// helperLog is what such a helper writes.
const helperLog = "helper.log"

// arrivePatience bounds the start of a helper.
const arrivePatience = 30 * time.Second

// Arrive starts a helper that goes on when this process has ended, unless the session has
// one, and returns the session's folder when it answers at the socket, or watches. socket
// is the agent's, below the folder. This is how a session begins without a pod.
func Arrive(config []byte, socket string) (dir string, err error) {
	h, err := parseHelper(config)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return "", fmt.Errorf("the session's folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(h.dir, helperLock), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return "", fmt.Errorf("the session's folder: %w", err)
	}
	defer func() { _ = lock.Close() }()
	switch err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		return h.dir, nil // it is there
	case err != nil:
		return "", fmt.Errorf("the session's lock: %w", err)
	}
	ended, err := startHelper(h.dir, config, lock)
	if err != nil {
		return "", errors.Join(err, removeDir(h.dir))
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(arrivePatience)
	for {
		j, err := readJournal(h.dir)
		if err != nil {
			return "", err
		}
		if _, err := os.Stat(filepath.Join(h.dir, socket)); err == nil || j != nil {
			return h.dir, nil
		}
		select {
		case <-ended:
			said, _ := os.ReadFile(filepath.Join(h.dir, helperLog))
			return "", errors.Join(fmt.Errorf("the helper has ended: %s", strings.TrimSpace(string(said))), removeDir(h.dir))
		case <-deadline:
			return "", fmt.Errorf("the helper does not answer in %v", arrivePatience)
		case <-tick.C:
		}
	}
}

// startHelper starts it in a session of its own, with the lock, which ends with it. The
// channel is closed when it has ended.
func startHelper(dir string, config []byte, lock *os.File) (<-chan struct{}, error) {
	log, err := os.OpenFile(filepath.Join(dir, helperLog), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the session's folder: %w", err)
	}
	defer func() { _ = log.Close() }()
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = read.Close() }()
	cmd := exec.Command("/proc/self/exe", "helper")
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + helperPath}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = read, log, log
	cmd.ExtraFiles = []*os.File{lock}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("starting the helper: %w", err), write.Close())
	}
	ended := make(chan struct{})
	go func() { // ends with the helper, or this process
		_ = cmd.Wait()
		close(ended)
	}()
	_, err = write.Write(config) // a pipe takes it: it is small
	return ended, errors.Join(err, write.Close())
}
