package testcluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// DocumentedRights are those of the Role in docs/rbac.md, one rule for each right.
func (p *Programs) DocumentedRights() ([]rbacv1.PolicyRule, error) {
	path := filepath.Join(p.Root, "docs", "rbac.md")
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("the documented rights: %w", err)
	}
	_, rest, found := strings.Cut(string(text), "```yaml\n")
	source, _, closed := strings.Cut(rest, "```")
	if !found || !closed {
		return nil, fmt.Errorf("%s has no YAML", path)
	}
	var role rbacv1.Role
	if err := yaml.UnmarshalStrict([]byte(source), &role); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var single []rbacv1.PolicyRule
	for _, rule := range role.Rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					single = append(single, rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, Verbs: []string{verb}})
				}
			}
		}
	}
	return single, nil
}

// Without takes rights away: "patch pods", "get pods/proxy".
func Without(rules []rbacv1.PolicyRule, rights ...string) []rbacv1.PolicyRule {
	return slices.DeleteFunc(slices.Clone(rules), func(r rbacv1.PolicyRule) bool {
		return slices.Contains(rights, r.Verbs[0]+" "+r.Resources[0])
	})
}

// NewUser makes a user with these rights in the namespace and no others, for
// kubectl's flag --as, and waits until the API server knows.
func (n *Namespace) NewUser(ctx context.Context, name string, rules []rbacv1.PolicyRule) (as string, err error) {
	as = n.Name + ":" + name
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
	if _, err := n.Client.RbacV1().Roles(n.Name).Create(ctx, role, metav1.CreateOptions{}); err != nil {
		return "", fmt.Errorf("making a user: %w", err)
	}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: as}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
	}
	if _, err := n.Client.RbacV1().RoleBindings(n.Name).Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		return "", fmt.Errorf("making a user: %w", err)
	}
	return as, n.awaitRights(ctx, as, rules)
}

// awaitRights waits until the API server's authorizer has seen the first rule.
func (n *Namespace) awaitRights(ctx context.Context, user string, rules []rbacv1.PolicyRule) error {
	if len(rules) == 0 {
		return nil
	}
	resource, sub, _ := strings.Cut(rules[0].Resources[0], "/")
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: user,
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: n.Name, Group: rules[0].APIGroups[0], Resource: resource, Subresource: sub, Verb: rules[0].Verbs[0],
		},
	}}
	return until(ctx, "the rights of "+user, func() (bool, string, error) {
		answer, err := n.Client.AuthorizationV1().SubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
		return err == nil && answer.Status.Allowed, "refused", err
	})
}
