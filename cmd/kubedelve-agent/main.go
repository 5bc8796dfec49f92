// Command kubedelve-agent is the half of kubedelve that runs beside the component
// under debug. Users never call it: kubedelve puts it where it is needed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/kubedelve/kubedelve/internal/agent"
	"github.com/kubedelve/kubedelve/internal/nodeservice"
	"github.com/kubedelve/kubedelve/internal/version"
)

const usage = `kubedelve-agent runs beside a component that kubedelve debugs.

  install DIR                        copy this program into DIR
  serve   --dir DIR --config FILE [-- COMMAND [ARG]...]
                                     supervise the component that stands in for COMMAND
  cmdline [--pid PID]                write a process's command line to the
                                     container's termination message
  ready   --dir DIR [--ports P,P]    readiness probe: exit 0 when it serves
  connect --dir DIR                  join standard input and output to the agent
  node    --config FILE              debug a service of the node: from a pod
  helper  --debug                    the same in the node's namespaces; the
                                     configuration is read from standard input
  arrive                             the same without a pod, from the node itself: start
                                     a helper that goes on, and write its folder
  stand-in --dir DIR [-- COMMAND [ARG]...]
                                     stand in for a service of the node
  hold    --dir DIR                  supervise its component
  become  --dir DIR                  become the service again
  calls   --dir DIR                  debug calls of a program of the node
  delve   --socket PATH [--call PID [--part PART]] -- PROGRAM [ARG]...
                                     a headless Delve, for the agent itself
  version
`

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		_, _ = io.WriteString(stderr, usage)
		return 2
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { _, _ = io.WriteString(stderr, usage) }
	dir := flags.String("dir", "", "the agent's folder")
	config := flags.String("config", "", "the agent's configuration, a file")
	socket := flags.String("socket", "", "Delve's socket")
	ports := flags.String("ports", "", "the component's ports, with commas between")
	pid := flags.Int("pid", 1, "a process")
	message := flags.String("message", "/dev/termination-log", "the termination message, a file")
	call := flags.Int("call", 0, "a call that is to be debugged, a process")
	part := flags.String("part", string(agent.PartCall), "which part of the call: call, starter, init or stage")
	debug := flags.Bool("debug", false, "log more")
	if err := flags.Parse(args[1:]); err != nil {
		return 2
	}
	level := slog.LevelInfo
	if *debug {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))

	code, err := 0, error(nil)
	switch args[0] {
	case "install":
		if flags.NArg() != 1 {
			flags.Usage()
			return 2
		}
		err = agent.Install(flags.Arg(0))
	case "serve":
		code, err = serve(ctx, *config, *dir, flags.Args(), log)
	case "ready":
		err = ready(*dir, *ports)
	case "cmdline":
		err = agent.ReportCommand(*pid, *message)
	case "node":
		code, err = node(ctx, *config, args[1:])
	case "helper":
		code, err = helper(ctx, stdin, log)
	case "arrive":
		err = arrive(stdin, stdout)
	case "stand-in":
		ctx, stop := signals(ctx, func(syscall.Signal) {})
		defer stop()
		code, err = nodeservice.StandIn(ctx, *dir, flags.Args(), runAgent(log), log)
	case "hold":
		code, err = nodeservice.Hold(ctx, *dir, runAgent(log))
	case "calls":
		ctx, stop := signals(ctx, func(syscall.Signal) {})
		defer stop()
		code, err = nodeservice.RunCalls(ctx, *dir, func(ctx context.Context, dir string, post *nodeservice.CallPost) (int, error) {
			return holdAgent(ctx, dir, nil, post, log)
		}, log)
	case "become":
		code, err = nodeservice.Become(*dir)
	case "connect":
		err = connect(ctx, *dir, stdin, stdout)
	case "delve":
		if flags.NArg() == 0 {
			flags.Usage()
			return 2
		}
		code = agent.RunDelve(*socket, agent.Called{PID: *call, Part: agent.Part(*part)}, flags.Args())
	case "version":
		_, err = fmt.Fprintf(stdout, "kubedelve-agent %s (delve %s)\n", version.String(), agent.DelveVersion())
	default:
		flags.Usage()
		return 2
	}
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "kubedelve-agent:", err)
		code = max(code, 1)
	}
	return code
}

