package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubedelve/kubedelve/buildflags"
	"github.com/kubedelve/kubedelve/internal/agentbinary"
	"github.com/kubedelve/kubedelve/internal/version"
	"github.com/kubedelve/kubedelve/kubelaunch"
)

// request is what one debug session is asked to be, from the command line or from
// a launch configuration.
type request struct {
	target    string
	container string
	build     buildflags.Config
	options   kubelaunch.Options
	cluster   func() (*kubelaunch.Cluster, error)
}

// launched is a session and what it was made of.
type launched struct {
	session  *kubelaunch.Session
	binary   *buildflags.Binary
	command  []string
	programs programs
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
func start(ctx context.Context, r request, report reporter) (*launched, error) {
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
		return startLocal(ctx, r, report)
	}
	cluster, err := r.cluster()
	if err != nil {
		return nil, err
	}
	report.Stage(fmt.Sprintf("finding %s in namespace %s", target, cluster.Namespace))
	placement, err := kubelaunch.Resolve(ctx, cluster, target, r.container)
	if err != nil {
		return nil, err
	}
	if err := placement.Check(ctx, r.options); err != nil {
		return nil, err
	}
	node := placement.Platform // zero if it could not be read
	switch wanted := r.build.Platform; {
	case wanted == buildflags.Platform{}:
		r.build.Platform = node
	case node != buildflags.Platform{} && (wanted.OS != node.OS || wanted.Arch != node.Arch):
		return nil, fmt.Errorf("build.platform is %s, but %s runs on %s; leave it out, and the build is for the node", wanted, target, node)
	}
	binary, err := build(ctx, r.build, report)
	if err != nil {
		return nil, err
	}
	session, err := placement.Launch(ctx, kubelaunch.Binary{Path: binary.Path, SHA256: binary.SHA256, Size: binary.Size}, r.options)
	if err != nil {
		return nil, err
	}
	l := &launched{session: session, binary: binary, command: placement.Command}
	l.programs.add(binary)
	return l, nil
}

func startLocal(ctx context.Context, r request, report reporter) (*launched, error) {
	agent, err := agentbinary.Find()
	if err != nil {
		return nil, err
	}
	binary, err := build(ctx, r.build, report)
	if err != nil {
		return nil, err
	}
	session, err := kubelaunch.Local(ctx, agent, kubelaunch.Binary{Path: binary.Path, SHA256: binary.SHA256, Size: binary.Size}, r.options)
	if err != nil {
		return nil, err
	}
	l := &launched{session: session, binary: binary}
	l.programs.add(binary)
	return l, nil
}

func build(ctx context.Context, cfg buildflags.Config, report reporter) (*buildflags.Binary, error) {
	program := cfg.Program
	if program == "" {
		program = "."
	}
	report.Stage("building " + program)
	binary, err := buildflags.Build(ctx, cfg, nil, report.Detail)
	if err != nil {
		return nil, err
	}
	how := "built"
	if binary.Cached {
		how = "unchanged:"
	}
	report.Note(fmt.Sprintf("%s %s, %s, %.1f MB, in %.1f s", how, filepath.Base(binary.Path), binary.Info.GoVersion, float64(binary.Size)/1e6, binary.Took.Seconds()))
	for _, note := range binary.Notes {
		report.Note(note)
	}
	return binary, nil
}

// restoreTimeout bounds the restore at the end of a session.
const restoreTimeout = 3 * time.Minute

// finish restores even though ctx has ended, and tells how to try again.
func finish(ctx context.Context, l *launched, report reporter) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), restoreTimeout)
	defer cancel()
	err := l.session.Close(ctx, report.Stage)
	_ = l.programs.close() // which were only read
	if err != nil {
		return errors.Join(fmt.Errorf("restoring %s: %w", l.session.Target, err),
			fmt.Errorf("try again with: kubedelve restore %s", l.session.ID))
	}
	return nil
}
