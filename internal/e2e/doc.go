// Package e2e holds the end-to-end tests: the real programs, on a real cluster, as
// their users have them. They are behind the build tag integration; which cluster
// they run on is for package testcluster to say.
//
// Every test has a namespace of its own and runs beside the others. What each asks
// at its end is the same: the workload is what it was, nothing of kubedelve's is
// left, and nobody who used the workload has noticed.
//
// A test that can't run here is skipped with the reason, and fails if CI is set.
// KUBEDELVE_SHORT makes the one that sits at a breakpoint for three minutes sit for
// ten seconds.
package e2e
