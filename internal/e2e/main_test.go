//go:build integration

package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/kubedelve/kubedelve/internal/testcluster"
)

// cluster is the one that all tests share; nil with the reason if there is none.
var (
	cluster   *testcluster.Cluster
	noCluster error
)

func TestMain(m *testing.M) {
	flag.Parse()
	// The tests wait half of the time; the default is the number of cores. With five at a
	// time on two slow cores pods took half a minute to start.
	if f := flag.Lookup("test.parallel"); f != nil && f.Value.String() == f.DefValue {
		_ = f.Value.Set("3")
	}
	os.Exit(runAll(m))
}

func runAll(m *testing.M) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "kubedelve-e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	cluster, noCluster = bringUp(ctx, dir)
	if noCluster != nil && (!errors.Is(noCluster, testcluster.ErrUnsupported) || os.Getenv("CI") != "") {
		fmt.Fprintln(os.Stderr, noCluster)
		return 1
	}
	if cluster != nil {
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
			if err := cluster.Close(ctx); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}()
	}
	if ctx.Err() != nil {
		return 1
	}
	stop() // from here on Ctrl-C ends the tests at once, but for the cluster
	return m.Run()
}

func bringUp(ctx context.Context, dir string) (*testcluster.Cluster, error) {
	if err := testcluster.Supported(); err != nil {
		return nil, err
	}
	programs, err := testcluster.Build(ctx, dir)
	if err != nil {
		return nil, err
	}
	return testcluster.Start(ctx, "test", programs, os.Stderr)
}

// patience is how long a test waits for anything. The machine may be busy; it costs
// nothing when all is well.
const patience = 3 * time.Minute

// within is a context for one thing that is waited for.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// namespace is what most tests begin with: a namespace, and in it the tiers, in
// the form that change gives them.
func namespace(t *testing.T, change func(*testcluster.Objects), tiers ...string) *testcluster.Namespace {
	t.Helper()
	if noCluster == nil {
		t.Parallel()
	}
	return namespaceAlone(t, change, tiers...)
}

// namespaceAlone is namespace for a test that no other may run beside.
func namespaceAlone(t *testing.T, change func(*testcluster.Objects), tiers ...string) *testcluster.Namespace {
	t.Helper()
	if noCluster != nil {
		t.Skip(noCluster)
	}
	ctx := within(t)
	n, err := cluster.NewNamespace(ctx, "e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := n.Delete(ctx, false); err != nil {
			t.Errorf("deleting the namespace: %v", err)
		}
	})
	objects, err := cluster.Shop()
	if err != nil {
		t.Fatal(err)
	}
	objects = objects.Only(tiers...)
	if change != nil {
		change(objects)
	}
	if err := n.Create(ctx, objects); err != nil {
		t.Fatal(err)
	}
	if len(tiers) == len(allTiers) {
		if err := n.AwaitAnswer(ctx, "front", "buy", "item=milk&count=3", "front: 3 milk cost 21"); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// allTiers are those of the sample.
var allTiers = []string{"back", "middle", "front"}

// snapshot remembers how things are.
func snapshot(t *testing.T, n *testcluster.Namespace, deployment string) testcluster.Snapshot {
	t.Helper()
	s, err := n.Snapshot(within(t), deployment)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// restored checks that everything is as it was: at once, but for pods, which
// controllers may still be replacing.
func restored(t *testing.T, n *testcluster.Namespace, deployment string, before testcluster.Snapshot) {
	t.Helper()
	ctx := within(t)
	now, err := n.Snapshot(ctx, deployment)
	if err != nil {
		t.Fatal(err)
	}
	if diff := before.Diff(now); diff != "" {
		t.Errorf("deployment %s or the objects beside it are not as before (- before, + now):\n%s", deployment, diff)
	}
	left, err := n.Leftovers(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
	if err := n.Settled(ctx, deployment); err != nil {
		t.Error(err)
	}
}

// long is how much a test does of what takes its time: full in "make test-long", which
// sets KUBEDELVE_TEST_LONG, and short in "make test", which people wait for.
func long(full, short int) int {
	if os.Getenv("KUBEDELVE_TEST_LONG") != "" {
		return full
	}
	return short
}
