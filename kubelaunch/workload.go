package kubelaunch

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubedelve/kubedelve/buildflags"
	"github.com/kubedelve/kubedelve/internal/agentapi"
	"github.com/kubedelve/kubedelve/internal/entrypoint"
	"github.com/kubedelve/kubedelve/internal/feed"
	"github.com/kubedelve/kubedelve/internal/tunnel"
)

// workload is the site of a session on a Deployment or DaemonSet: one debug pod at a time, made
// from the pod template and put in the place of the workload's pods. It is used by one
// goroutine at a time, but for what takeOver uses while that runs.
type workload struct {
	cluster *Cluster
	options Options
	events  *feed.Feed[Event]

	placement *Placement // the workload as it was when the pod was made
	journal   *journal   // nil until claim
	session   string
	secret    *corev1.Secret // of the journal, as it was made
	group     *group         // of the session's pods
	replica   int            // which of them this is: 0 is the first
	address   podAddress     // of the agent
	command   []string       // the container's own command line
	platform  buildflags.Platform
	patient   bool // there is a session already: what may get better is waited for

	pod    *corev1.Pod
	watch  *podWatch
	taking *takeover // nil: not begun
}

// claim makes the journal, which nobody else can then, and finds out what else has to
// be known before the first pod is made.
func (w *workload) claim(ctx context.Context) error {
	p, o := w.placement, w.options
	id, err := newIdentity()
	if err != nil {
		return err
	}
	port, err := freePort(p.template)
	if err != nil {
		return err
	}
	stop := 30 * time.Second
	if s := p.template.Spec.TerminationGracePeriodSeconds; s != nil {
		stop = time.Duration(*s) * time.Second
	}
	o.Progress("claiming " + p.Target.String())
	w.journal, err = openJournal(ctx, w.cluster, secretName(p.Target), record{
		Version: journalVersion, Session: id.session, Target: p.Target.String(), UID: p.object.GetUID(),
		Container: p.Container, Owner: o.Owner, Created: time.Now().UTC().Truncate(time.Second),
		Port: port, Client: id.client, Agent: id.agentPin,
	}, agentapi.Config{
		Session: id.session, Listen: fmt.Sprintf(":%d", port), Identity: id.agent, ClientPin: id.clientPin,
		Ports: portsOf(p.template, p.Container),
		Grace: agentapi.Duration(o.Grace), TTL: agentapi.Duration(o.TTL),
		// The kubelet's own clock runs as well.
		Stop: agentapi.Duration(max(stop-routeDelay-2*time.Second, time.Second)), Drain: agentapi.Duration(min(routeDelay, stop/2)),
	})
	w.address = podAddress{
		namespace: w.cluster.Namespace, container: p.Container, port: port, own: id.client, agentPin: id.agentPin, client: o.Owner,
	}
	w.platform = p.Platform
	if err != nil {
		return err
	}
	w.session, w.secret = id.session, w.journal.secret
	return w.findCommand(ctx)
}

// findCommand finds the container's own command line: as the user says, as the
// template says, or as a pod that runs shows.
func (w *workload) findCommand(ctx context.Context) (err error) {
	p, o := w.placement, w.options
	switch {
	case o.Command != nil:
		w.command = literal(o.Command)
	case p.Command != nil:
		w.command = p.Command
	default:
		if w.command, err = w.peek(ctx); err != nil {
			return err
		}
		w.command = literal(w.command)
	}
	return p.checkArguments(w.command, o)
}

// checkArguments tells whether the program's arguments are known.
func (p *Placement) checkArguments(command []string, o Options) error {
	if _, ok := entrypoint.Unwrap(command); !ok && o.Args == nil {
		return &CommandError{Target: p.Target, Command: command, Reason: "which does not tell the program's arguments"}
	}
	return nil
}

// podName is the name of a session's pod by its number. It keeps within what a host
// name may be (RFC 1123), since the pod's is one.
func podName(workload, session string, number int) string {
	suffix := podMark(session)
	if number > 1 {
		suffix += fmt.Sprintf("-%d", number)
	}
	return workload[:min(len(workload), 63-len(suffix))] + suffix
}

// podMark comes after the workload's name in a pod's.
func podMark(session string) string { return "-kubedelve-" + session }

// identity is what a new session is known by.
type identity struct {
	session             string // its id
	agent, client       tunnel.Identity
	agentPin, clientPin string // by which each knows the other
}

