//go:build integration

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/kubedelve/kubedelve/internal/editor"
	"github.com/kubedelve/kubedelve/internal/testcluster"
	"github.com/kubedelve/kubedelve/internal/tunnel"
)

// listening reads what listens in the pod's network namespace off its sidecar:
// "tcp 8080" and so on.
func listening(t *testing.T, n *testcluster.Namespace, pod string) []string {
	t.Helper()
	text, err := n.GetPod(within(t), pod, 8090, "sockets")
	if err != nil {
		t.Fatal(err)
	}
	open := map[string]bool{}
	protocol := ""
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 1 { // "/proc/net/tcp6"
			protocol = strings.TrimSuffix(strings.TrimPrefix(fields[0], "/proc/net/"), "6")
			continue
		}
		// proc_net(5): sl, local address, remote address, state; 0A is LISTEN, and
		// 07 is what a socket of UDP is in that nobody has connected.
		if len(fields) < 4 || fields[3] != "0A" && fields[3] != "07" {
			continue
		}
		_, hex, _ := strings.Cut(fields[1], ":")
		port, err := strconv.ParseUint(hex, 16, 16)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		open[fmt.Sprintf("%s %d", protocol, port)] = true
	}
	return slices.Sorted(maps.Keys(open))
}

// agentConfig is what the session's Secret gives the agent.
func agentConfig(t *testing.T, n *testcluster.Namespace) (port int, own tunnel.Identity, agentPin string) {
	t.Helper()
	list, err := cluster.Client.CoreV1().Secrets(n.Name).List(within(t), metav1.ListOptions{LabelSelector: "kubedelve.dev/session"})
	if err != nil || len(list.Items) != 1 {
		t.Fatalf("there are %d journals (%v), not 1", len(list.Items), err)
	}
	var config struct {
		Listen   string          `json:"listen"`
		Identity tunnel.Identity `json:"identity"`
	}
	if err := json.Unmarshal(list.Items[0].Data["agent.json"], &config); err != nil {
		t.Fatal(err)
	}
	if port, err = strconv.Atoi(strings.TrimPrefix(config.Listen, ":")); err != nil {
		t.Fatal(err)
	}
	if agentPin, err = config.Identity.Pin(); err != nil {
		t.Fatal(err)
	}
	return port, config.Identity, agentPin
}

// dialAgent opens a byte stream to the agent's port as kubedelve does: by an
// upgraded request to the pod's proxy.
func dialAgent(ctx context.Context, n *testcluster.Namespace, pod string, port int) (io.ReadWriteCloser, error) {
	config := rest.CopyConfig(cluster.Config)
	config.NextProtos = []string{"http/1.1"}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	url := cluster.Client.CoreV1().RESTClient().Get().Namespace(n.Name).Resource("pods").
		Name(fmt.Sprintf("%s:%d", pod, port)).SubResource("proxy").URL().String()
	request, err := tunnel.RequestUpgrade(ctx, url+"/")
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	return tunnel.Upgraded(response)
}

// Nothing listens in the pod but the component and the agent's port, and that lets
// nobody in who does not hold the session's key.
func TestIntegrationAgentPort(t *testing.T) {
	n := namespace(t, withSidecar, allTiers...)
	before := snapshot(t, n, "middle")
	ctx := within(t)
	p, ready := debugMiddle(t, n, "-c", "app")
	pod := debugPod(t, n, false)
	at := breakpoint(t, "")
	d, _, err := editor.Start(ctx, dial(t, ready.Listen), "attach", attachConfig, at)
	if err != nil {
		t.Fatal(err)
	}
	buy := begin(t, n, "front", "buy", "item=tea&count=2")
	atBreakpoint(t, d, at, "tea", 2)

	port, agent, agentPin := agentConfig(t, n)
	want := []string{fmt.Sprintf("tcp %d", port), "tcp 8080", "tcp 8090"}
	slices.Sort(want)
	if got := listening(t, n, pod); !slices.Equal(got, want) {
		t.Errorf("in the pod listen %q, not %q", got, want)
	}
	_, stranger, err := tunnel.NewPair()
	if err != nil {
		t.Fatal(err)
	}
	for name, own := range map[string]tunnel.Identity{"another key": stranger, "the agent's own key": agent} {
		stream, err := dialAgent(ctx, n, pod, port)
		if err != nil {
			t.Fatal(err)
		}
		if session, err := tunnel.Client(ctx, stream, own, agentPin); !errors.Is(err, tunnel.ErrPeer) {
			t.Errorf("a client with %s is not refused: %v", name, err)
			if err == nil {
				_ = session.Close()
			}
		}
	}
	garbage(t, n, pod, port)

	if err := d.Continue(ctx); err != nil {
		t.Fatal(err)
	}
	buy.got(t, "front: 2 tea cost 12")
	if err := d.Disconnect(ctx); err != nil {
		t.Fatal(err)
	}
	hit(t, n, ready.Listen)
	end(t, p)
	restored(t, n, "middle", before)
}

