package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

// way is a debugger that has halted a component by some way.
type way struct {
	name     string
	client   *client
	requests []request
}

// open connects to the address and halts the component at the line.
func open(ctx context.Context, name, address, path string, line int) (*way, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	w := &way{name: name, client: newClient(conn)}
	if err := w.client.halt(path, line); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), conn.Close())
	}
	if w.requests, err = w.client.requests(path, line); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), conn.Close())
	}
	return w, nil
}

func (w *way) close() error { return w.client.conn.Close() }

// warmUp is how many rounds come before those that count.
const warmUp = 20

// maxRounds bounds what quick requests take of memory and patience.
const maxRounds = 5000

// compare makes each request in turns on all ways, for at least the number of
// rounds and the time, and adds the times to the rows.
func compare(ctx context.Context, ways []*way, rounds int, atLeast time.Duration, rows *[]row) error {
	for kind, r := range ways[0].requests {
		if r.once {
			for _, w := range ways {
				if _, _, err := w.client.do(r); err != nil {
					return fmt.Errorf("%s: %w", w.name, err)
				}
			}
			continue
		}
		into := find(rows, r.command, len(ways))
		end := time.Now().Add(atLeast)
		for n := -warmUp; n < maxRounds && (n < rounds || time.Now().Before(end)); n++ {
			if err := ctx.Err(); err != nil {
				return err
			}
			for i := range ways {
				i = (i + n + warmUp) % len(ways) // none is always the first
				took, _, err := ways[i].client.do(ways[i].requests[kind])
				if err != nil {
					return fmt.Errorf("%s: %w", ways[i].name, err)
				}
				if n >= 0 {
					into.ways[i] = append(into.ways[i], took)
				}
			}
		}
	}
	return nil
}
