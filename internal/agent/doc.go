// Package agent is the half of kubedelve that runs beside the component: in its
// container, on its node, or on this machine for the target local.
//
// It supervises one component under a headless Delve that it starts from its own
// executable, stores the binaries that kubedelve sends, passes debug connections
// through to Delve, spreads the component's output, and undoes what it did when
// nobody is left to ask for it. It does not know Kubernetes.
//
// Files: everything lives in one folder. bin/<sha256>/<name> are the binaries, of
// which those in use and the newest two are kept; run/ (0700) holds the agent's
// socket, one socket for each Delve, and four markers: started (Delve has loaded a
// component), ready (it serves), swapped (one that served has ended or was replaced)
// and expired (the session is over, see below). All but the last do not outlive the
// agent: the folder outlives the container, and another boot begins anew.
//
// Processes: the agent, the Delve that it started, and the component as Delve's
// child. Tracing one's own child needs no capability, so this works for a user
// without any privilege. If the agent dies, Delve sees its lifeline close and
// ends the component; if Delve dies, the agent does. The agent is the parent of
// orphans (as PID 1, or as their subreaper): it collects them, and what a component
// has left behind ends with it, as it would with a container. Signals that are meant
// for the component are passed on to it.
//
// If agent and Delve are killed at once, a component outside of a container runs on
// untraced. Only the tracing thread could ask the kernel to prevent that
// (PTRACE_O_EXITKILL, ptrace(2)); Delve does not ask, and gives nobody else that
// thread. PR_SET_PDEATHSIG would have to be set in the component before it begins.
//
// Swaps: a component is loaded by a Delve of its own while the one before goes on
// under its debugger. Only then that one is ended: its debugger is hung up, its
// breakpoints are cleared, it goes on if it was halted, gets SIGTERM, and after its
// grace SIGKILL. A start that fails or is taken back changes nothing. Each run has a
// number, and its output a log of its own.
//
// Calls of a program that others start (package oneshot) are runs, too: Delve attaches to
// them, and they are let go and never ended. The init that a runtime's call starts is the
// next run, and while it is caught there are two Delves.
//
// Debuggers: Delve serves one at a time. A debugger's stream has a token and outlives
// its tunnel (package resumable): Delve's socket stays open, and who comes back with
// the token within Config.Grace goes on where it was. Until then others are refused,
// unless they take over. Delve goes to the next one only after it has closed its side.
//
// Nobody there: when no debugger has been connected for Config.Grace, its stream is
// forgotten, halted components are resumed and breakpoints cleared; when no client at
// all has been there for Config.TTL, the agent becomes the container's original
// program by execve. A container that is restarted after that does so at once.
//
// Goroutines: the listeners and one per stream (package tunnel), one that watches
// for the absence of clients and one that collects orphans; they end with the
// context given to Run. Per component one per output pipe, one that waits for its
// end, one that notes it and one for Delve's; they end with these. Per debugger
// three; they end with Delve's side of its connection.
//
// Architecture Invariant: Delve listens on a unix socket in run/ and nowhere else.
package agent
