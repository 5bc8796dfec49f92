// Command cluster runs a real one-node Kubernetes on this machine; see doc.go.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/kubedelve/kubedelve/testdata/cluster/internal/node"
)

func main() {
	node.Main()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the program: 0 is success, 1 a failure, 2 a wrong call. A command run in a
// node gives its own exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	cmd := newCommand(stdin, stdout, stderr)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	var exit exitCode
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return int(exit)
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "%v\nSee --help.\n", err)
		return 2
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "interrupted:", err)
		return 1
	default:
		fmt.Fprintln(stderr, "error:", err)
		return 1
	}
}
