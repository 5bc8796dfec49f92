// Small is a component that needs the standard library only, and little of it.
package main

import "github.com/kubedelve/kubedelve/internal/bench/testdata/work"

func main() {
	work.Idle(20)
	work.Deep(30, work.NewOrder())
}
