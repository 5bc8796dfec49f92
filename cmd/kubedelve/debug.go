package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/kubedelve/kubedelve/buildflags"
	"github.com/kubedelve/kubedelve/dapserver"
	"github.com/kubedelve/kubedelve/internal/reload"
	"github.com/kubedelve/kubedelve/kubelaunch"
)

// pullPolicies are those of the Kubernetes API.
var pullPolicies = []string{string(corev1.PullAlways), string(corev1.PullIfNotPresent), string(corev1.PullNever)}

// debugFlags are the flags of kubedelve debug.
type debugFlags struct {
	global   *global
	terminal bool // there is a debugger in this terminal, who begins at the entry

	program, container, listen, output string
	logDAP                             string
	stopOnEntry, takeOver              bool
	tags, buildFlags, env              []string
	ldflags, cgo, workdir, calls       string
	entrypoint                         []string
	agentImage, pullPolicy             string
	replicas                           string
	keepReplicas, keepReadiness        bool
	grace, ttl, hold, reloadGrace      time.Duration
	nodeVia                            string
	hotReload                          string
}

func newDebug(g *global) *cobra.Command {
	f := &debugFlags{global: g}
	cmd := &cobra.Command{
		Use:   "debug TARGET --program PKG [flags] [-- ARG...]",
		Short: "Run a program under Delve in a workload's place",
		Long: `Build a Go program for debugging and run it under Delve in the place of TARGET:

  deploy/NAME        a container of a Deployment
  ds/NAME@NODE       a container of a DaemonSet, in its pod on one node
  node/NAME:SERVICE  a program on a node: a unit of systemd, a process, a static pod
                     or a DaemonSet's pod, like node/n1:kubelet, node/n1:kube-proxy
  node/NAME:runc     the calls that others make of a program, each a process of its
                     own: see --calls; also containerd-shim-runc-v2, docker-proxy,
                     and node/NAME:path:/opt/cni/bin/bridge for any other program
  local              this machine, without a cluster

It prints a local address for debuggers, holds until Ctrl-C, and then puts
everything back. The address speaks DAP and Delve's JSON-RPC: connect with VS Code
(request "attach", mode "remote"), GoLand (Go Remote), or "dlv connect ADDRESS".

The program's arguments are those that the container has, unless others follow --.

With --replicas there are several pods, and a program under Delve in each. An editor
that opens further debug sessions when it is asked to (DAP: startDebugging) has one for
each; others, and debuggers that speak JSON-RPC, have the first, and the others go on
without a debugger.

When a file that the program is built of is saved, it is built again and swapped in,
in the same place, while the old one goes on until the new one is there; see
--hot-reload. A debugger that speaks DAP stays connected and keeps its breakpoints;
one that speaks JSON-RPC (GoLand, dlv) ends with the program that it is connected to,
and connects again.

With -o json each line of standard output is an object with the members event, seconds
(since the start) and, mostly, text. The events are

  stage, detail, note   what is being done, and what was found out
  ready                 debuggers can connect: listen, session, place, tunnel
  serving               requests go to the program, or why not
  rebuilding            a file was saved
  build-error           what the compiler says: file, line, column
  failed, unchanged     what was saved is not swapped in, since there is nothing
                        new or it does not compile: the old program goes on
  swapped               the new program is there: took (seconds)
  lost, back            the way to the program was lost and is there again: took
  exited                the program ended by itself: code
  restored              all is as it was; the last one`,
		Example: `  kubedelve debug deploy/web --program ./cmd/web
  kubedelve debug deploy/web -c app --program ./cmd/web --tags dev -- --verbose
  kubedelve debug node/n1:kubelet --program k8s.io/kubernetes/cmd/kubelet
  kubedelve debug node/n1:runc --program . --calls command=create,pod=default/web-*
  kubedelve debug local --program . --stop-on-entry`,
		Args: func(cmd *cobra.Command, args []string) error {
			n := len(args)
			if dash := cmd.ArgsLenAtDash(); dash >= 0 {
				n = dash
			}
			if n != 1 {
				return fmt.Errorf("name one target, like deploy/web (arguments for the program come after --)")
			}
			return nil
		},
		RunE:              func(cmd *cobra.Command, args []string) error { return f.run(cmd, args) },
		ValidArgsFunction: completeTargets(g),
	}
	f.add(cmd)
	addOutput(cmd, &f.output)
	return cmd
}

