package nodeservice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubedelve/kubedelve/internal/agentapi"
)

// helperPath is where the helper finds the node's programs.
const helperPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// EnterHost runs the helper in the namespaces of the node's PID 1, as a child of this
// process, and returns its exit code. config is given to it.
func EnterHost(ctx context.Context, config []byte, args ...string) (int, error) {
	// Only this thread joins; the child inherits the namespaces from it. No thread is
	// ever started from a locked one, so the runtime stays outside; and the thread
	// ends with the process.
	runtime.LockOSThread()
	kinds := []struct {
		name string
		flag int
	}{
		{"ipc", unix.CLONE_NEWIPC}, {"uts", unix.CLONE_NEWUTS}, {"net", unix.CLONE_NEWNET}, {"cgroup", unix.CLONE_NEWCGROUP},
		{"mnt", unix.CLONE_NEWNS}, // the last one: the others are found in this one
	}
	fds := make([]int, len(kinds))
	for i, k := range kinds {
		fd, err := unix.Open(proc(1, "ns", k.name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return 1, fmt.Errorf("entering the node's namespaces (%s): %w", k.name, err)
		}
		fds[i] = fd
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // setns(2) asks for it
		return 1, fmt.Errorf("entering the node's namespaces: %w", err)
	}
	for i, k := range kinds {
		if err := unix.Setns(fds[i], k.flag); err != nil {
			return 1, fmt.Errorf("entering the node's namespaces (%s): %w", k.name, err)
		}
	}
	read, write, err := os.Pipe()
	if err != nil {
		return 1, err
	}
	cmd := exec.Command("/proc/self/exe", args...) //nolint:gosec // this program
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + helperPath}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = read, os.Stdout, os.Stderr
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	err = cmd.Start()
	_ = read.Close()
	if err != nil {
		return 1, errors.Join(fmt.Errorf("starting the helper: %w", err), write.Close())
	}
	_, err = write.Write(config) // a pipe takes it: it is small
	err = errors.Join(err, write.Close())
	ended := make(chan struct{})
	go func() { // ends with the child
		_ = cmd.Wait()
		close(ended)
	}()
	for {
		select {
		case sig := <-signals:
			_ = cmd.Process.Signal(sig)
		case <-ctx.Done():
			_ = cmd.Process.Kill()
			<-ended
		case <-ended:
			return max(cmd.ProcessState.ExitCode(), 0), err
		}
	}
}

// Helper is the process in our pod.
type Helper struct {
	config agentapi.Config
	raw    []byte
	dir    string
	agent  Agent
	log    *slog.Logger
	alone  time.Time // since when there is no agent in a static pod that should have one; zero: there is
}

