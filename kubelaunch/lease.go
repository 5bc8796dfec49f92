package kubelaunch

import (
	"context"
	"fmt"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubedelve/kubedelve/internal/feed"
)

// leaseHold renews a Lease on behalf of a component that has stopped to do so, since it
// is halted or just being replaced. It is one goroutine, which ends with end.
//
// Whether the component renews its Lease is seen in the Lease: nobody has to say that
// it is halted, and steps in a debugger that leave it no time count as well.
type leaseHold struct {
	cluster         *Cluster
	namespace, name string
	limit           time.Duration
	events          *feed.Feed[Event]
	resume          func(context.Context) error // the component

	stop context.CancelFunc
	done sync.WaitGroup // counts run
}

// The kubelet renews its Lease every quarter of its duration, 10 s by default; a node
// counts as lost 40 to 50 s after the last renewal (pkg/controller/nodelifecycle).
const (
	leaseLook  = 2 * time.Second
	leaseStale = 12 * time.Second // nobody has renewed it for that long
)

// holdLease begins to look after a service's Lease, if that has one.
func holdLease(ctx context.Context, c *Cluster, t Target, limit time.Duration, events *feed.Feed[Event], resume func(context.Context) error) *leaseHold {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	h := &leaseHold{cluster: c, namespace: corev1.NamespaceNodeLease, name: t.Name, limit: limit, events: events, resume: resume, stop: stop}
	if t.program() == "kubelet" {
		h.done.Go(func() { h.run(ctx) }) // ends with end
	}
	return h
}

// end may be called more than once.
func (h *leaseHold) end() {
	h.stop()
	h.done.Wait()
}

func (h *leaseHold) say(important bool, format string, args ...any) {
	h.events.Tell(Event{Kind: KindNote, Text: fmt.Sprintf(format, args...), Important: important})
}

func (h *leaseHold) run(ctx context.Context) {
	tick := time.NewTicker(leaseLook)
	defer tick.Stop()
	var seen leaseState
	for {
		lease, err := h.cluster.Client.CoordinationV1().Leases(h.namespace).Get(ctx, h.name, metav1.GetOptions{})
		if err == nil { // else at the next look
			switch seen.look(lease, time.Now(), h.limit) {
			case leaseRenew:
				h.renew(ctx, lease, &seen)
			case leaseBack:
				h.say(false, "the kubelet renews its Lease again")
			case leaseOver:
				h.letGo(ctx)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (h *leaseHold) renew(ctx context.Context, lease *coordinationv1.Lease, seen *leaseState) {
	// Counted from the last one, not by this machine's clock, which may be behind the
	// node's: only a later time counts.
	next := lease.Spec.RenewTime.Add(time.Since(seen.changed))
	patch := fmt.Sprintf(`{"metadata":{"resourceVersion":%q},"spec":{"renewTime":%q}}`, lease.ResourceVersion, metav1.NewMicroTime(next).UTC().Format(metav1.RFC3339Micro))
	_, err := h.cluster.Client.CoordinationV1().Leases(h.namespace).Patch(ctx, h.name, types.MergePatchType, []byte(patch), metav1.PatchOptions{FieldManager: fieldManager})
	first := seen.since.IsZero()
	if err != nil {
		if first && ctx.Err() == nil {
			h.say(true, "the Lease of node %s can't be renewed on behalf of the halted kubelet: %v; the node is going to be NotReady", h.name, err)
		}
		return
	}
	seen.renewed(next, time.Now())
	if first {
		h.say(false, "the kubelet is held: the Lease of node %s is renewed on its behalf, for %v at most", h.name, h.limit)
	}
}

func (h *leaseHold) letGo(ctx context.Context) {
	h.say(true, "the kubelet was held for %v, which is the limit (--hold): it goes on without breakpoints", h.limit)
	if err := h.resume(ctx); err != nil && ctx.Err() == nil {
		h.say(true, "the kubelet can't be resumed: %v", err)
	}
}

// leaseState is what is known of a Lease.
type leaseState struct {
	last    time.Time // renewTime as it was seen last
	changed time.Time // when that was seen first, or written
	own     time.Time // the renewTime that we wrote last
	since   time.Time // when we began to renew it; zero: its holder does
	over    bool      // the limit was reached
}

// What is to be done about a Lease.
type leaseAction int

const (
	leaseFine  leaseAction = iota
	leaseRenew             // on its holder's behalf
	leaseBack              // its holder does it again
	leaseOver              // the limit is reached
)

func (s *leaseState) look(lease *coordinationv1.Lease, now time.Time, limit time.Duration) leaseAction {
	if lease.Spec.RenewTime == nil {
		return leaseFine
	}
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
	// Beyond the limit it goes on for as long as the component takes to renew the
	// Lease itself.
	if !s.since.IsZero() && !s.over && now.Sub(s.since) >= limit {
		s.over = true
		return leaseOver
	}
	if now.Sub(s.changed) >= leaseStale || !s.since.IsZero() && now.Sub(s.changed) >= leaseStale-leaseLook {
		return leaseRenew
	}
	return leaseFine
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
