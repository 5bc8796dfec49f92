package oneshot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubedelve/kubedelve/internal/agentapi"
)

// Calls answers the wrappers.
type Calls struct {
	filter   agentapi.CallFilter
	original string // see Place.Original
	log      *slog.Logger

	mu      sync.Mutex         // guards all below
	waiters map[int]chan *Call // who waits for a call, by rank; each has a place for one
	last    time.Time          // when a call was given to a waiter
	pods    []string           // NAMESPACE/NAME of those with the filter's labels
}

// NewCalls makes one for the calls that a filter lets through. Other calls, and those that
// are released, execute the original.
func NewCalls(filter agentapi.CallFilter, log *slog.Logger) *Calls {
	return &Calls{filter: filter, log: log, waiters: map[int]chan *Call{}}
}

// Listen listens on a socket that wrappers know.
func Listen(socket string) (net.Listener, error) {
	if err := unix.Unlink(socket); err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("the socket for calls: %w", err)
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: socket, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("the socket for calls: %w", err)
	}
	// Who may not connect executes the original.
	if err := os.Chmod(socket, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("the socket for calls: %w", err), l.Close())
	}
	return l, nil
}

// Serve answers wrappers until ctx ends, which it returns nil for, or the listener
// fails. It closes the listener. The path is [Place.Original].
func (c *Calls) Serve(ctx context.Context, l net.Listener, original string) error {
	c.original = original
	var answering sync.WaitGroup
	defer answering.Wait()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("the socket for calls: %w", err)
		}
		caller, ok := conn.(*net.UnixConn)
		if !ok || !c.wanted() {
			c.hangUp(conn)
			continue
		}
		answering.Go(func() { // ends when the call has its answer, or with ctx
			if err := c.answer(ctx, caller); err != nil {
				c.log.Debug("a call", "error", err)
			}
		})
	}
}

// hangUp has a wrapper execute the original, unless it was told to execute something else.
func (c *Calls) hangUp(conn net.Conn) {
	_, _ = conn.Write(append([]byte(c.original), 0)) // else it executes the copy
	_ = conn.Close()
}

// wanted tells whether somebody waits for a call and may have one now.
func (c *Calls) wanted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiters) > 0 && time.Since(c.last) >= time.Duration(c.filter.Every)
}

// thinking is sent to a wrapper that has to wait, once in thinkingEvery.
const thinkingEvery = patience / 4

var thinking = []byte{0}

// answer gives a call to who waits for one, if it is such; else, and in the end, it hangs
// up, and the wrapper executes the original.
func (c *Calls) answer(ctx context.Context, conn *net.UnixConn) error {
	defer c.hangUp(conn)
	pid, err := peer(conn)
	if err != nil {
		return err
	}
	call, err := describe(pid)
	if err != nil || !matches(c.filter, call) || !c.labelled(call) {
		return err
	}
	call.Itself, call.Init = stops(c.filter.Commands, call.Command)
	call.conn, call.answered = conn, make(chan struct{})
	if !c.give(call) {
		return nil
	}
	tick := time.NewTicker(thinkingEvery)
	defer tick.Stop()
	for {
		select {
		case <-call.answered:
			return nil
		case <-ctx.Done():
			call.Release()
		case <-tick.C:
			if _, err := conn.Write(thinking); err != nil {
				call.Release() // it was killed
			}
		}
	}
}

// SetPods says which pods have the labels that the filter asks for.
func (c *Calls) SetPods(pods []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pods = pods
}

// labelled tells whether a call is for a pod that has the labels.
func (c *Calls) labelled(call *Call) bool {
	if c.filter.Labels == "" {
		return true
	}
	w := call.about()
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.pods, w.namespace+"/"+w.pod)
}

// give hands a call over to who comes first.
func (c *Calls) give(call *Call) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiters) == 0 || time.Since(c.last) < time.Duration(c.filter.Every) {
		return false
	}
	first := slices.Min(slices.Collect(maps.Keys(c.waiters)))
	c.waiters[first] <- call
	delete(c.waiters, first)
	c.last = time.Now()
	return true
}

// Next waits for the next call. The one who gets it must see to it that it goes on:
// [Call.Execute] or [Call.Release]. Of several that wait the one with the lowest rank
// gets it, of which there may be one at a time.
func (c *Calls) Next(ctx context.Context, rank int) (*Call, error) {
	waiter := make(chan *Call, 1)
	c.mu.Lock()
	if c.waiters[rank] != nil {
		c.mu.Unlock()
		return nil, errors.New("somebody else waits for the next call")
	}
	c.waiters[rank] = waiter
	c.mu.Unlock()
	select {
	case call := <-waiter:
		return call, nil
	case <-ctx.Done():
	}
	c.mu.Lock()
	given := c.waiters[rank] != waiter
	if !given {
		delete(c.waiters, rank)
	}
	c.mu.Unlock()
	if given {
		(<-waiter).Release()
	}
	return nil, context.Cause(ctx)
}

// peer is the process at the other end of a connection. A wrapper has one thread, and
// execve keeps its PID.
func peer(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, credErr); err != nil {
		return 0, fmt.Errorf("who calls: %w", err)
	}
	return int(cred.Pid), nil
}
