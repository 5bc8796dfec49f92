package nodeservice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubedelve/kubedelve/internal/agentapi"
)

// executable is the agent's name in a session's folder (agent.Executable).
const executable = "kubedelve-agent"

// stopGrace is how long the original has between SIGTERM and SIGKILL.
const stopGrace = 30 * time.Second

// statusFD is where a keeper tells the helper that it is in place, or why not.
const statusFD = 3

// Agent runs the agent of a session's folder until ctx ends or the session is over, in
// the place of the original command line. It returns the component's exit code, and
// [agentapi.ErrExpired] if nobody was connected for the session's time to live.
type Agent func(ctx context.Context, dir string, original []string, post *Post) (code int, err error)

// Post is what the agent's clients may ask of a node besides debugging.
type Post struct {
	node   agentapi.Node
	engage func() (agentapi.Node, error)
	leave  func()
}

// Node tells how things are.
func (p *Post) Node() agentapi.Node {
	node := p.node
	node.Host, _ = os.Hostname()
	return node
}

// Engage looks whether the service can be replaced; when the answer is out, Leave is
// called, and it is.
func (p *Post) Engage() (node agentapi.Node, leave bool, err error) {
	if p.engage == nil {
		return p.node, false, errors.New("the service has been replaced already")
	}
	node, err = p.engage()
	return node, err == nil, err
}

// Leave ends the agent.
func (p *Post) Leave() { p.leave() }

// StandIn is what runs in a service's place, the main process of a unit or the keeper of a
// process. It returns the exit code, unless it has become the original.
func StandIn(ctx context.Context, dir string, original []string, agent Agent, log *slog.Logger) (int, error) {
	j, err := readJournal(dir)
	if err == nil && j == nil {
		err = fmt.Errorf("there is no journal in %s", dir)
	}
	if err != nil {
		return 1, err
	}
	switch {
	case j.Service.Unit != nil:
		return standInUnit(ctx, dir, j, original, agent, log)
	case j.Service.Manifest != nil:
		return standInPod(ctx, dir, j.Service, original, agent, log)
	}
	return keep(j.Service, dir, log)
}

// standInUnit is the main process of a unit. systemd ends it by a signal, when the
// original is to come back as at any other stop.
func standInUnit(ctx context.Context, dir string, j *journal, original []string, agent Agent, log *slog.Logger) (int, error) {
	unit := j.Service.Unit
	mark := filepath.Join(dir, heldName)
	if _, err := os.Stat(mark); err == nil {
		// An agent before this one ended without being asked to, and systemd has
		// started the unit again.
		log.Warn("the agent was ended: back to the original", "unit", unit.Name)
		return restoreUnit(ctx, dir, unit)
	}
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		return 1, err
	}
	// The unit is there for those that wait for it: what they need from it is going
	// to come a little later.
	notify("READY=1")
	asked := make(chan struct{})
	running, stop := context.WithCancel(ctx)
	defer stop()
	post := &Post{node: agentapi.Node{Service: j.Service.String(), Engaged: true}, leave: func() { close(asked); stop() }}
	code, err := agent(running, dir, original, post)
	switch {
	case ctx.Err() != nil: // systemd stops or restarts the unit
		if _, there := os.Stat(unit.dropIn()); there != nil {
			return code, errors.Join(err, removeDir(dir)) // restored
		}
		return code, errors.Join(err, os.Remove(mark))
	case errors.Is(err, agentapi.ErrExpired):
		log.Warn("nobody was connected for the session's time to live: back to the original", "unit", unit.Name)
		err = nil
	}
	select {
	case <-asked:
	default:
		if err != nil {
			log.Error("the agent failed: back to the original", "unit", unit.Name, "error", err)
		}
	}
	return restoreUnit(ctx, dir, unit)
}

// restoreUnit makes systemd replace this process by the original.
func restoreUnit(ctx context.Context, dir string, unit *Unit) (int, error) {
	// With KillMode=process or none systemd leaves them.
	if err := evict(dir, evictGrace); err != nil {
		return 1, err
	}
	if err := unit.restore(false); err != nil {
		return 1, err
	}
	timer := time.NewTimer(systemdPatience)
	defer timer.Stop()
	select {
	case <-ctx.Done(): // the SIGTERM of the restart
	case <-timer.C:
	}
	return 0, removeDir(dir)
}