// NewHelper reads the agent's configuration and finds the session's folder.
func NewHelper(config io.Reader, agent Agent, log *slog.Logger) (*Helper, error) {
	raw, err := io.ReadAll(io.LimitReader(config, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("agent configuration: %w", err)
	}
	unix.CloseOnExec(helperLockFD) // if there is one, no child is to hold it
	h, err := parseHelper(raw)
	if err != nil {
		return nil, err
	}
	h.agent, h.log = agent, log
	return h, nil
}

// helperLockFD is where a helper inherits the lock that [Arrive] has taken for it.
const helperLockFD = 3

func parseHelper(raw []byte) (*Helper, error) {
	h := &Helper{raw: raw}
	if err := json.Unmarshal(raw, &h.config); err != nil {
		return nil, fmt.Errorf("agent configuration: %w", err)
	}
	var err error
	h.dir, err = sessionDir(h.config.Session)
	return h, err
}

// What ends the helper's agent.
var (
	errEngage  = errors.New("the service is being replaced")
	errRestore = errors.New("the session is over")
)

// Run returns nil when the session is over and the original runs; and when ctx ends:
// then it leaves a stand-in alone.
func (h *Helper) Run(ctx context.Context, install func(dir string) error) error {
	if h.config.Calls != nil {
		return h.runCalls(ctx, install)
	}
	problem := ""
	for {
		j, err := readJournal(h.dir)
		if err != nil {
			return err
		}
		if j != nil {
			return h.watch(ctx, j)
		}
		if err := os.MkdirAll(h.dir, 0o700); err != nil {
			return fmt.Errorf("the session's folder: %w", err)
		}
		if err := install(h.dir); err != nil {
			return err
		}
		if err := writeFile(filepath.Join(h.dir, ConfigName), h.raw); err != nil {
			return fmt.Errorf("the session's folder: %w", err)
		}
		service, err := h.serve(ctx, problem)
		if !errors.Is(err, errEngage) {
			return errors.Join(err, removeDir(h.dir))
		}
		if err := h.replace(service); err != nil {
			h.log.Error("replacing the service", "error", err)
			problem = err.Error()
		}
	}
}

// serve is the agent before it has the service's place.
func (h *Helper) serve(ctx context.Context, problem string) (*Service, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var service *Service
	why := errRestore
	post := &Post{node: agentapi.Node{Problem: problem}, leave: func() { cancel(why) }}
	post.engage = func() (node agentapi.Node, err error) {
		if service, err = Find(h.config.Service); err != nil {
			return node, err
		}
		why = errEngage
		return agentapi.Node{Service: service.String()}, nil
	}
	_, err := h.agent(ctx, h.dir, nil, post)
	switch {
	case errors.Is(context.Cause(ctx), errEngage):
		return service, errEngage
	case errors.Is(err, agentapi.ErrExpired):
		err = nil
	}
	return nil, err
}

// replace puts the stand-in in the service's place, or leaves all as it was.
func (h *Helper) replace(s *Service) error {
	if !s.Process.lives() {
		return fmt.Errorf("%s has ended meanwhile", s)
	}
	// A distribution's policy may allow less to a file of another label.
	copyLabel(s.Process.Exe, filepath.Join(h.dir, executable))
	var debug []byte
	if s.Manifest != nil {
		var err error
		if debug, err = s.Manifest.prepare(h.dir); err != nil {
			return err
		}
	}
	if err := writeJournal(h.dir, &journal{Version: journalVersion, Session: h.config.Session, Service: s}); err != nil {
		return err
	}
	var err error
	switch {
	case s.Unit != nil:
		if err = s.Unit.replace(h.dir); err != nil {
			err = errors.Join(err, s.Unit.restore(true))
		}
	case s.Manifest != nil:
		if err = s.Manifest.replace(h.dir, debug); err != nil {
			err = errors.Join(err, s.Manifest.restore(), s.Manifest.clean())
		}
	default:
		err = s.Process.replace(h.dir)
	}
	if err != nil {
		return errors.Join(err, os.Remove(filepath.Join(h.dir, journalName)))
	}
	return nil
}

// copyLabel gives a file the SELinux label of another, where there are such.
func copyLabel(from, to string) {
	const name = "security.selinux"
	label := make([]byte, 1024)
	if n, err := unix.Getxattr(from, name, label); err == nil {
		_ = unix.Setxattr(to, name, label[:n], 0)
	}
}

// watchInterval is how often the helper looks after the stand-in.
const watchInterval = 200 * time.Millisecond

// watch waits until the original is back, and brings it back if nobody else is left
// to do so.
func (h *Helper) watch(ctx context.Context, j *journal) error {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	h.log.Info("watching the stand-in", "service", j.Service)
	for {
		over, err := h.look(j)
		if over || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (h *Helper) look(j *journal) (over bool, err error) {
	s := j.Service
	switch {
	case s.Unit != nil:
		return h.lookUnit(j)
	case s.Manifest != nil:
		return h.lookManifest(s)
	}
	lock, err := tryLock(h.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist): // the folder is gone: the original is there, or will be in a moment
		return s.Process.runs(), nil
	case err != nil || lock == nil:
		return false, err
	}
	_ = lock.Close()
	if s.Process.runs() {
		return true, removeDir(h.dir)
	}
	h.log.Warn("the stand-in was ended: starting the original", "service", s)
	streams, err := s.Process.reopen()
	if err == nil {
		err = s.Process.start(streams, nil, filepath.Join(h.dir, executable), "become", "--dir", h.dir)
	}
	if err != nil {
		return false, fmt.Errorf("starting the original: %w", err)
	}
	return false, nil
}

// Become turns this process into the original of a session's folder.
func Become(dir string) (int, error) {
	j, err := readJournal(dir)
	lock, lockErr := tryLock(dir)
	if errors.Is(lockErr, fs.ErrNotExist) || lockErr == nil && lock == nil {
		return 0, nil // somebody else is about to
	}
	if err = errors.Join(err, lockErr); err != nil || j == nil {
		return 1, errors.Join(err, fmt.Errorf("there is no journal in %s", dir))
	}
	defer func() { _ = lock.Close() }() // it is held until the process has become the original
	if err := j.Service.Process.assume(); err != nil {
		return 1, err
	}
	return become(j.Service.Process, dir)
}

func (h *Helper) lookUnit(j *journal) (over bool, err error) {
	unit := j.Service.Unit
	now, err := findUnit(unit.Name)
	if err != nil || now == nil {
		return false, err
	}
	_, statErr := os.Stat(unit.dropIn())
	if errors.Is(statErr, fs.ErrNotExist) {
		// Whoever removed it has asked for the restart, too.
		exe, err := os.Readlink(proc(now.mainPID, "exe"))
		if err != nil || now.active != "active" || exe == filepath.Join(h.dir, executable) {
			return false, nil //nolint:nilerr // in a moment
		}
		return true, removeDir(h.dir)
	}
	switch {
	case now.mainPID != 0:
		return false, nil
	case now.active == "inactive":
		// The user has stopped it: that is how it stays.
		h.log.Warn("the unit was stopped", "unit", unit.Name)
		if err := unit.forget(); err != nil {
			return false, err
		}
		return true, removeDir(h.dir)
	case now.active == "failed" || now.sub == "auto-restart":
		h.log.Warn("the stand-in was ended: starting the original", "unit", unit.Name)
		if err := evict(h.dir, evictGrace); err != nil {
			return false, err
		}
		if err := unit.restore(true); err != nil {
			return false, err
		}
	}
	return false, nil
}

func (h *Helper) lookManifest(s *Service) (over bool, err error) {
	m := s.Manifest
	state, err := m.state()
	if err != nil {
		return false, err
	}
	if state == manifestDebug {
		// An agent that was ended is started again by the kubelet, and then restores.
		switch {
		case standInRuns(h.dir):
			h.alone = time.Time{}
		case h.alone.IsZero():
			h.alone = time.Now()
		case time.Since(h.alone) > podPatience:
			h.log.Warn("there is no stand-in: putting the original manifest back", "manifest", m.Path)
			return false, m.restore()
		}
		return false, nil
	}
	if builds, delves, err := tenants(h.dir); err != nil || len(builds)+len(delves) > 0 || state == manifestOriginal && !m.runs(s.Process) {
		return false, err
	}
	return true, errors.Join(m.clean(), removeDir(h.dir))
}
