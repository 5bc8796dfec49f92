// Package oneshot stops calls of a program that others start: runc, a CNI plugin. It
// runs on the node, as root.
//
// # How a call is stopped
//
// In the program's place there is a wrapper ([Place]), a tiny program that asks who
// listens on the session's socket ([Calls]) what to execute, and becomes that. As a rule
// it is the original. A call that the filter lets through and that somebody waits for
// ([Calls.Next]) is held: the process that is going to debug it traces it ([Catch]), it is
// told to execute the debug build, and stops at that one's first instruction. To its
// caller it is the process that it has started: the same PID, parent, descriptors,
// environment, limits and exit status.
//
// The init that an OCI runtime starts for a container has no wrapper: it is a sealed copy
// of the runtime's own program. [CatchInit] follows the call to it, and [CatchStage] takes
// one over from another tracer.
//
// # What can go wrong
//
// The wrapper fails open. Without anybody at the socket, with one that does not answer or
// one that ends, it executes the original; without an original at the place where it is
// expected it unmounts itself. No call waits for longer than somebody is there to let it
// go on, but for one: a call is stopped, and not traced, for the moment in which its
// tracer hands it to Delve. If tracer and agent are both killed just then, [Place.Remove]
// lets it go on.
//
// Architecture Invariant: the original's file is never touched, and a reboot alone
// removes the wrapper.
package oneshot
