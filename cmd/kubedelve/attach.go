package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/kubedelve/kubedelve/internal/reload"
	"github.com/kubedelve/kubedelve/internal/terminal"
	"github.com/kubedelve/kubedelve/kubelaunch"
)

func newAttach(g *global) *cobra.Command {
	f := &debugFlags{global: g, terminal: true}
	scope := &sessionScope{global: g}
	dap := &dapFlags{}
	cmd := &cobra.Command{
		Use:   "attach [SESSION | TARGET] [flags] [-- ARG...]",
		Short: "Debug in this terminal: a session that runs, or a new one",
		Long: `Be a debugger in this terminal, with the commands of Delve's own ("help" lists
them), their history and completion.

Without --program: on a session that runs, whoever began it and from wherever you
are; without an argument on the only one in the namespace. A session has one debugger
at a time: --take-over hangs up on the one before. The program is halted when you
come, and goes on without breakpoints when you leave; the session stays.

With --program: on a new session of TARGET, as "kubedelve debug" begins it, which
waits at the program's entry for you, and ends when you leave. Hot reload is off,
since a terminal ends with the program that it is connected to.

With --dap: on any server of the Debug Adapter Protocol, with the same commands as far
as the protocol can do them, and nothing of kubedelve's. --config says what it is to
debug; what it launches ends when you leave.`,
		Example: `  kubedelve attach
  kubedelve attach deploy/web --take-over
  kubedelve attach deploy/web --program ./cmd/web
  kubedelve attach --dap 127.0.0.1:2345
  kubedelve attach --dap 'kubedelve dap' --config '{"target": "deploy/web", "program": "./cmd/web"}'`,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := dap.check(cmd, args); err != nil || dap.adapter != "" {
				return err
			}
			n := len(args)
			if dash := cmd.ArgsLenAtDash(); dash >= 0 {
				n = dash
			}
			if begins := cmd.Flags().Changed("program"); n > 1 || n == 0 && begins || !begins && len(args) > n {
				return errors.New("name one session or target (arguments for the program come after --, with --program)")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if dap.adapter != "" {
				return dap.run(cmd)
			}
			if cmd.Flags().Changed("program") {
				return f.run(cmd, args)
			}
			name := ""
			if len(args) == 1 {
				name = args[0]
			}
			return attach(cmd, scope, name, f.takeOver)
		},
		ValidArgsFunction: completeSessions(scope),
	}
	f.add(cmd)
	for name, value := range map[string]string{"listen": "127.0.0.1:0", "hot-reload": string(reload.Off)} {
		flag := cmd.Flags().Lookup(name)
		flag.DefValue = value
		_ = flag.Value.Set(value) // strings take any
	}
	cmd.Flags().Lookup("program").DefValue = ""
	cmd.Flags().Lookup("take-over").Usage = "hang up on the debugger that the session has"
	scope.add(cmd)
	dap.add(cmd)
	return cmd
}

// attach is a debugger in this terminal on a session that another process keeps.
func attach(cmd *cobra.Command, scope *sessionScope, name string, takeOver bool) error {
	ctx := cmd.Context()
	infos, _, err := scope.list(ctx)
	if err != nil {
		return err
	}
	info, err := theSession(infos, name)
	if err != nil {
		return err
	}
	console := newConsole(formatText, cmd.OutOrStdout(), cmd.ErrOrStderr())
	console.Stage(fmt.Sprintf("session %s of %s, begun by %s", info.ID, info.Target, info.Owner))
	attachment, err := kubelaunch.Attach(ctx, info, console.Stage)
	if err != nil {
		return err
	}
	defer func() { _ = attachment.Close() }()
	delve, err := attachment.Dial(ctx, kubelaunch.DialOptions{TakeOver: takeOver})
	if kubelaunch.InUse(err) {
		return fmt.Errorf("%w; take it over with --take-over", err)
	}
	if err != nil {
		return err
	}
	console.Note(fmt.Sprintf("%s is halted while you look; \"continue\" lets it go on, and \"exit\" leaves it running without breakpoints", info.Target))

	err = inTerminal(ctx, delve)
	clearing, cancel := context.WithTimeout(context.WithoutCancel(ctx), clearTimeout)
	defer cancel()
	// Whoever has taken over since, or the next run, is not this debugger's to clear.
	if err == nil {
		err = clearOver(clearing, func(ctx context.Context) (net.Conn, error) {
			return attachment.Dial(ctx, kubelaunch.DialOptions{})
		}, true)
	}
	return err
}

// theSession finds a session by its id or target, or the only one.
func theSession(infos []kubelaunch.Info, name string) (kubelaunch.Info, error) {
	switch {
	case name != "":
		info, err := kubelaunch.Find(infos, name)
		if err != nil {
			return info, fmt.Errorf("%w; a new one begins with --program", err)
		}
		return info, nil
	case len(infos) == 1:
		return infos[0], nil
	case len(infos) == 0:
		return kubelaunch.Info{}, fmt.Errorf("%w: there is none at all; begin one with: kubedelve attach TARGET --program PKG", kubelaunch.ErrNoSession)
	}
	return kubelaunch.Info{}, fmt.Errorf("there are %d sessions: name one (see kubedelve status)", len(infos))
}

// inTerminal is a debugger in this terminal until the user leaves or this process is
// told to end. Ctrl-C is the debugger's meanwhile.
func inTerminal(ctx context.Context, delve net.Conn) error {
	ctx, stop := signal.NotifyContext(context.WithoutCancel(ctx), syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	return terminal.Run(ctx, delve)
}

// holdInTerminal is hold with a debugger in this terminal, for as long as that is there.
func holdInTerminal(ctx context.Context, d *debuggers, listener net.Listener, console *console, stdout, stderr io.Writer) error {
	ctx, leave := context.WithCancelCause(context.WithoutCancel(ctx))
	var debugging taskGroup
	defer debugging.Wait()
	debugging.Go(func() { // ends when the user leaves, or with the connection
		delve, err := (&net.Dialer{}).DialContext(ctx, listener.Addr().Network(), listener.Addr().String())
		if err == nil {
			err = inTerminal(ctx, delve)
		}
		leave(err)
	})
	return hold(ctx, d, listener, console, stdout, stderr)
}
