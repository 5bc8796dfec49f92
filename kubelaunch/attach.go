package kubelaunch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/kubedelve/kubedelve/internal/agentapi"
	"github.com/kubedelve/kubedelve/internal/tunnel"
)

// Attachment is a way to the Delve of a session that another process keeps, here or on
// another machine: by the keys in the session's journal. It changes nothing in the
// cluster. Its methods may be called from any goroutine.
type Attachment struct {
	info     Info
	progress func(stage string)

	mu     sync.Mutex // guards all below, also while a tunnel is opened
	client *agentapi.Client
	closed bool
}

// attachPatience is how long the agent of a session that runs may take to answer.
const attachPatience = 30 * time.Second

// Attach connects to the agent of a session that [Sessions] listed. Of several replicas
// it is the first one's.
func Attach(ctx context.Context, info Info, progress func(stage string)) (*Attachment, error) {
	if progress == nil {
		progress = func(string) {}
	}
	a := &Attachment{info: info, progress: progress}
	_, err := a.tunnel(ctx)
	return a, err
}

// tunnel is the one there is, or a new one.
func (a *Attachment) tunnel(ctx context.Context) (*agentapi.Client, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil, net.ErrClosed
	}
	if a.client != nil && !closed(a.client.Done()) {
		return a.client, nil
	}
	j := a.info.journal
	if j.secret == nil {
		return nil, fmt.Errorf("the journal of session %s is lost, and with it the keys; run: kubedelve restore %s", a.info.ID, a.info.ID)
	}
	if err := j.refresh(ctx); err != nil {
		return nil, err
	}
	pods := podsOf(j.steps())
	if len(pods) == 0 {
		return nil, fmt.Errorf("session %s has no pod yet", a.info.ID)
	}
	a.progress("connecting to the agent in pod " + pods[0])
	container := j.record.Container
	if container == "" {
		container = helperPod
	}
	now := make(chan struct{})
	close(now) // the pod runs: there is nothing to wait for before another way is tried
	ctx, cancel := context.WithTimeoutCause(ctx, attachPatience, fmt.Errorf("it did not answer in %v", attachPatience))
	defer cancel()
	l, err := connectAgent(ctx, j.cluster, podAddress{
		namespace: a.info.Namespace, pod: pods[0], container: container, port: j.record.Port,
		own: j.record.Client, agentPin: j.record.Agent, client: owner(),
	}, now, func(err error) error {
		if errors.Is(err, tunnel.ErrPeer) {
			return err
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	a.client = l.client
	return l.client, nil
}

// Dial opens a connection to the Delve of the run there is. There is one at a time:
// after a second one it says [InUse].
func (a *Attachment) Dial(ctx context.Context, o DialOptions) (net.Conn, error) {
	for began := time.Now(); ; {
		conn, err := agentapi.Debug(ctx, a.tunnel, o.TakeOver)
		if err == nil {
			return conn, nil
		}
		if !InUse(err) || time.Since(began) > handover {
			return nil, err
		}
		timer := time.NewTimer(dialPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, context.Cause(ctx)
		}
	}
}

// Close ends the connection to the agent. The session goes on.
func (a *Attachment) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	if a.client == nil {
		return nil
	}
	return a.client.Close()
}
