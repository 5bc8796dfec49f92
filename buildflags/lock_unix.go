//go:build unix && !solaris && !aix

package buildflags

import (
	"errors"
	"os"
	"syscall"
)

// tryLock takes the exclusive lock on the file at path, which it makes if need
// be. It returns nil, nil if another process, or another caller in this one,
// holds it. The lock ends when the file is closed, also by the process's death.
func tryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, syscall.EINTR) {
			return nil, nil //nolint:nilnil // see above
		}
		return nil, os.NewSyscallError("flock", err)
	}
	return f, nil
}
