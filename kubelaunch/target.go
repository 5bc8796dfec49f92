package kubelaunch

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
)

// Target names what is debugged.
type Target struct {
	Kind string // KindDeployment, KindDaemonSet, KindNode or KindLocal
	Name string // of the object; empty for KindLocal
	// Node is where the pod of a DaemonSet runs; empty: it has only one.
	Node string
	// Service is the program on a node: a unit of systemd, a process, or one of
	// which others start a process for each call: runc, or "path:" and a file's path.
	Service string
}

// The kinds of targets.
const (
	KindDeployment = "deployment"
	KindDaemonSet  = "daemonset"
	KindNode       = "node"
	KindLocal      = "local"
)

var kindNames = map[string]string{
	"deploy": KindDeployment, "deployment": KindDeployment, "deployments": KindDeployment,
	"deployment.apps": KindDeployment, "deployments.apps": KindDeployment,
	"ds": KindDaemonSet, "daemonset": KindDaemonSet, "daemonsets": KindDaemonSet,
	"daemonset.apps": KindDaemonSet, "daemonsets.apps": KindDaemonSet,
	"node": KindNode, "nodes": KindNode, "no": KindNode,
}

// ParseTarget reads a target as users write it: "deploy/NAME", "ds/NAME@NODE",
// "node/NAME:SERVICE" or "local".
func ParseTarget(s string) (Target, error) {
	if s == KindLocal {
		return Target{Kind: KindLocal}, nil
	}
	kind, name, ok := strings.Cut(s, "/")
	known := kindNames[strings.ToLower(kind)]
	object, _, onNode := strings.Cut(name, ":"+pathPrefix)
	if !ok || known == "" || name == "" || strings.Contains(object, "/") || onNode && known != KindNode {
		return Target{}, fmt.Errorf("target %q is not something that can be debugged; write deploy/NAME, ds/NAME@NODE, node/NAME:SERVICE or local", s)
	}
	t := Target{Kind: known, Name: name}
	switch known {
	case KindDaemonSet:
		if t.Name, t.Node, ok = strings.Cut(name, "@"); t.Name == "" || ok && t.Node == "" {
			return Target{}, fmt.Errorf("target %q does not tell the DaemonSet and the node; write ds/NAME@NODE", s)
		}
	case KindNode:
		if t.Name, t.Service, _ = strings.Cut(name, ":"); t.Name == "" {
			return Target{}, fmt.Errorf("target %q does not tell the node; write node/NAME:%s (kubectl get nodes has the names)", s, cmp.Or(t.Service, "kubelet"))
		} else if file, is := strings.CutPrefix(t.Service, pathPrefix); is && (!path.IsAbs(file) || path.Clean(file) == "/") {
			return Target{}, fmt.Errorf("target %q does not tell a program on the node; write an absolute path, like node/%s:path:/opt/cni/bin/bridge", s, t.Name)
		} else if t.Service == "" {
			return Target{}, fmt.Errorf("target %q does not tell what to debug on the node; write node/%s:kubelet, or another unit or process there", s, t.Name)
		}
	}
	return t, nil
}

// String is the way users write it.
func (t Target) String() string {
	switch t.Kind {
	case KindDeployment:
		return "deploy/" + t.Name
	case KindDaemonSet:
		if t.Node != "" {
			return "ds/" + t.Name + "@" + t.Node
		}
		return "ds/" + t.Name
	case KindNode:
		return "node/" + t.Name + ":" + t.Service
	}
	return t.Kind
}

// program is the name of a service's program, as far as the target tells.
func (t Target) program() string { return path.Base(strings.TrimSuffix(t.Service, ".service")) }

// pathPrefix is before the path of a program whose calls are debugged.
const pathPrefix = "path:"

// calledByName are the programs whose calls are debugged without a path: who starts them
// tells where they are.
var calledByName = []string{"runc", "containerd-shim-runc-v2", "docker-proxy"}

// IsCalls tells whether it is a program that others start for a moment, again and again:
// what is debugged then are its calls.
func (t Target) IsCalls() bool {
	return t.Kind == KindNode && (slices.Contains(calledByName, t.Service) || strings.HasPrefix(t.Service, pathPrefix))
}
