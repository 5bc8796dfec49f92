//go:build integration && vscode

package e2e

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kubedelve/kubedelve/internal/testcluster"
)

// The extension of VS Code, in a real workbench in a browser: editors/vscode/test drives
// it, and this test is what is around it: the cluster, the sample, and requests to it.
// "make test-vscode" prepares what it needs, and says it in the environment.
func TestIntegrationVSCode(t *testing.T) {
	server := os.Getenv("KUBEDELVE_TEST_CODE_SERVER")
	if server == "" {
		t.Fatal("KUBEDELVE_TEST_CODE_SERVER is not set: run make test-vscode")
	}
	extension := filepath.Join(cluster.Programs.Root, "editors", "vscode")
	for _, suite := range []struct {
		name   string
		change func(*testcluster.Objects)
	}{{"debug", nil}, {"views", nil}, {"tools", withSidecar}, {"compound", nil}, {"exthost", nil}} {
		t.Run(suite.name, func(t *testing.T) {
			n := namespaceAlone(t, suite.change, allTiers...)
			before := map[string]testcluster.Snapshot{}
			for _, tier := range []string{"front", "middle"} {
				before[tier] = snapshot(t, n, tier)
			}
			p := copyShop(t)
			p.writeLaunchJSON(n)
			requests := httptest.NewServer(surroundings(n))
			defer requests.Close()

			mocha := exec.CommandContext(t.Context(), "node", filepath.Join(extension, "node_modules", "mocha", "bin", "mocha.js"),
				"--ui", "tdd", filepath.Join(extension, "dist", "test", "workbench", suite.name+".test.js"))
			mocha.Env = append(os.Environ(), goSettings(t)...)
			mocha.Env = append(mocha.Env,
				"KUBECONFIG="+cluster.Kubeconfig, "KUBEDELVE_AGENT_IMAGE="+cluster.Refs["agent"],
				"XDG_CACHE_HOME="+filepath.Join(cluster.Programs.Dir, "cache"),
				"KUBEDELVE_VSCODE_PROGRAM="+cluster.Programs.Path("kubedelve"),
				"KUBEDELVE_VSCODE_CODE_SERVER="+server, "KUBEDELVE_VSCODE_VSIX="+filepath.Join(extension, "dist", "kubedelve.vsix"),
				"KUBEDELVE_VSCODE_HOME_DIR="+t.TempDir(), "KUBEDELVE_VSCODE_WORKSPACE="+p.dir,
				"KUBEDELVE_VSCODE_NAMESPACE="+n.Name, "KUBEDELVE_VSCODE_CLUSTER="+requests.URL,
				"KUBEDELVE_VSCODE_SHOTS="+filepath.Join(extension, "dist", "shots"))
			mocha.Stdout, mocha.Stderr = os.Stdout, os.Stderr
			// Interrupted, it still ends the server and the browser that it has begun.
			mocha.Cancel = func() error { return mocha.Process.Signal(syscall.SIGINT) }
			mocha.WaitDelay = 30 * time.Second
			if err := mocha.Run(); err != nil {
				t.Fatalf("mocha: %v", err) // what it has not ended is not restored either
			}
			for tier, was := range before {
				restored(t, n, tier, was)
			}
		})
	}
}

// surroundings answers what the tests ask of the cluster: requests to the first tier, and
// at /serving which Deployments no pod answers for but one of a debug session.
func surroundings(n *testcluster.Namespace) http.Handler {
	var mux http.ServeMux
	mux.HandleFunc("/serving", func(w http.ResponseWriter, r *http.Request) {
		taken := []string{}
		for _, tier := range allTiers {
			pods, err := n.Pods(r.Context(), tier)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			if len(pods) == 1 && strings.Contains(pods[0].Name, "-kubedelve-") {
				taken = append(taken, tier)
			}
		}
		_ = json.NewEncoder(w).Encode(taken)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		answer, err := n.Get(r.Context(), "front", r.URL.Path, r.URL.RawQuery)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		_, _ = w.Write([]byte(answer)) //nolint:gosec // what the sample says, to a test
	})
	return &mux
}

// writeLaunchJSON gives the sample launch configurations, as a user would write them.
func (p *project) writeLaunchJSON(n *testcluster.Namespace) {
	p.t.Helper()
	configuration := func(tier string) map[string]any {
		return map[string]any{
			"type": "kubedelve", "request": "launch", "name": tier,
			"target":  map[string]any{"name": "deploy/" + tier, "namespace": n.Name},
			"program": "${workspaceFolder}/" + tier,
		}
	}
	text, err := json.MarshalIndent(map[string]any{
		"version":        "0.2.0",
		"configurations": []any{configuration("middle"), configuration("front")},
		"compounds":      []any{map[string]any{"name": "both tiers", "configurations": []string{"front", "middle"}, "stopAll": true}},
	}, "", "    ")
	if err != nil {
		p.t.Fatal(err)
	}
	dir := filepath.Join(p.dir, ".vscode")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "launch.json"), append(text, '\n'), 0o644); err != nil {
		p.t.Fatal(err)
	}
}
