//go:build integration

package e2e

import (
	"strings"
	"testing"

	"github.com/kubedelve/kubedelve/internal/editor"
	"github.com/kubedelve/kubedelve/internal/testcluster"
)

// shimsOnNode are the programs that shims run, with the folder of a session if it is there.
const shimsOnNode = `for p in $(pgrep -f "containerd-shim-runc-v2.* -id "); do readlink /proc/$p/exe; done | sort -u; grep containerd-shim /proc/1/mountinfo; ls -la /var/lib/kubedelve 2>&1; true`

// The shim of one pod is debugged, which another shim has started as itself. It serves its pod
// also when the session is over; the shims of other pods are originals, now and then.
func TestIntegrationNodeOneShotShim(t *testing.T) {
	n := forCalls(t)
	shims := func() string {
		t.Helper()
		out, err := cluster.InNode(within(t), "sh", "-c", shimsOnNode)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	before := shims()
	source, err := cluster.ContainerdSource(withinBuild(t))
	if err != nil {
		t.Fatal(err)
	}
	const program = "./cmd/containerd-shim-runc-v2"
	if err := testcluster.CompileContainerd(forCompiling(t), source, program); err != nil {
		t.Fatal(err)
	}
	config := callsConfig(source, "node/node1:containerd-shim-runc-v2", "command=serve,pod="+n.Name+"/wanted", program, "")
	config["build"] = map[string]any{"dir": source, "tags": testcluster.ContainerdTags}
	d, adapter := callsBy(t, testcluster.Command{Dir: source, Env: testcluster.ContainerdEnv}, startAlone, config)
	path, err := testcluster.ShimSource(source)
	if err != nil {
		t.Fatal(err)
	}
	create := editor.Breakpoint{Path: path, Line: lineIn(t, path, ") Create(ctx ", "s.mu.Lock()")}
	if err := d.Mark(within(t), create); err != nil {
		t.Fatal(err)
	}
	armed(t, d)
	for _, pod := range []string{"other", "wanted"} {
		createPod(t, n, shellPod(t, n, pod))
		if pod == "wanted" {
			for range 2 { // the pod's sandbox, and its container
				stopsAt(t, d, create, "service).Create", "r")
				goesOn(t, d)
			}
		}
		if err := n.AwaitPodRunning(within(t), pod); err != nil {
			t.Fatal(err, d.Output())
		}
	}
	if now := shims(); strings.Count("\n"+now, "\n/var/lib/kubedelve/") != 1 || strings.Contains(now, "/calls/original/") {
		t.Errorf("it is not one shim that runs a debug build, and all others the original:\n%s", now)
	}
	leave(t, d, adapter)
	if out, code, err := inPod(within(t), n, "wanted", "/bin/sh", "-c", "echo said; exit 42"); err != nil || code != 42 || out != "said\n" {
		t.Errorf("a command in the pod, of the shim that was debugged, said %q and ended with %d, %v", out, code, err)
	}
	if err := n.DeletePod(within(t), "wanted"); err != nil {
		t.Fatal(err)
	}
	if now := shims(); now != before {
		t.Errorf("shims on the node:\n%s\nthey were:\n%s", now, before)
	}
}
