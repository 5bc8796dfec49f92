package kubelaunch

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

// TestRoleInDocs checks that the Role in docs/rbac.md gives the rights that a
// session takes: no less, and no more.
func TestRoleInDocs(t *testing.T) {
	path := filepath.Join("..", "docs", "rbac.md")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "```yaml\n")
	source, _, closed := strings.Cut(rest, "```")
	if !found || !closed {
		t.Fatalf("%s has no YAML", path)
	}
	var role rbacv1.Role
	if err := yaml.UnmarshalStrict([]byte(source), &role); err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, rule := range role.Rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					got = append(got, right{verb, group, resource}.String())
				}
			}
		}
	}
	daemonSet := (&Placement{daemonSet: &appsv1.DaemonSet{}}).rights(Options{})
	for _, r := range slices.Concat(deploymentRights(true), daemonSet, podRights(true), tunnelRights()) {
		want = append(want, r.String())
	}
	// Not checked before a session, since it works without: it suggests names.
	want = append(want, right{"list", "apps", "deployments"}.String())
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the Role in %s has\n\t%s\nand a session takes\n\t%s", path, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}
