// Package kubeapi asks an API server the few things that starting and checking a
// test cluster needs. It knows the form of a kubeconfig as kubeadm writes it, and
// nothing of Kubernetes' types beyond the fields read here: the client library is
// ten times the rest of this program.
package kubeapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// A Client talks to one API server as the administrator.
type Client struct {
	server string
	http   *http.Client
}

type kubeconfig struct {
	Clusters []struct {
		Cluster struct {
			Server string `json:"server"`
			CA     []byte `json:"certificate-authority-data"`
		} `json:"cluster"`
	} `json:"clusters"`
	Users []struct {
		User struct {
			Cert []byte `json:"client-certificate-data"`
			Key  []byte `json:"client-key-data"`
		} `json:"user"`
	} `json:"users"`
}

// Load makes a client from a kubeconfig with one cluster and one user.
func Load(path string) (*Client, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var k kubeconfig
	if err := yaml.Unmarshal(data, &k); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if len(k.Clusters) != 1 || len(k.Users) != 1 {
		return nil, fmt.Errorf("reading %s: %d clusters and %d users instead of one each", path, len(k.Clusters), len(k.Users))
	}
	cert, err := tls.X509KeyPair(k.Users[0].User.Cert, k.Users[0].User.Key)
	if err != nil {
		return nil, fmt.Errorf("reading the client certificate in %s: %w", path, err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(k.Clusters[0].Cluster.CA) {
		return nil, fmt.Errorf("no certificate authority in %s", path)
	}
	return &Client{
		server: strings.TrimSuffix(k.Clusters[0].Cluster.Server, "/"),
		http: &http.Client{
			Timeout: 10 * time.Second,
			// Never through a proxy of the environment: the server is on this machine.
			Transport: &http.Transport{
				TLSClientConfig:   &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
				ForceAttemptHTTP2: true,
			},
		},
	}, nil
}

// Close drops the connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// A StatusError is an answer other than 2xx.
type StatusError struct {
	Method string
	Path   string
	Code   int
	Body   string
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s %s: %s: %s", e.Method, e.Path, http.StatusText(e.Code), strings.TrimSpace(e.Body))
}

// Do sends a request with a JSON body (nil for none) and decodes the answer into
// into (nil to drop it).
func (c *Client) Do(ctx context.Context, method, path string, body, into any) error {
	var reader io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		reader = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.server+path, reader)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return &StatusError{Method: method, Path: path, Code: resp.StatusCode, Body: string(answer)}
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer, into)
}

func (c *Client) get(ctx context.Context, path string, into any) error {
	return c.Do(ctx, http.MethodGet, path, nil, into)
}

// Ready returns nil when the API server says that it is ready.
func (c *Client) Ready(ctx context.Context) error { return c.get(ctx, "/readyz", nil) }

type condition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Message string `json:"message"`
}

func met(conditions []condition, kind string) error {
	for _, c := range conditions {
		if c.Type == kind {
			if c.Status == "True" {
				return nil
			}
			return fmt.Errorf("%s is %s: %s", kind, c.Status, c.Message)
		}
	}
	return fmt.Errorf("no condition %s yet", kind)
}

// NodeReady returns nil when the node's condition Ready is true.
func (c *Client) NodeReady(ctx context.Context, name string) error {
	var node struct {
		Status struct {
			Conditions []condition `json:"conditions"`
		} `json:"status"`
	}
	if err := c.get(ctx, "/api/v1/nodes/"+name, &node); err != nil {
		return err
	}
	return met(node.Status.Conditions, "Ready")
}

// NodeExists returns nil when the kubelet has registered its node.
func (c *Client) NodeExists(ctx context.Context, name string) error {
	return c.get(ctx, "/api/v1/nodes/"+name, nil)
}

// DeploymentAvailable returns nil when enough replicas are ready.
func (c *Client) DeploymentAvailable(ctx context.Context, namespace, name string) error {
	var d struct {
		Status struct {
			Conditions []condition `json:"conditions"`
		} `json:"status"`
	}
	if err := c.get(ctx, "/apis/apps/v1/namespaces/"+namespace+"/deployments/"+name, &d); err != nil {
		return err
	}
	return met(d.Status.Conditions, "Available")
}

// DaemonSetReady returns nil when a pod of the set is ready on every node.
func (c *Client) DaemonSetReady(ctx context.Context, namespace, name string) error {
	var d struct {
		Status struct {
			Desired int `json:"desiredNumberScheduled"`
			Ready   int `json:"numberReady"`
		} `json:"status"`
	}
	if err := c.get(ctx, "/apis/apps/v1/namespaces/"+namespace+"/daemonsets/"+name, &d); err != nil {
		return err
	}
	if d.Status.Desired == 0 || d.Status.Ready < d.Status.Desired {
		return fmt.Errorf("%d of %d pods of the DaemonSet %s are ready", d.Status.Ready, d.Status.Desired, name)
	}
	return nil
}

// ServiceAccountExists returns nil when pods of the namespace can be created.
func (c *Client) ServiceAccountExists(ctx context.Context, namespace, name string) error {
	return c.get(ctx, "/api/v1/namespaces/"+namespace+"/serviceaccounts/"+name, nil)
}

// Await calls check until it returns nil. When ctx ends, the error says what was
// awaited and what check said last.
func Await(ctx context.Context, what string, check func(context.Context) error) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			if cause := context.Cause(ctx); !errors.Is(cause, context.DeadlineExceeded) {
				return fmt.Errorf("waiting until %s: %w", what, cause)
			}
			return fmt.Errorf("waiting until %s: the time is up; at last: %w", what, last)
		case <-tick.C:
		}
	}
}
