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
	if o.Grace <= 0 {
		o.Grace = 2 * time.Second
	}
	if o.OnExit == "" {
		o.OnExit = EndSession
	}
	o.defaults()
	dir, err := os.MkdirTemp("", "kubedelve-")
	if err != nil {
		return nil, fmt.Errorf("local session: %w", err)
	}
	m, err := newMachine(agentProgram, dir, o)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return m.launch(ctx, binary)
}

// machine is the site of a session on this machine: an agent that is a child process.
type machine struct {
	options   Options
	agentPath string
	dir       string // the agent's
	session   string
	config    []byte // the agent's, JSON
	own       tunnel.Identity
	agentPin  string
	socket    string // where the agent is dialled

	agent *localAgent
}

func newMachine(agentProgram, dir string, o Options) (*machine, error) {
	id, err := newIdentity()
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(agentapi.Config{
		Session: id.session, Identity: id.agent, ClientPin: id.clientPin,
		Grace: agentapi.Duration(o.Grace), TTL: agentapi.Duration(o.TTL), Stop: agentapi.Duration(10 * time.Second), Temporary: true,
	})
	if err != nil {
		return nil, fmt.Errorf("local session: %w", err)
	}
	return &machine{
		options: o, agentPath: agentProgram, dir: dir, session: id.session, config: config, own: id.client, agentPin: id.agentPin,
		socket: filepath.Join(dir, agentSocket),
	}, nil
}

// launch begins the session, or leaves nothing behind.
func (m *machine) launch(ctx context.Context, binary Binary) (_ *Session, err error) {
	var l link
	defer func() {
		if err != nil {
			if l.client != nil {
				_ = l.client.Close()
			}
			err = errors.Join(err, m.close(ctx, false, func(string) {}))
		}
	}()
	m.options.Progress("starting the agent")
	if l, err = m.begin(ctx); err != nil {
		return nil, err
	}
	first, err := loadFirst(ctx, l.client, m.program(binary), binary, m.options)
	if err != nil {
		return nil, err
	}
	return newSession(m.session, Target{Kind: KindLocal}, m, newFeed(), m.options, l, first, binary), nil
}

func (*machine) place() string             { return "this machine" }
func (*machine) program(b Binary) string   { return filepath.Base(b.Path) }
func (m *machine) gone() <-chan struct{}   { return m.agent.exited }
func (m *machine) loaded()                 {}
func (m *machine) started(context.Context) {}

func (m *machine) why() *goneError {
	return &goneError{fmt.Sprintf("the agent has ended (%v)%s", m.agent.cmd.ProcessState, reason("", m.agent.said.String()))}
}

// begin starts an agent and connects to it.
func (m *machine) begin(ctx context.Context) (l link, err error) {
	configFile := filepath.Join(m.dir, agentKey)
	if err := os.MkdirAll(m.dir, 0o700); err != nil { // it is temporary, and the last agent may have removed it
		return link{}, fmt.Errorf("local session: %w", err)
	}
	if err := os.WriteFile(configFile, m.config, 0o600); err != nil {
		return link{}, fmt.Errorf("local session: %w", err)
	}
	agent, err := startAgent(m.agentPath, m.dir, configFile)
	if err != nil {
		return link{}, err
	}
	m.agent = agent
	return m.connect(ctx, func(string) {})
}

// localPatience is how long an agent may not answer.
const localPatience = 10 * time.Second

// connect implements [site].
func (m *machine) connect(ctx context.Context, _ func(string)) (link, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, localPatience, &goneError{fmt.Sprintf("the agent has not answered for %v", localPatience)})
	defer cancel()
	retry := time.NewTicker(5 * time.Millisecond)
	defer retry.Stop()
	for {
		client, err := m.dial(ctx)
		if err == nil {
			return link{client, "unix socket"}, nil
		}
		select {
		case <-m.agent.exited:
			return link{}, m.why()
		case <-ctx.Done():
			return link{}, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-retry.C:
		}
	}
}

func (m *machine) dial(ctx context.Context) (*agentapi.Client, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", m.socket)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	stream, err := tunnel.UpgradeStream(conn)
	stop()
	if err != nil {
		return nil, err
	}
	session, err := tunnel.Client(ctx, stream, m.own, m.agentPin)
	if err != nil {
		return nil, err
	}
	return agentapi.NewClient(session, m.options.Owner), nil
}

// renew implements [site].
func (m *machine) renew(ctx context.Context, stage func(string)) (link, error) {
	return persist(ctx, stage, func() (link, error) {
		m.agent.end() // it may only be silent
		stage("starting the agent")
		return m.begin(ctx)
	})
}

// close implements [site].
func (m *machine) close(_ context.Context, leave bool, progress func(string)) error {
	if leave {
		return nil // the agent ends by itself when nobody comes
	}
	if m.agent != nil {
		progress("ending the component")
		m.agent.end()
	}
	return os.RemoveAll(m.dir)
}

// localAgent is an agent that is a child of this process.
type localAgent struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when it was reaped
	said   *limitedText  // what it wrote on stderr
}

func startAgent(program, dir, config string) (*localAgent, error) {
	a := &localAgent{exited: make(chan struct{}), said: &limitedText{}}
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

// end ends the agent, which ends Delve and the component. It is idempotent.
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
