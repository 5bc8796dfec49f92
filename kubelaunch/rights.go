package kubelaunch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// right is one verb on one resource, as an RBAC rule would say it.
type right struct{ verb, group, resource string }

func (r right) String() string {
	if r.group != "" {
		return r.verb + " " + r.resource + "." + r.group
	}
	return r.verb + " " + r.resource
}

// deploymentRights are what a session takes of a Deployment itself.
func deploymentRights(scale bool) []right {
	rights := []right{{"get", "apps", "deployments"}, {"list", "apps", "replicasets"}, {"get", "apps", "replicasets"}}
	if scale {
		rights = append(rights, right{"get", "apps", "deployments/scale"}, right{"update", "apps", "deployments/scale"})
	}
	return rights
}

// podRights are what a session on a pod takes, beside those to the workload. The Role in
// docs/rbac.md is the same list.
func podRights(peek bool) []right {
	rights := []right{
		{"get", "", "pods"}, {"list", "", "pods"}, {"watch", "", "pods"},
		{"create", "", "pods"}, {"patch", "", "pods"}, {"delete", "", "pods"},
		{"create", "", "secrets"}, {"get", "", "secrets"}, {"list", "", "secrets"}, {"update", "", "secrets"}, {"delete", "", "secrets"},
	}
	if peek {
		rights = append(rights, right{"patch", "", "pods/ephemeralcontainers"})
	}
	return rights
}

// tunnelRights are the ways to the agent: one of them is enough.
func tunnelRights() []right {
	return []right{{"get", "", "pods/proxy"}, {"create", "", "pods/exec"}}
}

// checkRights asks the API server for each right, those to the workload first, and answers a [*RightsError]
// with all that are missing.
func checkRights(ctx context.Context, c *Cluster, workload []right, peek bool) error {
	needed := append(slices.Clone(workload), podRights(peek)...)
	all := append(slices.Clone(needed), tunnelRights()...)
	allowed := make([]bool, len(all))
	errs := make([]error, len(all))
	var reviews sync.WaitGroup
	for i, r := range all {
		reviews.Go(func() { // one request
			allowed[i], errs[i] = may(ctx, c, r)
		})
	}
	reviews.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	var missing []string
	for i, r := range needed {
		if !allowed[i] {
			missing = append(missing, r.String())
		}
	}
	if ways := allowed[len(needed):]; !slices.Contains(ways, true) {
		var names []string
		for _, r := range tunnelRights() {
			names = append(names, r.String())
		}
		missing = append(missing, strings.Join(names, " or "))
	}
	if len(missing) > 0 {
		return &RightsError{Namespace: c.Namespace, Missing: missing}
	}
	return nil
}

// nodeRights are what a session on a node's service takes, in all namespaces: it makes
// one of its own.
func nodeRights() []right {
	return []right{
		{"get", "", "nodes"}, {"create", "", "namespaces"}, {"get", "", "namespaces"}, {"delete", "", "namespaces"},
		{"create", "", "secrets"}, {"get", "", "secrets"}, {"update", "", "secrets"}, {"delete", "", "secrets"},
		{"create", "", "pods"}, {"get", "", "pods"}, {"list", "", "pods"}, {"watch", "", "pods"}, {"delete", "", "pods"},
		{"get", "", "pods/proxy"}, {"get", "coordination.k8s.io", "leases"}, {"patch", "coordination.k8s.io", "leases"},
	}
}

// checkNodeRights answers a [*RightsError] with all rights that are missing.
func checkNodeRights(ctx context.Context, c *Cluster) error {
	everywhere := *c
	everywhere.Namespace = ""
	missing, err := missingRights(ctx, &everywhere, nodeRights())
	if err != nil || len(missing) == 0 {
		return err
	}
	return &RightsError{Missing: missing}
}

func missingRights(ctx context.Context, c *Cluster, needed []right) (missing []string, err error) {
	allowed := make([]bool, len(needed))
	errs := make([]error, len(needed))
	var reviews sync.WaitGroup
	for i, r := range needed {
		reviews.Go(func() { // one request
			allowed[i], errs[i] = may(ctx, c, r)
		})
	}
	reviews.Wait()
	for i, r := range needed {
		if !allowed[i] {
			missing = append(missing, r.String())
		}
	}
	return missing, errors.Join(errs...)
}

func may(ctx context.Context, c *Cluster, r right) (bool, error) {
	resource, sub, _ := strings.Cut(r.resource, "/")
	review, err := c.Client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: c.Namespace, Verb: r.verb, Group: r.group, Resource: resource, Subresource: sub,
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("checking whether you may %s: %w", r, err)
	}
	return review.Status.Allowed, nil
}
