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

// CompileContainerd compiles a program of its sources, "./cmd/containerd", for debugging:
// minutes of a core, the first time.
func CompileContainerd(ctx context.Context, source, program string) error {
	return compileIn(ctx, source, ContainerdEnv, "-tags", strings.Join(ContainerdTags, ","), program)
}

// SandboxSource is the file with RunPodSandbox in containerd's sources, of version 1 or 2.
func SandboxSource(containerd string) (string, error) {
	return oneFile(containerd, "[pi]*/cri/server/sandbox_run.go")
}

// ShimSource is the file with the service of containerd-shim-runc-v2, of version 1 or 2.
func ShimSource(containerd string) (string, error) {
	return oneFile(containerd, "runtime/v2/runc/task/service.go", "cmd/containerd-shim-runc-v2/task/service.go")
}

// oneFile is the one file below a folder that fits one of the patterns.
func oneFile(dir string, patterns ...string) (string, error) {
	var all []string
	for _, pattern := range patterns {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return "", err
		}
		all = append(all, found...)
	}
	if len(all) != 1 {
		return "", fmt.Errorf("%s has %q of %q, not one file", dir, all, patterns)
	}
	return all[0], nil
}
