package kubelaunch

import (
	"fmt"
	"strings"
)

// NodeVia is the way into a node. The zero value is the API server.
type NodeVia struct {
	ssh   string // USER@HOST
	dials bool
}

// The ways as users write them.
const (
	viaAPI    = "api"
	viaDirect = "direct"
	viaSSH    = "ssh:"
)

// ParseNodeVia reads a way into a node as users write it: "api" or "" (a pod on the node, and
// the API server, which dials it), "direct" (a pod as well, dialled by this machine) or
// "ssh:USER@HOST" (no pod, and nothing is asked of the cluster).
func ParseNodeVia(s string) (NodeVia, error) {
	host, ssh := strings.CutPrefix(s, viaSSH)
	switch {
	case s == "" || s == viaAPI:
		return NodeVia{}, nil
	case s == viaDirect:
		return NodeVia{dials: true}, nil
	case ssh && host != "" && !strings.HasPrefix(host, "-"):
		return NodeVia{ssh: host}, nil
	}
	return NodeVia{}, fmt.Errorf("%q is no way into a node; write %s, %s or %sUSER@HOST", s, viaAPI, viaDirect, viaSSH)
}

// SSH tells whether the way is by ssh: then no cluster is needed.
func (v NodeVia) SSH() bool { return v.ssh != "" }

func (v NodeVia) direct() bool { return v.dials }

// Flag is what "kubedelve restore" needs besides the target to go the same way.
func (v NodeVia) Flag() string {
	if v.ssh == "" {
		return "" // what the pod leaves is undone through the API server
	}
	return " --node-via " + viaSSH + v.ssh
}
