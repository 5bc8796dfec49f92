package kubelaunch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubedelve/kubedelve/internal/agentapi"
	"github.com/kubedelve/kubedelve/internal/feed"
	"github.com/kubedelve/kubedelve/internal/tunnel"
)

// nodeSite is the site of a session on a node's service: a helper's pod, from which the
// agent goes into the node and takes the service's place (package nodeservice). The agent
// outlives the pod, which is there so that the API server has something to dial: what it
// dials is the node's own address.
type nodeSite struct {
	placement *NodePlacement
	options   Options
	cluster   *Cluster
	events    *feed.Feed[Event]

	journal *journal // nil until claim
	address podAddress
	binary  Binary     // that runs, or will
	service string     // what is replaced, for the user
	lease   *leaseHold // nil: the service was not replaced yet
}

// Names in the session's own namespace.
const (
	nodeSecret = secretPrefix + "session" // the journal
	helperPod  = "helper"
)

// nodeStop is how long a debug build has between SIGTERM and SIGKILL at the end.
const nodeStop = 20 * time.Second

// Launch puts the binary in the service's place, under Delve, halted at its entry. If
// it fails or ctx ends, everything is undone before it returns.
func (p *NodePlacement) Launch(ctx context.Context, binary Binary, o Options) (s *Session, err error) {
	o.defaults()
	if o.OnExit == "" {
		o.OnExit = StartAgain
	}
	n := &nodeSite{placement: p, options: o, cluster: p.cluster, events: newFeed()}
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
		if n.journal != nil {
			o.Progress("undoing")
			undoCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
			defer cancel()
			if undoErr := undo(undoCtx, n.journal, func(string) {}); undoErr != nil {
				err = errors.Join(err, fmt.Errorf("undoing: %w; run: kubedelve restore %s", undoErr, p.Target))
			}
		}
	}()
	if err := n.claim(ctx); err != nil {
		return nil, err
	}
	if l, err = n.dial(ctx, o.Progress, true); err != nil {
		return nil, err
	}
	name := n.program(binary)
	if l, err = n.engage(ctx, l, o.Progress); err != nil {
		return nil, err
	}
	first, err := loadFirst(ctx, l.client, name, binary, o)
	if err != nil {
		return nil, err
	}
	n.started(ctx)
	return newSession(n.journal.record.Session, p.Target, n, n.events, o, l, first, binary), nil
}

// claim makes the session's namespace, which nobody else can then, and in it the
// journal.
func (n *nodeSite) claim(ctx context.Context) error {
	p, o := n.placement, n.options
	id, err := newIdentity()
	if err != nil {
		return err
	}
	port, err := freePort(&corev1.PodTemplateSpec{})
	if err != nil {
		return err
	}
	args := leaderArgs(p.Target, o.Hold)
	if len(args) > 0 {
		o.Progress("a leader that is halted stays the leader: the debug build gets " + strings.Join(args, " "))
	}
	o.Progress("claiming " + p.Target.String())
	if err := n.makeNamespace(ctx, id.session); err != nil {
		return err
	}
	n.journal, err = openJournal(ctx, n.cluster, nodeSecret, record{
		Version: journalVersion, Session: id.session, Target: p.Target.String(), UID: p.node.UID, Container: p.Target.Service,
		Owner: o.Owner, Created: time.Now().UTC().Truncate(time.Second),
		Port: port, Client: id.client, Agent: id.agentPin,
		Image: o.AgentImage, PullPolicy: o.PullPolicy,
		Steps: []step{{Kind: stepNamespace}},
	}, agentapi.Config{
		Session: id.session, Listen: net.JoinHostPort(nodeAddress(p.node), strconv.Itoa(port)), Identity: id.agent, ClientPin: id.clientPin,
		Service: p.Target.Service, Args: args, Leader: len(args) > 0,
		Grace: agentapi.Duration(o.Grace), TTL: agentapi.Duration(o.TTL), Stop: agentapi.Duration(nodeStop),
	})
	if err != nil {
		undoCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		return errors.Join(err, deleteNamespace(undoCtx, n.cluster, id.session))
	}
	n.address = podAddress{
		namespace: n.cluster.Namespace, pod: helperPod, container: helperPod, port: port,
		own: id.client, agentPin: id.agentPin, client: o.Owner,
	}
	return nil
}

