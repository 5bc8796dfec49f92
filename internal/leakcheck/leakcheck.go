// Package leakcheck fails tests that leave goroutines behind.
package leakcheck

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// patience is how long goroutines have to end after a test: much, since the machine
// may be busy, and it costs nothing when all is well.
const patience = 10 * time.Second

// Goroutines fails the test if a goroutine that runs code of this module, or of a
// library whose import path one of the others is a part of, is left when the test
// and its other clean-ups are over. Call it first, so that it is looked at last.
func Goroutines(t testing.TB, others ...string) {
	t.Helper()
	t.Cleanup(func() {
		if left := await(others); len(left) > 0 {
			t.Errorf("%d goroutines are left:\n%s", len(left), strings.Join(left, "\n\n"))
		}
	})
}

// Main is the same for a package whose tests run side by side: it runs them all, and
// returns the exit code.
func Main(m *testing.M, others ...string) int {
	code := m.Run()
	if left := await(others); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "FAIL: %d goroutines are left:\n%s\n", len(left), strings.Join(left, "\n\n"))
		return 1
	}
	return code
}

// await waits until no goroutine is left, and returns those that don't end.
func await(others []string) (left []string) {
	wanted := append([]string{"kubedelve/kubedelve/"}, others...)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		left := running(wanted)
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
	}
}

// running returns the stacks, but for those of tests, that have one of the words.
func running(words []string) []string {
	buf := make([]byte, 4<<20)
	stacks := strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")[1:] // the first is this one
	return slices.DeleteFunc(stacks, func(stack string) bool {
		test := strings.Contains(stack, "testing.(*T).Run(") || strings.Contains(stack, "testing.tRunner(") || strings.Contains(stack, "main.main()")
		return test || !slices.ContainsFunc(words, func(w string) bool { return strings.Contains(stack, w) })
	})
}
