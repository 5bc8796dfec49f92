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
//	         file's length and SHA-256 are right. Nothing is sent if the first
//	         Reply says that the agent has the file already.
//	start    nothing; the Reply comes when Delve has loaded the component
//	debug    Delve's own bytes, both ways (DAP or JSON-RPC, the first byte decides)
//	output   frames from the agent: one byte 1 (stdout) or 2 (stderr), the length
//	         (uint32, big endian) and the bytes
//	resume   nothing; breakpoints are kept, a halted component goes on
//	settle   nothing; breakpoints are cleared and the component goes on
//	wait     a second Reply when the component has exited
//	end      nothing; the component and Delve are ended, the agent stays
//
// The agent never has to be as new as the client: a [Reply] to hello carries
// [Version], and the client refuses an agent that speaks another.
//
// Neither package imports Delve or Kubernetes.
package agentapi
