package agent

import (
	"context"
	"sync"
	"syscall"
	"time"

	"github.com/kubedelve/kubedelve/internal/oneshot"
)

// A call that starts an init waits for it. So if both are to be debugged, the init is the
// next run while the call is still there: Delve leaves that one as soon as it waits.

// heldInit is an init that waits at its first instruction for a start.
type heldInit struct {
	component *component
	describedCall
}

// blockedFor is how long a call must have run on to count as waiting for its init.
const blockedFor = 500 * time.Millisecond

// handOver catches an init, a process that a call has started and whose tracer is about to
// leave it, and gives it to the next start. Without a start the init goes on after the
// grace period.
func (a *Agent) handOver(parent *component, call *oneshot.Call, pid int, path string) {
	ctx, cancel := a.whileServing()
	defer cancel()
	ack := sync.OnceFunc(parent.acknowledge)
	defer ack()
	c := a.starter().prepareCall(Called{pid, PartStage}, path)
	if err := c.take(ctx, func() {}, func() error { ack(); return nil }); err != nil {
		a.log.Info("init lost", "call", call, "error", err)
		return
	}
	init := &heldInit{c, describedCall{call.InitString(c.pid()), call.Limit()}}
	a.log.Info("init caught", "init", init.name)
	parent.awaitBlocked(ctx)
	a.leave(parent)
	grace := time.Duration(a.cfg.Grace)
	if grace <= 0 {
		grace = time.Minute
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case a.inits <- init:
		return
	case <-timer.C:
		a.log.Info("nobody debugs the init: it goes on", "init", init.name)
	case <-c.exited:
	case <-ctx.Done():
	}
	c.kill()
}

// whileServing returns a context that ends with Run.
func (a *Agent) whileServing() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() { // ends with ctx
		select {
		case <-a.over:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// acknowledge lets a Delve go on that has told of an init.
func (c *component) acknowledge() { _, _ = c.life.Write([]byte{0}) }

// awaitBlocked waits until a call runs and nobody halts it again: it waits for its init.
// While its user steps to there the init can wait.
func (c *component) awaitBlocked(ctx context.Context) {
	tick := time.NewTicker(blockedFor / 10)
	defer tick.Stop()
	for since := time.Now(); time.Since(since) < blockedFor; {
		if halted, err := c.halted(); halted || err != nil {
			since = time.Now()
		}
		select {
		case <-c.exited:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// leave takes Delve off a call, which goes on.
func (a *Agent) leave(c *component) {
	a.attaching.Lock()
	defer a.attaching.Unlock()
	if a.current() == c && !c.hasExited() {
		c.end("goes on without a debugger: it waits for its init, which comes next")
		a.retire(c, syscall.SIGTERM, 0)
	}
}
