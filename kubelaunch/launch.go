package kubelaunch

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/user"
	"path"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubedelve/kubedelve/internal/agentapi"
	"github.com/kubedelve/kubedelve/internal/entrypoint"
	"github.com/kubedelve/kubedelve/internal/tunnel"
)

// Binary is the debug build.
type Binary struct {
	Path   string // local file
	SHA256 string // hexadecimal
	Size   int64  // bytes
}

// Options say how a component is run. The zero value of each field is its default.
type Options struct {
	// Args replace the component's arguments. Default: nil, those it has now.
	Args []string
	// Env is added to the component's environment, KEY=VALUE.
	Env []string
	// Dir is the working directory. Default: the container's.
	Dir string
	// Command is the container's own command line, for a workload that leaves it
	// to the image. Default: read from a pod that runs.
	Command []string
	// AgentImage brings kubedelve-agent into the pod.
	AgentImage string
	PullPolicy corev1.PullPolicy
	// KeepReplicas leaves the other replicas running, and requests spread.
	KeepReplicas bool
	// KeepReadiness leaves the container's readiness probe on, so that a halted
	// component gets no more requests.
	KeepReadiness bool
	// Grace is how long a component may stay halted without a debugger.
	// Default: 30 s.
	Grace time.Duration
	// TTL is how long the debug build stays without a client. Default: 10 min.
	TTL time.Duration
	// ReloadGrace is how long the component has between SIGTERM and SIGKILL when
	// another one is swapped in. Default: 500 ms.
	ReloadGrace time.Duration
	// OnExit says what happens when the component ends by itself. Default:
	// StartAgain in a workload, as the kubelet would; EndSession on this machine.
	OnExit OnExit
	// Progress is told what is being done. It may be called from several
	// goroutines. Default: nobody is told.
	Progress func(stage string)
	// Owner tells others whose session it is. Default: user@host.
	Owner string
}

// OnExit says what happens when a component ends by itself.
type OnExit string

// What may happen.
const (
	// StartAgain starts it again, at once and then with growing pauses.
	StartAgain OnExit = "start-again"
	// EndSession leaves it at that: Dial and Wait tell how it ended.
	EndSession OnExit = "end-session"
)

