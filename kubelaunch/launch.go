package kubelaunch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubedelve/kubedelve/internal/agentapi"
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
	// Replicas is how many debug pods there are, each with a session of its own, see
	// [Session.Replicas]; AllReplicas: as many as the workload has. Default: 1.
	Replicas int
	// KeepReplicas leaves the other replicas running, and requests spread.
	KeepReplicas bool
	// KeepReadiness leaves the container's readiness probe on, so that a halted
	// component gets no more requests.
	KeepReadiness bool
	// Grace is how long a component may stay halted without a debugger.
	// Default: 30 s; 2 s on this machine.
	Grace time.Duration
	// TTL is how long the debug build stays without a client. Default: 10 min.
	TTL time.Duration
	// ReloadGrace is how long the component has between SIGTERM and SIGKILL when
	// another one is swapped in. Default: 500 ms.
	ReloadGrace time.Duration
	// OnExit says what happens when the component ends by itself. Default:
	// StartAgain in a workload, as the kubelet would; EndSession on this machine.
	OnExit OnExit
	// Hold is how long a Lease is renewed on behalf of a halted component, which
	// then goes on without breakpoints. Default: 30 min.
	Hold time.Duration
	// Calls says which calls are debugged of a target that [Target.IsCalls]. Default:
	// all, one at a time; of those that come beside it, see [Session.AnotherCall].
	Calls CallFilter
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
	if o.Hold <= 0 {
		o.Hold = 30 * time.Minute
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

// undoTimeout bounds an undo that nobody waits for, after Ctrl-C.
const undoTimeout = 2 * time.Minute

func secretName(t Target) string {
	name := secretPrefix + t.Kind + "-" + t.Name
	if t.Node != "" {
		name += "." + t.Node
	}
	return name
}

// Launch puts the binary in the container's place, under Delve, halted at its
// entry. If it fails or ctx ends, everything is undone before it returns. With several
// replicas it returns the session of the first, whose end is that of all.
func (p *Placement) Launch(ctx context.Context, binary Binary, o Options) (_ *Session, err error) {
	o.defaults()
	if o.OnExit == "" {
		o.OnExit = StartAgain
	}
	pods, err := p.Pods(o)
	if err != nil {
		return nil, err
	}
	first := newWorkload(p, o, pods)
	var links []link
	sites := []*workload{first}
	defer func() {
		if err == nil {
			return
		}
		for _, l := range links {
			if l.client != nil {
				_ = l.client.Close()
			}
		}
		for _, w := range sites {
			w.rest()
		}
		if first.journal != nil {
			o.Progress("undoing")
			undoCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
			defer cancel()
			if undoErr := undo(undoCtx, first.journal, func(string) {}); undoErr != nil {
				err = errors.Join(err, fmt.Errorf("undoing: %w; run: kubedelve restore -n %s %s", undoErr, p.cluster.Namespace, p.Target))
			}
		}
	}()
	if err := first.claim(ctx); err != nil {
		return nil, err
	}
	sites = first.replicas()
	links = make([]link, len(sites))
	runs := make([]runKey, len(sites))
	err = together(ctx, len(sites), func(ctx context.Context, i int) (err error) {
		w := sites[i]
		if links[i], err = w.put(ctx, w.options.Progress); err != nil {
			return err
		}
		runs[i], err = loadFirst(ctx, links[i].client, w.program(binary), binary, w.options)
		return err
	})
	if err != nil {
		return nil, err
	}
	for i, w := range sites {
		s := newSession(w.session, p.Target, w, w.events, o, links[i], runs[i], binary)
		first.group.sessions = append(first.group.sessions, s)
	}
	return first.group.sessions[0], nil
}

// loadFirst has an agent that is new load a binary.
func loadFirst(ctx context.Context, client *agentapi.Client, name string, binary Binary, o Options) (runKey, error) {
	hello, err := client.Hello(ctx)
	if err != nil {
		return runKey{}, err
	}
	file := agentapi.File{SHA256: binary.SHA256, Size: binary.Size, Name: name}
	if err := upload(ctx, client, file, binary.Path, o.Progress); err != nil {
		return runKey{}, err
	}
	o.Progress("loading " + name + " into Delve")
	started, err := client.Start(ctx, agentapi.Start{File: file, Args: o.Args, Env: o.Env, Dir: o.Dir})
	return runKey{hello.Boot, started.Run}, err
}