// nodeAddress is the one at which the API server reaches pods in the node's network.
func nodeAddress(node *corev1.Node) string {
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			return a.Address
		}
	}
	return "" // all of the node's
}

// makeNamespace waits for one that is just being removed.
func (n *nodeSite) makeNamespace(ctx context.Context, session string) error {
	namespaces := n.cluster.Client.CoreV1().Namespaces()
	want := newNodeNamespace(n.placement.Target, session)
	for {
		_, err := namespaces.Create(ctx, want, metav1.CreateOptions{FieldManager: fieldManager})
		if !apierrors.IsAlreadyExists(err) {
			if err != nil {
				err = fmt.Errorf("making the namespace %s: %w", want.Name, err)
			}
			return err
		}
		there, err := namespaces.Get(ctx, want.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			continue
		case err != nil:
			return fmt.Errorf("reading the namespace %s: %w", want.Name, err)
		case there.DeletionTimestamp == nil:
			return sessionExists(ctx, n.cluster, nodeSecret, n.placement.Target.String())
		}
		n.options.Progress("waiting for the last session's namespace to be gone")
		if err := awaitNamespaceGone(ctx, n.cluster, there); err != nil {
			return err
		}
	}
}

// note writes a step down, once.
func (n *nodeSite) note(ctx context.Context, kind string) error {
	s := step{Kind: kind, Pod: helperPod}
	if slices.Contains(n.journal.record.Steps, s) {
		return nil
	}
	return n.journal.add(ctx, s)
}

