package kubelaunch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/kubedelve/kubedelve/internal/agentapi"
	"github.com/kubedelve/kubedelve/internal/tunnel"
)

// podAddress is where an agent is.
type podAddress struct {
	namespace, pod, container string
	port                      int
	own                       tunnel.Identity
	agentPin                  string
	client                    string // who connects, for messages
}

// way is one of the ways to an agent's byte stream.
type way struct {
	name string
	dial func(context.Context, *Cluster, podAddress) (io.ReadWriteCloser, error)
}

// The ways, the fastest first (0.22 ms against 1.1 ms for a round trip, and
// pods/proxy does not run through the node's kubelet).
func ways() []way {
	return []way{{"pods/proxy", dialProxy}, {"pods/exec", dialExec}}
}

// preferFirst is how long only the fastest way is tried once the container runs:
// an agent needs a moment from its start to its port, and exec would find its
// socket earlier.
const preferFirst = 3 * time.Second

// connectAgent opens a tunnel: by the fastest way unless that is forbidden, or
// fallback was closed. It tries until ctx ends, or judge returns an error for that of a
// try.
func connectAgent(ctx context.Context, c *Cluster, a podAddress, fallback <-chan struct{}, judge func(error) error) (link, error) {
	pause := 50 * time.Millisecond
	for {
		var tried []error
		for i, w := range ways() {
			if i > 0 && !closed(fallback) && !forbidden(tried[0]) {
				break
			}
			client, err := connectBy(ctx, c, a, w)
			if err == nil {
				return link{client, w.name}, nil
			}
			tried = append(tried, fmt.Errorf("%s: %w", w.name, err))
			if errors.Is(err, tunnel.ErrPeer) {
				break // another way leads to the same agent
			}
		}
		last := errors.Join(tried...)
		if ctx.Err() == nil {
			if err := judge(last); err != nil {
				return link{}, err
			}
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return link{}, fmt.Errorf("connecting to the agent in pod %s: %w; last: %w", a.pod, context.Cause(ctx), last)
		case <-timer.C:
		}
		// Slower and slower: the workload's own init containers may take minutes.
		pause = min(pause+pause/16, time.Second)
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// forbidden tells whether an API server refused for good.
func forbidden(err error) bool {
	var refused *tunnel.RefusedError
	return errors.As(err, &refused) && (refused.Status == http.StatusForbidden || refused.Status == http.StatusUnauthorized)
}

func connectBy(ctx context.Context, c *Cluster, a podAddress, w way) (*agentapi.Client, error) {
	stream, err := w.dial(ctx, c, a)
	if err != nil {
		return nil, err
	}
	session, err := tunnel.Client(ctx, stream, a.own, a.agentPin)
	if err != nil {
		return nil, err
	}
	return agentapi.NewClient(session, a.client), nil
}

// proxyPatience is how long the API server may take to reach the pod: it waits
// 30 s for a port that a NetworkPolicy drops.
const proxyPatience = 5 * time.Second

// dialProxy asks the API server to dial the pod itself, and to pass the upgraded
// connection through (subresource pods/proxy).
func dialProxy(ctx context.Context, c *Cluster, a podAddress) (io.ReadWriteCloser, error) {
	config := rest.CopyConfig(c.Config)
	config.NextProtos = []string{"http/1.1"} // HTTP/2 has no upgrade
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	client.Timeout = 0 // it would end the tunnel
	url := c.Client.CoreV1().RESTClient().Get().Namespace(a.namespace).Resource("pods").
		Name(fmt.Sprintf("%s:%d", a.pod, a.port)).SubResource("proxy").URL().String()
	// The request's context is the connection's for as long as it lives.
	dial, cancel := context.WithCancel(context.WithoutCancel(ctx))
	patience := time.AfterFunc(proxyPatience, cancel)
	stop := context.AfterFunc(ctx, cancel)
	req, err := tunnel.RequestUpgrade(dial, url+"/")
	if err != nil {
		cancel()
		return nil, err
	}
	resp, err := client.Do(req) //nolint:bodyclose // Upgraded takes the body over
	if !patience.Stop() && err != nil {
		err = fmt.Errorf("the API server could not reach the pod in %v: %w", proxyPatience, err)
	}
	stop()
	if err != nil {
		cancel()
		return nil, err
	}
	stream, err := tunnel.Upgraded(resp)
	if err != nil {
		cancel()
		return nil, err
	}
	return &cancelledStream{stream, cancel}, nil
}

// cancelledStream ends a request's context with its stream.
type cancelledStream struct {
	io.ReadWriteCloser
	cancel context.CancelFunc
}

func (s *cancelledStream) Close() error {
	defer s.cancel()
	return s.ReadWriteCloser.Close()
}

// dialExec runs the agent's connect command in the container: slower, but nothing
// but the API server has to reach the pod.
func dialExec(ctx context.Context, c *Cluster, a podAddress) (io.ReadWriteCloser, error) {
	req := c.Client.CoreV1().RESTClient().Post().Namespace(a.namespace).Resource("pods").Name(a.pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{
			Container: a.container, Command: []string{agentPath, "connect", "--dir", agentDir},
			Stdin: true, Stdout: true, Stderr: true,
		}, scheme.ParameterCodec)
	spdy, err := remotecommand.NewSPDYExecutor(c.Config, http.MethodPost, req.URL())
	if err != nil {
		return nil, err
	}
	socket, err := remotecommand.NewWebSocketExecutor(c.Config, http.MethodGet, req.URL().String())
	if err != nil {
		return nil, err
	}
	executor, err := remotecommand.NewFallbackExecutor(socket, spdy, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
	if err != nil {
		return nil, err
	}
	stdinR, stdinW := io.Pipe()
	stdoutR, stdoutW := io.Pipe()
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stderr := &limitedText{}
	go func() { // ends with the remote command, or when the stream is closed
		err := executor.StreamWithContext(running, remotecommand.StreamOptions{Stdin: stdinR, Stdout: stdoutW, Stderr: stderr})
		if text := strings.TrimSpace(stderr.String()); text != "" {
			err = errors.Join(err, errors.New(text))
		}
		if err == nil {
			err = io.EOF
		}
		_ = stdoutW.CloseWithError(err)
		_ = stdinR.CloseWithError(err)
	}()
	stop := context.AfterFunc(ctx, cancel)
	stream, err := tunnel.UpgradeStream(&pipeStream{stdoutR, stdinW, cancel})
	if !stop() && err == nil {
		return nil, context.Cause(ctx)
	}
	return stream, err
}

// pipeStream joins the two pipes of a remote command.
type pipeStream struct {
	io.Reader
	io.WriteCloser
	cancel context.CancelFunc
}

func (s *pipeStream) Close() error {
	defer s.cancel()
	return s.WriteCloser.Close()
}

// limitedText keeps the beginning of what a remote command says on stderr.
type limitedText struct{ text []byte }

func (t *limitedText) Write(p []byte) (int, error) {
	t.text = append(t.text, p[:min(len(p), 1024-min(len(t.text), 1024))]...)
	return len(p), nil
}

func (t *limitedText) String() string { return string(t.text) }
