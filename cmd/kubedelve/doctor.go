package main

import (
	"cmp"
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/kubedelve/kubedelve/buildflags"
	"github.com/kubedelve/kubedelve/internal/agentbinary"
	"github.com/kubedelve/kubedelve/kubelaunch"
)

// diagnosis is what doctor finds.
type diagnosis struct {
	Target string               `json:"target,omitempty"`
	OK     bool                 `json:"ok"`
	Checks []kubelaunch.Finding `json:"checks"`

	tell func(kubelaunch.Finding)
}

// add takes a finding in, and tells whether it is a good one.
func (d *diagnosis) add(f kubelaunch.Finding) bool {
	d.Checks = append(d.Checks, f)
	d.OK = d.OK && f.OK
	d.tell(f)
	return f.OK
}

// check takes in what a check returns.
func (d *diagnosis) check(name, text string, err error) bool {
	f := kubelaunch.Found(name, text, err)
	if err != nil {
		f.Text = explain(err)
	}
	return d.add(f)
}

func newDoctor(g *global) *cobra.Command {
	f := &debugFlags{global: g}
	cmd := &cobra.Command{
		Use:   "doctor [TARGET] [flags]",
		Short: "Tell what would keep a debug session from its work",
		Long: `Check what a debug session takes: Go, the way to the cluster, and for a TARGET
whether it is there, your rights, whether somebody debugs it already, and whether
the API server would admit the debug pod; with --program also whether there is such
a program and what it would be built for. Nothing is compiled, and nothing in the
cluster is changed.

The exit code is 1 if anything is missing.`,
		Example: `  kubedelve doctor
  kubedelve doctor deploy/web -n store --program ./cmd/web
  kubedelve doctor node/n1:kubelet -o json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			target := ""
			if len(args) == 1 {
				target = args[0]
				if _, err := kubelaunch.ParseTarget(target); err != nil {
					return usagef(cmd, "%w", err)
				}
			}
			replicas, err := parseReplicas(f.replicas)
			if err != nil {
				return usagef(cmd, "--replicas %w", err)
			}
			via, err := kubelaunch.ParseNodeVia(f.nodeVia)
			if err != nil {
				return usagef(cmd, "--node-via %w", err)
			}
			log, err := g.logger(cmd)
			if err != nil {
				return err
			}
			d := &diagnosis{Target: target, OK: true, tell: func(kubelaunch.Finding) {}}
			if f.output != formatJSON {
				d.tell = func(f kubelaunch.Finding) { writeFinding(cmd.OutOrStdout(), f) }
			}
			r := request{
				target: target, via: via, container: f.container, build: buildflags.Config{Program: f.program, Tags: f.tags},
				options: kubelaunch.Options{Replicas: replicas, AgentImage: cmp.Or(f.agentImage, defaultAgentImage()), PullPolicy: corev1.PullIfNotPresent},
				cluster: g.cluster,
			}
			d.examine(cmd.Context(), r, log)
			if f.output == formatJSON {
				if err := writeJSON(cmd, d); err != nil {
					return err
				}
			}
			if !d.OK {
				return fmt.Errorf("a session of %s would not begin", cmp.Or(target, "this machine's"))
			}
			return nil
		},
		ValidArgsFunction: completeTargets(g),
	}
	flags := cmd.Flags()
	flags.StringVar(&f.program, "program", "", "look at this main package as well")
	flags.StringSliceVar(&f.tags, "tags", nil, "build tags")
	flags.StringVarP(&f.container, "container", "c", "", "the container; needed if the pod has several")
	flags.StringVar(&f.replicas, "replicas", "1", "how many of the workload's replicas are to be debugged")
	flags.StringVar(&f.agentImage, "agent-image", "", "the image that brings kubedelve-agent into the pod")
	flags.StringVar(&f.nodeVia, "node-via", "api", "the way into a node: api, direct or ssh:USER@HOST")
	addOutput(cmd, &f.output)
	completeTargetFlags(cmd, g)
	return cmd
}

func writeFinding(out io.Writer, f kubelaunch.Finding) {
	mark := "ok"
	if !f.OK {
		mark = "MISSING"
	}
	_, _ = fmt.Fprintf(out, "%-8s %-10s %s\n", mark, f.Check, f.Text)
}

// examine looks at all that the request takes. What can't be looked at after something
// was not found is left out.
func (d *diagnosis) examine(ctx context.Context, r request, log logger) {
	tools, err := buildflags.FindToolchain(ctx, r.build, log)
	d.check("go", fmt.Sprintf("%s, %s", tools.Version, tools.Path), err)
	target, err := kubelaunch.ParseTarget(cmp.Or(r.target, kubelaunch.KindLocal))
	if err != nil { // was looked at before
		return
	}
	if r.target == kubelaunch.KindLocal {
		path, err := agentbinary.Find()
		d.check("agent", path, err)
		d.program(ctx, r, log)
		return
	}
	if r.via.SSH() && target.Kind == kubelaunch.KindNode { // no cluster is asked
		d.targetAndProgram(ctx, nil, target, r, log)
		return
	}
	cluster, err := r.cluster()
	version := ""
	if err == nil {
		version, err = kubelaunch.ServerVersion(ctx, cluster)
	}
	text := ""
	if err == nil {
		text = fmt.Sprintf("Kubernetes %s at %s, context %q", version, cluster.Config.Host, cluster.Context)
	}
	if !d.check("cluster", text, err) || r.target == "" {
		d.program(ctx, r, log)
		return
	}
	if cluster, target, r, err = r.daemon(ctx, cluster, target); err != nil {
		d.check("target", "", err)
		return
	}
	d.targetAndProgram(ctx, cluster, target, r, log)
}

// targetAndProgram looks at a target, and at the program for its platform.
func (d *diagnosis) targetAndProgram(ctx context.Context, cluster *kubelaunch.Cluster, target kubelaunch.Target, r request, log logger) {
	node := d.target(ctx, cluster, target, r)
	var err error
	if r.build.Platform, err = platformFor(r.build.Platform, node, r.target); err == nil {
		d.program(ctx, r, log)
	}
}

// target looks at a target, in the cluster unless it is a node's that ssh leads to, and returns
// the platform that it is on.
func (d *diagnosis) target(ctx context.Context, cluster *kubelaunch.Cluster, target kubelaunch.Target, r request) (node buildflags.Platform) {
	if target.Kind == kubelaunch.KindNode {
		p, err := findNode(ctx, target, r)
		if err == nil {
			node = p.Platform
		}
		if d.check("target", fmt.Sprintf("%s, %s", target, node), err) {
			d.addAll(p.Examine(ctx))
		}
		return node
	}
	p, err := kubelaunch.Resolve(ctx, cluster, target, r.container)
	if err != nil {
		d.check("target", "", err)
		return node
	}
	on := p.Platform.String()
	if on == "" {
		on = "on a platform that can't be told"
	}
	d.check("target", fmt.Sprintf("%s in namespace %s, container %s, %s", target, cluster.Namespace, p.Container, on), nil)
	d.addAll(p.Examine(ctx, r.options))
	return p.Platform
}

func (d *diagnosis) addAll(findings []kubelaunch.Finding) {
	for _, f := range findings {
		d.add(f)
	}
}

func (d *diagnosis) program(ctx context.Context, r request, log logger) {
	if r.build.Program == "" {
		return
	}
	outline, err := buildflags.Plan(ctx, r.build, log)
	if err != nil {
		d.check("program", "", err)
		return
	}
	d.check("program", fmt.Sprintf("%s, for %s", outline.Program, outline.Platform), nil)
	for _, note := range outline.Notes {
		d.check("program", note, nil)
	}
}