// add adds the flags that say what is debugged and how.
func (f *debugFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.program, "program", ".", "the main package: a folder, a Go file in it, or an import path")
	flags.StringVarP(&f.container, "container", "c", "", "the container; needed if the pod has several")
	flags.StringVar(&f.listen, "listen", "127.0.0.1:2345", "the local address for debuggers; port 0 takes any that is free")
	flags.BoolVar(&f.stopOnEntry, "stop-on-entry", false, "wait for a debugger before the program begins")
	flags.BoolVar(&f.takeOver, "take-over", false, "let a debugger that connects later take the session from the one before")
	flags.StringSliceVar(&f.tags, "tags", nil, "build tags")
	flags.StringVar(&f.ldflags, "ldflags", "", "linker flags, like -X main.version=v1 (-s and -w are left out)")
	flags.StringArrayVar(&f.buildFlags, "build-flag", nil, "another flag for go build; may be repeated")
	flags.StringVar(&f.cgo, "cgo", "auto", "build with cgo: on, off or auto")
	flags.StringArrayVar(&f.env, "env", nil, "NAME=VALUE for the program, or NAME to take it away; may be repeated")
	flags.StringVar(&f.workdir, "workdir", "", "the program's working directory, where it runs")
	flags.StringSliceVar(&f.entrypoint, "entrypoint", nil, "the container's own command line, if neither the pod template nor a running pod tells it")
	flags.StringVar(&f.agentImage, "agent-image", "", "the image that brings kubedelve-agent into the pod (default $"+envAgentImage+", else "+defaultAgentImage()+")")
	flags.StringVar(&f.pullPolicy, "agent-image-pull-policy", string(corev1.PullIfNotPresent), "Always, IfNotPresent or Never")
	flags.StringVar(&f.replicas, "replicas", "1", "how many of the workload's replicas are debugged, each in a pod of its own: a number, or all")
	flags.BoolVar(&f.keepReplicas, "keep-replicas", false, "leave the workload's other replicas running: requests are spread over all")
	flags.BoolVar(&f.keepReadiness, "keep-readiness", false, "leave the readiness probe on: a halted program gets no requests")
	flags.StringVar(&f.hotReload, "hot-reload", string(reload.OnSave), "when the program is built again and swapped in: onSave, onRestart (of an editor) or off")
	flags.DurationVar(&f.reloadGrace, "reload-grace", 500*time.Millisecond, "how long the old program has from SIGTERM to SIGKILL when a new one is swapped in")
	flags.DurationVar(&f.grace, "grace", 30*time.Second, "how long the program may stay halted when the debugger is gone")
	flags.DurationVar(&f.ttl, "ttl", 10*time.Minute, "when kubedelve is gone for this long, the original program runs again")
	flags.StringVar(&f.calls, "calls", "", "which calls of a program on a node are debugged, like command=create,pod=default/web-* (also id, namespace, container, label, arg, env, every, max); command=init is the runc init that such calls start")
	flags.DurationVar(&f.hold, "hold", 30*time.Minute, "how long a service of a node may stay halted: its Lease is renewed for it")
	flags.StringVar(&f.nodeVia, "node-via", "api", "the way into a node: api, direct (this machine dials the node) or ssh:USER@HOST (no cluster is asked)")
	addLogDAP(cmd, &f.logDAP)
	completeTargetFlags(cmd, f.global)
}

// addOutput adds -o.
func addOutput(cmd *cobra.Command, format *string) {
	cmd.Flags().StringVarP(format, "output", "o", "", "json: for programs")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{formatJSON}, cobra.ShellCompDirectiveNoFileComp))
	before := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if *format != formatText && *format != formatJSON {
			return usagef(cmd, "-o %q: there is only json", *format)
		}
		if before != nil {
			return before(cmd, args)
		}
		return nil
	}
}

