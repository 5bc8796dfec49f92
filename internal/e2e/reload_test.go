//go:build integration

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-dap"

	"github.com/kubedelve/kubedelve/internal/editor"
	"github.com/kubedelve/kubedelve/internal/testcluster"
)

// project is a copy of the sample that a test may edit.
type project struct {
	t    *testing.T
	dir  string
	main string // the source of the middle tier
	orig string // what was in it
}

func copyShop(t *testing.T) *project {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p := &project{t: t, dir: filepath.Join(dir, "shop")}
	if err := os.CopyFS(p.dir, os.DirFS(cluster.Programs.Shop())); err != nil {
		t.Fatal(err)
	}
	p.main = filepath.Join(p.dir, "middle", "main.go")
	text, err := os.ReadFile(p.main)
	if err != nil {
		t.Fatal(err)
	}
	p.orig = string(text)
	return p
}

// config is a launch configuration for the copy.
func (p *project) config(n *testcluster.Namespace) map[string]any {
	config := launchConfig(n)
	config["program"] = filepath.Join(p.dir, "middle")
	return config
}

// at is where the comment BREAKPOINT is now.
func (p *project) at(condition string) editor.Breakpoint {
	p.t.Helper()
	text, err := os.ReadFile(p.main)
	if err != nil {
		p.t.Fatal(err)
	}
	before, _, found := bytes.Cut(text, []byte("// BREAKPOINT"))
	if !found {
		p.t.Fatalf("%s has no line with the comment BREAKPOINT", p.main)
	}
	return editor.Breakpoint{Path: p.main, Line: bytes.Count(before, []byte("\n")) + 1, Condition: condition}
}

// saveWith saves the original with all but milk costing so much more, and so many lines
// above all.
func (p *project) saveWith(save editor.Save, more, lines int) {
	p.t.Helper()
	const line = "\ttotal := piece * order.Count\n"
	text := strings.Replace(p.orig, line, line+fmt.Sprintf("\tif order.Item != \"milk\" {\n\t\ttotal += %d\n\t}\n", more), 1)
	if text == p.orig {
		p.t.Fatalf("%s has no line %q", p.main, line)
	}
	p.saveText(save, strings.Repeat("// one line more\n", lines)+text)
}

func (p *project) saveText(save editor.Save, text string) {
	p.t.Helper()
	if err := save(p.main, []byte(text)); err != nil {
		p.t.Fatal(err)
	}
}

// buyTea sends a request that hits the breakpoint, looks at it there, lets it go on and
// checks the answer. It returns how many requests before it were lost.
func buyTea(t *testing.T, n *testcluster.Namespace, d *editor.Debugger, at editor.Breakpoint, cost int) (lost int) {
	t.Helper()
	buy := insist(t, n, "front", "buy", "item=tea&count=2")
	here := atBreakpoint(t, d, at, "tea", 2)
	if total, err := editor.Variable(here.locals, "total"); err != nil || total.Value != fmt.Sprint(cost) {
		t.Errorf("total is %+v (%v), not %d", total, err, cost)
	}
	if err := d.Continue(within(t)); err != nil {
		t.Fatal(err)
	}
	buy.got(t, fmt.Sprintf("front: 2 tea cost %d", cost))
	return buy.lost
}

// swapped waits until what was saved runs, with the breakpoint at its line.
func swapped(t *testing.T, d *editor.Debugger, at editor.Breakpoint) (text string, when time.Time) {
	t.Helper()
	ctx := within(t)
	e, err := d.AwaitOutput(ctx, "swapped in ")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.AwaitVerified(ctx, at); err != nil {
		t.Fatal(err)
	}
	var output dap.OutputEventBody
	if err := json.Unmarshal(e.Body, &output); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(output.Output), e.At
}

// ends are the events of an end that have come.
func ends(d *editor.Debugger) (names []string) {
	for _, e := range d.Events() {
		if e.Name == "terminated" || e.Name == "exited" {
			names = append(names, e.Name)
		}
	}
	return names
}

// stops counts the stops so far.
func stops(d *editor.Debugger) (count int) {
	for _, e := range d.Events() {
		if e.Name == "stopped" {
			count++
		}
	}
	return count
}

const ifTea = `order.Item == "tea"`

