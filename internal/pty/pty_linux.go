// Package pty gives a program a terminal of its own, for tests of what people type. It
// knows no program in particular. It is for Linux.
package pty

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Terminal is the user's side of a terminal, and the program on it.
type Terminal struct {
	cmd   *exec.Cmd
	user  *os.File
	ended chan struct{} // closed when all is read and the program was reaped

	mu      sync.Mutex // guards all below
	shown   strings.Builder
	taken   int           // how far Await has got
	changed chan struct{} // closed and made anew when something is shown
}

// Size is the terminal's, in characters: wide enough that no line of the tests is
// broken.
var size = unix.Winsize{Row: 60, Col: 200}

// Start starts a program on a new terminal, from which it has its standard streams.
func Start(cmd *exec.Cmd) (*Terminal, error) {
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("opening a terminal: %w", err)
	}
	program, err := otherSide(user)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening a terminal: %w", err), user.Close())
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = program, program, program
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err = cmd.Start()
	_ = program.Close()
	if err != nil {
		return nil, errors.Join(err, user.Close())
	}
	t := &Terminal{cmd: cmd, user: user, ended: make(chan struct{}), changed: make(chan struct{})}
	go t.read() // ends with the program
	return t, nil
}

// otherSide unlocks and opens the program's side (pts(4)).
func otherSide(user *os.File) (*os.File, error) {
	raw, err := user.SyscallConn() // Fd would make reads uninterruptible
	if err != nil {
		return nil, err
	}
	var number int
	var ioErr error
	err = raw.Control(func(fd uintptr) {
		ioErr = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0)
		if ioErr == nil {
			number, ioErr = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
		if ioErr == nil {
			ioErr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &size)
		}
	})
	if err := errors.Join(err, ioErr); err != nil {
		return nil, err
	}
	return os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|syscall.O_NOCTTY, 0)
}

// escapes are what moves the cursor and colours the text (ECMA-48).
var escapes = regexp.MustCompile("\x1b\\[[0-9;?]*[A-Za-z]|[\r\x07]")

func (t *Terminal) read() {
	defer close(t.ended)
	buf := make([]byte, 4096)
	for {
		n, err := t.user.Read(buf)
		t.mu.Lock()
		t.shown.Write(buf[:n])
		close(t.changed)
		t.changed = make(chan struct{})
		t.mu.Unlock()
		if err != nil { // EIO, when nobody has the other side any more
			break
		}
	}
	_ = t.cmd.Wait()
}

// Type writes as from the keyboard: "\n" is Enter, "\t" Tab, "\x03" Ctrl-C.
func (t *Terminal) Type(keys string) error {
	_, err := io.WriteString(t.user, keys)
	return err
}

// Await waits until the text is shown, after what earlier calls have waited for, and
// returns what is shown up to its end, without colours and the like.
func (t *Terminal) Await(ctx context.Context, text string) (string, error) {
	for {
		t.mu.Lock()
		shown := escapes.ReplaceAllString(t.shown.String(), "")
		rest := shown[min(t.taken, len(shown)):]
		i := strings.Index(rest, text)
		if i >= 0 {
			rest = rest[:i+len(text)]
			t.taken += len(rest)
		}
		changed := t.changed
		t.mu.Unlock()
		if i >= 0 {
			return rest, nil
		}
		select {
		case <-changed:
		case <-t.ended:
			return rest, fmt.Errorf("the program has ended and has not shown %q, but:\n%s", text, rest)
		case <-ctx.Done():
			return rest, fmt.Errorf("%w: %q is not shown, but:\n%s", context.Cause(ctx), text, rest)
		}
	}
}

// Wait waits until the program has ended, and returns its exit code; -1 if a signal
// ended it.
func (t *Terminal) Wait(ctx context.Context) (code int, err error) {
	select {
	case <-t.ended:
		return t.cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("the program has not ended: %w", context.Cause(ctx))
	}
}

// Close kills the program if it still runs.
func (t *Terminal) Close() error {
	_ = t.cmd.Process.Kill()
	err := t.user.Close()
	<-t.ended
	return err
}
