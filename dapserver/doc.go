// Package dapserver speaks the Debug Adapter Protocol (DAP) to an editor and
// relays it to a headless Delve that runs beside the component, wherever that
// is. What puts the component there is a Launcher, which this package only
// knows as an interface.
//
// # What it does
//
// It answers initialize at once, runs the Launcher on launch and attach with
// its progress and messages shown to the user, introduces the editor to Delve
// with the editor's own arguments, and from then on relays. To Delve's messages
// it adds what headless Delve does not send: the output of the component, its
// exit code, and what happens to the session. At the end, however it comes about,
// the session is closed (launch) or detached from (attach).
//
// A connection to Delve lasts as long as a run of the component at most. When it
// ends, the next run is dialled, all breakpoints are set again under the ids that
// the client knows, and the component is let go on or left halted. Meanwhile
// breakpoints are taken as pending, continue and pause are noted, and requests that
// only Delve can answer are refused. Only Session.Dial says that there is no other
// run. Restart, terminate and cancel are answered here, since headless Delve has
// none or kills the component. Exception filters and data breakpoints, which Delve
// refuses while the component runs, are set in a halt that the client does not see.
//
// It keeps from Delve what would make it drop the connection instead of
// answering: messages over 4 MiB and arguments of a wrong type.
//
// If the Session is a Parent, the editor is asked to open a debug session for each
// further process (reverse request startDebugging). It connects to the same Server
// for that, or starts another process, whose Server then passes its messages on to
// the first, through a socket in a private folder: that is all that is ever on disk.
//
// One debugger at a time has a session: see Seat.
//
// Relay is the other way: two streams joined, no byte changed.
//
// # What it does not
//
// It imports nothing of Kubernetes and builds nothing.
// It does not decode what it need not: a message is relayed as the bytes that
// arrived with its sequence numbers replaced, so fields and requests of later
// versions of the protocol pass through. Answers about breakpoints are decoded, and
// stops where an id of Delve's is not the client's.
//
// # Invariants
//
//   - Every request gets one answer of ours or all of Delve's, also when Delve
//     or the launch is lost.
//   - Messages reach the editor in the order in which Delve sent them; the
//     event initialized comes before the answer to launch, as with Delve.
//   - exited and then terminated are sent once, after the component's last output, and
//     not for the end of a run that is followed by another.
//   - A breakpoint keeps the client's id through all runs. After a break the client
//     is told of those breakpoints that have become something else, and of no others.
//   - Who is told of breakpoints hears of them in the order in which they changed:
//     session.telling is held from the change of the state until it is sent.
//   - Whatever the Launcher gave is released once: also if the client vanishes,
//     the server is stopped or a handler panics.
//   - A component that lives on after a detach runs, without breakpoints, unless
//     another debugger took it over as it was. The same goes for a process that
//     the editor opens no session for.
//   - A child session ends before its parent does.
//   - A client that doesn't read holds up nobody for longer than
//     Config.StallTimeout, and makes no queue grow beyond its limit.
//   - All changing state of a session is in the struct state and is changed by
//     session.update. Nothing is sent with that lock held.
//   - Neither environment variables nor component output get into the log.
//     Config.Message gets all there is.
//
// # Goroutines
//
// A session has, besides the one that calls ServeConn:
//
//   - a reader of the editor's connection, which handles its messages in turn
//     (ends with the connection or when the client is done);
//   - a writer for each connection, which writes what the kernel did not take
//     from a sender at once (ends with the connection);
//   - one for a launch or attach that is under way (ends when it is answered);
//   - one for each request that may wait and is answered here (handler.background;
//     ends with the answer, which the client's leaving hastens);
//   - a reader of Delve's connection (ends with the connection);
//   - one that connects to the next run when a connection has ended (ends when the
//     session is over, or is left);
//   - one for each request that the component is halted for, and one for terminate
//     (end with the answer, and when Session.Close has returned);
//   - three pumps for the component's output, its exit and what happens to the
//     session (end with these, or when the session is released);
//   - for a Parent: one that learns of its children, one for each until the editor
//     has its session, one that accepts connections of other processes, and a
//     session for each of these (end before the session is released);
//   - for a child of another process: a reader of what that sends (ends with the
//     connection).
//
// ServeConn returns after all of them have ended.
package dapserver
