package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"

	"github.com/kubedelve/kubedelve/buildflags"
	"github.com/kubedelve/kubedelve/dapserver"
	"github.com/kubedelve/kubedelve/internal/reload"
	"github.com/kubedelve/kubedelve/kubelaunch"
)

// adapter is what dapserver asks to launch: it joins the launch configuration to
// buildflags and kubelaunch.
type adapter struct {
	log  logger
	kube *genericclioptions.ConfigFlags // of the command: the defaults of targets

	// ignoreCwd is for editors that send their own working directory, whatever the user says.
	ignoreCwd bool
}

// Launch implements [dapserver.Launcher].
func (a adapter) Launch(ctx context.Context, cfg *dapserver.LaunchConfig, report dapserver.Reporter) (dapserver.Session, error) {
	if a.ignoreCwd {
		cfg.Cwd = ""
	}
	r, err := requestOf(cfg)
	if err != nil {
		return nil, err
	}
	r.cluster = func() (*kubelaunch.Cluster, error) { return clusterFor(cfg.Target, a.kube) }
	l, err := start(ctx, r, a.log, dapReporter{report})
	if err != nil {
		var compile *buildflags.CompileError
		if errors.As(err, &compile) {
			reportCompile(report, compile)
			return nil, fmt.Errorf("%s does not compile: see the debug console", compile.Program)
		}
		var attribute *buildflags.ConfigError
		if errors.As(err, &attribute) {
			return nil, err
		}
		return nil, errors.New(explain(err))
	}
	return parentSession{&dapSession{launched: l, session: l.session, config: cfg}}, nil
}

// requestOf reads a launch configuration.
func requestOf(cfg *dapserver.LaunchConfig) (request, error) {
	options, err := optionsOf(cfg)
	if err != nil {
		return request{}, err
	}
	r := request{
		target: cfg.Target.Name, container: cfg.Target.Container, options: options, mode: reload.Mode(cfg.HotReload),
	}
	if r.via, err = kubelaunch.ParseNodeVia(cfg.Target.NodeVia); err != nil {
		return r, fmt.Errorf("target.nodeVia %w", err)
	}
	if r.mode == "" {
		r.mode = reload.OnSave
	}
	if modes := reload.Modes(); !slices.Contains(modes, string(r.mode)) {
		return r, fmt.Errorf("hotReload is %q: choose one of %s", cfg.HotReload, strings.Join(modes, ", "))
	}
	if len(cfg.Build) > 0 {
		decoder := json.NewDecoder(bytes.NewReader(cfg.Build))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&r.build); err != nil {
			return r, fmt.Errorf("the attribute \"build\" of the launch configuration: %w", err)
		}
	}
	if cfg.Program != "" {
		r.build.Program = cfg.Program
	}
	return r, nil
}

// optionsOf reads what a launch configuration says of the run.
func optionsOf(cfg *dapserver.LaunchConfig) (kubelaunch.Options, error) {
	t := cfg.Target
	o := kubelaunch.Options{
		Args: cfg.Args, Dir: cfg.Cwd, Command: t.Entrypoint,
		AgentImage: t.AgentImage, PullPolicy: corev1.PullPolicy(t.AgentImagePullPolicy),
		KeepReplicas: t.KeepReplicas, KeepReadiness: t.KeepReadiness,
	}
	var err error
	if o.Calls, err = kubelaunch.ParseCalls(t.Calls); err != nil {
		return o, fmt.Errorf("target.calls: %w", err)
	}
	if t.Replicas != "" {
		if o.Replicas, err = parseReplicas(string(t.Replicas)); err != nil {
			return o, fmt.Errorf("target.replicas %w", err)
		}
	}
	if t.AgentImagePullPolicy != "" && !slices.Contains(pullPolicies, t.AgentImagePullPolicy) {
		return o, fmt.Errorf("target.agentImagePullPolicy is %q: choose one of %s", t.AgentImagePullPolicy, strings.Join(pullPolicies, ", "))
	}
	for _, d := range []struct {
		name, text string
		into       *time.Duration
	}{{"target.grace", t.Grace, &o.Grace}, {"target.ttl", t.TTL, &o.TTL}, {"target.hold", t.Hold, &o.Hold}, {"reloadGrace", cfg.ReloadGrace, &o.ReloadGrace}} {
		if d.text == "" {
			continue
		}
		v, err := time.ParseDuration(d.text)
		if err != nil || v <= 0 {
			return o, fmt.Errorf("%s is %q: write a time like \"500ms\", \"30s\" or \"10m\"", d.name, d.text)
		}
		*d.into = v
	}
	for name, value := range cfg.Env {
		if value != nil {
			name += "=" + *value
		}
		o.Env = append(o.Env, name)
	}
	slices.Sort(o.Env)
	return o, nil
}

// Attach implements [dapserver.Launcher].
func (adapter) Attach(context.Context, *dapserver.LaunchConfig, dapserver.Reporter) (dapserver.Session, error) {
	return nil, errors.New("there is no session to attach to in this process; start one with: kubedelve debug TARGET --program PKG, and connect to the address that it prints")
}

// reportCompile shows the compiler's messages, each a link to its place.
func reportCompile(report dapserver.Reporter, e *buildflags.CompileError) {
	if len(e.Diagnostics) == 0 {
		report.Output(dapserver.Important, e.Output, nil)
	}
	for _, d := range e.Diagnostics {
		report.Output(dapserver.Important, fmt.Sprintf("%s:%d:%d: %s\n", d.File, d.Line, d.Col, d.Message),
			&dapserver.Location{Path: d.File, Line: d.Line, Column: d.Col})
	}
}

// clusterFor makes the clients for what a launch configuration says, and where that says
// nothing the command's flags.
func clusterFor(t dapserver.Target, defaults *genericclioptions.ConfigFlags) (*kubelaunch.Cluster, error) {
	flags := genericclioptions.NewConfigFlags(false)
	flags.KubeConfig, flags.Context, flags.Namespace = &t.Kubeconfig, &t.Context, &t.Namespace
	if t.Kubeconfig == "" && t.Context == "" {
		flags.KubeConfig, flags.Context = defaults.KubeConfig, defaults.Context
		if t.Namespace == "" {
			flags.Namespace = defaults.Namespace
		}
	}
	return clusterOf(flags)
}

// dapReporter shows the user of an editor what is going on.
type dapReporter struct{ dapserver.Reporter }

func (r dapReporter) Stage(title string) { r.Reporter.Stage(title, -1) }
func (r dapReporter) Detail(text string) { r.Reporter.Stage(text, -1) }
func (r dapReporter) Note(text string)   { r.Output(dapserver.Console, text+"\n", nil) }
