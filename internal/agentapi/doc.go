// Package agentapi is the protocol between kubedelve and kubedelve-agent: the
// messages, and the client that sends them.
//
// Each request is a stream of its own in the tunnel (package tunnel). A stream
// begins with one line of JSON, a [Request]; the agent answers with one line of
// JSON, a [Reply]. What follows depends on the operation:
//
//	hello    nothing
//	put      the client sends the binary, compressed with zstd (RFC 8878), and
//	         closes its half; the agent answers with a second Reply when the
//	         file's length and SHA-256 are right, or as soon as it gives up. Nothing
//	         is sent if the first Reply says that the agent has the file already.
//	start    nothing; the Reply comes when Delve has loaded the component and the
//	         one before has ended
//	debug    a stream of package resumable, which another debug request with the
//	         same token carries on; in it Delve's own bytes, both ways (DAP or
//	         JSON-RPC, the first byte decides)
//	output   frames from the agent, see [ReadFrame], up to the end of one run
//	resume   nothing; breakpoints are kept, a halted component goes on
//	settle   nothing; the debugger's connection is closed, breakpoints are cleared
//	         and the component goes on
//	wait     a second Reply when the component has exited and its output was sent
//	end      nothing; the component and Delve are ended, the agent stays
//	engage   nothing; the agent takes the place of its service, and ends: another
//	         one, in that place, serves the port next
//	restore  nothing; the original takes its place again, and the agent ends
//
// A client that closes its stream takes the request back: start gives up loading.
// So does a later start or end.
//
// Runs, the starts of components, are numbered from 1 in each boot, which is an
// agent's process and has a random name; see [Position].
//
// The agent never has to be as new as the client: a [Reply] to hello carries
// [Version], and the client refuses an agent that speaks another.
//
// Goroutines: one per [DebugConn], which ends soon after its Close; no other outlives
// the call that started it.
//
// Neither this package nor tunnel imports Delve or Kubernetes.
package agentapi
