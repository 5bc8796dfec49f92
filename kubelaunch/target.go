package kubelaunch

import (
	"fmt"
	"strings"
)

// Target names what is debugged.
type Target struct {
	Kind string // KindDeployment or KindLocal
	Name string // of the object; empty for KindLocal
}

// The kinds of targets.
const (
	KindDeployment = "deployment"
	KindLocal      = "local"
)

var kindNames = map[string]string{
	"deploy": KindDeployment, "deployment": KindDeployment, "deployments": KindDeployment,
	"deployment.apps": KindDeployment, "deployments.apps": KindDeployment,
}

// ParseTarget reads a target as users write it: "deploy/NAME" or "local".
func ParseTarget(s string) (Target, error) {
	if s == KindLocal {
		return Target{Kind: KindLocal}, nil
	}
	kind, name, ok := strings.Cut(s, "/")
	if known := kindNames[strings.ToLower(kind)]; ok && known != "" && name != "" && !strings.Contains(name, "/") {
		return Target{Kind: known, Name: name}, nil
	}
	return Target{}, fmt.Errorf("target %q is not something that can be debugged; write deploy/NAME or local", s)
}

// String is the way users write it.
func (t Target) String() string {
	if t.Kind == KindDeployment {
		return "deploy/" + t.Name
	}
	return t.Kind
}
