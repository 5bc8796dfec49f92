package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubedelve/kubedelve/buildflags"
	"github.com/kubedelve/kubedelve/internal/agentbinary"
	"github.com/kubedelve/kubedelve/internal/reload"
	"github.com/kubedelve/kubedelve/internal/version"
	"github.com/kubedelve/kubedelve/kubelaunch"
)

// request is what one debug session is asked to be, from the command line or from
// a launch configuration.
type request struct {
	target    string
	container string
	via       kubelaunch.NodeVia
	build     buildflags.Config
	mode      reload.Mode
	options   kubelaunch.Options
	cluster   func() (*kubelaunch.Cluster, error)
}

// spec is what the request says of the program alone.
func (r *request) spec() reload.Spec {
	return reload.Spec{Build: r.build, Args: r.options.Args, Env: r.options.Env, Dir: r.options.Dir}
}

// reporter is told what is going on.
type reporter interface {
	Stage(title string) // something has begun
	Detail(text string) // how far it is; many come, and none must be shown
	Note(text string)   // something was found out or done
}

// envAgentImage names the agent image where no flag does.
const envAgentImage = "KUBEDELVE_AGENT_IMAGE"

func defaultAgentImage() string {
	if image := os.Getenv(envAgentImage); image != "" {
		return image
	}
	return "kubedelve.dev/agent:" + agentTag(version.String())
}

// betweenReleases matches what Go calls builds from commits: pseudo-versions, and
// trees that were changed (go.dev/ref/mod#pseudo-versions).
var betweenReleases = regexp.MustCompile(`[-.]\d{14}-[0-9a-f]{12}|\+dirty`)

// agentTag is the image tag for a version: only releases have one of their own.
func agentTag(version string) string {
	tag, _, _ := strings.Cut(version, "+incompatible")
	if !strings.HasPrefix(tag, "v") || betweenReleases.MatchString(version) {
		return "devel"
	}
	return tag
}

// start goes the whole way from a target to a component that Delve has loaded.
// What can fail without a change to the cluster is done before the first change.
func start(ctx context.Context, r request, log logger, report reporter) (*launched, error) {
	target, err := kubelaunch.ParseTarget(r.target)
	if err != nil {
		return nil, err
	}
	r.options.Progress = report.Stage
	if r.options.AgentImage == "" {
		r.options.AgentImage = defaultAgentImage()
	}
	if r.options.PullPolicy == "" {
		r.options.PullPolicy = corev1.PullIfNotPresent
	}
	if target.Kind == kubelaunch.KindLocal {
		return startLocal(ctx, r, log, report)
	}
	if target.Kind == kubelaunch.KindNode && r.via.SSH() {
		return startNode(ctx, target, r, log, report)
	}
	cluster, err := r.cluster()
	if err != nil {
		return nil, err
	}
	asked := target
	if cluster, target, r, err = r.daemon(ctx, cluster, target); err != nil {
		return nil, err
	}
	if target != asked {
		report.Note(fmt.Sprintf("%s is in a pod of a DaemonSet: debugging %s in namespace %s", asked, target, cluster.Namespace))
	}
	if target.Kind == kubelaunch.KindNode {
		return startNode(ctx, target, r, log, report)
	}
	report.Stage(fmt.Sprintf("finding %s in namespace %s", target, cluster.Namespace))
	placement, err := kubelaunch.Resolve(ctx, cluster, target, r.container)
	if err != nil {
		return nil, err
	}
	if err := placement.Check(ctx, r.options); err != nil {
		return nil, err
	}
	r.stamp(placement.LDFlags())
	node := placement.Platform // zero if it could not be read
	if r.build.Platform, err = platformFor(r.build.Platform, node, r.target); err != nil {
		return nil, err
	}
	l, binary, err := r.firstBuild(ctx, log, report)
	if err != nil {
		return nil, err
	}
	l.node = node
	return l.begin(placement.Launch(ctx, binary, r.options))
}

