// Package agentbinary finds the kubedelve-agent program on this machine, for the
// targets that are not given it by an image.
package agentbinary

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// Env names the variable whose value is taken first, a path.
const Env = "KUBEDELVE_AGENT"

// Find returns the agent's path for this machine: the one that $KUBEDELVE_AGENT names, or
// the one beside this executable, as the release archive and make build put it.
func Find() (string, error) { return find("kubedelve-agent") }

// FindFor returns the agent's path for a platform, which may be another one than this
// machine's: as [Find], but for the name.
func FindFor(goos, goarch string) (string, error) {
	if goos == runtime.GOOS && goarch == runtime.GOARCH {
		return Find()
	}
	return find("kubedelve-agent-" + goos + "-" + goarch)
}

func find(name string) (string, error) {
	if path := os.Getenv(Env); path != "" {
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("$%s: %w", Env, err)
		}
		return path, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("finding kubedelve-agent: %w", err)
	}
	if real, err := filepath.EvalSymlinks(self); err == nil { // kubectl-delve is a link
		self = real
	}
	path := filepath.Join(filepath.Dir(self), name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("there is no %s beside %s: install both programs in one folder, or name it in $%s", name, self, Env)
	}
	return path, nil
}
