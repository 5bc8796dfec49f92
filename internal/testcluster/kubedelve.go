package testcluster

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Command is a call of kubedelve that has not begun. The zero value is the
// cluster's default namespace with the cluster's kubeconfig.
type Command struct {
	Namespace  string   // -n
	Kubeconfig string   // instead of the cluster's
	Dir        string   // working directory; default: the sample's
	Env        []string // on top of this process's
	Args       []string
}

// Kubedelve makes a command that works in the namespace.
func (n *Namespace) Kubedelve(args ...string) Command {
	return Command{Namespace: n.Name, Args: args}
}

// exec makes the process. It is not killed when a context ends, since kubedelve
// would leave everything as it is.
func (c *Cluster) exec(k Command) (*exec.Cmd, error) {
	kubeconfig := k.Kubeconfig
	if kubeconfig == "" {
		kubeconfig = c.Kubeconfig
	}
	args := k.Args
	if k.Namespace != "" {
		args = append([]string{"--namespace", k.Namespace}, args...)
	}
	goCache, err := goCache()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(c.Programs.Path("kubedelve"), args...) //nolint:gosec // built by Build
	cmd.Dir = k.Dir
	if cmd.Dir == "" {
		cmd.Dir = c.Programs.Shop()
	}
	cmd.Env = append(os.Environ(),
		"KUBECONFIG="+kubeconfig, "KUBEDELVE_AGENT_IMAGE="+c.Refs["agent"], "NO_COLOR=1",
		// A cache of its own, so that every run starts from the same state; but
		// not Go's, which takes minutes to fill.
		"XDG_CACHE_HOME="+filepath.Join(c.Programs.Dir, "cache"), "GOCACHE="+goCache)
	cmd.Env = append(cmd.Env, k.Env...)
	ownGroup(cmd) // Ctrl-C in a terminal is for this program
	return cmd, nil
}

// Command makes the process of a command, for a test that starts it itself. It is not
// killed when a context ends.
func (c *Cluster) Command(k Command) (*exec.Cmd, error) { return c.exec(k) }

// goCache is the go command's cache.
var goCache = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOCACHE: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
})

// Result is how a command ended.
type Result struct {
	Stdout, Stderr string
	Code           int // the exit code; -1 if a signal ended it
}

// Run runs kubedelve to its end.
func (c *Cluster) Run(ctx context.Context, k Command) (Result, error) {
	cmd, err := c.exec(k)
	if err != nil {
		return Result{}, err
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		return Result{}, fmt.Errorf("kubedelve: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // ends with the process
	select {
	case err = <-ended:
	case <-ctx.Done():
		_ = quit(cmd.Process) // it tells where it hangs
		err = errors.Join(fmt.Errorf("it did not end: %w", context.Cause(ctx)), <-ended)
	}
	result := Result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
	var exit *exec.ExitError
	if err != nil && (ctx.Err() != nil || !errors.As(err, &exit)) {
		return result, fmt.Errorf("kubedelve %s: %w\n%s", strings.Join(k.Args, " "), err, result.Stderr)
	}
	return result, nil
}

// Event is a line of kubedelve debug -o json.
type Event struct {
	Event   string  `json:"event"`
	Seconds float64 `json:"seconds"`
	Text    string  `json:"text"`
	Session string  `json:"session"`
	Listen  string  `json:"listen"`
	Place   string  `json:"place"`
	Tunnel  string  `json:"tunnel"`
	Code    *int    `json:"code"`
	File    string  `json:"file"`
	Line    int     `json:"line"`
	Took    float64 `json:"took"`
}

// Process is a running "kubedelve debug -o json".
type Process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process was reaped and all output is read

	mu      sync.Mutex // guards all below
	events  []Event
	taken   int // how far Await has got
	changed chan struct{}
	stderr  bytes.Buffer
	broken  error // a line that is no event
}

// Begin starts "kubedelve debug ARGS -o json".
func (c *Cluster) Begin(k Command) (*Process, error) {
	k.Args = append([]string{"debug", "-o", "json"}, k.Args...)
	cmd, err := c.exec(k)
	if err != nil {
		return nil, err
	}
	p := &Process{cmd: cmd, ended: make(chan struct{}), changed: make(chan struct{})}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("kubedelve: %w", err)
	}
	cmd.Stderr = &lockedWriter{mu: &p.mu, w: &p.stderr}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("kubedelve: %w", err)
	}
	go func() { // ends with the process
		p.read(stdout)
		_ = cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

type lockedWriter struct {
	mu *sync.Mutex
	w  *bytes.Buffer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// A component may write gigabytes; what is of interest is the last of it.
	if l.w.Len() > keptOutput {
		l.w.Next(l.w.Len() - keptOutput/2)
	}
	return l.w.Write(b)
}

// keptOutput is how much of what a process writes on standard error is kept, bytes.
const keptOutput = 8 << 20

// peakMemory is the peak of resident memory of a process that runs, bytes.
func peakMemory(p *os.Process) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid))
	if err != nil {
		return 0, fmt.Errorf("memory of kubedelve: %w", err)
	}
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	var kilobytes int64
	if _, err := fmt.Sscan(after, &kilobytes); err != nil {
		return 0, fmt.Errorf("memory of kubedelve: %w", err)
	}
	return kilobytes << 10, nil
}

