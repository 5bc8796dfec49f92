package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"

	"github.com/kubedelve/kubedelve/buildflags"
	"github.com/kubedelve/kubedelve/dapserver"
	"github.com/kubedelve/kubedelve/kubelaunch"
)

// adapter is what dapserver asks to launch: it joins the launch configuration to
// buildflags and kubelaunch.
type adapter struct{}

// Launch implements [dapserver.Launcher].
func (adapter) Launch(ctx context.Context, cfg *dapserver.LaunchConfig, report dapserver.Reporter) (dapserver.Session, error) {
	options, err := optionsOf(cfg)
	if err != nil {
		return nil, err
	}
	r := request{
		target: cfg.Target.Name, container: cfg.Target.Container, options: options,
		cluster: func() (*kubelaunch.Cluster, error) { return clusterFor(cfg.Target) },
	}
	if len(cfg.Build) > 0 {
		decoder := json.NewDecoder(bytes.NewReader(cfg.Build))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&r.build); err != nil {
			return nil, fmt.Errorf("the attribute \"build\" of the launch configuration: %w", err)
		}
	}
	if cfg.Program != "" {
		r.build.Program = cfg.Program
	}
	l, err := start(ctx, r, dapReporter{report})
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
	return &dapSession{launched: l}, nil
}

// optionsOf reads what a launch configuration says of the run.
func optionsOf(cfg *dapserver.LaunchConfig) (kubelaunch.Options, error) {
	t := cfg.Target
	o := kubelaunch.Options{
		Args: cfg.Args, Dir: cfg.Cwd, Command: t.Entrypoint,
		AgentImage: t.AgentImage, PullPolicy: corev1.PullPolicy(t.AgentImagePullPolicy),
		KeepReplicas: t.KeepReplicas, KeepReadiness: t.KeepReadiness,
	}
	if t.AgentImagePullPolicy != "" && !slices.Contains(pullPolicies, t.AgentImagePullPolicy) {
		return o, fmt.Errorf("target.agentImagePullPolicy is %q: choose one of %s", t.AgentImagePullPolicy, strings.Join(pullPolicies, ", "))
	}
	for _, d := range []struct {
		name, text string
		into       *time.Duration
	}{{"grace", t.Grace, &o.Grace}, {"ttl", t.TTL, &o.TTL}} {
		if d.text == "" {
			continue
		}
		v, err := time.ParseDuration(d.text)
		if err != nil || v <= 0 {
			return o, fmt.Errorf("target.%s is %q: write a time like \"30s\" or \"10m\"", d.name, d.text)
		}
		*d.into = v
	}
	for name, value := range cfg.Env {
		if value != nil {
			name += "=" + *value
		}
		o.Env = append(o.Env, name)
	}
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

// clusterFor makes the clients for what a launch configuration says.
func clusterFor(t dapserver.Target) (*kubelaunch.Cluster, error) {
	flags := genericclioptions.NewConfigFlags(false)
	flags.KubeConfig, flags.Context, flags.Namespace = &t.Kubeconfig, &t.Context, &t.Namespace
	return clusterOf(flags)
}

// dapReporter shows the user of an editor what is going on.
type dapReporter struct{ dapserver.Reporter }

func (r dapReporter) Stage(title string) { r.Reporter.Stage(title, -1) }
func (r dapReporter) Detail(text string) { r.Reporter.Stage(text, -1) }
func (r dapReporter) Note(text string)   { r.Output(dapserver.Console, text+"\n", nil) }

// dapSession is a launched session as dapserver wants it.
type dapSession struct{ *launched }

// Name implements [dapserver.Session].
func (s *dapSession) Name() string {
	return fmt.Sprintf("%s (%s)", s.session.Target, s.session.Place())
}

// Dial implements [dapserver.Session].
func (s *dapSession) Dial(ctx context.Context) (dapserver.Connection, error) {
	conn, err := s.session.Dial(ctx, kubelaunch.DialOptions{})
	if err != nil {
		return nil, err
	}
	r := conn.Run()
	run := dapserver.Run{
		Number: r.Number, Place: r.Place, Binary: r.Binary.SHA256, Halted: r.Halted, Fresh: r.Fresh, Reload: r.Reload,
		Program: s.programs.of(r.Binary.SHA256),
	}
	for _, r := range s.binary.Sources {
		run.SubstitutePath = append(run.SubstitutePath, dapserver.PathRule{From: r.Local, To: r.Remote})
	}
	return connection{conn, run}, nil
}

// connection is one to a run.
type connection struct {
	net.Conn
	run dapserver.Run
}

// Run implements [dapserver.Connection].
func (c connection) Run() dapserver.Run { return c.run }

// Follow implements [dapserver.Session].
func (s *dapSession) Follow(ctx context.Context, tell func(dapserver.Event)) {
	s.session.Follow(ctx, func(e kubelaunch.Event) {
		text, stream := e.Text, dapserver.Console
		if text != "" {
			text += "\n"
		}
		if e.Important {
			stream = dapserver.Important
		}
		tell(dapserver.Event{
			Activity: e.Activity, Title: e.Title, Stage: e.Stage, Percent: -1, Over: e.Over, Cancel: e.Cancel,
			Text: text, Stream: stream,
		})
	})
}

// Restart implements [dapserver.Session].
func (s *dapSession) Restart(context.Context, *dapserver.LaunchConfig) error {
	return errors.New("end the session and start it again")
}

// Output implements [dapserver.Session]. It also tells what happens, for as long as
// dapserver does not follow the session's events.
func (s *dapSession) Output(ctx context.Context, emit func(dapserver.Piece) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var mu sync.Mutex // emit is called from two goroutines
	say := func(p dapserver.Piece) {
		mu.Lock()
		defer mu.Unlock()
		if err := emit(p); err != nil {
			cancel(err)
		}
	}
	var told sync.WaitGroup
	told.Go(func() { // ends with ctx
		s.session.Follow(ctx, func(e kubelaunch.Event) {
			if e.Text != "" {
				say(dapserver.Piece{Stream: dapserver.Console, Data: []byte(e.Text + "\n")})
			}
		})
	})
	err := s.session.Output(ctx, func(p kubelaunch.Piece) {
		stream := dapserver.Stdout
		if p.FD == 2 {
			stream = dapserver.Stderr
		}
		say(dapserver.Piece{Stream: stream, Data: p.Data, Run: p.Run, Place: p.Place})
	})
	cancel(nil)
	told.Wait()
	if errors.Is(err, kubelaunch.ErrEnded) {
		return nil
	}
	return err
}

// Wait implements [dapserver.Session].
func (s *dapSession) Wait(ctx context.Context) (int, error) {
	exit, err := s.session.Wait(ctx)
	return exit.Code, err
}

// Detach implements [dapserver.Session].
func (s *dapSession) Detach(context.Context) error { return s.session.Detach() }

// Close implements [dapserver.Session].
func (s *dapSession) Close(ctx context.Context) error {
	err := s.session.Close(ctx, nil)
	_ = s.programs.close() // which were only read
	return err
}
