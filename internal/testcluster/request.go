package testcluster

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Get sends a request to a Service from outside, through the API server, and
// returns the answer's text. Query is like "item=tea&count=2".
func (n *Namespace) Get(ctx context.Context, service, path, query string) (string, error) {
	request := n.Client.CoreV1().RESTClient().Get().Namespace(n.Name).Resource("services").
		Name("http:" + service + ":80").SubResource("proxy").Suffix(path)
	for pair := range strings.SplitSeq(query, "&") {
		if name, value, ok := strings.Cut(pair, "="); ok {
			request = request.Param(name, value)
		}
	}
	out, err := request.DoRaw(ctx)
	if err != nil {
		return "", fmt.Errorf("GET %s/%s?%s: %w: %s", service, path, query, err, out)
	}
	return string(out), nil
}

// AwaitAnswer repeats a request until it is answered with the text: a Service works
// only a moment after its pods are ready.
func (n *Namespace) AwaitAnswer(ctx context.Context, service, path, query, want string) error {
	return until(ctx, fmt.Sprintf("the answer %q of %s/%s?%s", want, service, path, query), func() (bool, string, error) {
		limited, cancel := context.WithTimeout(ctx, requestLimit)
		defer cancel()
		answer, err := n.Get(limited, service, path, query)
		return err == nil && strings.TrimSpace(answer) == want, fmt.Sprintf("%q (%v)", answer, err), nil
	})
}

// requestLimit is how long an answer may take; without a debugger in the way it
// comes in milliseconds.
const requestLimit = 10 * time.Second

// Traffic sends requests one after the other and counts the answers.
type Traffic struct {
	stop    context.CancelFunc
	ended   sync.WaitGroup
	pausing sync.Mutex // held during a request, and while it pauses

	mu       sync.Mutex // guards all below
	answers  int
	failures []string
}

// StartTraffic begins to send the request again and again, until Stop. Each answer
// must have the text.
func (n *Namespace) StartTraffic(ctx context.Context, service, path, query, want string) *Traffic {
	ctx, stop := context.WithCancel(ctx)
	t := &Traffic{stop: stop}
	t.ended.Go(func() { // ends with ctx
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			t.once(ctx, n, service, path, query, want)
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	return t
}

func (t *Traffic) once(ctx context.Context, n *Namespace, service, path, query, want string) {
	t.pausing.Lock()
	defer t.pausing.Unlock()
	if ctx.Err() != nil {
		return
	}
	limited, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	began := time.Now()
	answer, err := n.Get(limited, service, path, query)
	if ctx.Err() != nil {
		return // Stop came in between
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case err != nil:
		t.failures = append(t.failures, fmt.Sprintf("%s, after %v: %v", began.Format(time.StampMilli), time.Since(began), err))
	case !strings.Contains(answer, want):
		t.failures = append(t.failures, fmt.Sprintf("%s: the answer is %q, not %q", began.Format(time.StampMilli), answer, want))
	default:
		t.answers++
	}
}

// Pause waits for the request that is under way and sends no more until Resume.
func (t *Traffic) Pause() { t.pausing.Lock() }

// Resume goes on after Pause.
func (t *Traffic) Resume() { t.pausing.Unlock() }

// End ends it, and returns how many requests were answered, and how the others failed.
func (t *Traffic) End() (answers int, failures []string) {
	t.stop()
	t.ended.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.answers, t.failures
}

// Stop ends it, and fails unless all requests were answered, and several.
func (t *Traffic) Stop() (answers int, err error) {
	answers, failures := t.End()
	if len(failures) > 0 {
		return answers, fmt.Errorf("%d of %d requests failed:\n%s", len(failures), answers+len(failures), strings.Join(failures, "\n"))
	}
	if answers < 3 {
		return answers, fmt.Errorf("only %d requests were sent", answers)
	}
	return answers, nil
}