func serve(ctx context.Context, config, dir string, original []string, log *slog.Logger) (int, error) {
	cfg, err := agent.ReadConfig(config)
	if err != nil {
		return 1, err
	}
	a, err := agent.New(cfg, original, dir, version.String(), log)
	if err != nil {
		return 1, err
	}
	ctx, stop := signals(ctx, a.Signal)
	defer stop()
	code, err := a.Run(ctx)
	if cfg.Temporary {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return code, err
}

// signals ends the context with an [agent.StopError] on the signals that stop a
// container, and gives the others that programs use to pass.
func signals(ctx context.Context, pass func(syscall.Signal)) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	came := make(chan os.Signal, 8)
	// SIGPIPE comes if whoever reads our log is gone: the component goes on. It
	// must not be ignored, since the component would inherit that.
	signal.Notify(came, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGPIPE)
	done := make(chan struct{})
	go func() { // ends with stop
		for {
			select {
			case <-done:
				return
			case s := <-came:
				switch sig, _ := s.(syscall.Signal); sig {
				case syscall.SIGPIPE:
				case syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2:
					pass(sig)
				default:
					cancel(&agent.StopError{Signal: sig})
				}
			}
		}
	}()
	return ctx, func() { signal.Stop(came); close(done); cancel(nil) }
}

func ready(dir, list string) error {
	var ports []int
	for _, p := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' }) {
		port, err := strconv.Atoi(p)
		if err != nil {
			return fmt.Errorf("ports: %w", err)
		}
		ports = append(ports, port)
	}
	return agent.Ready(dir, ports)
}

// connect is the far end of the tunnel through exec: what arrives on stdin goes
// to the agent's socket, and back.
func connect(ctx context.Context, dir string, stdin io.Reader, stdout io.Writer) error {
	ctx, cancel := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	conn, err := net.Dial("unix", filepath.Join(dir, agent.SocketPath))
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	go func() { // ends with the process: a read of stdin can't be interrupted
		_, _ = io.Copy(conn, stdin)
		_ = conn.Close()
	}()
	_, err = io.Copy(stdout, conn)
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// node goes from the container into the node.
func node(ctx context.Context, config string, flags []string) (int, error) {
	data, err := os.ReadFile(config)
	if err != nil {
		return 1, fmt.Errorf("agent configuration: %w", err)
	}
	return nodeservice.EnterHost(ctx, data, append([]string{"helper"}, flags...)...)
}

// arrive is what kubedelve runs on a node that it came to by ssh.
func arrive(config io.Reader, stdout io.Writer) error {
	data, err := io.ReadAll(io.LimitReader(config, 1<<20))
	if err != nil {
		return fmt.Errorf("agent configuration: %w", err)
	}
	dir, err := nodeservice.Arrive(data, agent.SocketPath)
	if err == nil {
		_, err = fmt.Fprintln(stdout, dir)
	}
	return err
}

func helper(ctx context.Context, config io.Reader, log *slog.Logger) (int, error) {
	ctx, stop := signals(ctx, func(syscall.Signal) {})
	defer stop()
	h, err := nodeservice.NewHelper(config, runAgent(log), log)
	if err == nil {
		err = h.Run(ctx, agent.Install)
	}
	if err != nil {
		return 1, err
	}
	return 0, nil
}

// runAgent is how package nodeservice runs agents.
func runAgent(log *slog.Logger) nodeservice.Agent {
	return func(ctx context.Context, dir string, original []string, post *nodeservice.Post) (int, error) {
		return holdAgent(ctx, dir, original, post, log)
	}
}

// holdAgent runs the agent of a session's folder at a post.
func holdAgent(ctx context.Context, dir string, original []string, post agent.Post, log *slog.Logger) (int, error) {
	cfg, err := agent.ReadConfig(filepath.Join(dir, nodeservice.ConfigName))
	if err != nil {
		return 1, err
	}
	a, err := agent.New(cfg, original, dir, version.String(), log)
	if err != nil {
		return 1, err
	}
	a.Hold(post)
	return a.Run(ctx)
}
