package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"

	"github.com/kubedelve/kubedelve/dapserver"
)

// between is a process between a debugger and Delve: this program with one of these
// words as its first argument, and Delve's address as the second. It prints the
// address at which it takes one debugger after the other.
func between(ctx context.Context, what, backend string, stdout io.Writer) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(stdout, listener.Addr()); err != nil {
		return err
	}
	if what == "kubedelve" {
		return dapserver.New(dapserver.Config{Session: fixed{backend}}).Serve(ctx, listener)
	}
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if err := proxy(conn, backend); err != nil {
			return err
		}
	}
}

// proxy is the plain proxy: bytes are copied both ways, as the standard library
// does it best.
func proxy(client net.Conn, backend string) error {
	server, err := net.Dial("tcp", backend)
	if err != nil {
		return errors.Join(err, client.Close())
	}
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
		both.Go(func() { // ends with either connection
			_, _ = io.Copy(way[0], way[1])
			_ = way[0].Close()
			_ = way[1].Close()
		})
	}
	both.Wait()
	return nil
}

// fixed is a session with a Delve that runs already.
type fixed struct{ address string }

func (f fixed) Name() string { return "the benchmark" }

func (f fixed) Dial(ctx context.Context) (dapserver.Connection, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", f.address)
	if err != nil {
		return nil, err
	}
	return connection{conn.(*net.TCPConn)}, nil //nolint:errcheck // what tcp gives
}

func (fixed) Output(ctx context.Context, _ func(dapserver.Piece) error) error {
	<-ctx.Done()
	return nil
}

func (fixed) Wait(ctx context.Context) (int, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

func (fixed) Follow(ctx context.Context, _ func(dapserver.Event))    { <-ctx.Done() }
func (fixed) Restart(context.Context, *dapserver.LaunchConfig) error { return errors.ErrUnsupported }
func (fixed) Detach(context.Context) error                           { return nil }
func (fixed) Close(context.Context) error                            { return nil }

type connection struct{ *net.TCPConn }

func (connection) Run() dapserver.Run { return dapserver.Run{Number: 1, Halted: true, Fresh: true} }

// process is a program that prints the address at which it serves.
type process struct {
	cmd     *exec.Cmd
	address string
}

// begin starts a program and waits for the line with its address, after the prefix.
func begin(prefix, name string, args ...string) (*process, error) {
	cmd := exec.Command(name, args...) //nolint:gosec // built by this program
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for this program
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd}
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if address, ok := strings.CutPrefix(lines.Text(), prefix); ok {
			p.address = address
			go func() { _, _ = io.Copy(io.Discard, stdout) }() // ends with the process
			return p, nil
		}
	}
	return nil, errors.Join(fmt.Errorf("%s %s ended without an address", name, strings.Join(args, " ")), p.end())
}

// end ends the program in order.
func (p *process) end() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	var exit *exec.ExitError
	if err := p.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return err
	}
	return nil
}
