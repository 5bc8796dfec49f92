package agent

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/kubedelve/kubedelve/internal/oneshot"
)

// Caller is a Post whose agent debugs calls of a program, in each lane one after the other:
// each is a run, that begins when a client has asked for a start and such a call comes. So
// is the init that a call starts, if it is wanted.
type Caller interface {
	Post
	// Next waits for the next call that is to be debugged. Of several that wait the one
	// with the lowest rank gets it.
	Next(ctx context.Context, rank int) (*oneshot.Call, error)
	// SetPods says which pods have the labels that are asked for.
	SetPods(pods []string)
}

// describedCall is what users are told of a call.
type describedCall struct{ name, limit string }

// nextCall waits for a call, or the init of the one before, and stops it at the first
// instruction of the debug build. It tells what was called. The caller holds starting.
func (a *Agent) nextCall(ctx context.Context, caller Caller, path string) (*component, describedCall, error) {
	a.forgetEnded()
	for {
		call, init, err := a.awaitCall(ctx, caller)
		switch {
		case err != nil:
			return nil, describedCall{}, err
		case init != nil:
			return init.component, init.describedCall, nil
		}
		a.log.Info("call caught", "call", call)
		c, err := a.catch(ctx, call, path)
		switch {
		case err == nil && c.part == PartInit:
			return c, describedCall{call.InitString(c.pid()), call.Limit()}, nil
		case err == nil:
			return c, describedCall{call.String(), call.Limit()}, nil
		case err.Error() == oneshot.ErrElsewhere.Error() && ctx.Err() == nil: // of another process
			a.log.Info("call lost", "call", call, "error", err)
		default:
			return nil, describedCall{}, fmt.Errorf("%s: %w", call, err)
		}
	}
}

// awaitCall waits for a call, or for an init that is there already.
func (a *Agent) awaitCall(ctx context.Context, caller Caller) (call *oneshot.Call, init *heldInit, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	came := make(chan struct{})
	go func() { // ends with ctx
		call, err = caller.Next(ctx, a.rank)
		close(came)
	}()
	select {
	case <-came:
		return call, nil, err
	case init := <-a.inits:
		cancel()
		if <-came; err == nil {
			call.Release()
		}
		return nil, init, nil
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

// catch has a call execute the program at path, and returns when Delve has the part of it
// that is to be debugged.
func (a *Agent) catch(ctx context.Context, call *oneshot.Call, path string) (*component, error) {
	defer call.Release() // if it does not execute the debug build
	part := PartCall
	switch {
	case call.Init && call.Itself:
		part = PartStarter
	case call.Init:
		part = PartInit
	}
	c := a.starter().prepareCall(Called{call.PID, part}, path)
	if part == PartStarter {
		c.told = func(news string) {
			if number, is := strings.CutPrefix(news, newsInit+" "); is {
				if pid, err := strconv.Atoi(number); err == nil {
					a.handing.Go(func() { a.handOver(c, call, pid, path) }) // ends with Run
				}
			}
		}
	}
	// The call first: its tracer waits for what it does.
	err := c.take(ctx, call.Release, func() error { return call.Execute(path) })
	if err != nil {
		return nil, err
	}
	return c, nil
}

// prepareCall makes a component of a call.
func (s starter) prepareCall(call Called, path string) *component {
	c := s.prepare([]string{"--call", strconv.Itoa(call.PID), "--part", string(call.Part), "--", path}, nil, "")
	c.part, c.call = call.Part, openProcess(call.PID)
	return c
}

// take starts Delve, and returns when it has the call. traced is called when the call may
// go on to where it is stopped; giveUp if ctx ends before. After an error the call goes on.
func (c *component) take(ctx context.Context, giveUp func(), traced func() error) error {
	status, err := c.fork()
	if err != nil {
		c.call.close()
		return fmt.Errorf("starting delve: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { giveUp(); c.kill() })
	err = c.awaitTaken(status, traced)
	_ = status.Close()
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		c.kill()
	}
	return err
}

func (c *component) awaitTaken(status io.Reader, traced func() error) error {
	said := bufio.NewReader(status)
	for {
		line, err := said.ReadString('\n')
		number, process := strings.CutPrefix(strings.TrimSuffix(line, "\n"), saidProcess)
		switch {
		case err == nil && line == saidTraced+"\n":
			if err := traced(); err != nil {
				return err
			}
		case err == nil && process:
			if pid, err := strconv.Atoi(number); err == nil {
				c.becomes(openProcess(pid))
			}
		default: // nothing: load tells
			return c.load(io.MultiReader(strings.NewReader(line), said))
		}
	}
}

// becomes notes which process Delve gets.
func (c *component) becomes(p *process) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.call.close()
	c.call = p
}

func (c *component) isCall() bool { return c.part != "" }

// release takes Delve off a call, without breakpoints, and ends that. It may be called
// more than once, also while Delve loads.
func (c *component) release() {
	if !c.hasExited() {
		_ = c.delve.Process.Signal(syscall.SIGTERM)
		c.await(c.delveDone, 2*delvePatience)
	}
	_ = c.delve.Process.Kill()
	<-c.delveDone
	<-c.newsDone
	c.mu.Lock()
	if c.call.stopped() { // as it is until Delve has it
		_ = c.call.signal(syscall.SIGCONT)
	}
	loaded := c.process != nil
	c.mu.Unlock()
	_ = c.life.Close()
	if loaded {
		c.await(c.exited, sinkPatience)
	}
	c.mu.Lock()
	c.call.close()
	c.mu.Unlock()
}

// readNews reads what Delve tells of a call.
func (c *component) readNews(r *os.File) {
	defer close(c.newsDone)
	defer func() { _ = r.Close() }()
	for lines := bufio.NewScanner(r); lines.Scan(); {
		switch news := lines.Text(); {
		case news == newsLeft:
			c.end("went on to execute the container's program")
		case c.told != nil:
			c.told(news)
		}
	}
}

// end notes what becomes of a call when Delve leaves it.
func (c *component) end(fate string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fate = fate
}