// help makes a helper's pod and waits until it runs.
func (n *nodeSite) help(ctx context.Context, stage func(string)) error {
	if err := n.note(ctx, stepHelper); err != nil {
		return err
	}
	pod := newHelper(n.placement.Target, n.cluster.Namespace, n.journal.secret, n.options.AgentImage, n.options.PullPolicy)
	stage("starting a helper on node " + n.placement.Target.Name)
	if _, err := n.cluster.Client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{FieldManager: fieldManager}); err != nil {
		return fmt.Errorf("creating the helper pod: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startPatience, fmt.Errorf("it did not run in %v", startPatience))
	defer cancel()
	return waitPod(ctx, n.cluster, pod.Name, func(pod *corev1.Pod) (bool, error) {
		return containerRuns(pod, helperPod, n.options.AgentImage)
	})
}

// helpAgain sees to it that there is a helper's pod, without which the API server dials
// nothing. The agent in the service's place outlives it.
func (n *nodeSite) helpAgain(ctx context.Context, stage func(string)) error {
	pod, err := n.cluster.Client.CoreV1().Pods(n.cluster.Namespace).Get(ctx, helperPod, metav1.GetOptions{})
	switch {
	case err == nil && pod.DeletionTimestamp == nil && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed:
		return nil
	case err != nil && !apierrors.IsNotFound(err):
		return err
	}
	if err := n.journal.refresh(ctx); err != nil {
		return err
	}
	u := &undoing{journal: n.journal, cluster: n.cluster, target: n.placement.Target, progress: stage}
	if err := u.removePod(ctx, helperPod, ""); err != nil {
		return err
	}
	return n.help(ctx, stage)
}

// engage puts the agent in the service's place, and connects to it there. It takes
// the tunnel over.
func (n *nodeSite) engage(ctx context.Context, l link, stage func(string)) (link, error) {
	defer func() { _ = l.client.Close() }()
	if err := n.note(ctx, stepEngage); err != nil {
		return link{}, err
	}
	hello, err := l.client.Hello(ctx)
	if err != nil {
		return link{}, err
	}
	if n.lease == nil && hello.Node != nil {
		n.lease = holdLease(ctx, n.cluster, n.placement.Target, hello.Node.Host, n.options.Hold, n.events, n.letGo, n.depose)
	}
	// The binary is there before the service is stopped: that takes seconds.
	file := agentapi.File{SHA256: n.binary.SHA256, Size: n.binary.Size, Name: n.placement.Target.program()}
	if err := upload(ctx, l.client, file, n.binary.Path, stage); err != nil {
		return link{}, err
	}
	stage("looking for " + n.placement.Target.Service + " on the node")
	node, heard, err := askEngage(ctx, l)
	if err != nil {
		return link{}, err
	}
	stage("taking the place of " + cmp.Or(node.Service, n.placement.Target.Service))
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
			return next, nil
		case err == nil && hello.Node != nil && hello.Node.Problem != "":
			err = fmt.Errorf("taking the place of %s: %s", cmp.Or(node.Service, n.placement.Target.Service), hello.Node.Problem)
		case ctx.Err() != nil:
			err = fmt.Errorf("taking the place of %s: %w", cmp.Or(node.Service, n.placement.Target.Service), context.Cause(ctx))
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
	return fmt.Sprintf("node %s, in the place of %s", n.placement.Target.Name, n.service)
}

// program is the service's name, so that ps shows what it always shows. It is asked for
// each binary that is started, of which the last is what engage brings along.
func (n *nodeSite) program(b Binary) string {
	n.binary = b
	return n.placement.Target.program()
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

// dial connects to whoever is at the agent's port: the helper, or the agent in the
// service's place. It uses pods/proxy only, for which nothing on the node has to work
// but the agent. It tries until ctx ends, or what fails will not get better; with first
// that is also what keeps the helper's pod from coming up.
func (n *nodeSite) dial(ctx context.Context, stage func(string), first bool) (link, error) {
	retry := time.NewTicker(pollInterval)
	defer retry.Stop()
	var waits sync.Once
	for {
		err := n.helpAgain(ctx, stage)
		var lost *LostError
		if errors.As(err, &lost) || err != nil && first {
			return link{}, err
		}
		if err == nil {
			var client *agentapi.Client
			if client, err = connectBy(ctx, n.cluster, n.address, ways()[0]); err == nil {
				return link{client, ways()[0].name}, nil
			}
		}
		if forbidden(err) || errors.Is(err, tunnel.ErrPeer) {
			return link{}, fmt.Errorf("connecting to the agent on node %s: %w", n.placement.Target.Name, err)
		}
		// A static pod takes its time: this is told once.
		waits.Do(func() { stage(fmt.Sprintf("the agent on node %s does not answer yet", n.placement.Target.Name)) })
		select {
		case <-ctx.Done():
			return link{}, fmt.Errorf("connecting to the agent on node %s: %w; last: %w", n.placement.Target.Name, context.Cause(ctx), err)
		case <-retry.C:
		}
	}
}

// connect implements [site].
func (n *nodeSite) connect(ctx context.Context, stage func(string)) (link, error) {
	l, err := n.dial(ctx, stage, false)
	if err != nil {
		return link{}, err
	}
	hello, err := l.client.Hello(ctx)
	if err == nil && hello.Node != nil && hello.Node.Engaged {
		return l, nil
	}
	_ = l.client.Close()
	if err != nil {
		return link{}, err
	}
	return link{}, &goneError{fmt.Sprintf("the original %s is back", n.placement.Target.Service)}
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
}

// close implements [site].
func (n *nodeSite) close(ctx context.Context, leave bool, progress func(string)) error {
	// The Lease is held until the original does it.
	defer n.rest()
	if leave {
		return nil
	}
	n.stepDown(ctx)
	return undoOwn(ctx, n.journal, progress)
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
