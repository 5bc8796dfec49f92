package kubelaunch

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/utils/ptr"

	"github.com/kubedelve/kubedelve/internal/feed"
)

// leaseHold renews a Lease on behalf of a component that has stopped to do so, since it
// is halted or just being replaced. It is one goroutine, which ends with end.
//
// Whether the component renews its Lease is seen in the Lease: nobody has to say that
// it is halted, and steps in a debugger that leave it no time count as well.
type leaseHold struct {
	cluster *Cluster
	own     ownLease
	limit   time.Duration
	events  *feed.Feed[Event]
	resume  func(context.Context) error // the component
	depose  func(context.Context) error // the component: it leads no more

	stop context.CancelFunc
	done sync.WaitGroup // counts run
}

// ownLease is the Lease that a component renews for as long as it is well.
type ownLease struct {
	namespace, name string
	program         string
	look            time.Duration // how often
	stale           time.Duration // nobody has renewed it for that long
	host            string        // of a leader: its identity begins with it; empty: the Lease has one holder for ever
	danger          string        // what happens if nobody renews it
}

// The components that take part in a leader election, whose Lease has their name
// (k8s.io/kubernetes/cmd, k8s.io/cloud-provider/options).
var elected = []string{"kube-controller-manager", "kube-scheduler", "cloud-controller-manager"}

// leaderArgs let a leader go on that was halted, in the debug build only. A request to renew
// that is under way when it is halted, as one is after a step in a debugger, must not
// be too late when it goes on: it would exit (k8s.io/client-go/tools/leaderelection). So
// the deadline is longer than it is ever held.
//
// The Lease's duration has to be longer still, but others must not wait for that long
// when the leader is gone. In a Lease it is a number of 32 bits, of which this is 15 s.
func leaderArgs(t Target, hold time.Duration) []string {
	if !slices.Contains(elected, t.program()) {
		return nil
	}
	deadline := hold + 5*time.Minute
	return []string{"--leader-elect-renew-deadline=" + deadline.String(), "--leader-elect-lease-duration=" + leaderDuration.String()}
}

const leaderDuration = (1<<32 + 15) * time.Second

// leaseOf is that of a service on a node, where the host has a name.
func leaseOf(t Target, host string) (ownLease, bool) {
	switch program := t.program(); {
	case program == "kubelet":
		// It is renewed every quarter of its duration, 10 s by default; a node counts
		// as lost 40 to 50 s after the last renewal (pkg/controller/nodelifecycle).
		return ownLease{
			namespace: corev1.NamespaceNodeLease, name: t.Name, program: program,
			look: 2 * time.Second, stale: 12 * time.Second, danger: "the node is going to be NotReady",
		}, true
	case slices.Contains(elected, program) && host != "":
		// It is renewed every 2 s, and lost after 15 (k8s.io/component-base/config).
		return ownLease{
			namespace: metav1.NamespaceSystem, name: program, program: program,
			look: time.Second, stale: 5 * time.Second, host: host, danger: "another one may become the leader, and this one exit when it goes on",
		}, true
	}
	return ownLease{}, false
}

// holdLease begins to look after a service's Lease, if that has one.
func holdLease(ctx context.Context, c *Cluster, t Target, host string, limit time.Duration, events *feed.Feed[Event], resume, depose func(context.Context) error) *leaseHold {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	h := &leaseHold{cluster: c, limit: limit, events: events, resume: resume, depose: depose, stop: stop}
	var has bool
	if h.own, has = leaseOf(t, host); has {
		h.done.Go(func() { h.run(ctx) }) // ends with end
	}
	return h
}

// end may be called more than once.
func (h *leaseHold) end() {
	h.stop()
	h.done.Wait()
}

// elected tells whether the Lease is that of a leader.
func (h *leaseHold) elected() bool { return h.own.host != "" }

func (h *leaseHold) say(important bool, format string, args ...any) {
	h.events.Tell(Event{Kind: KindNote, Text: fmt.Sprintf(format, args...), Important: important})
}

