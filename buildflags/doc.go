// Package buildflags compiles a Go command so that Delve can debug it and it
// stays, apart from that, what it was; and it says of a finished binary whether
// and how well it can be debugged.
//
// Build runs the user's own go command with the user's own flags, tags,
// environment, vendor directory, workspace and cgo mode. What it changes is
// written in flags.go and is this, no more:
//
//   - -gcflags=all=-N -l, merged into the user's -gcflags
//   - -s and -w out of -ldflags, also behind a package pattern, in GOFLAGS and
//     on their way to the external linker; -compressdwarf=false in
//   - no -trimpath (unless asked for: then the paths are mapped), no -a
//   - -pgo=off, since a profile only steers the optimiser that is now off
//   - GOOS and GOARCH of the machine that the program is going to run on
//   - cgo off where only the standard library would have used it (see cgo.go)
//
// A Builder does so again and again, after each save for instance, and tells what
// files the program is built of (Inputs), so that they can be watched.
//
// Inspect reads an executable and never runs it: nor may it panic or take
// memory out of proportion on a damaged one.
//
// What the package deliberately does not do: it knows no cluster, no image and
// no debugger protocol; it runs no make or script; it downloads nothing but what
// the go command itself downloads; it writes nowhere but in the user's cache
// directory, in go's own caches, and to Config.Output.
//
// Invariants:
//
//   - A debug build differs from the release build only in being debuggable.
//   - Build returns a Binary only if Inspect found no problem with it and its
//     platform is the one asked for. What is published at Binary.Path is always
//     a whole file: it is renamed into place, and two builds of the same
//     configuration wait for each other, in one process or in several.
//   - What a Builder has built stays at Binary.Path until it is released, whatever
//     else is built meanwhile.
//   - When its context ends, Build returns promptly and leaves no process.
//   - Every error that a user can act on is a *ConfigError, which names the
//     attribute, a *CompileError, which has the compiler's lines, a *GoError,
//     which has the go command's, or a *BinaryError, which has the Info.
//
// Goroutines: those of os/exec, which have ended when Build returns.
//
// Only the standard library is imported.
package buildflags
