//go:build unix

package dapserver

import "syscall"

// writeNow writes as much of b as the kernel takes without waiting, and returns how
// much that was. An error is for the next write to find.
func writeNow(conn syscall.RawConn, b []byte) (n int) {
	_ = conn.Write(func(fd uintptr) bool {
		n, _ = syscall.Write(int(fd), b)
		return true // do not wait
	})
	return max(n, 0)
}
