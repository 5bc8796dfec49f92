package kubelaunch

import (
	"slices"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/kubernetes/fake"
)

func TestNodeNamespace(t *testing.T) {
	seen := map[string]bool{}
	for _, target := range []Target{
		{Kind: KindNode, Name: "n1", Service: "kubelet"},
		{Kind: KindNode, Name: "n1", Service: "containerd"},
		{Kind: KindNode, Name: "n1-kubelet", Service: "x"},
		{Kind: KindNode, Name: strings.Repeat("long.name", 28), Service: "kubelet.service"},
		{Kind: KindNode, Name: "n", Service: "@_x"},
	} {
		name := nodeNamespace(target)
		if problems := validation.IsDNS1123Label(name); len(problems) > 0 || seen[name] {
			t.Errorf("%s: %s: %v, seen: %v", target, name, problems, seen[name])
		}
		seen[name] = true
	}
}

func TestNodeLDFlags(t *testing.T) {
	node := &corev1.Node{Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{KubeletVersion: "v1.37.2-gke.100"}}}
	c := &Cluster{Client: fake.NewClientset()}
	p := &NodePlacement{Target: Target{Kind: KindNode, Name: "n1", Service: "kubelet.service"}}
	p.version = versionOf(t.Context(), c, p.Target, node)
	flags := strings.Split(p.LDFlags(), "-X ")
	for _, want := range []string{"version.gitVersion=v1.37.2-gke.100 ", "version.gitMajor=1 ", "version.gitMinor=37"} {
		if !slices.ContainsFunc(flags, func(f string) bool {
			return strings.HasSuffix(strings.TrimSuffix(f, " ")+" ", strings.TrimSuffix(want, " ")+" ")
		}) {
			t.Errorf("%q lacks %q", flags, want)
		}
	}
	if p.version = versionOf(t.Context(), c, Target{Service: "containerd"}, node); p.LDFlags() != "" {
		t.Errorf("containerd gets %q", p.LDFlags())
	}
}

// A static pod's version is its image's tag, and else the API server's.
func TestVersionOfAStaticPod(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	for _, test := range []struct{ name, image, want string }{
		{"a tag", "registry:5000/kube-scheduler:v1.36.1", "v1.36.1"},
		{"a tag and a digest", "registry/kube-scheduler:v1.36.1-x.0@sha256:00", "v1.36.1-x.0"},
		{"no version", "registry:5000/kube-scheduler:latest", "v0.0.0-master+$Format:%H$"}, // what the fake says
		{"no tag", "kube-scheduler", "v0.0.0-master+$Format:%H$"},
	} {
		c := &Cluster{Client: fake.NewClientset(&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-scheduler-n1"},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Image: test.image}}},
		})}
		if got := versionOf(t.Context(), c, Target{Kind: KindNode, Name: "n1", Service: "kube-scheduler"}, node); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

// A Lease is renewed for its holder when that has stopped to, until it does so again
// or the limit is reached.
func TestLeaseHold(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	const limit = 40 * time.Second
	lease, _ := leaseOf(Target{Kind: KindNode, Name: "n1", Service: "kubelet"}, "host")
	s := leaseState{ownLease: lease}
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	// The node's clock is an hour ahead.
	renewal := func(seconds int) *coordinationv1.Lease {
		return &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: at(seconds + 3600)}}}
	}
	if got := s.check(&coordinationv1.Lease{}, at(0), limit); got != leaseFine {
		t.Errorf("a Lease that was never renewed: %v", got)
	}
	now := renewal(0)
	for _, step := range []struct {
		seconds int
		lease   *coordinationv1.Lease // nil: as it was
		want    leaseAction
	}{
		{0, nil, leaseFine},
		{10, renewal(10), leaseFine},
		{20, renewal(20), leaseFine},
		{30, nil, leaseFine},
		{32, nil, leaseRenew}, // written: 32
		{40, nil, leaseFine},
		{42, nil, leaseRenew},
		{52, nil, leaseRenew},
		{62, nil, leaseRenew},
		{70, nil, leaseFine},
		{72, nil, leaseOver}, // 40 s since the first
		{74, nil, leaseRenew},
		{80, renewal(80), leaseBack},
		{90, renewal(90), leaseFine},
		{102, nil, leaseRenew}, // it begins anew
	} {
		if step.lease != nil {
			now = step.lease
		}
		got := s.check(now, at(step.seconds), limit)
		if got != step.want {
			t.Fatalf("after %d s: %v, want %v", step.seconds, got, step.want)
		}
		if got == leaseRenew {
			next := now.Spec.RenewTime.Add(at(step.seconds).Sub(s.changed))
			if !next.After(now.Spec.RenewTime.Time) {
				t.Errorf("after %d s: %v is not later than %v", step.seconds, next, now.Spec.RenewTime)
			}
			s.renewed(next, at(step.seconds))
			now = &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: next}}}
		}
	}
}

func TestParseNodeVia(t *testing.T) {
	for text, want := range map[string]NodeVia{
		"": {}, "api": {}, "direct": {dials: true}, "ssh:root@n1": {ssh: "root@n1"}, "ssh:alias": {ssh: "alias"},
	} {
		if got, err := ParseNodeVia(text); err != nil || got != want {
			t.Errorf("%q is %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"ssh:", "ssh:-oProxyCommand=x", "ssh", "http://n1", "n1"} {
		if got, err := ParseNodeVia(text); err == nil {
			t.Errorf("%q is %+v", text, got)
		}
	}
}
