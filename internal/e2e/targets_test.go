//go:build integration

package e2e

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/kubedelve/kubedelve/internal/testcluster"
)

// answer runs a command and reads its JSON.
func answer[T any](t *testing.T, k testcluster.Command, code int) (v T) {
	t.Helper()
	k.Args = append(slices.Clone(k.Args), "-o", "json")
	r := run(t, k, code)
	if err := json.Unmarshal([]byte(r.Stdout), &v); err != nil {
		t.Fatalf("kubedelve %q: %v in %s", k.Args, err, r.Stdout)
	}
	return v
}

type workload struct {
	Target, Namespace string
	Replicas, Ready   int
	Debuggable        bool
	Containers        []struct {
		Name, Image string
		Default     bool
	}
}

// targets is what kubedelve targets answers.
type targets struct {
	Namespace string
	Workloads []workload
	Nodes     []struct {
		Platform   string
		Ready      bool
		Components []struct{ Target, Version string }
	}
	Notes []string
}

// Pickers of editors find what can be debugged, with the rights that there are.
func TestIntegrationTargets(t *testing.T) {
	n := namespace(t, nil, allTiers...)
	all := answer[targets](t, n.Kubedelve("targets"), 0)
	var names []string
	for _, w := range all.Workloads {
		names = append(names, w.Target)
		if len(w.Containers) == 0 || w.Containers[0].Image == "" || !w.Debuggable || w.Namespace != n.Name || w.Ready != w.Replicas {
			t.Errorf("got %+v", w)
		}
	}
	if want := []string{"deploy/back", "deploy/front", "deploy/middle"}; !slices.Equal(names, want) || all.Namespace != n.Name || len(all.Notes) > 0 {
		t.Errorf("got %q with the notes %q, want %q", names, all.Notes, want)
	}
	if len(all.Nodes) == 0 || len(all.Nodes[0].Components) == 0 || !all.Nodes[0].Ready || !strings.HasPrefix(all.Nodes[0].Components[0].Version, "v1.") {
		t.Errorf("got the nodes %+v", all.Nodes)
	}
	if !strings.Contains(run(t, n.Kubedelve("targets"), 0).Stdout, "deploy/middle") {
		t.Error("the table does not name deploy/middle")
	}
	everywhere := answer[targets](t, testcluster.Command{Args: []string{"targets", "-A"}}, 0)
	if !slices.ContainsFunc(everywhere.Workloads, func(w workload) bool { return w.Namespace == n.Name }) {
		t.Errorf("none of the workloads everywhere is of namespace %s", n.Name)
	}
	as := developer(t, n)
	few := answer[targets](t, n.Kubedelve("targets", "--as", as), 0)
	if len(few.Workloads) != 3 || len(few.Nodes) != 0 || len(few.Notes) != 1 {
		t.Errorf("without rights on nodes: %+v", few)
	}

	namespaces := answer[struct {
		Current    string
		Namespaces []string
	}](t, n.Kubedelve("namespaces"), 0)
	if namespaces.Current != n.Name || !slices.Contains(namespaces.Namespaces, n.Name) {
		t.Errorf("got the namespaces %+v", namespaces)
	}
	if r := run(t, n.Kubedelve("namespaces", "--as", as), 1); !strings.Contains(r.Stderr, "list namespaces") {
		t.Errorf("without the right it says %q", r.Stderr)
	}
	for args, want := range map[string]string{
		"debug ": "deploy/middle\n", "doctor ": all.Nodes[0].Components[0].Target + "\t", "debug deploy/middle -c ": "app\t",
		"debug deploy/middle --program ": "./middle\t", "status -n ": n.Name + "\n", "status --context ": "\thttps://",
	} {
		offered := run(t, n.Kubedelve(append([]string{"__complete"}, strings.Split(args, " ")...)...), 0)
		if !strings.Contains(offered.Stdout, want) {
			t.Errorf("after %q a shell offers %q, without %q", args, offered.Stdout, want)
		}
	}
}

// diagnosis is what kubedelve doctor answers.
type diagnosis struct {
	OK     bool
	Checks []struct {
		Name, Text string
		OK         bool
		Missing    []string
	}
}

// missing are the names of the checks that are not as they have to be.
func (d diagnosis) missing() (names []string) {
	for _, c := range d.Checks {
		if !c.OK {
			names = append(names, c.Name+": "+c.Text)
		}
	}
	return names
}

// Doctor tells what is missing before a session, and changes nothing.
func TestIntegrationDoctor(t *testing.T) {
	n := namespace(t, nil, allTiers...)
	as := developer(t, n, "create pods", "update secrets")
	check := unchanged(t, n)
	fine := answer[diagnosis](t, n.Kubedelve("doctor", "deploy/middle", "--program", "./middle"), 0)
	var looked []string
	for _, c := range fine.Checks {
		looked = append(looked, c.Name)
	}
	if want := []string{"go", "cluster", "target", "command", "replicas", "rights", "session", "admission", "program"}; !fine.OK || !slices.Equal(slices.Compact(looked), want) {
		t.Errorf("it looked at %q, want %q: %q", looked, want, fine.missing())
	}
	few := answer[diagnosis](t, n.Kubedelve("doctor", "deploy/middle", "--as", as), 1)
	for _, c := range few.Checks {
		if (c.Name == "rights") == c.OK || c.Name == "rights" && !slices.Equal(c.Missing, []string{"create pods", "update secrets"}) {
			t.Errorf("without two rights: %+v", c)
		}
	}
	for _, test := range []struct {
		args []string
		want string // the only thing that is missing
	}{
		{[]string{"deploy/muddle"}, "target: there is no deployment"},
		{[]string{"deploy/middle", "-c", "sidecar"}, "target: deploy/middle has no container"},
		{[]string{"deploy/middle", "--replicas", "9"}, "replicas: "},
		{[]string{"deploy/middle", "--program", "./nothing"}, "program: --program: there is no"},
		{[]string{"node/nowhere:kubelet"}, "target: there is no node"},
	} {
		got := answer[diagnosis](t, n.Kubedelve(append([]string{"doctor"}, test.args...)...), 1).missing()
		if len(got) != 1 || !strings.HasPrefix(got[0], test.want) {
			t.Errorf("doctor %q finds %q, want %q", test.args, got, test.want)
		}
	}
	if r := run(t, n.Kubedelve("doctor", "deploy/middle", "-c", "sidecar"), 1); !strings.Contains(r.Stdout, "MISSING  target") || !strings.Contains(r.Stderr, "would not begin") {
		t.Errorf("in words it says %q and %q", r.Stdout, r.Stderr)
	}
	check(t)

	p, _ := debugMiddle(t, n)
	taken := answer[diagnosis](t, n.Kubedelve("doctor", "deploy/middle"), 1).missing()
	if len(taken) != 1 || !strings.HasPrefix(taken[0], "session: ") {
		t.Errorf("of a target that is debugged it finds %q", taken)
	}
	end(t, p)
}

// What policies of the cluster would refuse is told before a session.
func TestIntegrationDoctorAsksForAdmission(t *testing.T) {
	n := namespace(t, nil, "middle")
	fill(t, n)
	got := answer[diagnosis](t, n.Kubedelve("doctor", "deploy/middle"), 1).missing()
	if len(got) != 1 || !strings.HasPrefix(got[0], "admission: ") || !strings.Contains(got[0], "exceeded quota") {
		t.Errorf("with a quota that is used up it finds %q", got)
	}
}
