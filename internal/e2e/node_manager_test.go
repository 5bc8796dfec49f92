//go:build integration

package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/kubedelve/kubedelve/internal/editor"
	"github.com/kubedelve/kubedelve/internal/testcluster"
)

// A breakpoint in the controller of autoscalers is hit by one that scales a Deployment.
// The controller manager is halted for longer than its Lease and its patience with it last,
// and goes on as the leader. A line is added and saved, and runs in the same container.
func (s *staticSession) autoscaler(t *testing.T, halt time.Duration) {
	s.autoscaled(t)
	path := s.kube.File(testcluster.AutoscalerSource)
	const line = "hpaStatusOriginal := hpa.Status.DeepCopy()"
	at := editor.Breakpoint{Path: path, Line: lineIn(t, path, "func (a *HorizontalController) reconcileAutoscaler(", line)}
	original, _, err := s.Leader(within(t), s.component)
	if err != nil {
		t.Fatal(err)
	}

	d, adapter := s.debug(t, s.command(), s.config(), at)
	if err := s.namespace.Autoscale(within(t), "back"); err != nil {
		t.Fatal(err)
	}
	objectAtBreakpoint(t, d, at, "reconcileAutoscaler", "hpa", "back")
	leader, err := s.AwaitLeader(within(t), s.component, original)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.StepOver(within(t)); err != nil {
		t.Fatal(err)
	}
	if stack, err := d.Stack(within(t)); err != nil || stack[0].Line != at.Line+2 {
		t.Fatalf("a step over line %d leads to %+v, %v", at.Line, stack, err)
	}
	s.leads(t, leader, halt)
	if err := d.SetBreakpoints(within(t), editor.Breakpoint{Path: path, Line: at.Line, Condition: `hpa.ObjectMeta.Name == "nobody"`}); err != nil {
		t.Fatal(err)
	}
	if err := d.Continue(within(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.AwaitOutput(within(t), s.component+" renews its Lease again"); err != nil {
		t.Error(err)
	}
	if err := s.namespace.AwaitReplicas(within(t), "back", 2); err != nil {
		t.Fatal(err)
	}
	s.leads(t, leader, 20*time.Second)
	s.fine(t)

	container := s.container(t)
	at.Line++
	saves(t, d, at, func(text string) string {
		return strings.Replace(text, line, `klog.Infof("a line more for %s", hpa.Name)`+"\n\t"+line, 1)
	})
	objectAtBreakpoint(t, d, at, "reconcileAutoscaler", "hpa", "back")
	if err := d.Continue(within(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.AwaitOutput(within(t), "a line more for back"); err != nil {
		t.Error(err)
	}
	if now := s.container(t); now != container {
		t.Errorf("it runs in container %s, it was %s", now, container)
	}
	if got := ends(d); len(got) > 0 || strings.Contains(d.Output(), "starting it again") {
		t.Errorf("the controller manager has ended (%q): %s", got, d.Output("console", "important"))
	}
	began := time.Now()
	leave(t, d, adapter)
	t.Logf("from stop to everything restored: %.1f s", time.Since(began).Seconds())
	if err := s.namespace.EndAutoscaling(within(t), "back", 1); err != nil {
		t.Fatal(err)
	}
	s.back(t)
}

// autoscaled brings up what autoscalers need: a Deployment, and metrics.
func (s *staticSession) autoscaled(t *testing.T) {
	t.Helper()
	objects, err := s.Shop()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.namespace.Create(within(t), objects.Only("back")); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Programs.Add(within(t), "metrics", "internal/e2e/testdata/metrics"); err != nil {
		t.Fatal(err)
	}
	s.Refs["metrics"], err = s.Load(within(t), testcluster.Image{
		Name: "metrics", User: "65532", Entry: "/metrics", Files: map[string]string{"/metrics": cluster.Programs.Path("metrics")},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.StopMetrics(ctx); err != nil {
			t.Error(err)
		}
	})
	if err := s.namespace.ServeMetrics(within(t), "metrics"); err != nil {
		t.Fatal(err)
	}
	if s.before, err = s.NodeState(within(t)); err != nil {
		t.Fatal(err)
	}
}
