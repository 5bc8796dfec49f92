//go:build integration && (vscode || editors)

package e2e

import (
	"os/exec"
	"strings"
	"testing"
)

// goSettings is where the go command has its things, also for a process with another home.
func goSettings(t *testing.T) []string {
	t.Helper()
	names := []string{"GOPATH", "GOMODCACHE", "GOCACHE", "GOENV"}
	out, err := exec.Command("go", append([]string{"env"}, names...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	values := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	for i, name := range names {
		values[i] = name + "=" + values[i]
	}
	return values
}
