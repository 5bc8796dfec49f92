package dapserver

import "encoding/json"

// LaunchConfig holds the attributes of a launch configuration (request "launch"
// or "attach") that kubedelve understands. Every other attribute
// (stackTraceDepth, showGlobalVariables, goroutineFilters, ...) goes to Delve
// untouched.
//
// From its fields docs/launch.md is written, and the schema of the extension for VS
// Code. What that can't see of types is in tags: editor, for which request the
// attribute is offered (for both if there is none, for none if "-"), enum, all values,
// and deprecated, why not to use it.
type LaunchConfig struct {
	// Request is "launch": build the component, swap it in, and put everything
	// back at the end; or "attach": debug a session that runs already.
	Request string `json:"request,omitempty" editor:"-"`

	// Mode is for editors that write it out of habit: "debug" for a launch,
	// "remote" for an attach, which are also the defaults. Everything else is
	// refused, since it would not be what the user meant.
	Mode string `json:"mode,omitempty" enum:"debug remote" deprecated:"Not needed: the request says it."`

	// Target is what to debug: a string, "deploy/web" or "local", or an object
	// that says more. Required for a launch; for an attach the default is the
	// only session there is.
	Target Target `json:"target"`

	// Program is the main package of the component: its folder or a Go file in
	// it. Default: the folder that kubedelve runs in.
	Program string `json:"program,omitempty" editor:"launch"`

	// Args are the arguments of the component. Default: those that the target
	// has now. An empty list means none.
	Args []string `json:"args,omitempty" editor:"launch"`

	// Env are environment variables for the component, added to those that the
	// target has now. null takes a variable away. Default: none.
	Env map[string]*string `json:"env,omitempty" editor:"launch"`

	// Cwd is the working directory of the component, on the target.
	// Default: the one that the target has now.
	Cwd string `json:"cwd,omitempty" editor:"launch"`

	// Build says how the component is compiled. It is an object, which the
	// Launcher decodes strictly. Default: as "go build" does it.
	Build json.RawMessage `json:"build,omitempty" editor:"launch"`

	// HotReload says when the component is built again and swapped in, in the same
	// place: "onSave", when a file that belongs to it is saved, "onRestart", when the
	// editor asks for a restart, or "off", when a restart starts the same binary.
	// Default: "onSave".
	HotReload string `json:"hotReload,omitempty" editor:"launch" enum:"onSave onRestart off"`

	// ReloadGrace is how long the old component has from SIGTERM to SIGKILL when the
	// new one is swapped in, like "5s". Default: 500 ms.
	ReloadGrace string `json:"reloadGrace,omitempty" editor:"launch"`

	// StopOnEntry stops the component before its first line, until "continue".
	// Default: false.
	StopOnEntry bool `json:"stopOnEntry,omitempty" delve:"pass"`

	// TakeOver, for an attach, takes the session from a debugger that has it.
	// Default: false, the attach is refused and says who has it.
	TakeOver bool `json:"takeOver,omitempty" editor:"attach"`

	// SessionEvents sends the event kubedelveSession when a session begins, its
	// component runs elsewhere or was swapped. Its body has the members name, place
	// and swaps, and lastSwap in seconds. For extensions of editors. Default: false.
	SessionEvents bool `json:"sessionEvents,omitempty" editor:"-"`

	// Child is in configurations with which kubedelve asks the editor for the
	// session of a further process. It is not for users.
	Child *ChildRef `json:"child,omitempty" editor:"-"`

	// SubstitutePath maps local paths to those in the binary. The rules come
	// before the ones that kubedelve computes, and the first match wins.
	// Default: none; the computed rules are enough.
	SubstitutePath []PathRule `json:"substitutePath,omitempty"`

	// Delve holds all other attributes as they were written.
	Delve map[string]json.RawMessage `json:"-"`
}

