package testcluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// ErrUnsupported is returned (wrapped) where no cluster can be made and none is given.
var ErrUnsupported = errors.New("no cluster: set KUBECONFIG, or run this as root on Linux")

// Cluster is a cluster with all images in it.
type Cluster struct {
	Kubeconfig string // path
	Config     *rest.Config
	Client     kubernetes.Interface
	Programs   *Programs
	// Refs are the images' references, by their names. Without "shell" this
	// machine has none to make that image of.
	Refs map[string]string

	tool  string    // testdata/cluster, built
	made  string    // name of the cluster that was made here; empty: it was there
	named string    // name for the tool; empty: the tool does not know the cluster
	log   io.Writer // for the tool's progress
}

// Start finds or makes a cluster, see the package comment, and gives it the
// images. The progress goes to log.
func Start(ctx context.Context, name string, programs *Programs, log io.Writer) (*Cluster, error) {
	if err := Supported(); err != nil {
		return nil, err
	}
	return start(ctx, name, given(), "kubeadm", programs, log)
}

// StartNode makes a cluster of a flavour (see testdata/cluster) for tests that break
// its node, whatever other cluster there is.
func StartNode(ctx context.Context, name, flavour string, programs *Programs, log io.Writer) (*Cluster, error) {
	if err := SupportedNode(); err != nil {
		return nil, err
	}
	return start(ctx, name, "", flavour, programs, log)
}

func start(ctx context.Context, name, kubeconfig, flavour string, programs *Programs, log io.Writer) (_ *Cluster, err error) {
	c := &Cluster{Kubeconfig: kubeconfig, Programs: programs, Refs: map[string]string{}, tool: programs.Path("cluster"), log: log}
	if runtime.GOOS == "linux" {
		if err := goBuild(ctx, filepath.Join(programs.Root, "testdata", "cluster"), c.tool, "."); err != nil {
			return nil, err
		}
	}
	begun := c // an error is returned without it
	defer func() {
		if err != nil {
			err = errors.Join(err, begun.Close(context.WithoutCancel(ctx)))
		}
	}()
	if c.Kubeconfig == "" {
		c.made, c.named = name, name
		out, err := c.run(ctx, "up", "--name", name, "--flavour", flavour)
		if err != nil {
			return nil, err
		}
		c.Kubeconfig = strings.TrimSpace(out)
	} else {
		c.named = c.recognise(ctx)
	}
	if c.Config, err = clientcmd.BuildConfigFromFlags("", c.Kubeconfig); err != nil {
		return nil, fmt.Errorf("the cluster's kubeconfig: %w", err)
	}
	c.Config.QPS = -1 // tests poll side by side
	if c.Client, err = kubernetes.NewForConfig(c.Config); err != nil {
		return nil, fmt.Errorf("the cluster's kubeconfig: %w", err)
	}
	if _, err := c.Client.Discovery().ServerVersion(); err != nil {
		return nil, fmt.Errorf("the cluster of %s: %w", c.Kubeconfig, err)
	}
	return c, c.provide(ctx)
}

// Supported tells, before anything is built, whether Start could find or make a
// cluster: the error is [ErrUnsupported].
func Supported() error {
	if given() == "" && (runtime.GOOS != "linux" || os.Geteuid() != 0) {
		return ErrUnsupported
	}
	return nil
}

// SupportedNode tells whether StartNode could make a cluster: the error is [ErrUnsupported].
func SupportedNode() error {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		return fmt.Errorf("a cluster whose node may be broken: %w", ErrUnsupported)
	}
	return nil
}

// given is the kubeconfig that the user wants to be used.
func given() string {
	for _, name := range []string{"KUBEDELVE_TEST_KUBECONFIG", "KUBECONFIG"} {
		if path := os.Getenv(name); path != "" {
			return path
		}
	}
	return ""
}

// recognise returns the name of a cluster that the tool made, by its kubeconfig.
func (c *Cluster) recognise(ctx context.Context) string {
	name := filepath.Base(filepath.Dir(c.Kubeconfig))
	out, err := exec.CommandContext(ctx, c.tool, "kubeconfig", "--name", name).Output() //nolint:gosec // built above
	if err != nil || strings.TrimSpace(string(out)) != c.Kubeconfig {
		return ""
	}
	return name
}

// provide sees to it that the images are there.
func (c *Cluster) provide(ctx context.Context) (err error) {
	images, shellErr := c.Programs.Images(ctx)
	if c.named == "" && os.Getenv("KUBEDELVE_TEST_IMAGES") == "" {
		return errors.New("this cluster has to pull its images: set KUBEDELVE_TEST_IMAGES to what their names begin with (see internal/testcluster/doc.go)")
	}
	if shellErr != nil {
		_, _ = fmt.Fprintln(c.log, "no image with a shell:", shellErr)
	}
	for _, image := range images {
		if c.Refs[image.Name], err = c.Load(ctx, image); err != nil {
			return err
		}
	}
	return nil
}

// Load sees to it that an image is there, and returns its reference. A cluster that
// was not made by testdata/cluster has to pull it.
func (c *Cluster) Load(ctx context.Context, image Image) (ref string, err error) {
	if c.named == "" {
		return os.Getenv("KUBEDELVE_TEST_IMAGES") + image.Name + ":1", nil
	}
	tag, err := image.tag()
	if err != nil {
		return "", err
	}
	ref = "kubedelve.test/" + image.Name + ":" + tag
	args := []string{"load", "--name", c.named, "--ref", ref, "--user", image.User, "--entrypoint", image.Entry}
	for _, path := range sorted(image.Files) {
		args = append(args, image.Files[path]+":"+path)
	}
	_, err = c.run(ctx, args...)
	return ref, err
}

// HasNode tells whether [Cluster.InNode] works.
func (c *Cluster) HasNode() bool { return c.named != "" }

// InNode runs a command in the namespaces of the cluster's node.
func (c *Cluster) InNode(ctx context.Context, command ...string) (string, error) {
	return c.run(ctx, append([]string{"exec", "--name", c.named, "--"}, command...)...)
}

// NodeArch is the architecture of the cluster's first node.
func (c *Cluster) NodeArch(ctx context.Context) (string, error) {
	nodes, err := c.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return "", fmt.Errorf("reading the nodes: %w", err)
	}
	if len(nodes.Items) == 0 {
		return "", errors.New("the cluster has no node")
	}
	return nodes.Items[0].Status.NodeInfo.Architecture, nil
}

// run runs the cluster tool.
func (c *Cluster) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, c.tool, args...) //nolint:gosec // built by Start
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, io.MultiWriter(&stderr, c.log)
	// Ctrl-C is for us; the tool undoes what it did when it is asked to end.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("cluster %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// MayBreak tells whether the cluster is for these tests alone, so that all of it may be
// disturbed: it was made here, or KUBEDELVE_TEST_MAY_BREAK is set.
func (c *Cluster) MayBreak() bool {
	return c.HasNode() && (c.made != "" || os.Getenv("KUBEDELVE_TEST_MAY_BREAK") != "")
}

// Made tells whether Close takes the cluster down.
func (c *Cluster) Made() bool { return c.made != "" && os.Getenv("KUBEDELVE_KEEP_CLUSTER") == "" }

// Close takes the cluster down if it was made here. It is idempotent.
func (c *Cluster) Close(ctx context.Context) error {
	if !c.Made() {
		return nil
	}
	_, err := c.run(ctx, "down", "--name", c.made)
	if err == nil {
		c.made = ""
	}
	return err
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
