package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"syscall"

	"github.com/kubedelve/kubedelve/internal/oneshot"
)

// Caller is a Post whose agent debugs calls of a program, one after the other: each is a
// run, that begins when a client has asked for a start and such a call comes.
type Caller interface {
	Post
	// Next waits for the next call that is to be debugged.
	Next(ctx context.Context) (*oneshot.Call, error)
}

// traced is what a Delve process says first that is to debug a call: it traces it, and
// the call may execute the debug build.
const traced = "traced"

// nextCall waits for a call and stops it at the first instruction of the debug build. It
// tells what was called.
func (a *Agent) nextCall(ctx context.Context, caller Caller, s starter, path string) (*component, string, error) {
	a.forgetEnded()
	for {
		call, err := caller.Next(ctx)
		if err != nil {
			return nil, "", err
		}
		a.log.Info("call caught", "call", call)
		c, err := s.catch(ctx, call, path)
		switch {
		case err == nil:
			return c, call.String(), nil
		case err.Error() == oneshot.ErrElsewhere.Error() && ctx.Err() == nil: // of another process
			a.log.Info("call lost", "call", call, "error", err)
		default:
			return nil, "", fmt.Errorf("%s: %w", call, err)
		}
	}
}

// forgetEnded ends the Delve of a call that has ended: until the next call somebody may
// wait for long. The caller holds starting.
func (a *Agent) forgetEnded() {
	a.attaching.Lock()
	defer a.attaching.Unlock()
	if c := a.current(); c != nil && c.hasExited() {
		a.disconnect()
		c.kill()
	}
}

// catch has a call execute the program at path, and returns when Delve has it.
func (s starter) catch(ctx context.Context, call *oneshot.Call, path string) (_ *component, err error) {
	defer call.Release() // if it does not execute the debug build
	c := s.prepare([]string{"--call", strconv.Itoa(call.PID), "--", path}, nil, "")
	c.call = openProcess(call.PID)
	status, err := c.fork()
	if err != nil {
		return nil, fmt.Errorf("starting delve: %w", err)
	}
	// The call first: its tracer waits for what it does.
	stop := context.AfterFunc(ctx, func() { call.Release(); c.kill() })
	said := bufio.NewReader(status)
	line, _ := said.ReadString('\n') // nothing: load tells
	rest := io.Reader(said)
	if strings.TrimSuffix(line, "\n") != traced {
		rest = io.MultiReader(strings.NewReader(line), said)
	} else if err = call.Execute(path); err != nil {
		c.kill()
	}
	err = errors.Join(err, c.load(rest))
	_ = status.Close()
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		c.kill()
		return nil, err
	}
	return c, nil
}

// release takes Delve off a call, without breakpoints, and ends that. It may be called
// more than once, also while Delve loads.
func (c *component) release() {
	if !c.hasExited() {
		_ = c.delve.Process.Signal(syscall.SIGTERM)
		c.await(c.delveDone, 2*delvePatience)
	}
	_ = c.delve.Process.Kill()
	<-c.delveDone
	if c.call.stopped() { // as it is until Delve has it
		_ = c.call.signal(syscall.SIGCONT)
	}
	_ = c.life.Close()
	c.mu.Lock()
	loaded := c.process != nil
	c.mu.Unlock()
	if loaded {
		c.await(c.exited, sinkPatience)
	}
	c.call.close()
}