func (f *debugFlags) request(cmd *cobra.Command, args []string) (request, error) {
	r := request{
		target: args[0], container: f.container, cluster: f.global.cluster,
		build: buildflags.Config{Program: f.program, Tags: f.tags, LDFlags: f.ldflags, Flags: f.buildFlags, CGO: f.cgo},
		options: kubelaunch.Options{
			Env: f.env, Dir: f.workdir, Command: f.entrypoint,
			AgentImage: f.agentImage, PullPolicy: corev1.PullPolicy(f.pullPolicy),
			KeepReplicas: f.keepReplicas, KeepReadiness: f.keepReadiness, Grace: f.grace, TTL: f.ttl, Hold: f.hold, ReloadGrace: f.reloadGrace,
		},
		mode: reload.Mode(f.hotReload),
	}
	if modes := reload.Modes(); !slices.Contains(modes, f.hotReload) {
		return r, usagef(cmd, "--hot-reload %q: choose one of %s", f.hotReload, strings.Join(modes, ", "))
	}
	if _, err := kubelaunch.ParseTarget(r.target); err != nil {
		return r, usagef(cmd, "%w", err)
	}
	if !slices.Contains(pullPolicies, f.pullPolicy) {
		return r, usagef(cmd, "--agent-image-pull-policy %q: choose Always, IfNotPresent or Never", f.pullPolicy)
	}
	if r.target == kubelaunch.KindLocal && !cmd.Flags().Changed("grace") {
		r.options.Grace = 0 // shorter, see kubelaunch.Local
	}
	var err error
	if r.via, err = kubelaunch.ParseNodeVia(f.nodeVia); err != nil {
		return r, usagef(cmd, "--node-via %w", err)
	}
	if r.options.Calls, err = kubelaunch.ParseCalls(f.calls); err != nil {
		return r, usagef(cmd, "--calls: %w", err)
	}
	if r.options.Replicas, err = parseReplicas(f.replicas); err != nil {
		return r, usagef(cmd, "--replicas %w", err)
	}
	if dash := cmd.ArgsLenAtDash(); dash >= 0 {
		r.options.Args = append([]string{}, args[dash:]...)
	}
	return r, nil
}

func (f *debugFlags) run(cmd *cobra.Command, args []string) (err error) {
	ctx := cmd.Context()
	log, err := f.global.logger(cmd)
	if err != nil {
		return err
	}
	r, err := f.request(cmd, args)
	if err != nil {
		return err
	}
	// A port that is taken should be known before anything is built or changed.
	listener, err := listenLocal(cmd, f.listen)
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }()
	messages, err := openMessages(f.logDAP, log)
	if err != nil {
		return err
	}
	defer messages.close()
	messages.conceal(f.env)
	console := newConsole(f.output, cmd.OutOrStdout(), cmd.ErrOrStderr())
	l, err := start(ctx, r, log, console)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := finish(ctx, l, console); closeErr != nil {
			err = errors.Join(err, closeErr)
			return
		}
		console.tell(event{Event: "restored", Text: "restored"})
	}()
	if !f.stopOnEntry && !f.terminal && !l.session.IsCalls() {
		if err := l.eachReplica(func(s *kubelaunch.Session) error { return s.Resume(ctx) }); err != nil {
			return err
		}
	}
	address := listener.Addr().String()
	console.tell(event{
		Event: "ready", Session: l.session.ID, Listen: address, Place: l.session.Place(), Tunnel: l.session.Tunnel(),
		Text: f.readyText(l, address),
	})
	d := &debuggers{launched: l, seat: &dapserver.Seat{}, takeOver: f.takeOver, log: log, messages: messages, note: console.Note}
	if f.terminal {
		return holdInTerminal(ctx, d, listener, console, cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	return hold(ctx, d, listener, console, cmd.OutOrStdout(), cmd.ErrOrStderr())
}

// readyText tells what the user can do now.
func (f *debugFlags) readyText(l *launched, address string) string {
	where, more := l.session.Place(), ""
	if pods := l.pods(); len(pods) > 1 {
		where = fmt.Sprintf("%d pods, %s", len(pods), strings.Join(pods, ", "))
		more = "\n         an editor that opens further debug sessions (DAP: startDebugging) has one for each pod; GoLand and dlv connect have that of " + pods[0]
	}
	what := fmt.Sprintf("%s runs under Delve in %s (tunnel: %s)", l.session.Target, where, l.session.Tunnel())
	if l.session.IsCalls() {
		what = fmt.Sprintf("calls are debugged on %s (tunnel: %s), one at a time, while a debugger is connected", where, l.session.Tunnel())
		if lanes := l.session.Lanes(); lanes > 1 {
			what = fmt.Sprintf("calls are debugged on %s (tunnel: %s), up to %d at a time, while an editor is connected that opens further debug sessions (DAP: startDebugging)", where, l.session.Tunnel(), lanes)
		}
	}
	end := "Ctrl-C ends the session and restores " + l.session.Target.String()
	if l.session.Target.Kind == kubelaunch.KindLocal {
		what, end = l.name+" runs under Delve on this machine", "Ctrl-C ends it"
	}
	if f.terminal {
		return what + "\n         it waits at its entry; \"continue\" lets it go on, \"exit\" ends the session"
	}
	return fmt.Sprintf("%s\n         connect to %s: VS Code (attach, mode remote), GoLand (Go Remote), dlv connect %s%s\n         %s", what, address, address, more, end)
}

// listenLocal listens for debuggers. Whoever connects can run code on the target,
// so only this machine may.
func listenLocal(cmd *cobra.Command, address string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, usagef(cmd, "--listen %q: write HOST:PORT, like 127.0.0.1:2345", address)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, usagef(cmd, "--listen %q: only a loopback address is allowed, since a debugger's port runs code for whoever connects", address)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("--listen %s: %w; choose another port, or 127.0.0.1:0 for any that is free", address, err)
	}
	return l, nil
}

// hold serves debuggers until Ctrl-C or until the component has ended.
func hold(ctx context.Context, d *debuggers, listener net.Listener, console *console, stdout, stderr io.Writer) error {
	l := d.launched
	ctx, cancel := context.WithCancelCause(ctx)
	var tasks taskGroup
	defer func() { cancel(nil); tasks.Wait() }()
	tasks.Go(func() { // ends with ctx
		l.follow(ctx, console.happened)
	})
	if console.json != nil {
		stdout = stderr // stdout is for events
	}
	all := l.session.Replicas()
	var line sync.Mutex // held while one of several writes a line
	for i, s := range all {
		if i > 0 { // what happens to the first was begun with
			tasks.Go(func() { // ends with ctx or the session
				s.Follow(ctx, func(e kubelaunch.Event) { console.happened(ofReplica(s, e)) })
			})
		}
		tasks.Go(func() { // ends with ctx or the agent: the component's output
			if len(all) == 1 {
				copyOutput(ctx, s, stdout, stderr)
				return
			}
			out, errs := &prefixed{mu: &line, w: stdout}, &prefixed{mu: &line, w: stderr}
			copyOutput(ctx, s, out, errs)
			out.end()
			errs.end()
		})
		tasks.Go(func() { // ends with ctx or the component
			exit, err := s.Wait(ctx)
			if err != nil {
				cancel(err) // or ctx has ended, with a cause of its own
				return
			}
			console.tell(event{Event: "exited", Code: &exit.Code, Text: "the program ended: " + exit.String()})
			cancel(&exitedError{exit})
		})
	}
	tasks.Go(func() { // ends with ctx
		cancel(d.serve(ctx, listener))
	})
	<-ctx.Done()
	var exited *exitedError
	switch err := context.Cause(ctx); {
	case errors.Is(err, context.Canceled):
		return nil // Ctrl-C is how it ends
	case errors.As(err, &exited) && exited.exit.Code == 0:
		return nil
	default:
		return err
	}
}

// exitedError is a component that ended by itself.
type exitedError struct{ exit kubelaunch.Exit }

func (e *exitedError) Error() string {
	return "the program ended: " + strings.TrimSpace(e.exit.String())
}
