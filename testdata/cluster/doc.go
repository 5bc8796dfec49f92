// The program cluster runs a real one-node Kubernetes on a Linux machine, built from
// Go modules and distribution packages: what kubedelve claims to do on a cluster is
// shown on it. It pulls no image, needs no container tool and leaves nothing behind.
//
// A cluster is a node in pid, mount, uts, ipc, net and cgroup namespaces of its own,
// over the host's /usr (copy on write) and an /etc and /var that are new. It does not
// try to isolate: root in the node is root on the machine.
//
// Invariants:
//   - Of a cluster the host has processes and their cgroups, one end of a veth pair,
//     and one folder. All mounts, sockets, settings and other devices are inside.
//   - What may come to exist is recorded before it is made, so that "down" finds it
//     whatever moment the starter died at.
//   - A process is killed only if it is in the node's cgroup.
//   - A node has no route out of the machine.
package main
