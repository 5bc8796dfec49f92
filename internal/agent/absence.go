package agent

import (
	"context"
	"syscall"
	"time"
)

// absence is since when something that the dead-man's switch waits for holds;
// a zero time says that it does not.
type absence struct {
	unattended time.Time // a component could stay halted with no debugger to resume it
	alone      time.Time // no client is connected
}

// note brings the times up to date after a change of state; the caller holds mu.
func (a *Agent) note() {
	keep := func(since *time.Time, holds bool) {
		switch {
		case !holds:
			*since = time.Time{}
		case since.IsZero():
			*since = time.Now()
		}
	}
	// Before the first debugger has come it is the client that decides when the
	// component begins, so a client's presence is enough; but whoever has called what
	// is debugged waits for it.
	keep(&a.absence.unattended, a.component != nil && !a.attended() && !a.history.settled && (a.history.debugged || a.sessions == 0 || a.component.isCall()))
	keep(&a.absence.alone, a.sessions == 0 && a.abort == nil)
}

// attended tells whether a debugger is there, and not just expected back; the caller
// holds mu.
func (a *Agent) attended() bool { return a.debugger != nil && !a.debugger.away() }

// watchAbsence is the dead-man's switch: it takes the debugger off a component
// that nobody debugs any more, and returns true when no client has been connected
// for the session's time to live. It returns false when ctx ends.
func (a *Agent) watchAbsence(ctx context.Context) bool {
	for {
		a.mu.Lock()
		changed, c, since := a.changed, a.component, a.absence
		a.mu.Unlock()
		settle, stopSettle := after(since.unattended, time.Duration(a.cfg.Grace))
		ttl, exited := a.patience(c)
		expire, stopExpire := after(since.alone, ttl)
		expired, ended := false, false
		select {
		case <-changed:
		case <-exited:
		case <-ctx.Done():
			ended = true
		case <-expire:
			expired = true
		case <-settle:
			if a.deposed(c) {
				a.log.Warn("nobody has renewed the halted component's Lease: it is ended")
				a.end(syscall.SIGKILL)
				break
			}
			a.log.Info("nobody debugs the component: it goes on without breakpoints")
			if err := a.settle(c, false); err != nil {
				a.log.Warn("taking the debugger off", "error", err)
				a.update(func() { a.absence.unattended = time.Now() }) // once more after the next grace
			}
		}
		stopSettle()
		stopExpire()
		if ended || expired {
			return expired
		}
	}
}

// deposed tells whether another one may lead in the component's place: it was halted, and
// nobody was there to renew its Lease.
func (a *Agent) deposed(c *component) bool {
	a.mu.Lock()
	alone := a.sessions == 0
	a.mu.Unlock()
	if !a.cfg.Leader || !alone {
		return false
	}
	halted, err := c.halted()
	return err == nil && halted
}

// patience is how long the agent waits for a client. A node lacks a service whose
// place is held by nothing that runs: then it is the grace period only. exited is closed
// when that is about to change.
func (a *Agent) patience(c *component) (ttl time.Duration, exited <-chan struct{}) {
	ttl = time.Duration(a.cfg.TTL)
	switch {
	case a.post == nil || !a.post.Node().Engaged:
		return ttl, nil
	case c != nil && !c.hasExited():
		return ttl, c.exited
	}
	return min(ttl, time.Duration(a.cfg.Grace)), nil
}

// after returns a channel that delivers d after since, or never if either is zero.
func after(since time.Time, d time.Duration) (<-chan time.Time, func()) {
	if since.IsZero() || d <= 0 {
		return nil, func() {}
	}
	timer := time.NewTimer(time.Until(since.Add(d)))
	return timer.C, func() { timer.Stop() }
}
