//go:build integration

package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubedelve/kubedelve/internal/editor"
)

// bridgeOnNode is where the node's container runtime finds its CNI plugins.
const bridgeOnNode = "/opt/cni/bin/bridge"

// A CNI plugin stops when it is called for one pod, and for no other; then that pod has its
// address.
func TestIntegrationNodeOneShotCNI(t *testing.T) {
	n := forCalls(t)
	onNode := func() string {
		t.Helper()
		out, err := cluster.InNode(within(t), "sh", "-c", "stat -c '%n %i %d %s %a' "+bridgeOnNode+"; grep "+bridgeOnNode+" /proc/1/mountinfo; ls -la /var/lib/kubedelve 2>&1; true")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	before := onNode()
	module := filepath.Join(cluster.Programs.Root, "testdata", "cni")
	d, adapter := callsIn(t, module, "node/node1:path:"+bridgeOnNode, "command=ADD,pod="+n.Name+"/wanted", "github.com/containernetworking/plugins/plugins/main/bridge", "")
	path := moduleFile(t, module, "github.com/containernetworking/plugins", "plugins/main/bridge/bridge.go")
	add := editor.Breakpoint{Path: path, Line: lineIn(t, path, "func cmdAdd(", "n, cniVersion, err")}
	if err := d.Mark(within(t), add); err != nil {
		t.Fatal(err)
	}
	armed(t, d)
	if err := plainPod(n, "other"); err != nil {
		t.Fatal(err)
	}
	if err := n.AwaitPodRunning(within(t), "other"); err != nil {
		t.Fatal(err, d.Output())
	}
	if err := plainPod(n, "wanted"); err != nil {
		t.Fatal(err)
	}
	stopsAt(t, d, add, "main.cmdAdd", "args")
	pod, err := n.Client.CoreV1().Pods(n.Name).Get(within(t), "wanted", metav1.GetOptions{})
	if err != nil || pod.Status.PodIP != "" {
		t.Errorf("while its network is made the pod has the address %q, %v", pod.Status.PodIP, err)
	}
	goesOn(t, d)
	if err := n.AwaitPodRunning(within(t), "wanted"); err != nil {
		t.Fatal(err, d.Output())
	}
	if _, err := d.AwaitOutput(within(t), "pod "+n.Name+"/wanted) exited with code 0"); err != nil {
		t.Error(err)
	}
	if stops := strings.Count(d.Output(), "stopped: bridge ADD (process"); stops != 1 {
		t.Errorf("%d calls were debugged:\n%s", stops, d.Output())
	}
	leave(t, d, adapter)
	if now := onNode(); now != before {
		t.Errorf("the plugin on the node:\n%s\nit was:\n%s", now, before)
	}
}
