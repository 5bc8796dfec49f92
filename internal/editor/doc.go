// Package editor is an editor without a screen: a client of the Debug Adapter
// Protocol that the end-to-end tests and the demo drive as VS Code would.
//
// [Client] speaks the protocol over any byte stream: it numbers requests, matches
// answers and keeps events. [Debugger] is what editors do with it: start a session
// with breakpoints, wait for a stop, look at stack and variables, go on, leave, and
// open the further sessions that the adapter asks for.
//
// Nothing here waits without a limit: every method takes a context, and the error
// of one that ended says what was awaited and what came instead.
//
// It takes messages as they come and checks that the protocol is kept (sequence
// numbers, one answer for each request); what the answers mean is for its callers
// to check. It imports nothing of kubedelve's, so that no mistake is made twice.
//
// A Client has one goroutine, which reads and ends with the stream.
package editor
