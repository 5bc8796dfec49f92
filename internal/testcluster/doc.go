// Package testcluster is what the end-to-end tests and the demo stand on: a
// cluster, the programs built for it, workloads, requests to them, snapshots to
// compare, and kubedelve as a subprocess.
//
// # Which cluster
//
// If KUBEDELVE_TEST_KUBECONFIG or KUBECONFIG is set, that cluster is used and left
// up. Otherwise the program in testdata/cluster makes one, which takes Linux and
// root, and [Cluster.Close] takes it down again, unless KUBEDELVE_KEEP_CLUSTER is
// set.
//
// KUBEDELVE_TEST_MAY_BREAK says that nobody else uses that cluster: then its API server
// is stopped for some tests, as that of a cluster made here is.
//
// # Images
//
// Images are made from binaries built here. A cluster of testdata/cluster gets them
// without a registry, under a tag that is the hash of what is in them. For any
// other cluster they have to be pulled: KUBEDELVE_TEST_IMAGES is the beginning of
// their names (registry.example.com/me/kubedelve-), to which agent:1, front:1,
// middle:1, back:1, helper:1 and shell:1 are appended. [Programs.Images] says what
// is in each.
//
// # What it does not
//
// It knows nothing of testing.T, so that the demo can use it: its functions return
// errors. It calls kubedelve only as its users do, through its command line.
package testcluster
