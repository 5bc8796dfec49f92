// Package kubelaunch puts a debug build in place of a component, under Delve, and
// gives back a connection; and it undoes that.
//
// # Deployments
//
// The workload object itself is left alone. kubelaunch makes one pod of its own
// from the workload's pod template, with the agent as the container's command,
// and when that pod serves it gets the ReplicaSet's pod-template-hash label. The
// ReplicaSet controller adopts it, finds one pod too many, and ends another, since
// ours costs more to delete (controller.kubernetes.io/pod-deletion-cost). The end
// is the same in reverse: without the label the controller releases our pod and
// starts an original one; when that one is ready, ours is deleted.
//
// So no rollout happens, neither to begin nor to end; the Deployment's generation,
// revision and history stay; a GitOps controller finds nothing to revert; and
// whatever happens to kubedelve, deleting one pod brings the original back.
// spec.replicas is the only field that is ever changed (through the scale
// subresource), if the workload has several replicas or its pods can't live side
// by side.
//
// # Journal
//
// A Secret for each session, named for the workload, says what is about to be
// changed before it is (package file journal.go). Its creation is what makes a
// second session on the same target impossible. Undo reads nothing else, so it
// works from any machine, any number of times.
//
// # What a session survives
//
// A [Session] goes on through the loss of its tunnel, its agent and its pod, and through
// the exits of the component. One goroutine, the supervisor (package file
// supervisor.go), brings back what is lost; what it knows and what callers wish is in
// one struct (state.go); what a target must be able to do for it is an interface
// (site.go) with two implementations, workload.go and local.go. Of several replicas each
// has a Session of its own (replicas.go); the journal is one.
//
// # What it does not do
//
// It builds nothing (buildflags), speaks no DAP (dapserver), reads no kubeconfig:
// [Cluster] brings the clients. It runs no kubectl.
//
// Architecture Invariant: no change to the cluster that is not in the journal
// first; nothing of ours is left when [Restore] has returned without an error.
//
// Goroutines of a session: the supervisor; while there is a tunnel, one that looks for
// its end, and one that waits for the component's; one that watches the pod; one that
// takes over from the workload's pods, until that is done. All end with Close or Detach.
package kubelaunch
