package oneshot

import (
	"context"
	"errors"
	"testing"

	"github.com/kubedelve/kubedelve/internal/agentapi"
)

func TestCallsGoToTheLowestRank(t *testing.T) {
	calls := NewCalls(agentapi.CallFilter{}, quiet)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	type result struct {
		call *Call
		err  error
	}
	ranks := make([]chan result, 3)
	for rank := range ranks {
		ranks[rank] = make(chan result, 1)
		go func() { // ends with a call, or ctx
			call, err := calls.Next(ctx, rank)
			ranks[rank] <- result{call, err}
		}()
	}
	await(t, "all wait", func() bool {
		calls.mu.Lock()
		defer calls.mu.Unlock()
		return len(calls.waiters) == len(ranks)
	})
	if _, err := calls.Next(ctx, 1); err == nil {
		t.Error("two wait with the same rank")
	}
	for rank := range 2 {
		call := &Call{PID: 100 + rank}
		if !calls.give(call) {
			t.Fatal("nobody waits")
		}
		if got := <-ranks[rank]; got.call != call || got.err != nil {
			t.Errorf("rank %d got %+v, %v", rank, got.call, got.err)
		}
	}
	cancel()
	if got := <-ranks[2]; !errors.Is(got.err, context.Canceled) {
		t.Errorf("who has been withdrawn got %+v, %v", got.call, got.err)
	}
	if calls.give(&Call{}) {
		t.Error("a call was given to nobody")
	}
}
