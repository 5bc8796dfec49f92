// Small is a component that needs the standard library only, and little of it.
package main

import (
	"os"

	"github.com/kubedelve/kubedelve/internal/bench/testdata/work"
)

func main() {
	if len(os.Args) > 1 { // in the place of which it will be debugged
		work.Rest()
	}
	work.Idle(20)
	work.Deep(30, work.NewOrder())
}
