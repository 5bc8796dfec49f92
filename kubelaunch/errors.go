package kubelaunch

import (
	"errors"
	"fmt"
	"strings"
)

// ErrSession is returned (wrapped) when a target has a session already.
var ErrSession = errors.New("a session runs already")

// ErrNoSession is returned (wrapped) when a named session does not exist.
var ErrNoSession = errors.New("no such session")

// RightsError says what the user may not do, but would have to.
type RightsError struct {
	Namespace string   // empty: in all
	Missing   []string // "create pods", "get pods/proxy"
}

func (e *RightsError) Error() string {
	if e.Namespace == "" {
		return fmt.Sprintf("you lack rights in the cluster: %s; ask for a ClusterRole with these verbs, nothing was changed",
			strings.Join(e.Missing, ", "))
	}
	return fmt.Sprintf("you lack rights in namespace %s: %s; ask for a Role with these verbs, nothing was changed",
		e.Namespace, strings.Join(e.Missing, ", "))
}

// ContainerError says that a container was not named, or not one there is.
type ContainerError struct {
	Target     Target
	Name       string // as the user gave it; empty: none
	Containers []string
}

func (e *ContainerError) Error() string {
	if e.Name == "" {
		return fmt.Sprintf("%s has %d containers: choose one with -c (%s)", e.Target, len(e.Containers), strings.Join(e.Containers, ", "))
	}
	return fmt.Sprintf("%s has no container %q; it has %s", e.Target, e.Name, strings.Join(e.Containers, ", "))
}

// PodError says why the debug pod does not come up.
type PodError struct {
	Pod    string
	Reason string // the kubelet's or the scheduler's
	Text   string
	Hint   string // what to do, if known
}

func (e *PodError) Error() string {
	text := fmt.Sprintf("the debug pod %s does not start: %s", e.Pod, e.Reason)
	if e.Text != "" {
		text += ": " + e.Text
	}
	if e.Hint != "" {
		text += "; " + e.Hint
	}
	return text
}

// ErrEnded is returned by calls that were waiting when the session was ended.
var ErrEnded = errors.New("the session was ended")

// ExitError is the end of a component that is not started again.
type ExitError struct{ Exit Exit }

func (e *ExitError) Error() string { return "the program ended: " + e.Exit.String() }

// LostError says why a session has no way on: others have ended it.
type LostError struct{ Reason string }

func (e *LostError) Error() string { return "the session is over: " + e.Reason }
