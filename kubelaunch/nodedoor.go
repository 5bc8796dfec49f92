package kubelaunch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubedelve/kubedelve/internal/agentapi"
	"github.com/kubedelve/kubedelve/internal/feed"
	"github.com/kubedelve/kubedelve/internal/tunnel"
)

// podDoor leads into a node through a privileged pod of ours. The agent outlives it; it is
// there so that the API server has something to dial: what it dials is the node's own
// address. If the door is direct, this machine dials that itself.
type podDoor struct {
	placement *NodePlacement
	options   Options
	cluster   *Cluster // with the session's own namespace

	journal *journal // nil until claim
	address podAddress
	node    string // the agent's address, HOST:PORT
}

// Names in the session's own namespace.
const (
	nodeSecret = secretPrefix + "session" // the journal
	helperPod  = "helper"
)

// claim implements [nodeDoor]. It makes the session's namespace, which nobody else can then,
// and in it the journal.
func (d *podDoor) claim(ctx context.Context) (session string, err error) {
	p, o := d.placement, d.options
	id, err := newIdentity()
	if err != nil {
		return "", err
	}
	port, err := freePort(&corev1.PodTemplateSpec{})
	if err != nil {
		return "", err
	}
	d.node = net.JoinHostPort(nodeAddress(p.node), strconv.Itoa(port))
	args := leaderArgs(p.Target, o.Hold)
	if len(args) > 0 {
		o.Progress("a leader that is halted stays the leader: the debug build gets " + strings.Join(args, " "))
	}
	o.Progress("claiming " + p.Target.String())
	if err := d.makeNamespace(ctx, id.session); err != nil {
		return "", err
	}
	d.journal, err = openJournal(ctx, d.cluster, nodeSecret, record{
		Version: journalVersion, Session: id.session, Target: p.Target.String(), UID: p.node.UID, Container: p.Target.Service,
		Owner: o.Owner, Created: time.Now().UTC().Truncate(time.Second),
		Port: port, Client: id.client, Agent: id.agentPin,
		Image: o.AgentImage, PullPolicy: o.PullPolicy,
		Steps: []step{{Kind: stepNamespace}},
	}, agentapi.Config{
		Session: id.session, Listen: d.node, Identity: id.agent, ClientPin: id.clientPin,
		Service: p.Target.Service, Args: args, Leader: len(args) > 0, Calls: p.Target.calls(o.Calls),
		Grace: agentapi.Duration(o.Grace), TTL: agentapi.Duration(o.TTL), Stop: agentapi.Duration(nodeStop),
	})
	if err != nil {
		undoCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		return "", errors.Join(err, deleteNamespace(undoCtx, d.cluster, id.session))
	}
	d.address = podAddress{
		namespace: d.cluster.Namespace, pod: helperPod, container: helperPod, port: port,
		own: id.client, agentPin: id.agentPin, client: o.Owner,
	}
	return id.session, nil
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
func (d *podDoor) makeNamespace(ctx context.Context, session string) error {
	namespaces := d.cluster.Client.CoreV1().Namespaces()
	want := newNodeNamespace(d.placement.Target, session)
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
			return sessionExists(ctx, d.cluster, nodeSecret, d.placement.Target.String())
		}
		d.options.Progress("waiting for the last session's namespace to be gone")
		if err := awaitNamespaceGone(ctx, d.cluster, there); err != nil {
			return err
		}
	}
}

// write writes a step down, once.
func (d *podDoor) write(ctx context.Context, kind string) error {
	s := step{Kind: kind, Pod: helperPod}
	if slices.Contains(d.journal.record.Steps, s) {
		return nil
	}
	return d.journal.add(ctx, s)
}

// help makes a helper's pod and waits until it runs.
func (d *podDoor) help(ctx context.Context, stage func(string)) error {
	if err := d.write(ctx, stepHelper); err != nil {
		return err
	}
	pod := newHelper(d.placement.Target, d.cluster.Namespace, d.journal.secret, d.options.AgentImage, d.options.PullPolicy)
	stage("starting a helper on node " + d.placement.Target.Name)
	if _, err := d.cluster.Client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{FieldManager: fieldManager}); err != nil {
		return fmt.Errorf("creating the helper pod: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startPatience, fmt.Errorf("it did not run in %v", startPatience))
	defer cancel()
	return waitPod(ctx, d.cluster, pod.Name, func(pod *corev1.Pod) (bool, error) {
		return containerRuns(pod, helperPod, d.options.AgentImage)
	})
}

// helpAgain sees to it that there is a helper's pod, without which the API server dials
// nothing. The agent in the service's place outlives it.
func (d *podDoor) helpAgain(ctx context.Context, stage func(string)) error {
	pod, err := d.cluster.Client.CoreV1().Pods(d.cluster.Namespace).Get(ctx, helperPod, metav1.GetOptions{})
	switch {
	case err == nil && pod.DeletionTimestamp == nil && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed:
		return nil
	case err != nil && !apierrors.IsNotFound(err):
		return err
	}
	if err := d.journal.refresh(ctx); err != nil {
		return err
	}
	u := &undoing{journal: d.journal, cluster: d.cluster, target: d.placement.Target, progress: stage}
	if err := u.removePod(ctx, helperPod, ""); err != nil {
		return err
	}
	return d.help(ctx, stage)
}

// dial implements [nodeDoor]. Through the API server it uses pods/proxy only, for which
// nothing on the node has to work but the agent, but a pod has to be there.
func (d *podDoor) dial(ctx context.Context, stage func(string)) (*agentapi.Client, error) {
	way := ways()[0]
	if d.placement.Via.direct() {
		way.dial = d.dialNode
		// The API server may be what is halted: nothing is asked of it as long as the
		// agent answers.
		if client, err := connectBy(ctx, d.cluster, d.address, way); err == nil {
			return client, nil
		}
	}
	if err := d.helpAgain(ctx, stage); err != nil {
		return nil, &helperError{err}
	}
	return connectBy(ctx, d.cluster, d.address, way)
}

// dialNode dials the agent from this machine.
func (d *podDoor) dialNode(ctx context.Context, _ *Cluster, _ podAddress) (io.ReadWriteCloser, error) {
	ctx, cancel := context.WithTimeout(ctx, proxyPatience)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", d.node)
	if err != nil {
		return nil, err
	}
	return tunnel.UpgradeStream(conn)
}

func (d *podDoor) way() string {
	if d.placement.Via.direct() {
		return "direct"
	}
	return ways()[0].name
}

// note implements [nodeDoor].
func (d *podDoor) note(ctx context.Context) error { return d.write(ctx, stepEngage) }

// holdLease implements [nodeDoor].
func (d *podDoor) holdLease(ctx context.Context, host string, events *feed.Feed[Event], resume, depose func(context.Context) error) *leaseHold {
	return holdLease(ctx, d.cluster, d.placement.Target, host, d.options.Hold, events, resume, depose)
}

// undo implements [nodeDoor].
func (d *podDoor) undo(ctx context.Context, progress func(string)) error {
	if d.placement.Via.direct() {
		// Without the API server nothing can be undone, and it may be what is halted.
		if client, err := connectBy(ctx, d.cluster, d.address, way{dial: d.dialNode}); err == nil {
			_ = client.Settle(ctx)
			_ = client.Close()
		}
	}
	return undoOwn(ctx, d.journal, progress)
}