func newIdentity() (id identity, err error) {
	if id.agent, id.client, err = tunnel.NewPair(); err != nil {
		return id, err
	}
	if id.agentPin, err = id.agent.Pin(); err != nil {
		return id, err
	}
	if id.clientPin, err = id.client.Pin(); err != nil {
		return id, err
	}
	id.session, err = newID()
	return id, err
}

func newID() (string, error) {
	var b [4]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("naming the session: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}

// freePort picks the agent's port among those that no container names. The range
// is below the ephemeral one (net.ipv4.ip_local_port_range) and off the usual.
func freePort(template *corev1.PodTemplateSpec) (int, error) {
	var taken []int
	for _, c := range template.Spec.Containers {
		taken = append(taken, portsOf(template, c.Name)...)
	}
	const low, high = 20000, 30000
	for {
		n, err := rand.Int(rand.Reader, big.NewInt(high-low))
		if err != nil {
			return 0, fmt.Errorf("choosing the agent's port: %w", err)
		}
		if port := low + int(n.Int64()); !slices.Contains(taken, port) {
			return port, nil
		}
	}
}

// portsOf is the TCP ports that a container names.
func portsOf(template *corev1.PodTemplateSpec, container string) []int {
	var ports []int
	for _, p := range containerOf(template, container).Ports {
		if p.Protocol == "" || p.Protocol == corev1.ProtocolTCP {
			ports = append(ports, int(p.ContainerPort))
		}
	}
	return ports
}

func (w *workload) place() string {
	return fmt.Sprintf("pod %s, container %s", w.pod.Name, w.placement.Container)
}

// podOf finds the pod's name in a place, or returns that as it is.
func podOf(place string) string {
	pod, _, _ := strings.Cut(strings.TrimPrefix(place, "pod "), ", ")
	return pod
}

// program is the original's, so that ps shows what it always shows.
func (w *workload) program(b Binary) string {
	if program, ok := entrypoint.Unwrap(w.command); ok {
		return path.Base(program[0])
	}
	return path.Base(b.Path)
}

func (w *workload) gone() <-chan struct{} { return w.watch.gone }
func (w *workload) why() *goneError       { return w.watch.why }

// put makes a debug pod and connects to its agent.
func (w *workload) put(ctx context.Context, stage func(string)) (link, error) {
	if err := w.makeRoom(ctx, stage); err != nil {
		return link{}, err
	}
	if err := w.createPod(ctx, stage); err != nil {
		return link{}, err
	}
	if w.placement.daemonSet == nil {
		return w.reachFirst(ctx, stage)
	}
	return w.reachAndSucceed(ctx, stage)
}

// reachFirst waits for a new pod and connects to its agent.
func (w *workload) reachFirst(ctx context.Context, stage func(string)) (link, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	comesUp := w.comesUp(stage, cancel)
	err := waitPod(ctx, w.cluster, w.pod.Name, func(pod *corev1.Pod) (bool, error) {
		runs, err := comesUp(pod)
		return runs || pod.Status.PodIP != "", err
	})
	if err != nil {
		return link{}, err
	}
	return w.connectFirst(ctx, stage, comesUp)
}

// makeRoom ends the workload's pods first where pods can't run side by side.
func (w *workload) makeRoom(ctx context.Context, stage func(string)) error {
	p := w.placement
	if !p.exclusive() || p.daemonSet != nil { // that one is replaced later, see succeed
		return nil
	}
	w.group.room.Lock()
	defer w.group.room.Unlock()
	if p.replicas() > 0 {
		stage(fmt.Sprintf("stopping %s (its pods can't run side by side)", p.Target))
		if err := scale(ctx, w.journal, p.deployment.Name, 0); err != nil {
			return err
		}
	}
	// They have to have ended, not only begun to.
	for i := range p.pods {
		if err := waitGone(ctx, w.cluster, &p.pods[i]); err != nil {
			return err
		}
	}
	return nil
}

// createPod makes our pod. The step is written after that of scaling, so that undo
// deletes our pod before it lets the originals come back.
func (w *workload) createPod(ctx context.Context, stage func(string)) error {
	p, o := w.placement, w.options
	name := ""
	err := w.journal.change(ctx, func(r *record) {
		number := w.replica + 1 // of the first pods, which are made side by side
		if w.pod == nil {
			r.Pods = max(r.Pods, w.group.pods)
		} else {
			r.Pods++
			number = r.Pods
		}
		name = podName(p.object.GetName(), r.Session, number)
		r.Steps = append(r.Steps, step{Kind: stepPod, Pod: name, Replica: w.replica})
	})
	if err != nil {
		return err
	}
	pod := debugPod(p.template, w.cluster.Namespace, podOptions{
		name: name, session: w.session, container: p.Container, secret: w.secret,
		agentImage: o.AgentImage, pullPolicy: o.PullPolicy, platform: w.platform,
		ports: portsOf(p.template, p.Container), command: w.command, keepReadiness: o.KeepReadiness,
	})
	if p.daemonSet != nil {
		p.hide(pod)
	}
	stage("starting pod " + name)
	created, err := w.cluster.Client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{FieldManager: fieldManager})
	if err != nil {
		return fmt.Errorf("creating the debug pod: %w", err)
	}
	w.pod, w.address.pod = created, name
	w.watch = watchPod(w.cluster, created)
	return nil
}

// badPodPatience is how long a pod of a session that has had one may stay in a state
// that does not get better as a rule: not scheduled, no image.
const badPodPatience = time.Minute

// comesUp returns what tells whether the pod's container runs. It fails for what will
// not get better by waiting; with patience it tells it, and gives up later.
func (w *workload) comesUp(stage func(string), giveUp context.CancelCauseFunc) func(*corev1.Pod) (bool, error) {
	var limit *time.Timer
	return func(pod *corev1.Pod) (bool, error) {
		runs, err := containerRuns(pod, w.placement.Container, w.options.AgentImage)
		if err != nil && w.patient && pod.Status.Phase != corev1.PodFailed {
			stage(err.Error())
			if limit == nil {
				limit = time.AfterFunc(badPodPatience, func() { giveUp(err) })
			}
			return false, nil
		}
		if limit != nil {
			limit.Stop()
			limit = nil
		}
		return runs, err
	}
}

// startPatience is how long the pod may take from its address to an agent that
// answers: the workload's own init containers run in between.
const startPatience = 5 * time.Minute

// connectFirst reaches the agent of a new pod. It begins when the pod has an address,
// since the kubelet may tell a second later that the container runs; and it ends at
// once if the container never will.
func (w *workload) connectFirst(ctx context.Context, stage func(string), comesUp func(*corev1.Pod) (bool, error)) (l link, err error) {
	stage("connecting to the agent")
	ctx, cancel := context.WithTimeoutCause(ctx, startPatience, fmt.Errorf("it did not answer in %v", startPatience))
	defer cancel()
	dialing, stop := context.WithCancelCause(ctx)
	fallback := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() { // ends a while after the container runs, or with dialing
		if err := waitPod(dialing, w.cluster, w.pod.Name, comesUp); err != nil {
			stop(err)
			return
		}
		timer := time.NewTimer(preferFirst)
		defer timer.Stop()
		select {
		case <-timer.C:
			close(fallback)
		case <-dialing.Done():
		}
	})
	l, err = connectAgent(dialing, w.cluster, w.address, fallback, func(err error) error {
		if errors.Is(err, tunnel.ErrPeer) {
			return err // the agent is there and refuses
		}
		return nil
	})
	hopeless := context.Cause(dialing)
	stop(nil)
	watch.Wait()
	var pod *PodError
	if errors.As(hopeless, &pod) {
		err = pod
	}
	if err == nil {
		err = w.checkPlatform(ctx, l.client)
	}
	if err != nil && l.client != nil {
		_ = l.client.Close()
	}
	if err != nil {
		return link{}, err
	}
	return l, nil
}

