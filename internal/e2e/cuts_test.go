//go:build integration

package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kubedelve/kubedelve/internal/editor"
	"github.com/kubedelve/kubedelve/internal/testcluster"
)

// apiServerStop is how long the API server is away.
const apiServerStop = 10 * time.Second

// The kinds of cuts.
const (
	cutConnections = "connections killed"
	cutAPIServer   = "API server stopped"
	cutPod         = "pod deleted"
)

// cutting is a session in an editor whose ways are cut.
type cutting struct {
	t      *testing.T
	n      *testcluster.Namespace
	gate   *testcluster.Gate
	d      *editor.Debugger
	at     editor.Breakpoint
	orders int            // so far: each has a number of its own
	stops  map[string]int // how often the orders of a run were stopped at, by run and number
	runs   int            // pods so far
	lost   int            // breakpoints that were not hit
}

// Twenty cuts at random moments, or fewer, see long: the session lives, the breakpoint
// is hit after each, and no stop is told twice. It runs alone, since it stops the API
// server.
func TestIntegrationCuts(t *testing.T) {
	cuts := long(20, 6)
	if noCluster != nil {
		t.Skip(noCluster)
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("KUBEDELVE_TEST_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("the seed is %d (KUBEDELVE_TEST_SEED)", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	n := namespaceAlone(t, nil, allTiers...)
	before := snapshot(t, n, "middle")
	gate, err := n.NewGate(t.Context(), filepath.Join(t.TempDir(), "gate"), 0, func() {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = gate.Close() })
	config := launchConfig(n)
	config["target"] = map[string]any{"name": "deploy/middle", "namespace": n.Name, "kubeconfig": gate.Kubeconfig}
	c := &cutting{t: t, n: n, gate: gate, at: breakpoint(t, `order.Item == "tea"`), stops: map[string]int{}}
	var adapter *testcluster.Adapter
	c.d, adapter = launch(t, n, config, c.at)
	traffic := n.StartTraffic(t.Context(), "front", "buy", "item=milk&count=3", "front: 3 milk cost 21")
	c.hit()
	if err := c.d.Continue(within(t)); err != nil {
		t.Fatal(err)
	}

	kinds := []string{cutConnections, cutPod}
	if cluster.MayBreak() {
		kinds = append(kinds, cutAPIServer)
	}
	took := map[string][]time.Duration{}
	for i := range cuts {
		kind := kinds[i%len(kinds)]
		halted := random.IntN(2) == 0
		if halted {
			c.hit()
		}
		time.Sleep(time.Duration(random.IntN(1500)) * time.Millisecond) // the random moment
		began := time.Now()
		c.cut(kind, halted)
		c.hit()
		took[kind] = append(took[kind], time.Since(began))
		if err := c.d.Continue(within(t)); err != nil {
			t.Fatalf("cut %d, %s: %v", i+1, kind, err)
		}
		t.Logf("cut %2d: %s, halted %v: at the breakpoint after %.1f s", i+1, kind, halted, time.Since(began).Seconds())
	}

	duplicates := 0
	for stop, times := range c.stops {
		if times > 1 {
			duplicates += times - 1
			t.Errorf("the stop at %s was told %d times", stop, times)
		}
	}
	told, stopped := 0, 0
	for _, e := range c.d.Events() {
		if e.Name == "stopped" {
			told++
		}
	}
	for _, times := range c.stops {
		stopped += times
	}
	if told != stopped {
		duplicates += told - stopped
		t.Errorf("%d stops were told, %d orders stopped", told, stopped)
	}
	answers, failures := traffic.Stop() // a cut may cost requests
	t.Logf("%d cuts, %d breakpoints lost, %d stops told twice; %d requests were answered meanwhile", cuts, c.lost, duplicates, answers)
	if failures != nil {
		first, _, _ := strings.Cut(failures.Error(), "\n")
		t.Log(first)
	}
	for kind, times := range took {
		slices.Sort(times)
		t.Logf("%s: at the breakpoint again after %.1f s (median), %.1f s (most)", kind, times[len(times)/2].Seconds(), times[len(times)-1].Seconds())
	}
	leave(t, c.d, adapter)
	restored(t, n, "middle", before)
}

// cut makes a cut and returns when the program runs, as the editor knows it.
func (c *cutting) cut(kind string, halted bool) {
	c.t.Helper()
	switch kind {
	case cutConnections:
		if c.gate.Cut() == 0 {
			c.t.Fatal("there was nothing to cut")
		}
	case cutAPIServer:
		if err := cluster.StopAPIServer(within(c.t), apiServerStop); err != nil {
			c.t.Fatal(err)
		}
	case cutPod:
		pod := sessionPod(c.t, c.n)
		if err := c.n.DeletePod(within(c.t), pod.Name); err != nil {
			c.t.Fatal(err)
		}
		if halted { // the run is gone, and the next one runs
			if _, err := c.d.Next(within(c.t), "continued"); err != nil {
				c.t.Fatal(err)
			}
		}
		if _, err := c.d.AwaitOutput(within(c.t), "now serves"); err != nil {
			c.t.Fatal(err)
		}
		alone(c.t, c.n)
		c.runs++
		return
	}
	if !halted {
		return
	}
	// The same run, which stands where it stood.
	if stack, err := c.d.Stack(within(c.t)); err != nil || len(stack) == 0 || stack[0].Line != c.at.Line {
		c.t.Fatalf("after the cut the stack is %+v (%v)", stack, err)
	}
	if err := c.d.Continue(within(c.t)); err != nil {
		c.t.Fatal(err)
	}
}

// hit sends orders until one stops at the breakpoint: while pods change, an original may
// answer one, or nobody. It leaves the program halted.
func (c *cutting) hit() {
	c.t.Helper()
	ctx := within(c.t)
	stop := make(chan error, 1)
	go func() { stop <- c.d.AwaitStop(ctx, "breakpoint") }() // ends with the stop or ctx
	for {
		c.orders++
		order := begin(c.t, c.n, "front", "buy", fmt.Sprintf("item=tea&count=%d", 1000+c.orders))
		select {
		case err := <-stop:
			c.stopped(err)
			return
		case <-order.done:
		}
		pause := time.NewTimer(200 * time.Millisecond)
		select {
		case err := <-stop:
			pause.Stop()
			c.stopped(err)
			return
		case <-pause.C:
		}
	}
}

// stopped notes which order the program stopped at.
func (c *cutting) stopped(err error) {
	c.t.Helper()
	if err != nil {
		c.lost++
		c.t.Fatalf("the breakpoint is not hit: %v", err)
	}
	ctx := within(c.t)
	stack, err := c.d.Stack(ctx)
	if err != nil || len(stack) == 0 || stack[0].Line != c.at.Line || stack[0].Source == nil || stack[0].Source.Path != c.at.Path {
		c.t.Fatalf("it does not stop at %s:%d but at %+v (%v)", c.at.Path, c.at.Line, stack, err)
	}
	locals, _, err := c.d.Locals(ctx, stack[0].Id)
	if err != nil {
		c.t.Fatal(err)
	}
	order, err := editor.Variable(locals, "order")
	if err != nil {
		c.t.Fatal(err)
	}
	fields, err := c.d.Children(ctx, order.VariablesReference)
	if err != nil {
		c.t.Fatal(err)
	}
	count, err := editor.Variable(fields, "Count")
	if err != nil {
		c.t.Fatal(err)
	}
	// front may send an order again whose pod was deleted: to another run.
	c.stops[fmt.Sprintf("order %s of run %d", count.Value, c.runs)]++
}