// A save swaps the program in the running pod; the session goes on.
func TestIntegrationHotReload(t *testing.T) {
	n := namespace(t, nil, allTiers...)
	before := snapshot(t, n, "middle")
	p := copyShop(t)
	at := p.at(ifTea)
	d, adapter := launch(t, n, p.config(n), at)
	buyTea(t, n, d, at, 12)
	pods, err := n.Pods(within(t), "middle")
	if err != nil {
		t.Fatal(err)
	}

	t.Log("an edit that moves the breakpoint")
	p.saveWith(editor.WithBackup, 1000, 3)
	moved := p.at(ifTea)
	if moved.Line == at.Line {
		t.Fatal("the edit does not move the breakpoint")
	}
	if err := d.Mark(within(t), moved); err != nil {
		t.Fatal(err)
	}
	text, _ := swapped(t, d, moved)
	t.Log(text)
	buyTea(t, n, d, moved, 1012)

	t.Log("an error is shown as a link, and the old program answers")
	p.saveText(editor.ByRename, strings.Replace(p.orig, "total := piece", "total = piece", 1))
	e, err := d.AwaitOutput(within(t), "undefined: total")
	if err != nil {
		t.Fatal(err)
	}
	var output dap.OutputEventBody
	if err := json.Unmarshal(e.Body, &output); err != nil {
		t.Fatal(err)
	}
	if output.Source == nil || output.Source.Path != p.main || output.Line != at.Line-1 || output.Column == 0 {
		t.Errorf("the compiler's message is not a link to %s:%d: %s", p.main, at.Line-1, e.Body)
	}
	if _, err := d.AwaitOutput(within(t), "does not compile"); err != nil {
		t.Fatal(err)
	}
	buyTea(t, n, d, moved, 1012)

	t.Log("of edits in a row the last one counts")
	for i := range 4 {
		p.saveWith(editor.InPlace, 2000+i, i)
		if i == 0 { // one is being built by now
			if err := d.AwaitProgress(within(t), "Rebuilding"); err != nil {
				t.Fatal(err)
			}
		}
	}
	last := p.at(ifTea)
	if err := d.Mark(within(t), last); err != nil {
		t.Fatal(err)
	}
	// What was saved in between may have been swapped in before.
	if err := n.AwaitAnswer(within(t), "front", "buy", "item=juice&count=0", "front: 0 juice cost 2003"); err != nil {
		t.Fatal(err)
	}
	if err := d.AwaitVerified(within(t), last); err != nil {
		t.Fatal(err)
	}
	buyTea(t, n, d, last, 2015)

	t.Log("the restart button, with other arguments")
	config := p.config(n)
	config["args"] = []string{"--currency", "CHF"}
	if err := d.Restart(within(t), config); err != nil {
		t.Fatal(err)
	}
	if _, err := d.AwaitOutput(within(t), `with arguments ["--currency" "CHF"]`); err != nil {
		t.Fatal(err)
	}
	buyTea(t, n, d, last, 2015)
	config["target"] = map[string]any{"name": "deploy/front", "namespace": n.Name}
	if err := d.Restart(within(t), config); err == nil || !strings.Contains(err.Error(), "the target is deploy/front now") {
		t.Errorf("a restart with another target is answered with %v", err)
	}

	now, err := n.Pods(within(t), "middle")
	if err != nil {
		t.Fatal(err)
	}
	if len(now) != len(pods) || now[0].Name != pods[0].Name || now[0].Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("it is not the same pod any more")
	}
	if got := ends(d); len(got) > 0 {
		t.Errorf("the editor was told of an end: %q", got)
	}
	leave(t, d, adapter)
	restored(t, n, "middle", before)
}

// The acceptance test of hot reload: 50 edits in a row under requests, or fewer, see
// long.
func TestIntegrationEdits(t *testing.T) {
	edits := long(50, 12)
	n := namespace(t, nil, allTiers...)
	before := snapshot(t, n, "middle")
	p := copyShop(t)
	at := p.at(ifTea)
	d, adapter := launch(t, n, p.config(n), at)
	traffic := n.StartTraffic(t.Context(), "front", "buy", "item=milk&count=3", "front: 3 milk cost 21")
	began := time.Now()
	var took []time.Duration
	early := 0
	for i := 1; i <= edits; i++ {
		p.saveWith(editor.Saves()[i%3], i, i%4)
		saved := time.Now()
		at = p.at(ifTea)
		if err := d.Mark(within(t), at); err != nil {
			t.Fatalf("edit %d: %v", i, err)
		}
		text, when := swapped(t, d, at)
		took = append(took, when.Sub(saved))
		t.Logf("edit %d: %s", i, text)
		early += buyTea(t, n, d, at, 12+i)
		if t.Failed() {
			t.Fatalf("after edit %d", i)
		}
	}
	whole := time.Since(began)
	answers, lost := traffic.End()
	slices.Sort(took)
	t.Logf("%d edits in %v, %d hits; from the save to the new program: p50 %v, max %v; %d requests answered, %d lost; %d of those that hit came too early",
		edits, whole.Round(time.Second), stops(d), took[edits/2].Round(10*time.Millisecond), took[edits-1].Round(10*time.Millisecond), answers, len(lost), early)
	for i, l := range lost {
		if i == 5 {
			t.Logf("...")
			break
		}
		t.Logf("lost: %s", l)
	}
	if hits := stops(d); hits != edits {
		t.Errorf("%d stops after %d edits", hits, edits)
	}
	if got := ends(d); len(got) > 0 {
		t.Errorf("the editor was told of an end: %q", got)
	}
	leave(t, d, adapter)
	restored(t, n, "middle", before)
}

// Without any debugger the command line keeps up with the sources too.
func TestIntegrationReloadWithoutADebugger(t *testing.T) {
	n := namespace(t, nil, allTiers...)
	before := snapshot(t, n, "middle")
	p := copyShop(t)
	k := n.Kubedelve("deploy/middle", "--program", "./middle", "--listen", "127.0.0.1:0", "--reload-grace", "200ms")
	k.Dir = p.dir
	process := start(t, k)
	if _, err := process.AwaitEvent(within(t), "serving"); err != nil {
		t.Fatal(err)
	}
	alone(t, n)
	for i := 1; i <= 3; i++ {
		p.saveWith(editor.Saves()[i%3], i, i)
		e, err := process.AwaitEvent(within(t), "swapped")
		if err != nil {
			t.Fatal(err)
		}
		t.Log(e.Text)
		if err := n.AwaitAnswer(within(t), "front", "buy", "item=tea&count=2", fmt.Sprintf("front: 2 tea cost %d", 12+i)); err != nil {
			t.Fatal(err)
		}
	}
	p.saveText(editor.InPlace, strings.Replace(p.orig, "total := piece", "total = piece", 1))
	e, err := process.AwaitEvent(within(t), "build-error")
	if err != nil {
		t.Fatal(err)
	}
	if e.File != p.main || e.Line == 0 || !strings.Contains(e.Text, "undefined: total") {
		t.Errorf("the compiler's message is %+v", e)
	}
	if err := n.AwaitAnswer(within(t), "front", "buy", "item=tea&count=2", "front: 2 tea cost 15"); err != nil {
		t.Fatal(err)
	}
	end(t, process)
	restored(t, n, "middle", before)
}
