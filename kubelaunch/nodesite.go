package kubelaunch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/kubedelve/kubedelve/internal/agentapi"
	"github.com/kubedelve/kubedelve/internal/feed"
	"github.com/kubedelve/kubedelve/internal/tunnel"
)

// nodeSite is the site of a session on a node's service: a helper comes through the door,
// from which the agent goes into the node and takes the service's place (package
// nodeservice).
type nodeSite struct {
	target  Target
	options Options
	door    nodeDoor
	events  *feed.Feed[Event]

	binary  Binary      // that runs, or will
	service string      // what is replaced, for the user
	lease   *leaseHold  // nil: the service was not replaced yet
	pods    *calledPods // nil: no filter asks for labels
}

// nodeDoor is a way into a node. One goroutine at a time calls its methods, but for dial.
type nodeDoor interface {
	// claim begins a session, and fails with [ErrSession] if somebody has one on the
	// target. Nothing is to be undone if it fails. It returns the session's name.
	claim(ctx context.Context) (session string, err error)

	// dial connects to whoever is there, the helper or the agent in the service's place,
	// and brings a helper to the node if nobody is. It is one try.
	dial(ctx context.Context, stage func(string)) (*agentapi.Client, error)

	// way is what dial goes by, for the user.
	way() string

	// note writes down that the service is about to be replaced.
	note(ctx context.Context) error

	// holdLease begins to look after a Lease that the service has, if the door leads to
	// one; see the function of that name. It may return nil.
	holdLease(ctx context.Context, host string, events *feed.Feed[Event], resume, depose func(context.Context) error) *leaseHold

	// undo brings the original back and takes away all that came to the node; a session
	// that others have ended is left to them.
	undo(ctx context.Context, progress func(string)) error
}

// nodeStop is how long a debug build has between SIGTERM and SIGKILL at the end.
const nodeStop = 20 * time.Second

// Launch puts the binary in the service's place, under Delve, halted at its entry. If
// it fails or ctx ends, everything is undone before it returns.
func (p *NodePlacement) Launch(ctx context.Context, binary Binary, o Options) (s *Session, err error) {
	o.defaults()
	if o.OnExit == "" {
		o.OnExit = StartAgain
	}
	n := &nodeSite{target: p.Target, options: o, door: p.open(o), events: newFeed()}
	id, err := n.door.claim(ctx)
	if err != nil {
		return nil, err
	}
	if p.Target.IsCalls() {
		n.pods = followCalledPods(p.cluster, o.Calls)
	}
	var l link
	defer func() {
		if err == nil {
			return
		}
		s = nil
		if l.client != nil {
			_ = l.client.Close()
		}
		n.rest()
		o.Progress("undoing")
		undoCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		if undoErr := n.door.undo(undoCtx, func(string) {}); undoErr != nil {
			err = errors.Join(err, fmt.Errorf("undoing: %w; run: kubedelve restore %s%s", undoErr, p.Target, p.Via.Flag()))
		}
	}()
	if l, err = n.dial(ctx, o.Progress, true); err != nil {
		return nil, err
	}
	name := n.program(binary)
	if l, err = n.engage(ctx, l, o.Progress); err != nil {
		return nil, err
	}
	var first runKey
	if !p.Target.IsCalls() {
		if first, err = loadFirst(ctx, l.client, name, binary, o); err != nil {
			return nil, err
		}
	}
	n.started(ctx)
	s = newSession(id, p.Target, n, n.events, o, l, first, binary)
	if p.Target.IsCalls() {
		s.lanes = o.Calls.Lanes()
	}
	return s, nil
}

// engage puts the agent in the service's place, and connects to it there. It takes
// the tunnel over.
func (n *nodeSite) engage(ctx context.Context, l link, stage func(string)) (link, error) {
	defer func() { _ = l.client.Close() }()
	if err := n.door.note(ctx); err != nil {
		return link{}, err
	}
	hello, err := l.client.Hello(ctx)
	if err != nil {
		return link{}, err
	}
	if n.lease == nil && hello.Node != nil && !n.target.IsCalls() {
		n.lease = n.door.holdLease(ctx, hello.Node.Host, n.events, n.letGo, n.depose)
	}
	// The binary is there before the service is stopped: that takes seconds.
	file := agentapi.File{SHA256: n.binary.SHA256, Size: n.binary.Size, Name: n.target.program()}
	if err := upload(ctx, l.client, file, n.binary.Path, stage); err != nil {
		return link{}, err
	}
	stage("looking for " + n.target.Service + " on the node")
	node, heard, err := askEngage(ctx, l)
	if err != nil {
		return link{}, err
	}
	stage("taking the place of " + cmp.Or(node.Service, n.target.Service))
	ctx, cancel := context.WithTimeoutCause(ctx, undoTimeout, fmt.Errorf("it took longer than %v", undoTimeout))
	defer cancel()
	for {
		next, err := n.dial(ctx, stage, false)
		if err != nil {
			return link{}, err
		}
		hello, err := next.client.Hello(ctx)
		switch {
		case err == nil && hello.Node != nil && hello.Node.Engaged:
			n.service = hello.Node.Service
			n.pods.use(next.client)
			return next, nil
		case err == nil && hello.Node != nil && hello.Node.Problem != "":
			err = fmt.Errorf("taking the place of %s: %s", cmp.Or(node.Service, n.target.Service), hello.Node.Problem)
		case ctx.Err() != nil:
			err = fmt.Errorf("taking the place of %s: %w", cmp.Or(node.Service, n.target.Service), context.Cause(ctx))
		case err == nil && !heard:
			node, heard, err = askEngage(ctx, next)
		default:
			err = nil // it was the agent that is about to go
		}
		_ = next.client.Close()
		if err != nil {
			return link{}, err
		}
	}
}

