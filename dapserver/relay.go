package dapserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// Relay connects an editor with a Delve that runs already. It changes no byte
// and knows nothing of DAP. When one side has ended its stream, the other is
// told at once (CloseWrite, if the connection has it, else Close); when both
// have, or ctx ends, Relay closes both connections and returns. Close of a
// connection must end a Read of it.
func Relay(ctx context.Context, editor, backend io.ReadWriteCloser) error {
	closeBoth := sync.OnceFunc(func() {
		_ = editor.Close()
		_ = backend.Close()
	})
	defer closeBoth()
	stop := context.AfterFunc(ctx, closeBoth)
	defer stop()

	var errs [2]error
	var wg sync.WaitGroup
	// Each owns one direction. It ends with the stream that it reads, or when
	// the stream that it writes is gone.
	pipe := func(i int, to, from io.ReadWriteCloser, what string) {
		_, err := io.Copy(to, from)
		// A connection that has no CloseWrite is closed by the other direction.
		if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.ErrClosedPipe) {
			errs[i] = fmt.Errorf("relaying %s: %w", what, err)
			closeBoth() // nothing can get through this way any more
			return
		}
		if half, ok := to.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite() // fails if the other direction is over, too
		} else {
			_ = to.Close()
		}
	}
	wg.Go(func() { pipe(0, backend, editor, "from the editor to Delve") })
	wg.Go(func() { pipe(1, editor, backend, "from Delve to the editor") })
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errors.Join(errs[0], errs[1])
}
