package kubelaunch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/kubedelve/kubedelve/internal/agentapi"
	"github.com/kubedelve/kubedelve/internal/tunnel"
)

// Local runs a debug build on this machine, with an agent of its own: no cluster,
// nothing to restore, everything else the same. The binary's own path and this
// process's folder and environment are the component's. The agent ends with the
// session, and within seconds if this process is killed.
func Local(ctx context.Context, agentProgram string, binary Binary, o Options) (*Session, error) {
	o.TTL = 5 * time.Second // whoever is gone for longer will not come back
	o.Grace = 2 * time.Second
	o.defaults()
	dir, err := os.MkdirTemp("", "kubedelve-")
	if err != nil {
		return nil, fmt.Errorf("local session: %w", err)
	}
	s, err := startLocal(ctx, agentProgram, dir, binary, o)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return s, nil
}

func startLocal(ctx context.Context, agentProgram, dir string, binary Binary, o Options) (s *Session, err error) {
	agentID, clientID, err := tunnel.NewPair()
	if err != nil {
		return nil, err
	}
	agentPin, err := agentID.Pin()
	if err != nil {
		return nil, err
	}
	clientPin, err := clientID.Pin()
	if err != nil {
		return nil, err
	}
	id, err := newID()
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(agentapi.Config{
		Session: id, Identity: agentID, ClientPin: clientPin,
		Grace: agentapi.Duration(o.Grace), TTL: agentapi.Duration(o.TTL), Stop: agentapi.Duration(10 * time.Second), Temporary: true,
	})
	if err != nil {
		return nil, fmt.Errorf("local session: %w", err)
	}
	configFile := filepath.Join(dir, agentKey)
	if err := os.WriteFile(configFile, config, 0o600); err != nil {
		return nil, fmt.Errorf("local session: %w", err)
	}
	o.Progress("starting the agent")
	agent, err := startAgent(agentProgram, dir, configFile)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			agent.end()
		}
	}()
	client, err := agent.connect(ctx, clientID, agentPin, o.Owner)
	if err != nil {
		return nil, err
	}
	file := agentapi.File{SHA256: binary.SHA256, Size: binary.Size, Name: filepath.Base(binary.Path)}
	content, err := os.Open(binary.Path)
	if err != nil {
		return nil, fmt.Errorf("reading the binary: %w", err)
	}
	defer func() { _ = content.Close() }()
	if _, err := client.Put(ctx, file, content); err != nil {
		return nil, err
	}
	o.Progress("loading " + file.Name + " into Delve")
	if _, err := client.Start(ctx, agentapi.Start{File: file, Args: o.Args, Env: o.Env, Dir: o.Dir}); err != nil {
		return nil, err
	}
	return &Session{
		ID: id, Target: Target{Kind: KindLocal}, options: o, stop: func() {}, ending: make(chan struct{}),
		client: client, way: "unix socket", place: localPlace, name: file.Name,
		run: Run{Number: 1, Place: localPlace, Binary: binary},
		undo: func(_ context.Context, progress func(string)) error {
			progress("ending the component")
			agent.end()
			return os.RemoveAll(dir)
		},
	}, nil
}

// localPlace is where the runs of local sessions are.
const localPlace = "this machine"

// localAgent is an agent that is a child of this process.
type localAgent struct {
	cmd    *exec.Cmd
	socket string
	exited chan struct{} // closed when it was reaped
	said   *limitedText  // what it wrote on stderr
}

func startAgent(program, dir, config string) (*localAgent, error) {
	a := &localAgent{socket: filepath.Join(dir, agentSocket), exited: make(chan struct{}), said: &limitedText{}}
	a.cmd = exec.Command(program, "serve", "--dir", dir, "--config", config) //nolint:gosec // our own program
	// Its standard output is the component's, which comes through the tunnel.
	a.cmd.Stderr = a.said
	// A Ctrl-C in the terminal is for us: we end the agent in order.
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := a.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the agent %s: %w", program, err)
	}
	go func() { // ends with the agent
		_ = a.cmd.Wait()
		close(a.exited)
	}()
	return a, nil
}

// connect waits for the agent's socket and opens the tunnel.
func (a *localAgent) connect(ctx context.Context, own tunnel.Identity, pin, name string) (*agentapi.Client, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Second, errors.New("the agent did not listen in 10 s"))
	defer cancel()
	retry := time.NewTicker(5 * time.Millisecond)
	defer retry.Stop()
	for {
		conn, err := net.Dial("unix", a.socket)
		if err == nil {
			stream, err := tunnel.UpgradeStream(conn)
			if err != nil {
				return nil, err
			}
			session, err := tunnel.Client(ctx, stream, own, pin)
			if err != nil {
				return nil, err
			}
			return agentapi.NewClient(session, name), nil
		}
		select {
		case <-a.exited:
			return nil, fmt.Errorf("the agent ended: %s", a.said)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-retry.C:
		}
	}
}

// end ends the agent, which ends Delve and the component.
func (a *localAgent) end() {
	_ = a.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(15 * time.Second)
	defer timer.Stop()
	select {
	case <-a.exited:
	case <-timer.C:
		_ = a.cmd.Process.Kill()
		<-a.exited
	}
}