// checkPlatform makes sure that the pod runs on what the build is for, which from then
// on is known.
func (w *workload) checkPlatform(ctx context.Context, client *agentapi.Client) error {
	hello, err := client.Hello(ctx)
	if err != nil {
		return err
	}
	if w.platform.Arch != "" && w.platform.Arch != hello.Arch {
		return fmt.Errorf("the pod runs on %s/%s, but the build is for %s", hello.OS, hello.Arch, w.platform)
	}
	w.platform = buildflags.Platform{OS: hello.OS, Arch: hello.Arch}
	return nil
}

// agentPatience is how long an agent may not answer though its pod is there and the
// API server reaches it: it may have become the original program.
const agentPatience = 30 * time.Second

// connect implements [site].
func (w *workload) connect(ctx context.Context, stage func(string)) (link, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	fallback := make(chan struct{})
	var watching sync.WaitGroup
	defer func() { cancel(nil); watching.Wait() }()
	watching.Go(func() { // ends with this function
		timer := time.NewTimer(preferFirst)
		defer timer.Stop()
		for {
			select {
			case <-timer.C:
				close(fallback)
			case <-w.watch.gone:
				cancel(w.watch.why)
				return
			case <-ctx.Done():
				return
			}
		}
	})
	var silent time.Time // since when the agent has not answered though the API server does
	l, err := connectAgent(ctx, w.cluster, w.address, fallback, func(err error) error {
		pod, looking := w.look(ctx)
		if looking != nil {
			silent = time.Time{}
			stage(fmt.Sprintf("the API server does not answer: %v", looking))
			return nil
		}
		if why := whyGone(pod, w.pod); why != nil {
			return why
		}
		if silent.IsZero() {
			silent = time.Now()
		}
		if time.Since(silent) > agentPatience {
			return &goneError{fmt.Sprintf("the agent in pod %s has not answered for %v (%v)", w.pod.Name, agentPatience, err)}
		}
		stage(fmt.Sprintf("the agent in pod %s does not answer yet", w.pod.Name))
		return nil
	})
	var gone *goneError
	if errors.As(context.Cause(ctx), &gone) {
		if err == nil {
			_ = l.client.Close()
		}
		return link{}, gone
	}
	return l, err
}

