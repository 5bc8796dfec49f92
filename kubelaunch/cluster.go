package kubelaunch

import (
	"fmt"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Cluster is where the targets are.
type Cluster struct {
	Client    kubernetes.Interface
	Config    *rest.Config // for connections that Client can't make
	Context   string       // the kubeconfig's context, to name it to the user; may be empty
	Namespace string       // of targets and sessions

	// beneath is set for a session on the API server or on what it needs: then it is away
	// for as long as that takes to be exchanged.
	beneath bool
}

// NewCluster makes the clients for a configuration, which it copies.
func NewCluster(config *rest.Config, context, namespace string) (*Cluster, error) {
	config = rest.CopyConfig(config)
	// The defaults of 5 requests per second are for controllers; a person waits.
	config.QPS, config.Burst = 100, 200
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	return &Cluster{Client: client, Config: config, Context: context, Namespace: namespace}, nil
}
