package testcluster

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// How the node's containerd builds without cgo, from a module whose folder vendor is not whole.
var (
	ContainerdTags = []string{"no_btrfs"}
	ContainerdEnv  = []string{"CGO_ENABLED=0", "GOFLAGS=-buildvcs=false -mod=readonly"}
)

// containerdVersion matches what "containerd --version" says: the module, and the version, to
// which distributions add something (1.6.20~ds1).
var containerdVersion = regexp.MustCompile(`(github\.com/containerd/containerd(?:/v\d+)?) v?(\d+\.\d+\.\d+)`)

// ContainerdSource is the folder of the module that the node's containerd was built from.
func (c *Cluster) ContainerdSource(ctx context.Context) (string, error) {
	said, err := c.InNode(ctx, "containerd", "--version")
	if err != nil {
		return "", err
	}
	version := containerdVersion.FindStringSubmatch(said)
	if version == nil {
		return "", fmt.Errorf("the node's containerd says that its version is %q", said)
	}
	module := version[1] + "@v" + version[2]
	out, err := exec.CommandContext(ctx, "go", "mod", "download", "-json", module).Output() //nolint:gosec // a test's
	var downloaded struct{ Dir string }
	if err == nil {
		err = json.Unmarshal(out, &downloaded)
	}
	if err != nil {
		return "", fmt.Errorf("go mod download %s: %w", module, err)
	}
	return downloaded.Dir, nil
}

// CompileContainerd compiles its sources for debugging: minutes of a core, the first time.
func CompileContainerd(ctx context.Context, source string) error {
	return compileIn(ctx, source, ContainerdEnv, "-tags", strings.Join(ContainerdTags, ","), "./cmd/containerd")
}

// SandboxSource is the file with RunPodSandbox in containerd's sources, of version 1 or 2.
func SandboxSource(containerd string) (string, error) {
	found, err := filepath.Glob(filepath.Join(containerd, "[pi]*", "cri", "server", "sandbox_run.go"))
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("%s has the files %q, not one sandbox_run.go", containerd, found)
	}
	if err != nil {
		return "", err
	}
	return found[0], nil
}