// lookPatience is how long the API server may take to tell of the pod.
const lookPatience = 3 * time.Second

// look reads the pod; nil means that there is none.
func (w *workload) look(ctx context.Context) (*corev1.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, lookPatience)
	defer cancel()
	pod, err := w.cluster.Client.CoreV1().Pods(w.cluster.Namespace).Get(ctx, w.pod.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil //nolint:nilnil // no pod is a state, not a failure
	}
	return pod, err
}

// renew implements [site]. The workload may have changed since: all is read anew.
func (w *workload) renew(ctx context.Context, stage func(string)) (link, error) {
	w.patient = true
	return persist(ctx, stage, func() (link, error) { return w.replace(ctx, stage) })
}

// replace takes away what is left of pods before, and puts another one.
func (w *workload) replace(ctx context.Context, stage func(string)) (link, error) {
	w.rest()
	if err := w.journal.refresh(ctx); err != nil {
		return link{}, err
	}
	before := w.placement
	p, err := Resolve(ctx, w.cluster, before.Target, before.Container)
	if err != nil {
		return link{}, err
	}
	w.placement = p
	if err := w.retire(ctx, stage); err != nil {
		return link{}, err
	}
	if p.revision != before.revision {
		w.events.Tell(Event{Kind: KindNote, Text: fmt.Sprintf("%s has a new pod template (revision %s): the debug pod is made of that",
			p.Target, p.revision)})
		if err := w.findCommand(ctx); err != nil {
			w.placement = before // to find it again
			return link{}, err
		}
	}
	return w.put(ctx, stage)
}

// retire takes away the pods of this replica that there are. One may still serve, if
// its agent has become the original program: then it is released first, so that
// requests find another.
func (w *workload) retire(ctx context.Context, stage func(string)) error {
	u := &undoing{journal: w.journal, cluster: w.cluster, target: w.placement.Target, progress: stage}
	for _, s := range w.journal.steps() {
		if s.Kind != stepPod || s.Replica != w.replica {
			continue
		}
		pod, err := u.pod(ctx, s.Pod)
		if err != nil {
			return err
		}
		if pod == nil {
			w.journal.forget(s.Pod)
			continue
		}
		if pod.DeletionTimestamp == nil {
			if pod.Status.Phase == corev1.PodRunning {
				if err := u.release(ctx, []step{s}); err != nil {
					return err
				}
			}
			if err := u.deletePod(ctx, pod); err != nil {
				return err
			}
		}
		if w.placement.exclusive() {
			stage("waiting for the end of pod " + pod.Name)
			if err := waitGone(ctx, w.cluster, pod); err != nil {
				return err
			}
		}
	}
	return nil
}

// loaded implements [site].
func (w *workload) loaded() { w.taking = w.beginTakeover() }

func (*workload) started(context.Context) {}

// rest ends what goes on in the background.
func (w *workload) rest() {
	if w.taking != nil {
		w.taking.end()
		w.taking = nil
	}
	if w.watch != nil {
		w.watch.end()
	}
}

// close implements [site]. The first replica's is that of all.
func (w *workload) close(ctx context.Context, leave bool, progress func(string)) error {
	w.group.endOthers(ctx, w.replica, leave)
	w.rest()
	if leave || w.replica > 0 {
		return nil
	}
	return undoOwn(ctx, w.journal, progress)
}
