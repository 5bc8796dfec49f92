package kubelaunch

import (
	"context"
	"fmt"
	"sync"
)

// AllReplicas are as many debug pods as the workload has replicas.
const AllReplicas = -1

// Pods is how many debug pods there will be.
func (p *Placement) Pods(o Options) (int, error) {
	has := max(1, int(p.replicas()))
	switch {
	case o.Replicas == AllReplicas:
		return has, nil
	case o.Replicas < AllReplicas || o.Replicas > has:
		return 0, fmt.Errorf("%s has %s, not %d: debug fewer, or scale it first", p.Target, countOf(has, "one replica", "replicas"), o.Replicas)
	}
	return max(1, o.Replicas), nil
}

// Replicas are the sessions of all debug pods, one for each, the first of them first.
// Each goes through the losses of its own pod. Close and Detach of the first are those
// of all; the others' only stop looking after their pod.
func (s *Session) Replicas() []*Session {
	if w, ok := s.site.(*workload); ok {
		return append([]*Session(nil), w.group.sessions...)
	}
	return []*Session{s}
}

// group is what the pods of a session share besides the journal.
type group struct {
	pods     int           // how many there are to be
	room     sync.Mutex    // held while room is made for them
	adopting chan struct{} // holds one while a pod joins the workload's ReplicaSet
	sessions []*Session    // one for each, in order; set before the first is given out
}

// newWorkload is the site of the first replica.
func newWorkload(p *Placement, o Options, pods int) *workload {
	return &workload{
		placement: p, options: o, cluster: p.cluster, events: newFeed(),
		group: &group{pods: pods, adopting: make(chan struct{}, 1)},
	}
}

// replicas are the sites of all replicas. The first has claimed the target.
func (w *workload) replicas() []*workload {
	sites := []*workload{w}
	for i := 1; i < w.group.pods; i++ {
		other := &workload{
			cluster: w.cluster, options: w.options, events: newFeed(), placement: w.placement,
			journal: w.journal, session: w.session, secret: w.secret, group: w.group, replica: i,
			address: w.address, command: w.command, platform: w.platform,
		}
		other.options.Progress = func(string) {} // what is told of the first goes for all
		sites = append(sites, other)
	}
	if n := len(sites); n > 1 {
		w.options.Progress(fmt.Sprintf("starting %d pods", n))
	}
	return sites
}

// endOthers ends the sessions of the other replicas, if this is the first.
func (g *group) endOthers(ctx context.Context, replica int, leave bool) {
	if replica > 0 || len(g.sessions) == 0 {
		return
	}
	var ending sync.WaitGroup
	for _, s := range g.sessions[1:] {
		ending.Go(func() { _ = s.shut(ctx, leave, func(string) {}) }) // ends with the session
	}
	ending.Wait()
}

// together does n things side by side, and returns after all of them. The first error
// ends the others, and is returned.
func together(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var doing sync.WaitGroup
	var once sync.Once
	var first error
	for i := range n {
		doing.Go(func() {
			if err := do(ctx, i); err != nil {
				once.Do(func() { first = err; cancel(err) })
			}
		})
	}
	doing.Wait()
	return first
}