// notify tells systemd something (sd_notify(3)), if that wants to hear it.
func notify(text string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	conn, err := net.Dial("unixgram", path)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	_, _ = io.WriteString(conn, text)
}

// keep is the keeper: it ends the original, waits for the agent's end, and becomes the
// original.
func keep(s *Service, dir string, log *slog.Logger) (int, error) {
	status := os.NewFile(statusFD, "status")
	fail := func(err error) (int, error) {
		_, _ = fmt.Fprintln(status, err)
		return 1, err
	}
	unix.CloseOnExec(statusFD)
	if err := s.Process.assume(); err != nil {
		return fail(err)
	}
	lock, err := tryLock(dir)
	if err == nil && lock == nil {
		err = errors.New("another stand-in is there")
	}
	if err != nil {
		return fail(err)
	}
	defer func() { _ = lock.Close() }() // not before: whoever gets it starts the original
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, unix.SIGTERM, unix.SIGINT)
	if err := s.Process.stop(stopGrace); err != nil {
		return fail(err)
	}
	cmd := exec.Command(filepath.Join(dir, executable), "hold", "--dir", dir) //nolint:gosec // our own program
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{lock} // it is held for as long as either lives
	if err := cmd.Start(); err != nil {
		_, _ = fail(err)
		return become(s.Process, dir)
	}
	_, _ = io.WriteString(status, "ok\n")
	_ = status.Close()
	ended := make(chan struct{})
	go func() { // ends with the agent
		_ = cmd.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		log.Info("back to the original", "program", s.Process.Exe)
		return become(s.Process, dir)
	case sig := <-ends: // the machine is shut down
		_ = cmd.Process.Signal(sig)
		<-ended
		return max(cmd.ProcessState.ExitCode(), 0), removeDir(dir)
	}
}

// Hold is the agent below a keeper.
func Hold(ctx context.Context, dir string, agent Agent) (int, error) {
	j, err := readJournal(dir)
	if err == nil && (j == nil || j.Service.Unit != nil || j.Service.Manifest != nil) {
		err = fmt.Errorf("there is no process in the journal in %s", dir)
	}
	if err != nil {
		return 1, err
	}
	unix.CloseOnExec(statusFD) // the lock
	keeper := os.Getppid()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	post := &Post{node: agentapi.Node{Service: j.Service.String(), Engaged: true}, leave: stop}
	code, err := agent(ctx, dir, j.Service.Original(), post)
	if errors.Is(err, agentapi.ErrExpired) {
		err = nil
	}
	if os.Getppid() != keeper { // it was killed: this process inherited the same
		return become(j.Service.Process, dir)
	}
	return code, err
}

// become is how the original comes back: the process turns into it. It returns only
// if that fails.
func become(p *Process, dir string) (int, error) {
	evictErr := evict(dir, evictGrace)
	removeErr := removeDir(dir)
	err := syscall.Exec(p.Exe, p.Argv, p.Env) //nolint:gosec // what ran here before
	return 1, errors.Join(fmt.Errorf("starting the original %s: %w", p.Exe, err), evictErr, removeErr)
}

// tryLock returns nil if somebody holds the session's lock. It fails if there is none.
func tryLock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("the session's lock: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		_ = f.Close()
		return nil, nil //nolint:nilnil // that is the answer
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the session's lock: %w", err), f.Close())
	}
	return f, nil
}

// replace starts the keeper and returns when the original has ended and the agent was
// started. With the original gone already, the keeper only has to be started.
func (p *Process) replace(dir string) error {
	if err := writeFile(filepath.Join(dir, lockName), nil); err != nil {
		return fmt.Errorf("the session's lock: %w", err)
	}
	streams, err := p.stdio()
	if err != nil {
		return err
	}
	return p.startKeeper(dir, streams)
}

func (p *Process) startKeeper(dir string, streams [3]*os.File) error {
	status, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = status.Close() }()
	err = p.start(streams, []*os.File{theirs}, filepath.Join(dir, executable), "stand-in", "--dir", dir)
	_ = theirs.Close()
	if err != nil {
		return fmt.Errorf("starting the stand-in: %w", err)
	}
	said, err := io.ReadAll(io.LimitReader(status, 64<<10))
	if err == nil && string(said) != "ok\n" {
		err = errors.New(strings.TrimSpace(string(said)))
	}
	if err != nil {
		return fmt.Errorf("the stand-in: %w", err)
	}
	return nil
}
