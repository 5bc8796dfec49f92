package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kubedelve/kubedelve/dapserver"
)

func newDAP(g *global) *cobra.Command {
	var listen, backend, logDAP string
	var ignoreCwd bool
	cmd := &cobra.Command{
		Use:   "dap [flags]",
		Short: "Be the debug adapter of an editor",
		Long: `Speak the Debug Adapter Protocol on standard input and output, or with --listen on
a local TCP address, where each connection is a session of its own. The launch
request names the target, see docs/launch.md; the flags --kubeconfig, --context and
--namespace count for targets that name neither.

With --backend, pass everything through to a Delve that runs already, in either
direction and to the byte, and start and change nothing.`,
		Example: `  kubedelve dap
  kubedelve dap --listen 127.0.0.1:4711
  kubedelve dap --backend tcp:127.0.0.1:2345`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := g.logger(cmd)
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			messages, err := openMessages(logDAP, log)
			if err != nil {
				return err
			}
			defer messages.close()
			serve := dapserver.New(dapserver.Config{Launcher: adapter{log, g.kube, ignoreCwd}, Logger: log, Message: messages.message(), CloseTimeout: restoreTimeout}).ServeConn
			if backend != "" {
				network, address, err := parseBackend(cmd, backend)
				if err != nil {
					return err
				}
				serve = func(ctx context.Context, editor io.ReadWriteCloser) error {
					return relay(ctx, editor, network, address, messages)
				}
			}
			if listen == "" {
				return serve(ctx, newStdio(cmd.InOrStdin(), cmd.OutOrStdout()))
			}
			l, err := listenLocal(cmd, listen)
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(cmd.ErrOrStderr(), "listening on %s\n", l.Addr()); err != nil {
				return err
			}
			return serveEach(ctx, l, log, serve)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "", "a local address instead of standard input and output; port 0 takes any that is free")
	cmd.Flags().StringVar(&backend, "backend", "", "a Delve that runs already: tcp:HOST:PORT or unix:PATH")
	cmd.Flags().BoolVar(&ignoreCwd, "ignore-cwd", false, "take no working directory from the editor: Helix sends its own with every launch, which the target need not have")
	addLogDAP(cmd, &logDAP)
	return cmd
}

func parseBackend(cmd *cobra.Command, backend string) (network, address string, err error) {
	network, address, ok := strings.Cut(backend, ":")
	if !ok || address == "" || (network != "tcp" && network != "unix") {
		return "", "", usagef(cmd, "--backend %q: write tcp:HOST:PORT or unix:PATH", backend)
	}
	return network, address, nil
}

func relay(ctx context.Context, editor io.ReadWriteCloser, network, address string, messages *messages) error {
	var dialer net.Dialer
	delve, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		_ = editor.Close()
		return fmt.Errorf("--backend %s:%s: %w; is dlv running there?", network, address, err)
	}
	editor, backend := messages.tap(editor, delve)
	return dapserver.Relay(ctx, editor, backend)
}

// serveEach serves the connections of a listener side by side until ctx ends.
func serveEach(ctx context.Context, l net.Listener, log logger, serve func(context.Context, io.ReadWriteCloser) error) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var connections taskGroup
	defer connections.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		connections.Go(func() { // ends with the connection or ctx
			if err := serve(ctx, conn); err != nil && !errors.Is(err, context.Canceled) {
				log.Warn("session", "from", conn.RemoteAddr().String(), "error", err)
			}
		})
	}
}

// stdio is an editor at the other end of this process's own pipes.
type stdio struct {
	*io.PipeReader
	io.Writer
}

// newStdio reads ahead of whoever uses it: a Read of standard input can't be
// interrupted, one of a pipe inside the process can.
func newStdio(in io.Reader, out io.Writer) stdio {
	r, w := io.Pipe()
	go func() { // ends with the input, or with the process
		_, err := io.Copy(w, in)
		_ = w.CloseWithError(err)
	}()
	return stdio{r, out}
}

// RemoteAddr names the editor to whom it may concern.
func (stdio) RemoteAddr() net.Addr { return stdioAddr{} }

type stdioAddr struct{}

func (stdioAddr) Network() string { return "stdio" }
func (stdioAddr) String() string  { return "stdio" }

// Close ends a Read that waits, and tells the editor that nothing more comes.
func (s stdio) Close() error {
	err := s.PipeReader.Close()
	if c, ok := s.Writer.(io.Closer); ok {
		err = errors.Join(err, c.Close())
	}
	return err
}

// CloseWrite tells the editor that nothing more comes.
func (s stdio) CloseWrite() error {
	if c, ok := s.Writer.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