func startNode(ctx context.Context, target kubelaunch.Target, r request, log logger, report reporter) (*launched, error) {
	report.Stage("finding " + target.String())
	placement, err := findNode(ctx, target, r)
	if err != nil {
		return nil, err
	}
	if err := placement.Check(ctx, r.options); err != nil {
		return nil, err
	}
	node := placement.Platform
	if r.build.Platform, err = platformFor(r.build.Platform, node, r.target); err != nil {
		return nil, err
	}
	r.stamp(placement.LDFlags())
	l, binary, err := r.firstBuild(ctx, log, report)
	if err != nil {
		return nil, err
	}
	l.node, l.restoreFlag = node, placement.Via.Flag()
	return l.begin(placement.Launch(ctx, binary, r.options))
}

// stamp gives the build flags of the linker, unless the user's own say it otherwise.
func (r *request) stamp(flags string) {
	if flags != "" && r.build.LDFlags == "" && !hasFlag(r.build.Flags, "ldflags") {
		r.build.LDFlags = flags
	}
}

// daemon returns what it was given, unless the target is a service of a node that is the container
// of a DaemonSet's pod there: then that is the target.
func (r request) daemon(ctx context.Context, c *kubelaunch.Cluster, target kubelaunch.Target) (*kubelaunch.Cluster, kubelaunch.Target, request, error) {
	if target.Kind != kubelaunch.KindNode || target.IsCalls() {
		return c, target, r, nil
	}
	in, daemon, container, err := kubelaunch.FindDaemon(ctx, c, target)
	if err != nil || in == nil {
		return c, target, r, err
	}
	r.target, r.container = daemon.String(), container
	return in, daemon, r, nil
}

// findNode asks the node itself by ssh, or the cluster.
func findNode(ctx context.Context, target kubelaunch.Target, r request) (*kubelaunch.NodePlacement, error) {
	if r.via.SSH() {
		return kubelaunch.ResolveNodeSSH(ctx, r.via, target, func(p buildflags.Platform) (string, error) { return agentbinary.FindFor(p.OS, p.Arch) })
	}
	cluster, err := r.cluster()
	if err != nil {
		return nil, err
	}
	return kubelaunch.ResolveNode(ctx, cluster, r.via, target)
}

// hasFlag tells whether flags of the go command have one of that name.
func hasFlag(flags []string, name string) bool {
	return slices.ContainsFunc(flags, func(f string) bool {
		f, _, _ = strings.Cut(strings.TrimLeft(f, "-"), "=")
		return f == name
	})
}

func startLocal(ctx context.Context, r request, log logger, report reporter) (*launched, error) {
	if r.options.Replicas > 1 {
		return nil, fmt.Errorf("%s is one process, not %d replicas", kubelaunch.KindLocal, r.options.Replicas)
	}
	agent, err := agentbinary.Find()
	if err != nil {
		return nil, err
	}
	l, binary, err := r.firstBuild(ctx, log, report)
	if err != nil {
		return nil, err
	}
	return l.begin(kubelaunch.Local(ctx, agent, binary, r.options))
}

// begin goes on with a session, if there is one.
func (l *launched) begin(session *kubelaunch.Session, err error) (*launched, error) {
	if err != nil {
		return nil, errors.Join(err, l.release())
	}
	l.session = session
	l.keepUp()
	return l, nil
}

// platformFor is what to build for: the node's platform, unless that is not known.
func platformFor(wanted, node buildflags.Platform, target string) (buildflags.Platform, error) {
	switch none := (buildflags.Platform{}); {
	case wanted == none:
		return node, nil
	case node != none && (wanted.OS != node.OS || wanted.Arch != node.Arch):
		return none, fmt.Errorf("build.platform is %s, but %s runs on %s; leave it out, and the build is for the node", wanted, target, node)
	}
	return wanted, nil
}
