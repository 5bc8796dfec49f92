// Package dapterminal is a debugger in a terminal for any server of the Debug Adapter
// Protocol: it has the commands that Delve's own terminal has, as far as the protocol
// can do them, and takes from the server's capabilities what that offers.
//
// A session goes through phases (session.go). Before the program begins there is a
// prompt already, for breakpoints: the protocol calls that the configuration, and the
// first "continue" ends it. Breakpoints are kept here (breakpoints.go), and set again in
// each new session, since "restart" may have to open one.
//
// What it does not do: find out what is to be debugged (its caller brings the arguments
// of the request launch or attach), open further sessions when the server asks for
// them, run programs in this terminal for the server, and colours.
//
// Goroutines: client.read takes in all messages and never waits for anything but the
// terminal it prints to; [terminal.tell] says where the program stops; one reads lines;
// one takes interrupts. All commands run in the goroutine of [Run]. All end with Run, but
// for the one that reads lines, which nobody can call back from its read.
package dapterminal