// Target says what to debug and where to find it. In a launch configuration a
// plain string is short for {"name": string}.
type Target struct {
	// Name is "deploy/NAME" for a Deployment, "ds/NAME@NODE" for a DaemonSet's pod on a node,
	// "node/NAME:SERVICE" for a unit of systemd, a process or a pod of the system on a node, "node/NAME:runc" or
	// "node/NAME:path:/FILE" for the calls that others make of a program, or "local" for
	// this machine.
	Name string `json:"name,omitempty"`

	// Namespace of the workload. Default: that of the kubeconfig's context.
	Namespace string `json:"namespace,omitempty"`

	// Container in the pod. Default: the one that the annotation
	// kubectl.kubernetes.io/default-container names, else the only one.
	Container string `json:"container,omitempty"`

	// Context of the kubeconfig. Default: its current context.
	Context string `json:"context,omitempty"`

	// Kubeconfig is the path of the file. Default: $KUBECONFIG, else
	// ~/.kube/config.
	Kubeconfig string `json:"kubeconfig,omitempty"`

	// AgentImage is the image that brings kubedelve-agent into the pod.
	// Default: $KUBEDELVE_AGENT_IMAGE, else kubedelve.dev/agent of this version.
	AgentImage string `json:"agentImage,omitempty"`

	// AgentImagePullPolicy is Always, IfNotPresent or Never.
	// Default: IfNotPresent.
	AgentImagePullPolicy string `json:"agentImagePullPolicy,omitempty" enum:"Always IfNotPresent Never"`

	// Entrypoint is the container's own command line, for an image that no
	// running pod can tell it of. Default: found out.
	Entrypoint []string `json:"entrypoint,omitempty"`

	// Replicas is how many of the workload's replicas are debugged, each in a pod and
	// a debug session of its own: a number, or "all". Default: 1.
	Replicas Replicas `json:"replicas,omitempty"`

	// KeepReplicas leaves the workload's other replicas running, so that
	// requests are spread over all. Default: false, there are only those debugged.
	KeepReplicas bool `json:"keepReplicas,omitempty"`

	// KeepReadiness leaves the container's readiness probe on, so that a halted
	// component gets no requests. Default: false, it stays in its Services.
	KeepReadiness bool `json:"keepReadiness,omitempty"`

	// Calls says which calls of a program on a node are debugged: conditions with
	// commas between, like "command=create,pod=default/web-*". There are command, id,
	// namespace, pod, container, arg and env, in which * stands for anything,
	// label=app=web for the pod's labels, every=10s for the least time between two, and
	// max=3 for the most that are debugged at a time, each in a debug session of its own
	// if the editor opens such (DAP: startDebugging).
	// Of several commands it has to be one; command=init is the "runc init" that a call
	// starts, alone or after the call itself. Default: all calls, one at a time.
	Calls string `json:"calls,omitempty"`

	// Grace is how long the component may stay halted when the debugger is
	// gone, like "30s". Default: 30 s.
	Grace string `json:"grace,omitempty"`

	// TTL is when the original program runs again if kubedelve is gone, like
	// "10m". Default: 10 min.
	TTL string `json:"ttl,omitempty"`

	// Hold is how long a halted service of a node may stay so before it goes on
	// without breakpoints, like "30m": its Lease is renewed on its behalf for
	// that long. Default: 30 min.
	Hold string `json:"hold,omitempty"`

	// NodeVia is the way into a node: "api" (a pod there, which the API server
	// dials), "direct" (this machine dials it, which works while the API server is
	// halted) or "ssh:USER@HOST" (no pod, and no cluster is asked). Default: "api".
	NodeVia string `json:"nodeVia,omitempty"`
}

// Replicas is a number, or "all". In a launch configuration it may be a JSON number.
type Replicas string

// PathRule replaces the prefix From of a local path by To, and back. Both must
// be given; an empty one adds or removes a prefix.
type PathRule struct {
	From string `json:"from"`
	To   string `json:"to"`
}
