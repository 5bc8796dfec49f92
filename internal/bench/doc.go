// Command bench measures what kubedelve adds to a debugger's requests: "make bench".
// It prints tables, and fails only if something does not work: no figure does.
//
// # Pairs
//
// What is compared is measured in one run, request by request in turns, against
// Delves of the same kind with components of the same binary: a machine that is
// busy is busy for all. The ways of a request:
//
//   - direct: a TCP connection to Delve
//   - proxy: through a process that copies bytes both ways, which is the least
//     that anything in between can cost
//   - kubedelve: through a process with package dapserver
//
// Each has a Delve and a component of its own, so that none waits for another's.
package main
