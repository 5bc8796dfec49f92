// Command demo shows kubedelve from F5 to a breakpoint in a pod, and back, on a
// cluster that it makes itself (or on that of KUBECONFIG): "make demo". It drives
// the real kubedelve as an editor does and stops with an error if anything is not
// as it should be.
//
// It needs Linux, root, Go and git, and nothing else. See package testcluster for
// what it stands on.
package main
