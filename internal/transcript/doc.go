// Package transcript writes what the peers of a debug session say to each other to a
// file, for whoever has to find out what went wrong: each message of the Debug Adapter
// Protocol, whole, with its time and direction, one JSON object per line.
//
//	{"time":"2026-01-02T15:04:05.123456Z","client":"127.0.0.1:50110","from":"editor","to":"kubedelve","message":{"seq":1,...}}
//	{"time":"...","client":"...","from":"editor","to":"delve","malformed":17}
//	{"time":"...","dropped":3,"bytes":4711}
//
// The second is bytes that are no message, which are counted and not shown. The third
// tells how many messages are missing at this place, because the disk was too slow.
//
// # What is left out
//
// A transcript is made to be shown to others. Replaced are, see redact.go:
//
//   - in the configurations of launch, attach and restart, of runInTerminal and
//     startDebugging: environment variables, arguments, and all text in attributes
//     that are not known to be harmless. Names are kept;
//   - what the component writes, and memory and sources: their lengths are kept;
//   - variables and results by their names (password, token, ...) and with all that
//     is below them, and in any text what looks like a credential or like NAME=value
//     of an environment;
//   - the values of environment variables of the session, wherever they turn up.
//
// All else is the program's own data, which no rule can tell from a secret.
//
// # Invariants
//
//   - Log.Add never waits, whatever the disk does, and takes at most queueLimit bytes.
//   - No message is missing without being counted in the file.
//   - The file is for its owner only, and is appended to.
//   - Tap changes no byte, and passes ends on as they come.
//
// A Log has one goroutine, which writes; Close ends it.
package transcript
