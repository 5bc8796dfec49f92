package nodeservice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubedelve/kubedelve/internal/agentapi"
	"github.com/kubedelve/kubedelve/internal/oneshot"
)

// A session on the calls of a program has no stand-in: the agent runs as a child of the
// helper, since the wrapper in the program's place needs nobody (package oneshot). When
// it ends, however that comes, the helper removes the wrapper; if both are killed, the
// helper of the next pod does.

// placeName is the journal of such a session: the program in whose place the wrapper is
// put.
const placeName = "place.json"

// runCalls returns nil when the session is over, or ctx is, and the wrapper is removed.
func (h *Helper) runCalls(ctx context.Context, install func(dir string) error) error {
	if err := unwrap(h.dir); err != nil { // a helper before this one was killed
		return err
	}
	for _, dir := range []string{filepath.Dir(h.dir), h.dir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("the session's folder: %w", err)
		}
		// Whoever calls the program passes through on the way to the original.
		if err := os.Chmod(dir, 0o711); err != nil { //nolint:gosec // what is in it is private
			return fmt.Errorf("the session's folder: %w", err)
		}
	}
	if err := install(h.dir); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(h.dir, ConfigName), h.raw); err != nil {
		return fmt.Errorf("the session's folder: %w", err)
	}
	cmd := exec.Command(filepath.Join(h.dir, executable), "calls", "--dir", h.dir) //nolint:gosec // this program's copy
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("starting the agent: %w", err), removeDir(h.dir))
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(unix.SIGTERM) })
	err := cmd.Wait()
	stop()
	if err != nil {
		h.log.Error("the agent has failed: removing the wrapper", "error", err)
		err = fmt.Errorf("the agent: %w", err)
	}
	return errors.Join(err, unwrap(h.dir))
}

// unwrap removes a session's wrapper, if it has one, and the session's folder. Calls that
// are being debugged are let go. The session's agent must have ended.
func unwrap(dir string) error {
	data, err := os.ReadFile(filepath.Join(dir, placeName))
	if errors.Is(err, fs.ErrNotExist) {
		return removeDir(dir)
	}
	place := &oneshot.Place{}
	if err == nil {
		err = json.Unmarshal(data, place)
	}
	if err != nil {
		return fmt.Errorf("the node's journal in %s: %w", dir, err)
	}
	// A Delve without an agent lets go by itself. Not so the calls: they are somebody's.
	_, delves, err := tenants(dir)
	if err != nil {
		return err
	}
	for _, pid := range delves {
		if err := endTenant(pid, time.Now().Add(evictGrace)); err != nil {
			return fmt.Errorf("ending process %d of the session: %w", pid, err)
		}
	}
	return errors.Join(place.Remove(), removeDir(dir))
}

// CallPost is what an agent's clients may ask of a node on which the calls of a program
// are debugged. It implements agent.Caller.
type CallPost struct {
	config agentapi.Calls
	dir    string
	calls  *oneshot.Calls
	leave  context.CancelFunc

	ctx     context.Context //nolint:containedctx // ends what Engage has begun
	serving sync.WaitGroup

	mu   sync.Mutex // guards node
	node agentapi.Node
}

// CallAgent runs the agent of a session's folder until ctx ends or the session is over.
type CallAgent func(ctx context.Context, dir string, post *CallPost) (code int, err error)

// RunCalls is the agent of a session on calls. The wrapper is removed when it returns.
func RunCalls(ctx context.Context, dir string, agent CallAgent, log *slog.Logger) (int, error) {
	data, err := os.ReadFile(filepath.Join(dir, ConfigName))
	var config agentapi.Config
	if err == nil {
		err = json.Unmarshal(data, &config)
	}
	if err == nil && config.Calls == nil {
		err = errors.New("it names no program")
	}
	if err != nil {
		return 1, fmt.Errorf("agent configuration: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	post := &CallPost{config: *config.Calls, dir: dir, calls: oneshot.NewCalls(config.Calls.Filter, log), leave: cancel, ctx: ctx}
	code, err := agent(ctx, dir, post)
	if errors.Is(err, agentapi.ErrExpired) {
		log.Warn("nobody was connected: removing the wrapper")
		err = nil
	}
	cancel()
	post.serving.Wait()
	if err != nil {
		return max(code, 1), err
	}
	return 0, nil // not a call's exit code
}

// Node tells how things are.
func (p *CallPost) Node() agentapi.Node {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.node
}

// Engage puts the wrapper in the program's place.
func (p *CallPost) Engage() (node agentapi.Node, leave bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.node.Engaged {
		return p.node, false, nil
	}
	program, err := oneshot.Find(p.config.Program)
	if err != nil {
		return node, false, err
	}
	place := &oneshot.Place{Program: program, Dir: filepath.Join(p.dir, "calls"), Builds: filepath.Join(p.dir, "bin")}
	if err := os.MkdirAll(place.Dir, 0o700); err != nil {
		return node, false, err
	}
	data, err := json.Marshal(place)
	if err == nil {
		err = writeFile(filepath.Join(p.dir, placeName), data)
	}
	if err != nil {
		return node, false, fmt.Errorf("the node's journal: %w", err)
	}
	listener, err := oneshot.Listen(place.Socket())
	if err != nil {
		return node, false, err
	}
	if err := place.Take(copyLabel); err != nil {
		return node, false, errors.Join(err, listener.Close())
	}
	p.serving.Go(func() { // ends with the agent
		if err := p.calls.Serve(p.ctx, listener, place.Original()); err != nil {
			p.leave()
		}
	})
	p.node = agentapi.Node{Service: "calls of " + program, Engaged: true}
	return p.node, false, nil
}

// Leave ends the agent.
func (p *CallPost) Leave() { p.leave() }

// Next waits for the next call that is to be debugged.
func (p *CallPost) Next(ctx context.Context, rank int) (*oneshot.Call, error) {
	return p.calls.Next(ctx, rank)
}

// SetPods says which pods have the labels that the filter asks for.
func (p *CallPost) SetPods(pods []string) { p.calls.SetPods(pods) }
