package node

import (
	"context"
	"time"
)

// retry calls f until it succeeds or ctx ends, and then returns f's last error.
// The kernel frees cgroups and mounts a moment after the last process is gone, and
// gives no event for it.
func retry(ctx context.Context, f func() error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}
