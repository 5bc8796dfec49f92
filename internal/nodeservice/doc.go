// Package nodeservice puts kubedelve's agent in the place of a program that runs on a
// node outside of any pod, and undoes that: a unit of systemd, or a process that
// nobody supervises. It runs on the node, as root, in kubedelve-agent.
//
// # Who is there
//
// The helper is the one process in a pod of ours. It enters the host's namespaces
// ([EnterHost]), finds out how the service runs ([Find]) and serves the agent's port
// until a client has sent a binary and asks it to engage ([Helper]). From then on the
// port is the stand-in's, and the helper only watches.
//
// The stand-in is what runs in the service's place, with the same cgroup, environment,
// folder, limits and descriptors: the agent, with Delve and the debug build below it. A
// unit's stand-in is the agent itself, as the unit's main process, by a drop-in in
// /run/systemd/system. A process's stand-in is a keeper that does nothing but wait for
// its agent's end, however that comes, and then becomes the original by execve
// ([StandIn]): what it inherited is what the original had.
//
// # Undo
//
// Before anything is changed the journal (journal.json in the session's folder) says
// what is going to be. Each of the following is enough to bring the original back: a
// client's request to restore; nobody connected for the session's time to live; the
// end of the agent, by whatever it comes, since the keeper or systemd outlives it; the
// end of the keeper as well, since the helper looks for it. A reboot is, too: nothing
// that was changed is on a disk, but for the session's own folder.
//
// Architecture Invariant: the original's files are never touched.
package nodeservice
