package dapterminal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// portWord is what stands for a free port in a command line, as in the configurations
// of several editors.
const portWord = "${port}"

const (
	// startTime is how long a server has until it listens.
	startTime = 30 * time.Second
	// endTime is how long one has to end by itself when its input has ended.
	endTime = 10 * time.Second
)

// Connector makes connections to a debug adapter.
type Connector struct {
	address string   // HOST:PORT
	argv    []string // or a command
	log     io.Writer
}

// NewConnector takes the address of a server, HOST:PORT, or a command line whose words
// are separated by spaces: one that speaks DAP on its standard streams, or has the word
// ${port} where a port belongs and listens there. What a command writes on standard
// error goes to log.
func NewConnector(adapter string, log io.Writer) (*Connector, error) {
	words := strings.Fields(adapter)
	if len(words) == 0 {
		return nil, errors.New("name a debug adapter: HOST:PORT, or a command that speaks DAP")
	}
	if len(words) == 1 {
		if host, port, err := net.SplitHostPort(adapter); err == nil {
			if _, err := strconv.ParseUint(port, 10, 16); err != nil || host == "" {
				return nil, fmt.Errorf("%q is no address: write HOST:PORT", adapter)
			}
			return &Connector{address: adapter}, nil
		}
	}
	return &Connector{argv: words, log: log}, nil
}

// Connect makes a connection. Closing it ends a command.
func (c *Connector) Connect(ctx context.Context) (io.ReadWriteCloser, error) {
	if c.address != "" {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.address)
		if err != nil {
			return nil, fmt.Errorf("connecting to the debug adapter: %w", err)
		}
		return conn, nil
	}
	if strings.Contains(strings.Join(c.argv, " "), portWord) {
		return c.startListening(ctx)
	}
	return c.start()
}

// start starts a command that speaks on its standard streams.
func (c *Connector) start() (io.ReadWriteCloser, error) {
	cmd := c.command(c.argv)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the debug adapter: %w", err)
	}
	return &streams{stdout, stdin, &process{cmd: cmd}}, nil
}

// startListening starts a command that listens, and connects to it.
func (c *Connector) startListening(ctx context.Context) (io.ReadWriteCloser, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := listener.Addr().String()
	_, port, _ := net.SplitHostPort(address)
	_ = listener.Close() // it may be somebody else's in a moment; then the command says so
	argv := make([]string, len(c.argv))
	for i, word := range c.argv {
		argv[i] = strings.ReplaceAll(word, portWord, port)
	}
	cmd := c.command(argv)
	cmd.Stdout = c.log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the debug adapter: %w", err)
	}
	p := &process{cmd: cmd}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	conn, err := p.dial(ctx, address)
	if err != nil {
		p.end(0)
		return nil, fmt.Errorf("%s: %w", strings.Join(argv, " "), err)
	}
	return &socket{conn, p}, nil
}

// command has the terminal's interrupts not sent to it: they are for the program that
// is debugged.
func (c *Connector) command(argv []string) *exec.Cmd {
	cmd := exec.Command(argv[0], argv[1:]...) //nolint:gosec // the user's own command
	cmd.Stderr = c.log
	cmd.SysProcAttr = ownGroup()
	return cmd
}

// process is a command that was started.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // set and closed by wait
}

// dial connects as soon as the process listens.
func (p *process) dial(ctx context.Context, address string) (net.Conn, error) {
	p.wait()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err == nil {
			return conn, nil
		}
		select {
		case <-tick.C:
		case <-p.ended:
			return nil, fmt.Errorf("it has ended (%s) and never listened", p.cmd.ProcessState)
		case <-ctx.Done():
			return nil, fmt.Errorf("it does not listen on %s: %w", address, err)
		}
	}
}

// wait reaps the process; only the first call begins to.
func (p *process) wait() {
	if p.ended != nil {
		return
	}
	p.ended = make(chan struct{})
	go func() { // ends with the process
		defer close(p.ended)
		_ = p.cmd.Wait()
	}()
}

// end waits until the process has ended. When the time is over it is told to, and not
// waited for any more: it may have things to put back, as long as that takes.
func (p *process) end(patience time.Duration) {
	p.wait()
	select {
	case <-p.ended:
	case <-time.After(patience):
		terminate(p.cmd.Process)
	}
}

// streams are those of a process.
type streams struct {
	io.ReadCloser
	stdin io.WriteCloser
	p     *process
}

func (s *streams) Write(b []byte) (int, error) { return s.stdin.Write(b) }

// Close ends the process by the end of its input.
func (s *streams) Close() error {
	err := s.stdin.Close()
	s.p.end(endTime)
	_ = s.ReadCloser.Close() // it may go on without us
	return err
}

// socket is a connection to a process.
type socket struct {
	net.Conn
	p *process
}

// Close ends the process by the end of its connection.
func (s *socket) Close() error {
	err := s.Conn.Close()
	s.p.end(endTime)
	return err
}