func (h *leaseHold) run(ctx context.Context) {
	tick := time.NewTicker(h.own.look)
	defer tick.Stop()
	seen := leaseState{ownLease: h.own}
	for {
		lease, err := h.leases().Get(ctx, h.own.name, metav1.GetOptions{})
		if err == nil { // else at the next look
			switch seen.check(lease, time.Now(), h.limit) {
			case leaseRenew:
				h.renew(ctx, lease, &seen)
			case leaseBack:
				h.say(false, "the %s renews its Lease again", h.own.program)
			case leaseOver:
				h.letGo(ctx)
			case leaseLost:
				h.lost(ctx, *lease.Spec.HolderIdentity)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (h *leaseHold) leases() coordinationclient.LeaseInterface {
	return h.cluster.Client.CoordinationV1().Leases(h.own.namespace)
}

func (h *leaseHold) renew(ctx context.Context, lease *coordinationv1.Lease, seen *leaseState) {
	// Counted from the last one, not by this machine's clock, which may be behind the
	// node's: only a later time counts.
	next := lease.Spec.RenewTime.Add(time.Since(seen.changed))
	patch := fmt.Sprintf(`{"metadata":{"resourceVersion":%q},"spec":{"renewTime":%q}}`, lease.ResourceVersion, metav1.NewMicroTime(next).UTC().Format(metav1.RFC3339Micro))
	_, err := h.leases().Patch(ctx, h.own.name, types.MergePatchType, []byte(patch), metav1.PatchOptions{FieldManager: fieldManager})
	first := seen.since.IsZero()
	if err != nil {
		if first && ctx.Err() == nil {
			h.say(true, "the Lease %s/%s can't be renewed on behalf of the halted %s: %v; %s", h.own.namespace, h.own.name, h.own.program, err, h.own.danger)
		}
		return
	}
	seen.renewed(next, time.Now())
	if first {
		h.say(false, "the %s is held: the Lease %s/%s is renewed on its behalf, for %v at most", h.own.program, h.own.namespace, h.own.name, h.limit)
		h.warnUnready(ctx)
	}
}

// warnUnready tells of what a Lease can't help: a kubelet that has called its node NotReady
// just before it was halted, as some do when they begin.
func (h *leaseHold) warnUnready(ctx context.Context) {
	if h.own.namespace != corev1.NamespaceNodeLease {
		return
	}
	node, err := h.cluster.Client.CoreV1().Nodes().Get(ctx, h.own.name, metav1.GetOptions{})
	if err != nil {
		return
	}
	if why, is := unready(node); is {
		h.say(true, "the kubelet has called its node NotReady before it was halted (%s), and can't take that back now: pods are taken off such a node after a while, 5 min by default", why)
	}
}

// unready tells whether and why a kubelet has called its node NotReady. What others say of a
// node whose kubelet is silent does not count.
func unready(node *corev1.Node) (why string, is bool) {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return cmp.Or(c.Message, c.Reason), c.Status == corev1.ConditionFalse
		}
	}
	return "", false
}

func (h *leaseHold) letGo(ctx context.Context) {
	h.say(true, "the %s was held for %v, which is the limit (--hold): it goes on without breakpoints", h.own.program, h.limit)
	if err := h.resume(ctx); err != nil && ctx.Err() == nil {
		h.say(true, "the %s can't be resumed: %v", h.own.program, err)
	}
}

// lost ends a leader that another one has followed, as it would end itself if its deadline
// were not that long.
func (h *leaseHold) lost(ctx context.Context, holder string) {
	h.say(true, "%s leads now (Lease %s/%s): the %s is ended", holder, h.own.namespace, h.own.name, h.own.program)
	if err := h.depose(ctx); err != nil && ctx.Err() == nil {
		h.say(true, "the %s can't be ended: %v", h.own.program, err)
	}
}

// release gives the Lease back of a leader that is known to have ended, as it would have
// done itself: the next one needs not wait until it is over. Whoever calls it knows
// that no other process on the host has the Lease.
func (h *leaseHold) release(ctx context.Context) {
	if !h.elected() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, leasePatience)
	defer cancel()
	lease, err := h.leases().Get(ctx, h.own.name, metav1.GetOptions{})
	if err != nil || !h.own.holds(lease) {
		return // then it takes the next one 15 s longer
	}
	patch := fmt.Sprintf(`{"metadata":{"resourceVersion":%q},"spec":{"holderIdentity":"","leaseDurationSeconds":1}}`, lease.ResourceVersion)
	_, _ = h.leases().Patch(ctx, h.own.name, types.MergePatchType, []byte(patch), metav1.PatchOptions{FieldManager: fieldManager})
}

// leasePatience bounds what the component waits for at its entry.
const leasePatience = 2 * time.Second

// holds tells whether the component has the Lease. A leader's identity is its host's name,
// an underscore and what is random (client-go's users all do it so).
func (l ownLease) holds(lease *coordinationv1.Lease) bool {
	return l.host == "" || strings.HasPrefix(ptr.Deref(lease.Spec.HolderIdentity, ""), l.host+"_")
}

// leaseState is what is known of a Lease.
type leaseState struct {
	ownLease
	last    time.Time // renewTime as it was seen last
	changed time.Time // when that was seen first, or written
	own     time.Time // the renewTime that we wrote last
	since   time.Time // when we began to renew it; zero: its holder does
	over    bool      // the limit was reached
	led     bool      // the component has had the Lease
}

// What is to be done about a Lease.
type leaseAction int

const (
	leaseFine  leaseAction = iota
	leaseRenew             // on its holder's behalf
	leaseBack              // its holder does it again
	leaseOver              // the limit is reached
	leaseLost              // another one has it
)

func (s *leaseState) check(lease *coordinationv1.Lease, now time.Time, limit time.Duration) leaseAction {
	if lease.Spec.RenewTime == nil || !s.holds(lease) {
		lost := s.led && ptr.Deref(lease.Spec.HolderIdentity, "") != ""
		*s = leaseState{ownLease: s.ownLease}
		if lost {
			return leaseLost
		}
		return leaseFine
	}
	s.led = s.host != ""
	if renewed := lease.Spec.RenewTime.Time; !renewed.Equal(s.last) {
		s.last, s.changed = renewed, now
		if !renewed.Equal(s.own) {
			held := !s.since.IsZero()
			s.since, s.over = time.Time{}, false
			if held {
				return leaseBack
			}
			return leaseFine
		}
	}
	if !s.since.IsZero() && !s.over && now.Sub(s.since) >= limit {
		s.over = true
		return leaseOver
	}
	fresh := now.Sub(s.changed) < s.stale && (s.since.IsZero() || now.Sub(s.changed) < s.stale-s.ownLease.look)
	// Beyond the limit a node's is renewed for as long as the kubelet takes to do it
	// itself. Of leaders there may be others.
	if fresh || s.over && s.host != "" {
		return leaseFine
	}
	return leaseRenew
}

// renewed notes what was written.
func (s *leaseState) renewed(at, now time.Time) {
	// As the API server keeps it.
	s.own = at.Truncate(time.Microsecond)
	s.last, s.changed = s.own, now
	if s.since.IsZero() {
		s.since = now
	}
}
