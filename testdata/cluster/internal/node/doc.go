// Package node makes the machine that a test cluster runs on out of namespaces: it
// starts the first process of a node, gives it cgroups, a network and a file system,
// lets it become the node's init, runs commands inside, and removes all of it.
//
// It knows nothing of Kubernetes, and it does not isolate: root in a node is root on
// the host, only with another view.
//
// What a node has is bound to its processes as far as the kernel allows it. Mounts,
// devices and settings belong to its namespaces and vanish with its last process;
// cgroups do not, and are removed by name. The host's end of the link goes with the
// network namespace, and is removed by name as well, because the kernel takes its
// time.
//
// Parts of the package run in processes of their own, which the program starts from
// itself (see Main): the first process of a node until its exec, on one locked
// thread, and the helper that joins a node to run a command there. They share
// nothing with the starter but pipes and their arguments.
//
// Goroutines: only the helper has one, which passes signals on; it ends with the
// process.
package node
