// Package debuginfo answers questions about a Go program from its executable
// file, by the debugging information (ELF and DWARF) in it: the source files, the
// lines on which a debugger can stop, the packages with what is in them, and the
// modules. The debugger that runs the program is not asked; it may be far away,
// busy or gone.
//
// # What it does
//
// Open reads what the go command wrote of the build. Everything else is indexed
// when it is first asked for, once, in a goroutine that all who ask wait for. The
// index has names and offsets; line tables are read from the file each time and
// only those of the units that the question is about. So a big program (a kubelet
// of 193 MB) costs 14 MB of memory and, once, the reading of its symbols
// and of its line tables' headers.
//
// # What it does not
//
// It runs nothing, writes nothing and knows no debugger. All file names are those
// in the binary; where these files are on this machine is the caller's business,
// who has the path rules. Types and variables of functions are not looked at. It
// reads what the linker of Go writes for Linux; a unit of another compiler (cgo)
// that the standard library can't read has no lines.
//
// # Invariants
//
//   - A line is returned if and only if Delve can bind a breakpoint to it, but for
//     lines of optimised code (the standard library's) that have nothing left on
//     them than a call that was inlined: these are not returned.
//   - Names are those that Delve's expressions take.
//   - A damaged file makes errors, neither panics nor allocations out of proportion.
//
// # Goroutines
//
// One while the index is made. It ends by itself, or soon after Close.
package debuginfo
