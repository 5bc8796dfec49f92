//go:build !(linux && amd64)

package dapserver

// watchpointsWork is only looked at where a virtual machine was seen that has none.
func watchpointsWork() bool { return true }
