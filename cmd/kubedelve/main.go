// Command kubedelve debugs Go programs that run on Kubernetes: from the command
// line, and as the debug adapter of editors. As kubectl-delve in PATH it is also
// "kubectl delve".
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first Ctrl-C ends the session in order; the second one is not caught.
	context.AfterFunc(ctx, stop)
	// The second SIGTERM is: editors send it again when a session does not end in two
	// seconds, and a restore may take longer.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM)
	// An editor that is gone is no reason to leave the cluster as it is: a write to
	// it fails. It must not be ignored, since child processes would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	code := run(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// The exit codes.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
)

// run is the whole program but for the process around it.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	name := "kubedelve"
	if filepath.Base(args[0]) == "kubectl-delve" {
		name = "kubectl delve"
	}
	cmd := newRoot(name)
	cmd.SetArgs(args[1:])
	cmd.SetIn(stdin)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		_, _ = fmt.Fprintln(stderr, "interrupted")
		return exitError
	}
	_, _ = fmt.Fprintf(stderr, "error: %s\n", explain(err))
	var usage *usageError
	if errors.As(err, &usage) {
		_, _ = fmt.Fprintf(stderr, "See %q for what it takes.\n", usage.help)
		return exitUsage
	}
	return exitError
}

// usageError is a command line that can't be meant: exit code 2.
type usageError struct {
	err  error
	help string // the command that explains
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }
