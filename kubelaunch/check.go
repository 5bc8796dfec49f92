package kubelaunch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Finding is what one check has found.
type Finding struct {
	Check string `json:"name"` // what was looked at: "rights"
	OK    bool   `json:"ok"`
	Text  string `json:"text"` // how it is; if not OK, what to do as well
	// Missing are the rights that the user lacks.
	Missing []string `json:"missing,omitempty"`
}

// Found makes a finding of what a check returns.
func Found(name, text string, err error) Finding {
	if err == nil {
		return Finding{Check: name, OK: true, Text: text}
	}
	f := Finding{Check: name, Text: err.Error()}
	var rights *RightsError
	if errors.As(err, &rights) {
		f.Missing = rights.Missing
	}
	return f
}

// check is one thing that has to be so before a session can begin. To look changes
// nothing.
type check struct {
	name string
	look func(context.Context) (text string, err error)
}

// firstFailure looks until something is not as it has to be.
func firstFailure(ctx context.Context, checks []check) error {
	for _, c := range checks {
		if _, err := c.look(ctx); err != nil {
			return err
		}
	}
	return nil
}

// lookAtAll looks at each. If one of the checks fails, those of then make no sense.
func lookAtAll(ctx context.Context, checks []check, then ...check) []Finding {
	var findings []Finding
	ok := true
	look := func(c check) {
		text, err := c.look(ctx)
		f := Found(c.name, text, err)
		ok = ok && f.OK
		findings = append(findings, f)
	}
	for _, c := range checks {
		look(c)
	}
	if ok {
		for _, c := range then {
			look(c)
		}
	}
	return findings
}

// Check tells, before anything is built, what would keep [Placement.Launch] from
// its work: a [*RightsError] with all rights that are missing, a [*CommandError],
// or [ErrSession] if somebody debugs the target already.
func (p *Placement) Check(ctx context.Context, o Options) error {
	return firstFailure(ctx, p.checks(o))
}

// Examine looks at all that Check does and does not stop at the first problem; and it
// asks the API server whether it would admit the debug pod.
func (p *Placement) Examine(ctx context.Context, o Options) []Finding {
	return lookAtAll(ctx, p.checks(o), check{"admission", func(ctx context.Context) (string, error) { return p.admission(ctx, o) }})
}

func (p *Placement) checks(o Options) []check {
	return []check{
		{"command", func(context.Context) (string, error) { return p.checkCommand(o) }},
		{"replicas", func(context.Context) (string, error) { return p.checkReplicas(o) }},
		{"rights", func(ctx context.Context) (string, error) {
			return "you have all that a session takes", checkRights(ctx, p.cluster, p.rights(o), p.peeks(o))
		}},
		{"session", func(ctx context.Context) (string, error) {
			return claimed(ctx, p.cluster, secretName(p.Target), p.Target)
		}},
	}
}

// peeks tells whether the command line has to be read from a pod that runs.
func (p *Placement) peeks(o Options) bool { return p.Command == nil && o.Command == nil }

// scales tells whether replicas are to be ended for the session; also if there are to
// be more pods than there can be, which is an error of its own.
func (p *Placement) scales(o Options) bool {
	pods, _ := p.Pods(o)
	return p.deployment != nil && (p.exclusive() || int(p.replicas()) > pods && !o.KeepReplicas)
}

// rights are those to the workload itself.
func (p *Placement) rights(o Options) []right {
	if p.daemonSet != nil {
		return []right{{"get", "apps", "daemonsets"}}
	}
	return deploymentRights(p.scales(o))
}

// checkCommand tells where the program's arguments come from.
func (p *Placement) checkCommand(o Options) (string, error) {
	switch {
	case o.Command != nil:
		return "the command line is given", nil
	case p.Command != nil:
		return fmt.Sprintf("the pod template has the command line: %s", strings.Join(p.Command, " ")), p.checkArguments(p.Command, o)
	case len(p.pods) == 0:
		return "", &CommandError{Target: p.Target, Reason: noPodToRead}
	}
	return "the image has the command line, which is read in pod " + p.pods[0].Name, nil
}

func (p *Placement) checkReplicas(o Options) (string, error) {
	pods, err := p.Pods(o)
	if err != nil {
		return "", err
	}
	if p.daemonSet != nil {
		return fmt.Sprintf("one pod on node %s, which the debug pod replaces", p.Target.Node), nil
	}
	text := fmt.Sprintf("1 replica, %d running", len(p.pods))
	if all := p.replicas(); all != 1 {
		text = fmt.Sprintf("%d replicas, %d running, and %d to be debugged", all, len(p.pods), pods)
	}
	switch {
	case p.exclusive():
		text += "; its pods can't run side by side, so it is stopped first"
	case p.scales(o):
		text += "; the others are ended for the session"
	}
	return text, nil
}

// claimed is [ErrSession] if there is a journal. Only Launch decides for good whose a
// target is.
func claimed(ctx context.Context, c *Cluster, journal string, target Target) (string, error) {
	_, err := readJournal(ctx, c, journal)
	switch {
	case apierrors.IsNotFound(err):
		return "nobody debugs it", nil
	case err != nil:
		return "whether somebody debugs it can't be told", nil //nolint:nilerr // Launch is told
	}
	return "", sessionExists(ctx, c, journal, target.String())
}

// admission asks the API server whether it would take the debug pod, which it then
// does not make.
func (p *Placement) admission(ctx context.Context, o Options) (string, error) {
	const session = "00000000"
	command := p.Command
	if o.Command != nil {
		command = literal(o.Command)
	}
	pod := debugPod(p.template, p.cluster.Namespace, podOptions{
		name: podName(p.object.GetName(), session, 1), session: session, container: p.Container,
		secret:     &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: secretName(p.Target), UID: p.object.GetUID()}},
		agentImage: o.AgentImage, pullPolicy: o.PullPolicy, platform: p.Platform,
		ports: portsOf(p.template, p.Container), command: command, keepReadiness: o.KeepReadiness,
	})
	_, err := p.cluster.Client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{FieldManager: fieldManager, DryRun: []string{metav1.DryRunAll}})
	if err != nil {
		return "", fmt.Errorf("the API server would not take the debug pod: %w", err)
	}
	return "the API server would take the debug pod, with the agent of image " + o.AgentImage, nil
}

// Check tells, before anything is built, what would keep Launch from its work: a
// [*RightsError], or [ErrSession].
func (p *NodePlacement) Check(ctx context.Context, _ Options) error {
	return firstFailure(ctx, p.checks())
}

// Examine looks at all that Check does and does not stop at the first problem. What
// runs on the node, and how, only the helper finds out, when a session begins.
func (p *NodePlacement) Examine(ctx context.Context) []Finding {
	return lookAtAll(ctx, append([]check{{"node", func(context.Context) (string, error) { return p.checkNode() }}}, p.checks()...))
}

func (p *NodePlacement) checks() []check {
	if p.Via.SSH() {
		return nil // the node decides
	}
	return []check{
		{"rights", func(ctx context.Context) (string, error) {
			return "you have all that a session takes", checkNodeRights(ctx, p.cluster)
		}},
		{"session", func(ctx context.Context) (string, error) {
			namespace, err := p.cluster.Client.CoreV1().Namespaces().Get(ctx, p.cluster.Namespace, metav1.GetOptions{})
			if err != nil || namespace.DeletionTimestamp != nil {
				return "nobody debugs it", nil //nolint:nilerr // as a rule there is none, and Launch decides
			}
			return "", sessionExists(ctx, p.cluster, nodeSecret, p.Target.String())
		}},
	}
}

func (p *NodePlacement) checkNode() (string, error) {
	if p.Via.SSH() { // or there would be no placement
		return fmt.Sprintf("ssh %s answers, and may do what root may", p.Via.ssh), nil
	}
	n := nodeOf(p.node, nil)
	if !n.Debuggable {
		return "", fmt.Errorf("%s can't be debugged: %s", p.Target, n.Reason)
	}
	if !n.Ready {
		return "", fmt.Errorf("node %s is not ready: its kubelet has to start the helper", n.Name)
	}
	return "node " + n.Name + " is ready", nil
}

// ServerVersion is the version of the cluster's API server, "v1.37.2".
func ServerVersion(ctx context.Context, c *Cluster) (string, error) {
	data, err := c.Client.Discovery().RESTClient().Get().AbsPath("/version").DoRaw(ctx)
	if err != nil {
		return "", fmt.Errorf("asking the API server for its version: %w", err)
	}
	var version struct {
		GitVersion string `json:"gitVersion"`
	}
	if err := json.Unmarshal(data, &version); err != nil {
		return "", fmt.Errorf("asking the API server for its version: %w", err)
	}
	return version.GitVersion, nil
}