// PeakMemory is the peak of the process's resident memory so far, bytes (Linux).
func (p *Process) PeakMemory() (int64, error) { return peakMemory(p.cmd.Process) }

// PeakMemory is the peak of the adapter's resident memory so far, bytes (Linux).
func (a *Adapter) PeakMemory() (int64, error) { return peakMemory(a.cmd.Process) }

func (p *Process) read(r io.Reader) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var e Event
		err := json.Unmarshal(lines.Bytes(), &e)
		p.mu.Lock()
		if err != nil || e.Event == "" {
			p.broken = fmt.Errorf("kubedelve -o json printed %q: %w", lines.Text(), err)
		}
		p.events = append(p.events, e)
		close(p.changed)
		p.changed = make(chan struct{})
		p.mu.Unlock()
	}
}

// Await waits for the next event for which match is true, and passes over others.
func (p *Process) Await(ctx context.Context, what string, match func(Event) bool) (Event, error) {
	for {
		p.mu.Lock()
		changed, broken := p.changed, p.broken
		for p.taken < len(p.events) {
			e := p.events[p.taken]
			p.taken++
			if match(e) {
				p.mu.Unlock()
				return e, nil
			}
		}
		p.mu.Unlock()
		if broken != nil {
			return Event{}, broken
		}
		select {
		case <-changed:
		case <-p.ended:
			p.mu.Lock()
			rest := len(p.events) - p.taken
			p.mu.Unlock()
			if rest == 0 {
				return Event{}, fmt.Errorf("waiting for %s: kubedelve ended; %s", what, p.Story())
			}
		case <-ctx.Done():
			return Event{}, fmt.Errorf("waiting for %s: %w; %s", what, context.Cause(ctx), p.Story())
		}
	}
}

// AwaitEvent waits for the next event of a kind.
func (p *Process) AwaitEvent(ctx context.Context, kind string) (Event, error) {
	return p.Await(ctx, "the event "+kind, func(e Event) bool { return e.Event == kind })
}

// Events are all so far.
func (p *Process) Events() []Event {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Event(nil), p.events...)
}

// Stderr is what was written there so far: with -o json also the component's output.
func (p *Process) Stderr() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.String()
}

// Story is all that the process said.
func (p *Process) Story() string {
	var text strings.Builder
	text.WriteString("it said:\n")
	for _, e := range p.Events() {
		fmt.Fprintf(&text, "  %6.2f %s: %s\n", e.Seconds, e.Event, e.Text)
	}
	return text.String() + p.Stderr()
}

// Interrupt is Ctrl-C.
func (p *Process) Interrupt() error { return p.cmd.Process.Signal(os.Interrupt) }

// Kill is kill -9, and waits until the process is gone.
func (p *Process) Kill() error {
	err := p.cmd.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	<-p.ended
	return err
}

// Wait waits for the end and returns the exit code.
func (p *Process) Wait(ctx context.Context) (int, error) {
	select {
	case <-p.ended:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
		return -1, fmt.Errorf("waiting for kubedelve to end: %w; %s", context.Cause(ctx), p.Story())
	}
}

// Adapter is a "kubedelve dap" that speaks on its standard input and output.
type Adapter struct {
	io.ReadCloser
	stdin  io.WriteCloser
	cmd    *exec.Cmd
	reap   sync.Once
	ended  chan struct{} // closed when the process was reaped
	mu     sync.Mutex    // guards stderr
	stderr bytes.Buffer
}

// BeginAdapter starts "kubedelve dap".
func (c *Cluster) BeginAdapter(k Command) (*Adapter, error) {
	k.Args = append([]string{"dap"}, k.Args...)
	cmd, err := c.exec(k)
	if err != nil {
		return nil, err
	}
	a := &Adapter{cmd: cmd, ended: make(chan struct{})}
	if a.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("kubedelve: %w", err)
	}
	if a.ReadCloser, err = cmd.StdoutPipe(); err != nil {
		return nil, fmt.Errorf("kubedelve: %w", err)
	}
	cmd.Stderr = &lockedWriter{mu: &a.mu, w: &a.stderr}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("kubedelve: %w", err)
	}
	return a, nil
}

func (a *Adapter) Write(p []byte) (int, error) { return a.stdin.Write(p) }

// Close hangs up; the adapter then restores by itself and ends. See [Adapter.Wait].
func (a *Adapter) Close() error {
	return errors.Join(a.stdin.Close(), a.ReadCloser.Close())
}

// Kill is kill -9.
func (a *Adapter) Kill() error { return a.cmd.Process.Kill() }

// Wait waits for the adapter's end, after its output was read to the end or
// closed, and returns its exit code and what it wrote on standard error.
func (a *Adapter) Wait(ctx context.Context) (code int, stderr string, err error) {
	go a.reap.Do(func() { // ends with the process
		_ = a.cmd.Wait()
		close(a.ended)
	})
	limit, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	select {
	case <-a.ended:
	case <-limit.Done():
		_ = quit(a.cmd.Process)
		<-a.ended
		err = fmt.Errorf("waiting for kubedelve dap to end: %w", context.Cause(limit))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cmd.ProcessState.ExitCode(), a.stderr.String(), err
}