// askEngage asks an agent to take the service's place. If the tunnel ends before the answer
// is there, heard is false: the agent may be about to go, or may not know of it.
func askEngage(ctx context.Context, l link) (node agentapi.Node, heard bool, err error) {
	answer, err := l.client.Engage(ctx)
	var said *agentapi.Error
	switch {
	case err == nil:
		return *answer, true, nil
	case errors.As(err, &said) || ctx.Err() != nil:
		return node, false, err
	}
	return node, false, nil
}

// letGo resumes the component without breakpoints.
func (n *nodeSite) letGo(ctx context.Context) error {
	l, err := n.dial(ctx, func(string) {}, false)
	if err != nil {
		return err
	}
	defer func() { _ = l.client.Close() }()
	return l.client.Settle(ctx)
}

// depose ends a component that leads no more. It is started again, as a candidate.
func (n *nodeSite) depose(ctx context.Context) error {
	l, err := n.dial(ctx, func(string) {}, false)
	if err != nil {
		return err
	}
	defer func() { _ = l.client.Close() }()
	return l.client.End(ctx)
}

func (n *nodeSite) place() string {
	if n.target.IsCalls() {
		return fmt.Sprintf("node %s, %s", n.target.Name, n.service)
	}
	return fmt.Sprintf("node %s, in the place of %s", n.target.Name, n.service)
}

// program is the service's name, so that ps shows what it always shows. It is asked for
// each binary that is started, of which the last is what engage brings along.
func (n *nodeSite) program(b Binary) string {
	n.binary = b
	return n.target.program()
}

// gone is never closed: that the agent has lost the service's place is seen by who
// answers at its port.
func (*nodeSite) gone() <-chan struct{} { return nil }
func (*nodeSite) why() *goneError       { return nil }
func (*nodeSite) loaded()               {}

// started implements [site].
func (n *nodeSite) started(ctx context.Context) {
	if n.lease != nil {
		n.lease.release(ctx)
	}
}

// dial connects to whoever is there. It tries until ctx ends, or what fails will not get
// better; with first that is whatever keeps a helper from coming there.
func (n *nodeSite) dial(ctx context.Context, stage func(string), first bool) (link, error) {
	retry := time.NewTicker(pollInterval)
	defer retry.Stop()
	var waits sync.Once
	for {
		client, err := n.door.dial(ctx, stage)
		if err == nil {
			return link{client, n.door.way()}, nil
		}
		var lost *LostError
		var helper *helperError
		switch {
		case errors.As(err, &lost), errors.As(err, &helper) && first:
			return link{}, err
		case forbidden(err), errors.Is(err, tunnel.ErrPeer):
			return link{}, fmt.Errorf("connecting to the agent on node %s: %w", n.target.Name, err)
		}
		// A static pod takes its time: this is told once.
		waits.Do(func() { stage(fmt.Sprintf("the agent on node %s does not answer yet", n.target.Name)) })
		select {
		case <-ctx.Done():
			return link{}, fmt.Errorf("connecting to the agent on node %s: %w; last: %w", n.target.Name, context.Cause(ctx), err)
		case <-retry.C:
		}
	}
}

// helperError is why a helper can't be brought to a node.
type helperError struct{ err error }

func (e *helperError) Error() string { return e.err.Error() }
func (e *helperError) Unwrap() error { return e.err }

// connect implements [site].
func (n *nodeSite) connect(ctx context.Context, stage func(string)) (link, error) {
	l, err := n.dial(ctx, stage, false)
	if err != nil {
		return link{}, err
	}
	hello, err := l.client.Hello(ctx)
	if err == nil && hello.Node != nil && hello.Node.Engaged {
		n.pods.use(l.client)
		return l, nil
	}
	_ = l.client.Close()
	if err != nil {
		return link{}, err
	}
	return link{}, &goneError{fmt.Sprintf("the original %s is back", n.target.Service)}
}

// renew implements [site]: it takes the service's place once more.
func (n *nodeSite) renew(ctx context.Context, stage func(string)) (link, error) {
	return persist(ctx, stage, func() (link, error) {
		l, err := n.dial(ctx, stage, false)
		if err != nil {
			return link{}, err
		}
		return n.engage(ctx, l, stage)
	})
}

// rest ends what the site does by itself.
func (n *nodeSite) rest() {
	if n.lease != nil {
		n.lease.end()
	}
	n.pods.end()
}

// close implements [site].
func (n *nodeSite) close(ctx context.Context, leave bool, progress func(string)) error {
	// The Lease is held until the original does it.
	defer n.rest()
	if leave {
		return nil
	}
	n.stepDown(ctx)
	return n.door.undo(ctx, progress)
}

// stepDown ends a component that may lead, and gives its Lease back: the original is a
// candidate like others, and without a leader of the controller managers the session's
// namespace does not come to its end.
func (n *nodeSite) stepDown(ctx context.Context) {
	if n.lease == nil || !n.lease.elected() {
		return
	}
	n.lease.end()
	ctx, cancel := context.WithTimeout(ctx, nodeStop+10*time.Second)
	defer cancel()
	if n.depose(ctx) == nil { // else the Lease has to run out
		n.lease.release(ctx)
	}
}
