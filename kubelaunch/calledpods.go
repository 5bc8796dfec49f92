package kubelaunch

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/kubedelve/kubedelve/internal/agentapi"
)

// calledPods tells an agent which pods have the labels that a filter asks for: a node's
// container runtime does not know them. The API server tells of a pod when it is made, long
// before the first program is called for it.
type calledPods struct {
	cluster   *Cluster // with the filter's namespace, or all
	selector  labels.Selector
	asked     chan struct{} // holds one while the agent has to be told
	stop      context.CancelFunc
	following sync.WaitGroup

	mu     sync.Mutex // guards all below
	names  map[string]struct{}
	client *agentapi.Client
}

// followCalledPods returns nil if a filter asks for no labels.
func followCalledPods(c *Cluster, f CallFilter) *calledPods {
	selector, err := labels.Parse(f.Labels) // ParseCalls has seen that it is one
	if f.Labels == "" || err != nil {
		return nil
	}
	here := *c
	here.Namespace = f.Namespace
	if strings.ContainsAny(f.Namespace, `*?[\`) {
		here.Namespace = metav1.NamespaceAll
	}
	ctx, stop := context.WithCancel(context.Background())
	p := &calledPods{cluster: &here, selector: selector, asked: make(chan struct{}, 1), stop: stop, names: map[string]struct{}{}}
	p.following.Go(func() { // ends with end
		for ctx.Err() == nil {
			p.follow(ctx)
			// The API server is away, or has closed the watch.
			timer := time.NewTimer(apiPause)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
			}
		}
	})
	return p
}

// end stops telling. It is idempotent.
func (p *calledPods) end() {
	if p != nil {
		p.stop()
		p.following.Wait()
	}
}

// use tells another agent from now on.
func (p *calledPods) use(client *agentapi.Client) {
	if p == nil {
		return
	}
	p.mu.Lock()
	p.client = client
	p.mu.Unlock()
	p.ask()
}

func (p *calledPods) ask() {
	select {
	case p.asked <- struct{}{}:
	default:
	}
}

// follow follows the pods until the API server ends it.
func (p *calledPods) follow(ctx context.Context) {
	api := p.cluster.Client.CoreV1().Pods(p.cluster.Namespace)
	options := metav1.ListOptions{LabelSelector: p.selector.String()}
	list, err := api.List(ctx, options)
	if err != nil {
		return
	}
	for i := range list.Items {
		p.see(&list.Items[i])
	}
	options.ResourceVersion = list.ResourceVersion
	w, err := api.Watch(ctx, options)
	if err != nil {
		return
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.asked:
			p.tell(ctx)
		case event, ok := <-w.ResultChan():
			pod, is := event.Object.(*corev1.Pod)
			if !ok || event.Type == watch.Error || !is {
				return
			}
			p.see(pod)
		}
	}
}

// see notes a pod. One that is deleted stays: its containers are removed after it. One
// whose labels are others now does not.
func (p *calledPods) see(pod *corev1.Pod) {
	name := pod.Namespace + "/" + pod.Name
	p.mu.Lock()
	defer p.mu.Unlock()
	_, known := p.names[name]
	matches := p.selector.Matches(labels.Set(pod.Labels))
	switch {
	case matches == known:
		return
	case matches:
		p.names[name] = struct{}{}
	default:
		delete(p.names, name)
	}
	p.ask()
}

// tellPatience is how long the agent may take; if it is gone another one is told.
const tellPatience = 5 * time.Second

func (p *calledPods) tell(ctx context.Context) {
	p.mu.Lock()
	client, names := p.client, slices.Sorted(maps.Keys(p.names))
	p.mu.Unlock()
	if client == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, tellPatience)
	defer cancel()
	_ = client.Pods(ctx, names) // without a tunnel, the next one is used
}
