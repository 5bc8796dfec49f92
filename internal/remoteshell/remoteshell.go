// Package remoteshell runs commands on another machine as root, through the ssh program of
// this one: so what the user has configured for it (keys, agents, jump hosts, known hosts)
// counts.
package remoteshell

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// Host is a machine that ssh leads to.
type Host struct {
	Name string // USER@HOST, or whatever else ssh knows it by
}

// Error is a command that failed.
type Error struct {
	Host, Command string
	Code          int    // its exit code; 255: ssh itself failed (ssh(1))
	Said          string // on standard error
	err           error
}

func (e *Error) Error() string {
	what := fmt.Sprintf("%s on %s", e.Command, e.Host)
	if e.Code == 255 {
		what = "ssh " + e.Host
	}
	if e.Said != "" {
		return what + ": " + e.Said
	}
	return fmt.Sprintf("%s: %v", what, e.err)
}

func (e *Error) Unwrap() error { return e.err }

// asRoot is run by the remote user's shell, whichever that is, before each command. -n: there
// is no terminal to ask for a password on.
const asRoot = `sh -c 'if [ "$(id -u)" = 0 ]; then exec "$@"; else exec sudo -n -- "$@"; fi' sh`

func (h Host) command(ctx context.Context, args []string) *exec.Cmd {
	var line strings.Builder
	line.WriteString(asRoot)
	for _, a := range args {
		line.WriteString(" " + quote(a))
	}
	// Nobody can answer questions here. A connection that is dead is noticed in 15 s.
	return exec.CommandContext(ctx, "ssh", "-T", "-C", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", //nolint:gosec // the host is the user's, the command is quoted
		"-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3", "--", h.Name, line.String())
}

// quote makes a word of it for a POSIX shell.
func quote(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }

// Run runs a command as root and returns what it writes on standard output. stdin may be
// nil. It fails with an [*Error].
func (h Host) Run(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	cmd := h.command(ctx, args)
	cmd.Stdin = stdin
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, h.failed(ctx, args, err, stderr.String())
	}
	return out, nil
}

func (h Host) failed(ctx context.Context, args []string, err error, said string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	e := &Error{Host: h.Name, Command: args[0], Said: strings.TrimSpace(said), err: err, Code: -1}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		e.Code = exit.ExitCode()
	}
	return e
}

// Open runs a command as root, and returns its standard input and output as one stream.
// Closing it ends the command.
func (h Host) Open(args ...string) (io.ReadWriteCloser, error) {
	ctx, cancel := context.WithCancel(context.Background())
	cmd := h.command(ctx, args)
	cmd.WaitDelay = time.Second
	s := &stream{cancel: cancel, host: h, args: args, cmd: cmd}
	stdin, err := cmd.StdinPipe()
	if err == nil {
		s.Writer = stdin
		s.out, err = cmd.StdoutPipe()
	}
	if err == nil {
		cmd.Stderr = &s.said
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("ssh %s: %w", h.Name, err)
	}
	return s, nil
}

// stream is a command that runs.
type stream struct {
	io.Writer
	out    io.Reader
	cmd    *exec.Cmd
	cancel context.CancelFunc
	host   Host
	args   []string
	said   bytes.Buffer // complete when the command was waited for
	wait   sync.Once
	ended  error
}

// Read tells at the end why the command ended, if it was not asked to.
func (s *stream) Read(p []byte) (int, error) {
	n, err := s.out.Read(p)
	if n == 0 && err != nil {
		if ended := s.reap(); ended != nil {
			return 0, s.host.failed(context.Background(), s.args, ended, s.said.String())
		}
		return 0, io.EOF
	}
	return n, nil
}

func (s *stream) Close() error {
	s.cancel()
	_ = s.reap()
	return nil
}

func (s *stream) reap() error {
	s.wait.Do(func() { s.ended = s.cmd.Wait() })
	return s.ended
}
