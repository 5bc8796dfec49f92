package kubelaunch

import (
	"slices"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/utils/ptr"
)

func leaderLease(holder string, renewed time.Time) *coordinationv1.Lease {
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-scheduler", ResourceVersion: "1"},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity: ptr.To(holder), LeaseDurationSeconds: ptr.To[int32](15), RenewTime: &metav1.MicroTime{Time: renewed},
		},
	}
}

// schedulerOn is a node's scheduler, whose host is not called as the node is.
var schedulerOn = Target{Kind: KindNode, Name: "n1.example", Service: "kube-scheduler.service"}

func TestLeaseOf(t *testing.T) {
	for _, test := range []struct{ service, host, want string }{
		{"kubelet", "n1", "kube-node-lease/n1.example"},
		{"kubelet.service", "", "kube-node-lease/n1.example"},
		{"kube-controller-manager", "n1", "kube-system/kube-controller-manager"},
		{"kube-scheduler", "n1", "kube-system/kube-scheduler"},
		{"kube-scheduler", "", ""}, // an agent that does not tell
		{"containerd", "n1", ""},
	} {
		own, has := leaseOf(Target{Kind: KindNode, Name: "n1.example", Service: test.service}, test.host)
		got := ""
		if has {
			got = own.namespace + "/" + own.name
		}
		if got != test.want {
			t.Errorf("%s on %q: %s, want %s", test.service, test.host, got, test.want)
		}
	}
}

// A leader's Lease is renewed for the leader only, and not beyond the limit.
func TestLeaderLeaseHold(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	const limit = 20 * time.Second
	own, _ := leaseOf(schedulerOn, "host")
	s := leaseState{ownLease: own}
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	renewed := at(0)
	for _, step := range []struct {
		seconds int
		holder  string
		renews  bool
		want    leaseAction
	}{
		{0, "host_1", true, leaseFine},
		{4, "host_1", false, leaseFine},
		{5, "host_1", false, leaseRenew},
		{9, "host_1", false, leaseRenew},
		{10, "other_1", false, leaseLost},
		{19, "other_1", false, leaseFine},
		{20, "hostess_1", false, leaseFine},
		{30, "", false, leaseFine},
		{31, "host_2", true, leaseFine},
		{36, "host_2", false, leaseRenew},
		{56, "host_2", false, leaseOver},
		{57, "host_2", false, leaseFine},
		{90, "host_2", false, leaseFine},
		{91, "host_2", true, leaseBack},
	} {
		if step.renews {
			renewed = at(step.seconds)
		}
		got := s.check(leaderLease(step.holder, renewed), at(step.seconds), limit)
		if got != step.want {
			t.Fatalf("after %d s: %v, want %v", step.seconds, got, step.want)
		}
		if got == leaseRenew {
			renewed = at(step.seconds)
			s.renewed(renewed, renewed)
		}
	}
}

func TestLeaderLeaseIsReleased(t *testing.T) {
	for _, test := range []struct{ name, holder, want string }{
		{"the component's", "host_1", ""},
		{"another host's", "other_1", "other_1"},
		{"a host's whose name begins so", "host1_1", "host1_1"},
		{"nobody's", "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := &Cluster{Client: fake.NewClientset(leaderLease(test.holder, time.Now()))}
			h := holdLease(t.Context(), c, schedulerOn, "host", time.Hour, newFeed(), nil, nil)
			defer h.end()
			h.release(t.Context())
			lease, err := c.Client.CoordinationV1().Leases("kube-system").Get(t.Context(), "kube-scheduler", metav1.GetOptions{})
			if err != nil || *lease.Spec.HolderIdentity != test.want {
				t.Errorf("the holder is %q, %v, want %q", *lease.Spec.HolderIdentity, err, test.want)
			}
		})
	}
}

// What stands in a Lease for the duration that a leader is told is 15 s.
func TestLeaderLeaseDuration(t *testing.T) {
	spec := resourcelock.LeaderElectionRecordToLeaseSpec(&resourcelock.LeaderElectionRecord{LeaseDurationSeconds: int(leaderDuration / time.Second)})
	if *spec.LeaseDurationSeconds != 15 {
		t.Errorf("it is %d s", *spec.LeaseDurationSeconds)
	}
	args := leaderArgs(schedulerOn, 30*time.Minute)
	want := []string{"--leader-elect-renew-deadline=35m0s", "--leader-elect-lease-duration=1193046h28m31s"}
	if !slices.Equal(args, want) {
		t.Errorf("the arguments are %q, not %q", args, want)
	}
	if args := leaderArgs(Target{Kind: KindNode, Name: "n1", Service: "kubelet"}, time.Hour); args != nil {
		t.Errorf("a kubelet gets %q", args)
	}
}

func TestUnreadyNode(t *testing.T) {
	for _, test := range []struct {
		condition corev1.NodeCondition
		why       string
		is        bool
	}{
		{corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Message: "kubelet is posting ready status"}, "kubelet is posting ready status", false},
		{corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionFalse, Reason: "KubeletNotReady", Message: "no runtime"}, "no runtime", true},
		{corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionFalse, Reason: "KubeletNotReady"}, "KubeletNotReady", true},
		{corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionUnknown, Message: "Kubelet stopped posting node status."}, "Kubelet stopped posting node status.", false},
		{corev1.NodeCondition{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse}, "", false},
	} {
		node := &corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{test.condition}}}
		if why, is := unready(node); why != test.why || is != test.is {
			t.Errorf("%+v: %q, %v", test.condition, why, is)
		}
	}
}

// The Lease of a node has one holder for ever.
func TestNodeLeaseIsNotReleased(t *testing.T) {
	lease := leaderLease("n1.example", time.Now())
	lease.Namespace, lease.Name = "kube-node-lease", "n1.example"
	c := &Cluster{Client: fake.NewClientset(lease)}
	h := holdLease(t.Context(), c, Target{Kind: KindNode, Name: "n1.example", Service: "kubelet"}, "n1.example", time.Hour, newFeed(), nil, nil)
	defer h.end()
	h.release(t.Context())
	now, err := c.Client.CoordinationV1().Leases(lease.Namespace).Get(t.Context(), lease.Name, metav1.GetOptions{})
	if err != nil || *now.Spec.HolderIdentity != "n1.example" {
		t.Errorf("the holder is %q, %v", *now.Spec.HolderIdentity, err)
	}
}