// garbage is what else may come to the agent's port.
func garbage(t *testing.T, n *testcluster.Namespace, pod string, port int) {
	t.Helper()
	ctx := within(t)
	for _, path := range []string{"", "debug/pprof/", "metrics"} {
		if answer, err := n.GetPod(ctx, pod, port, path); err == nil || !strings.Contains(err.Error(), "could not find") {
			t.Errorf("GET /%s of the agent's port is answered with %q (%v), not with 404", path, answer, err)
		}
	}
	for name, bytes := range map[string]string{
		"plain HTTP":   "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"JSON-RPC":     `{"method":"RPCServer.Command","params":[{"name":"halt"}],"id":1}` + "\n",
		"DAP":          "Content-Length: 2\r\n\r\n{}",
		"zeros":        strings.Repeat("\x00", 100_000),
		"half a hello": "\x16\x03\x01\x02\x00\x01\x00",
	} {
		stream, err := dialAgent(ctx, n, pod, port)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(stream, bytes)
		if name == "half a hello" {
			_ = stream.Close() // else it would be waited for
			continue
		}
		answer, _ := io.ReadAll(stream)
		_ = stream.Close()
		// TLS says in an alert (record type 21) that it has not understood.
		if len(answer) > 0 && answer[0] != 21 || len(answer) > 100 {
			t.Errorf("%s in the tunnel is answered with %.100q", name, answer)
		}
	}
}

// developer makes a user with the documented rights but for some, for --as.
func developer(t *testing.T, n *testcluster.Namespace, without ...string) (as string) {
	t.Helper()
	rights, err := cluster.Programs.DocumentedRights()
	if err != nil {
		t.Fatal(err)
	}
	if as, err = n.NewUser(within(t), "developer", testcluster.Without(rights, without...)); err != nil {
		t.Fatal(err)
	}
	return as
}

// Where pods/proxy is forbidden, exec does.
func TestIntegrationTunnelByExec(t *testing.T) {
	n := namespace(t, nil, allTiers...)
	as := developer(t, n, "get pods/proxy")
	before := snapshot(t, n, "middle")
	p, ready := debugMiddle(t, n, "--as", as)
	if ready.Tunnel != "pods/exec" || !strings.Contains(ready.Text, "pods/exec") {
		t.Errorf("the tunnel is %q, not pods/exec: %s", ready.Tunnel, ready.Text)
	}
	hit(t, n, ready.Listen)
	end(t, p)
	restored(t, n, "middle", before)
}

// With the rights that are documented, and no others, everything works.
func TestIntegrationDocumentedRights(t *testing.T) {
	n := namespace(t, nil, allTiers...)
	as := developer(t, n)
	before := snapshot(t, n, "middle")
	p, ready := debugMiddle(t, n, "--as", as)
	if ready.Tunnel != "pods/proxy" {
		t.Errorf("the tunnel is %q, not pods/proxy", ready.Tunnel)
	}
	hit(t, n, ready.Listen)
	kill(t, p)
	run(t, n.Kubedelve("restore", "--as", as), 0)
	restored(t, n, "middle", before)
}