func (o *Options) defaults() {
	if o.Grace <= 0 {
		o.Grace = 30 * time.Second
	}
	if o.TTL <= 0 {
		o.TTL = 10 * time.Minute
	}
	if o.ReloadGrace <= 0 {
		o.ReloadGrace = 500 * time.Millisecond
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if o.Owner == "" {
		o.Owner = owner()
	}
}

func owner() string {
	name := "somebody"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}

// startPatience is how long the pod may take from its address to an agent that
// answers: the workload's own init containers run in between.
const startPatience = 5 * time.Minute

// undoTimeout bounds an undo that nobody waits for, after Ctrl-C.
const undoTimeout = 2 * time.Minute

// Check tells, before anything is built, what would keep [Placement.Launch] from
// its work: a [*RightsError] with all rights that are missing, a [*CommandError],
// or [ErrSession] if somebody debugs the target already.
func (p *Placement) Check(ctx context.Context, o Options) error {
	if p.Command != nil && o.Command == nil {
		if err := p.checkArguments(p.Command, o); err != nil {
			return err
		}
	}
	scale := p.exclusive() || (p.replicas() > 1 && !o.KeepReplicas)
	if err := checkRights(ctx, p.cluster, scale, p.Command == nil && o.Command == nil); err != nil {
		return err
	}
	// Only Launch decides for good whose the target is.
	name := secretName(p.Target)
	if _, err := readJournal(ctx, p.cluster, name); err != nil {
		return nil //nolint:nilerr // as a rule there is none
	}
	return sessionExists(ctx, p.cluster, name, p.Target.String())
}

func secretName(t Target) string { return secretPrefix + t.Kind + "-" + t.Name }

// Launch puts the binary in the container's place, under Delve, halted at its
// entry. If it fails or ctx ends, everything is undone before it returns.
func (p *Placement) Launch(ctx context.Context, binary Binary, o Options) (s *Session, err error) {
	o.defaults()
	l := &launch{placement: p, options: o, cluster: p.cluster}
	defer func() {
		if err == nil {
			return
		}
		s = nil
		if l.client != nil {
			_ = l.client.Close()
		}
		if l.journal != nil {
			o.Progress("undoing")
			undoCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
			defer cancel()
			if undoErr := undo(undoCtx, l.journal, func(string) {}); undoErr != nil {
				err = errors.Join(err, fmt.Errorf("undoing: %w; run: kubedelve restore -n %s %s", undoErr, p.cluster.Namespace, p.Target))
			}
		}
	}()
	if err := l.begin(ctx); err != nil {
		return nil, err
	}
	if err := l.createPod(ctx); err != nil {
		return nil, err
	}
	if err := l.connect(ctx); err != nil {
		return nil, err
	}
	file := agentapi.File{SHA256: binary.SHA256, Size: binary.Size, Name: l.programName(binary)}
	if err := l.upload(ctx, file, binary.Path); err != nil {
		return nil, err
	}
	o.Progress("loading " + file.Name + " into Delve")
	if _, err := l.client.Start(ctx, agentapi.Start{File: file, Args: o.Args, Env: o.Env, Dir: o.Dir}); err != nil {
		return nil, err
	}
	return newSession(l, binary), nil
}

// launch is one call of Launch: what its steps hand on to each other.
type launch struct {
	placement *Placement
	options   Options
	cluster   *Cluster

	command []string // the container's own command line
	address podAddress
	journal *journal
	pod     *corev1.Pod
	client  *agentapi.Client
	way     string
}

// begin claims the target.
func (l *launch) begin(ctx context.Context) error {
	p, o := l.placement, l.options
	agentID, clientID, err := tunnel.NewPair()
	if err != nil {
		return err
	}
	agentPin, err := agentID.Pin()
	if err != nil {
		return err
	}
	clientPin, err := clientID.Pin()
	if err != nil {
		return err
	}
	session, err := newID()
	if err != nil {
		return err
	}
	template := &p.deployment.Spec.Template
	port, err := freePort(template)
	if err != nil {
		return err
	}
	stop := 30 * time.Second
	if s := template.Spec.TerminationGracePeriodSeconds; s != nil {
		stop = time.Duration(*s) * time.Second
	}
	pod := podName(p.deployment.Name, session)
	o.Progress("claiming " + p.Target.String())
	l.journal, err = openJournal(ctx, l.cluster, secretName(p.Target), record{
		Version: journalVersion, Session: session, Target: p.Target.String(), UID: p.deployment.UID,
		Container: p.Container, Owner: o.Owner, Created: time.Now().UTC().Truncate(time.Second),
		Port: port, Client: clientID, Agent: agentPin,
	}, agentapi.Config{
		Session: session, Listen: fmt.Sprintf(":%d", port), Identity: agentID, ClientPin: clientPin,
		Ports: portsOf(template, p.Container),
		Grace: agentapi.Duration(o.Grace), TTL: agentapi.Duration(o.TTL),
		// The kubelet's own clock runs as well.
		Stop: agentapi.Duration(max(stop-routeDelay-2*time.Second, time.Second)), Drain: agentapi.Duration(min(routeDelay, stop/2)),
	})
	l.address = podAddress{
		namespace: l.cluster.Namespace, pod: pod, container: p.Container, port: port,
		own: clientID, agentPin: agentPin, client: o.Owner,
	}
	if err != nil {
		return err
	}
	return l.findCommand(ctx)
}

// findCommand finds the container's own command line: as the user says, as the
// template says, or as a pod that runs shows.
func (l *launch) findCommand(ctx context.Context) (err error) {
	p, o := l.placement, l.options
	switch {
	case o.Command != nil:
		l.command = literal(o.Command)
	case p.Command != nil:
		l.command = p.Command
	default:
		if l.command, err = l.peek(ctx); err != nil {
			return err
		}
		l.command = literal(l.command)
	}
	return p.checkArguments(l.command, o)
}

// checkArguments tells whether the program's arguments are known.
func (p *Placement) checkArguments(command []string, o Options) error {
	if _, ok := entrypoint.Unwrap(command); !ok && o.Args == nil {
		return &CommandError{Target: p.Target, Command: command, Reason: "which does not tell the program's arguments"}
	}
	return nil
}

// podName keeps within what a host name may be (RFC 1123), since the pod's is one.
func podName(workload, session string) string {
	const suffix = len("-kubedelve-") + 8
	return workload[:min(len(workload), 63-suffix)] + "-kubedelve-" + session
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

// createPod makes our pod and waits until it has an address.
func (l *launch) createPod(ctx context.Context) error {
	p, o := l.placement, l.options
	if p.exclusive() && p.replicas() > 0 {
		o.Progress(fmt.Sprintf("stopping %s (its pods can't run side by side)", p.Target))
		if err := scale(ctx, l.journal, p.deployment.Name, 0); err != nil {
			return err
		}
		if err := l.waitStopped(ctx); err != nil {
			return err
		}
	}
	// Written after the scaling, so that undo deletes our pod before it lets the
	// originals come back.
	if err := l.journal.add(ctx, step{Kind: stepPod, Pod: l.address.pod}); err != nil {
		return err
	}
	template := &p.deployment.Spec.Template
	pod := debugPod(template, l.cluster.Namespace, podOptions{
		name: l.address.pod, session: l.journal.record.Session, container: p.Container, secret: l.journal.secret,
		agentImage: o.AgentImage, pullPolicy: o.PullPolicy, platform: p.Platform,
		ports: portsOf(template, p.Container), command: l.command, keepReadiness: o.KeepReadiness,
	})
	o.Progress("starting pod " + pod.Name)
	created, err := l.cluster.Client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{FieldManager: fieldManager})
	if err != nil {
		return fmt.Errorf("creating the debug pod: %w", err)
	}
	l.pod = created
	return waitPod(ctx, l.cluster, created.Name, func(pod *corev1.Pod) (bool, error) {
		runs, err := containerRuns(pod, p.Container, o.AgentImage)
		return runs || pod.Status.PodIP != "", err
	})
}

// waitStopped waits until the workload's pods have ended, not only begun to.
func (l *launch) waitStopped(ctx context.Context) error {
	for i := range l.placement.pods {
		if err := waitGone(ctx, l.cluster, &l.placement.pods[i]); err != nil {
			return err
		}
	}
	return nil
}

// connect reaches the agent. It begins when the pod has an address, since the
// kubelet may tell a second later that the container runs; and it ends at once
// if the container never will.
func (l *launch) connect(ctx context.Context) (err error) {
	l.options.Progress("connecting to the agent")
	ctx, cancel := context.WithTimeoutCause(ctx, startPatience, fmt.Errorf("it did not answer in %v", startPatience))
	defer cancel()
	dialing, stop := context.WithCancelCause(ctx)
	fallback := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() { // ends a while after the container runs, or with dialing
		err := waitPod(dialing, l.cluster, l.pod.Name, func(pod *corev1.Pod) (bool, error) {
			return containerRuns(pod, l.placement.Container, l.options.AgentImage)
		})
		if err != nil {
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
	l.client, l.way, err = connectAgent(dialing, l.cluster, l.address, fallback)
	hopeless := context.Cause(dialing)
	stop(nil)
	watch.Wait()
	var pod *PodError
	if errors.As(hopeless, &pod) {
		return pod
	}
	if err != nil {
		return err
	}
	hello, err := l.client.Hello(ctx)
	if err != nil {
		return err
	}
	if want := l.placement.Platform; want.Arch != "" && want.Arch != hello.Arch {
		return fmt.Errorf("the pod runs on %s/%s, but the build is for %s", hello.OS, hello.Arch, want)
	}
	return nil
}

func (l *launch) upload(ctx context.Context, file agentapi.File, local string) error {
	l.options.Progress(fmt.Sprintf("uploading %s (%.1f MB)", file.Name, float64(file.Size)/1e6))
	f, err := os.Open(local)
	if err != nil {
		return fmt.Errorf("uploading the binary: %w", err)
	}
	defer func() { _ = f.Close() }()
	_, err = l.client.Put(ctx, file, f)
	return err
}

// programName is the original's, so that ps shows what it always shows.
func (l *launch) programName(b Binary) string {
	if program, ok := entrypoint.Unwrap(l.command); ok {
		return path.Base(program[0])
	}
	return path.Base(b.Path)
}
