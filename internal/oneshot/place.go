package oneshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Place is a program in whose place there is a wrapper, or is going to be. It is in the
// session's journal before anything is changed.
type Place struct {
	// Program is the path of the program's file.
	Program string `json:"program"`
	// Dir is a folder of its own for the session, on the same node. Any user who may
	// call the program must be able to pass through the folders above.
	Dir string `json:"dir"`
	// Builds is where the debug builds are.
	Builds string `json:"builds"`

	// program is a descriptor of the program's own file, below the wrapper; 0: this process
	// has not taken the place. Not an os.File: nobody may be left who refers to that.
	program int
}

// Socket is where wrappers ask.
func (p *Place) Socket() string { return filepath.Join(p.Dir, "calls.sock") }

// Original is a path by which wrappers find the program's own file for as long as this
// process lives that has taken its place. Who executes that is known by the program's path,
// to itself, too: what it then starts as itself is called like any other.
func (p *Place) Original() string { return filepath.Join(p.Dir, "itself", filepath.Base(p.Program)) }

// original is a copy, for wrappers that nobody answers. It has the program's own name, which
// the kernel shows as the process's.
func (p *Place) original() string { return filepath.Join(p.Dir, "original", filepath.Base(p.Program)) }
func (p *Place) wrapper() string  { return filepath.Join(p.Dir, "wrapper") }

// Take puts the wrapper in the program's place. alike makes a file be to the system's
// security what another is. If Take fails, it has changed nothing.
func (p *Place) Take(alike func(from, to string)) (err error) {
	info, err := os.Stat(p.Program)
	if err != nil {
		return fmt.Errorf("taking the place of %s: %w", p.Program, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("taking the place of %s: %w", p.Program, err), p.Remove())
		}
	}()
	for _, dir := range []string{p.Dir, filepath.Dir(p.original()), filepath.Dir(p.Original())} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // callers pass through, whatever the umask
			return err
		}
	}
	if err := p.hold(); err != nil {
		return err
	}
	// A copy, not another mount of it: where mounts are shared, what is mounted on a
	// file is mounted on the file's other mounts, too, and the wrapper would find itself.
	data, err := os.ReadFile(p.Program)
	if err != nil {
		return err
	}
	if err := writeProgram(p.original(), data, info.Mode().Perm()); err != nil {
		return err
	}
	alike(p.Program, p.original())
	file, err := wrapperELF(p.Socket(), p.original(), p.Program)
	if err != nil {
		return err
	}
	if err := writeProgram(p.wrapper(), file, info.Mode().Perm()); err != nil {
		return err
	}
	alike(p.Program, p.wrapper())
	if err := unix.Mount(p.wrapper(), p.Program, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting the wrapper: %w", err)
	}
	// Nobody who means to replace the program is to write into the wrapper.
	if err := unix.Mount("", p.Program, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("protecting the wrapper: %w", err)
	}
	return p.seen()
}

// hold keeps a way to the program's file that what is mounted over it does not close: a
// descriptor leads to a file below a mount (proc_pid_fd(5)). By the link the kernel finds the
// process's name.
func (p *Place) hold() error {
	fd, err := unix.Open(p.Program, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	p.program = fd
	if err := os.Remove(p.Original()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd), p.Original())
}

// seen checks that those who call the program do get the wrapper: they may have a view of
// the file system of their own.
func (p *Place) seen() error {
	for _, c := range findCallers() {
		view := fmt.Sprintf("/proc/%d/root%s", c.pid, p.Program)
		if _, err := os.Stat(view); err != nil {
			continue // it has another file system altogether, and can't mean this program
		}
		if !sameFile(view, p.wrapper()) || !sameFile(fmt.Sprintf("/proc/%d/root%s", c.pid, p.original()), p.original()) {
			return fmt.Errorf("%s (process %d) does not see it: it has mounts of its own", c.name, c.pid)
		}
	}
	return nil
}

// inFlight is how long a wrapper may take to become something else when nobody listens
// at its socket.
const inFlight = 2*patience + time.Second

// Remove brings the original back, and lets calls go on that were left stopped. Whoever
// answers wrappers must have ended, and whoever debugs calls. It is idempotent.
func (p *Place) Remove() error {
	for sameFile(p.Program, p.wrapper()) {
		if err := unix.Unmount(p.Program, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmounting the wrapper from %s: %w", p.Program, err)
		}
	}
	if err := p.letGo(); err != nil {
		return err
	}
	if p.program > 0 {
		_ = unix.Close(p.program)
		p.program = 0
	}
	if err := os.RemoveAll(p.Dir); err != nil {
		return fmt.Errorf("removing the wrapper: %w", err)
	}
	return nil
}

// letGo sends SIGCONT to the debug builds' processes that are stopped and not traced, and
// waits until all wrappers that have begun are something else.
func (p *Place) letGo() error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(inFlight); ; <-tick.C {
		wrappers := 0
		paths, _ := filepath.Glob("/proc/[0-9]*/exe")
		for _, path := range paths {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if sameFile(path, p.wrapper()) {
				wrappers++
			}
			if stateOf(pid) == 'T' && p.isBuild(pid) {
				_ = unix.Kill(pid, unix.SIGCONT)
			}
		}
		switch {
		case wrappers == 0:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("%d calls of %s hang in the wrapper", wrappers, p.Program)
		}
	}
}

// isBuild tells whether a process executes a debug build.
func (p *Place) isBuild(pid int) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && (within(exe, p.Builds) || IsInit(pid) && isCopy(pid, p.Builds))
}

func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

func sameFile(a, b string) bool {
	first, err := os.Stat(a)
	second, secondErr := os.Stat(b)
	return err == nil && secondErr == nil && os.SameFile(first, second)
}

// writeProgram writes a file that can be executed, and returns when it can be: not while
// a process that was just forked has it open for writing.
func writeProgram(path string, data []byte, mode fs.FileMode) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(path, data, mode); err != nil {
		return err
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(stopPatience); ; <-tick.C {
		// A lease for reading is not given while somebody writes (fcntl(2)).
		_, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
		if !errors.Is(err, unix.EAGAIN) {
			return nil // or leases are not to be had here
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: %w", path, unix.ETXTBSY)
		}
	}
}
