package leakcheck

import "testing"

func TestAGoroutineIsSeenUntilItEnds(t *testing.T) {
	Goroutines(t)
	end, ended := make(chan struct{}), make(chan struct{})
	go func() { // ends with the test
		<-end
		close(ended)
	}()
	if got := len(running([]string{"kubedelve/kubedelve/internal/leakcheck"})); got != 1 {
		t.Errorf("%d goroutines were seen, want 1", got)
	}
	close(end)
	<-ended
}
