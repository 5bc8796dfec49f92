package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Executable is the agent's name in its folder.
const Executable = "kubedelve-agent"

// SocketPath is the agent's own socket, below its folder. It speaks the tunnel's
// protocol, with the same keys as the port.
const SocketPath = "run/agent.sock"

// layout names the files below the agent's folder.
type layout string

func (d layout) bin(sha256, name string) string {
	return filepath.Join(string(d), "bin", sha256, filepath.Base(name))
}
func (d layout) incoming() string    { return filepath.Join(string(d), "bin") }
func (d layout) run() string         { return filepath.Join(string(d), "run") }
func (d layout) agentSocket() string { return filepath.Join(string(d), SocketPath) }
func (d layout) swapped() string     { return filepath.Join(d.run(), "swapped") }
func (d layout) ready() string       { return filepath.Join(d.run(), "ready") }
func (d layout) started() string     { return filepath.Join(d.run(), "started") }
func (d layout) expired() string     { return filepath.Join(d.run(), "expired") }

// delveSocket is that of the n-th Delve: during a swap there are two.
func (d layout) delveSocket(n int) string {
	return filepath.Join(d.run(), fmt.Sprintf("delve-%d.sock", n))
}

// prepare makes the folders, private to this user.
func (d layout) prepare() error {
	for _, dir := range []string{d.run(), d.incoming()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("agent folder: %w", err)
		}
	}
	return nil
}

// clean takes away what an agent that was killed left behind and what is no longer
// true: the folder outlives the container.
func (d layout) clean() error {
	stale, err := filepath.Glob(filepath.Join(d.incoming(), incomingPrefix+"*"))
	sockets, socketsErr := filepath.Glob(filepath.Join(d.run(), "delve-*.sock"))
	return errors.Join(err, socketsErr, d.clear(append(append(stale, sockets...), d.ready(), d.started(), d.swapped())...))
}

// clear removes files, which need not be there.
func (d layout) clear(paths ...string) (err error) {
	for _, path := range paths {
		if removeErr := os.Remove(path); !errors.Is(removeErr, fs.ErrNotExist) {
			err = errors.Join(err, removeErr)
		}
	}
	if err != nil {
		return fmt.Errorf("agent folder: %w", err)
	}
	return nil
}

// mark makes an empty file.
func mark(path string) error {
	return os.WriteFile(path, nil, 0o600)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// Install copies the running executable into dir, from where the component's
// container runs it, whatever user that is: the init container calls it.
func Install(dir string) error {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("installing the agent: %w", err)
	}
	defer func() { _ = self.Close() }()
	// The temporary name makes an interrupted copy invisible to a second try.
	target := filepath.Join(dir, Executable)
	incoming := target + ".new"
	out, err := os.OpenFile(incoming, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755) //nolint:gosec // another user runs it
	if err != nil {
		return fmt.Errorf("installing the agent: %w", err)
	}
	_, err = io.Copy(out, self)
	err = errors.Join(err, out.Chmod(0o755), out.Close()) // another user runs it
	if err == nil {
		err = os.Rename(incoming, target)
	}
	if err != nil {
		_ = os.Remove(incoming)
		return fmt.Errorf("installing the agent as %s: %w", target, err)
	}
	return nil
}
