package testcluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Gate stands between kubedelve and the API server and counts what is changed: each
// request that is neither a question nor a connection.
type Gate struct {
	Kubeconfig string // leads through the gate

	server *http.Server
	served sync.WaitGroup
	conns  connections

	mu      sync.Mutex // guards all below
	writes  []string
	after   int
	reached func()
}

// NewGate opens a gate. After the write with the number (from 1), when the API
// server has done it and before kubedelve has the answer, reached is called once;
// the answer, and whatever comes after, gets lost. The number 0 counts only.
func (c *Cluster) NewGate(ctx context.Context, dir string, after int, reached func()) (*Gate, error) {
	target, err := url.Parse(c.Config.Host)
	if err != nil {
		return nil, fmt.Errorf("the cluster's address: %w", err)
	}
	config := rest.CopyConfig(c.Config)
	config.NextProtos = []string{"http/1.1"} // upgrades pass through
	transport, err := rest.TransportFor(config)
	if err != nil {
		return nil, fmt.Errorf("connecting to the cluster: %w", err)
	}
	g := &Gate{after: after, reached: reached, Kubeconfig: filepath.Join(dir, "kubeconfig")}
	forward := &httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = target.Host },
		Transport:      transport,
		FlushInterval:  -1, // watches
		ModifyResponse: g.count,
		// A client that is killed leaves in the middle: that is what this is for.
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("a gate to the cluster: %w", err)
	}
	g.server = &http.Server{Handler: forward, ReadHeaderTimeout: requestLimit}
	g.conns.Listener = listener
	g.served.Go(func() { _ = g.server.Serve(&g.conns) }) // ends with Close
	err = os.MkdirAll(dir, 0o700)
	if err == nil {
		err = c.WriteKubeconfig(g.Kubeconfig, "http://"+listener.Addr().String())
	}
	if err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// WriteKubeconfig writes a kubeconfig without credentials for a server.
func (c *Cluster) WriteKubeconfig(path, server string) error {
	file := clientcmdapi.NewConfig()
	file.Clusters["gate"] = &clientcmdapi.Cluster{Server: server}
	file.Contexts["gate"] = &clientcmdapi.Context{Cluster: "gate"}
	file.CurrentContext = "gate"
	if err := clientcmd.WriteToFile(*file, path); err != nil {
		return fmt.Errorf("writing a kubeconfig: %w", err)
	}
	return nil
}

// errShut is what a gate answers after the write that it was opened for.
var errShut = errors.New("the gate is shut")

func (g *Gate) count(resp *http.Response) error {
	request := resp.Request
	g.mu.Lock()
	shut := g.after > 0 && len(g.writes) >= g.after
	write := request.Method != http.MethodGet && !strings.Contains(request.URL.Path, "/apis/authorization.k8s.io/") &&
		!strings.HasSuffix(request.URL.Path, "/exec") && resp.StatusCode < http.StatusBadRequest
	call := false
	if write && !shut {
		g.writes = append(g.writes, request.Method+" "+request.URL.Path)
		call = len(g.writes) == g.after
		shut = call
	}
	g.mu.Unlock()
	if call {
		g.reached()
	}
	if shut {
		_ = resp.Body.Close()
		return errShut
	}
	return nil
}

// connections are those that a listener has accepted, also those that became tunnels.
type connections struct {
	net.Listener

	mu   sync.Mutex // guards open
	open map[net.Conn]struct{}
}

// Accept implements [net.Listener].
func (c *connections) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open = map[net.Conn]struct{}{}
	}
	tracked := &connection{Conn: conn, of: c}
	c.open[tracked] = struct{}{}
	return tracked, nil
}

// connection is one of them until it is closed.
type connection struct {
	net.Conn
	of *connections
}

// Close implements [net.Conn].
func (c *connection) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// Cut ends all connections through the gate, and says how many. New ones are let
// through.
func (g *Gate) Cut() int {
	g.conns.mu.Lock()
	open := slices.Collect(maps.Keys(g.conns.open))
	g.conns.mu.Unlock()
	for _, c := range open {
		_ = c.Close()
	}
	return len(open)
}

// Writes are those so far.
func (g *Gate) Writes() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]string(nil), g.writes...)
}

// Close shuts the gate for good.
func (g *Gate) Close() error {
	err := g.server.Close()
	g.served.Wait()
	return err
}
