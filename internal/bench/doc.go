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
// and on a cluster, which is found or made as for the end-to-end tests (package
// testcluster), to pods that are alike:
//
//   - pod's address: a TCP connection to the pod, where that is possible
//   - port-forward: as kubectl does it, SPDY in a WebSocket, or SPDY alone
//   - kubedelve: "kubedelve debug", that is dapserver, the tunnel and the agent
//
// Each way has a Delve and a component of its own, so that none waits for another's.
//
// # Output
//
// "kubedelve dap" runs a component that writes numbered lines to stdout and stderr
// as fast as it can, while the editor asks for threads now and then: what is lost or
// out of order is an error.
package main
