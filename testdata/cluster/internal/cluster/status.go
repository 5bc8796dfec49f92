package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kubedelve/kubedelve/testdata/cluster/internal/components"
	"github.com/kubedelve/kubedelve/testdata/cluster/internal/kubeapi"
	"github.com/kubedelve/kubedelve/testdata/cluster/internal/state"
)

// A Status is how a cluster is.
type Status struct {
	Name       string    `json:"name"`
	Flavour    string    `json:"flavour"`
	Phase      string    `json:"phase"`
	Healthy    bool      `json:"healthy"`
	Problem    string    `json:"problem,omitempty"`
	Kubernetes string    `json:"kubernetes"`
	Kubeconfig string    `json:"kubeconfig"`
	Server     string    `json:"server,omitempty"`
	Network    string    `json:"network,omitempty"`
	PID        int       `json:"pid,omitempty"`
	Created    time.Time `json:"created"`
}

// Status checks one cluster.
func (m *Manager) Status(ctx context.Context, name string) (Status, error) {
	if err := state.CheckName(name); err != nil {
		return Status{}, err
	}
	rec, err := m.store().Load(name)
	if err != nil {
		return Status{}, err
	}
	s := Status{
		Name:       name,
		Flavour:    rec.Flavour,
		Phase:      rec.Phase,
		Kubernetes: components.Kubernetes,
		Kubeconfig: m.Kubeconfig(name),
		Created:    rec.Created,
	}
	if rec.Index >= 0 {
		plan := planOf(rec)
		s.Network = plan.Range().String()
		s.Server = fmt.Sprintf("https://%s:6443", plan.Node())
	}
	if alive(rec) {
		s.PID = rec.Init.PID
	}
	if err := m.check(ctx, rec); err != nil {
		s.Problem = err.Error()
	} else {
		s.Healthy = true
	}
	return s, nil
}

// StatusAll checks all clusters.
func (m *Manager) StatusAll(ctx context.Context) ([]Status, error) {
	names, err := m.store().Names()
	if err != nil {
		return nil, err
	}
	list := []Status{}
	for _, n := range names {
		s, err := m.Status(ctx, n)
		if errors.Is(err, state.ErrNotExist) {
			continue // removed since it was listed
		}
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}

// check returns what is wrong with a cluster, or nil.
func (m *Manager) check(ctx context.Context, rec state.Record) error {
	switch {
	case rec.Phase == state.Creating && rec.Starter.Alive():
		return fmt.Errorf("it is being created by process %d", rec.Starter.PID)
	case rec.Phase == state.Creating:
		return errors.New("its creation was interrupted")
	case rec.Phase == state.Removing:
		return errors.New("its removal was interrupted")
	case !alive(rec):
		return errors.New("the node's PID 1 does not run any more")
	}
	api, err := kubeapi.Load(m.Kubeconfig(rec.Name))
	if err != nil {
		return err
	}
	defer api.Close()
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	if err := api.Ready(ctx); err != nil {
		return fmt.Errorf("the API server is not ready: %w", err)
	}
	if err := api.NodeReady(ctx, nodeName); err != nil {
		return fmt.Errorf("the node is not ready: %w", err)
	}
	return nil
}
