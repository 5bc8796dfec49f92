// Package agent is the half of kubedelve that runs beside the component: in its
// container, on its node, or on this machine for the target local.
//
// It supervises one component under a headless Delve that it starts from its own
// executable, stores the binaries that kubedelve sends, passes debug connections
// through to Delve, spreads the component's output, and undoes what it did when
// nobody is left to ask for it. It does not know Kubernetes.
//
// Files: everything lives in one folder. bin/<sha256>/<name> are the binaries, of
// which the one that runs and the newest two are kept; run/ (0700) holds the agent's
// socket, Delve's socket, and three markers: started (Delve has loaded a component),
// ready (it serves) and expired (the session is over, see below). The first two do
// not outlive the agent.
//
// Processes: the agent, the Delve that it started, and the component as Delve's
// child. Tracing one's own child needs no capability, so this works for a user
// without any privilege. If the agent dies, Delve sees its lifeline close and
// ends the component; if Delve dies, the agent does. The agent is the parent of
// orphans (as PID 1, or as their subreaper): it collects them, and what a component
// has left behind ends with it, as it would with a container. Signals that are meant
// for the component are passed on to it.
//
// Nobody there: when no debugger has been connected for Config.Grace, halted
// components are resumed and breakpoints cleared; when no client at all has been
// there for Config.TTL, the agent becomes the container's original program by
// execve. A container that is restarted after that does so at once.
//
// Goroutines: the listeners and one per stream (package tunnel), one that watches
// for the absence of clients and one that collects orphans; they end with the
// context given to Run. Per component one per output pipe, one that waits for its
// end and one for Delve's; they end with these.
//
// Architecture Invariant: Delve listens on a unix socket in run/ and nowhere else.
package agent
