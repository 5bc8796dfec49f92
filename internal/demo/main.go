package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/kubedelve/kubedelve/internal/editor"
	"github.com/kubedelve/kubedelve/internal/testcluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(stderr)
	keep := flags.Bool("keep", false, "leave the cluster up at the end")
	verbose := flags.Bool("v", false, "show what the cluster's program says")
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		return 2
	}
	d := &demo{out: stdout, began: time.Now(), keep: *keep, details: io.Discard}
	if *verbose {
		d.details = stderr
	}
	if err := d.run(ctx); err != nil {
		_, _ = fmt.Fprintf(stderr, "error: %v\n", err)
		return 1
	}
	return 0
}

// limit bounds each part but the first ones, which build a cluster.
const limit = 3 * time.Minute

// demo is one run.
type demo struct {
	out     io.Writer
	details io.Writer
	began   time.Time
	keep    bool

	cluster    *testcluster.Cluster
	namespace  *testcluster.Namespace
	before     testcluster.Snapshot
	breakpoint editor.Breakpoint
}

// step does something and prints how long it took.
func (d *demo) step(title string, do func() error) error {
	began := time.Now()
	if err := do(); err != nil {
		return fmt.Errorf("%s: %w", title, err)
	}
	_, _ = fmt.Fprintf(d.out, "%7.1f s  %-58s %6.1f s\n", time.Since(d.began).Seconds(), title, time.Since(began).Seconds())
	return nil
}

// show prints what belongs to the step before.
func (d *demo) show(format string, args ...any) {
	text := strings.TrimRight(fmt.Sprintf(format, args...), "\n")
	for line := range strings.SplitSeq(text, "\n") {
		_, _ = fmt.Fprintf(d.out, "             %s\n", line)
	}
}

func (d *demo) run(ctx context.Context) (err error) {
	if err := testcluster.Supported(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "kubedelve-demo")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var programs *testcluster.Programs
	if err := d.step("build kubedelve, its agent and the sample", func() (err error) {
		programs, err = testcluster.Build(ctx, dir)
		return err
	}); err != nil {
		return err
	}
	if err := d.step("bring the cluster up, with the images", func() (err error) {
		d.cluster, err = testcluster.Start(ctx, "demo", programs, d.details)
		return err
	}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.tearDown(ctx)) }()
	d.show("export KUBECONFIG=%s", d.cluster.Kubeconfig)
	if err := d.step("deploy the sample: front -> middle -> back", func() error { return d.deploy(ctx) }); err != nil {
		return err
	}
	if err := d.step("compile what the sample imports for debugging (once)", func() error { return d.warm(ctx, dir) }); err != nil {
		return err
	}
	return d.session(ctx)
}

// tearDown leaves nothing, unless that was asked for.
func (d *demo) tearDown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	if d.keep {
		d.show("the cluster stays up")
		return nil
	}
	if d.cluster.Made() {
		return d.step("take the cluster down", func() error { return d.cluster.Close(ctx) })
	}
	if d.namespace == nil {
		return nil
	}
	return d.step("delete the namespace "+d.namespace.Name, func() error { return d.namespace.Delete(ctx, true) })
}

func (d *demo) deploy(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if d.namespace, err = d.cluster.NewNamespace(ctx, "kubedelve-demo-"); err != nil {
		return err
	}
	objects, err := d.cluster.Shop()
	if err != nil {
		return err
	}
	if err := d.namespace.Create(ctx, objects); err != nil {
		return err
	}
	if err := d.namespace.AwaitAnswer(ctx, "front", "buy", "item=milk&count=3", "front: 3 milk cost 21"); err != nil {
		return err
	}
	d.before, err = d.namespace.Snapshot(ctx, "middle")
	return err
}

// buy sends a request through the front tier.
func (d *demo) buy(ctx context.Context, query, want string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	answer, err := d.namespace.Get(ctx, "front", "buy", query)
	if err != nil {
		return err
	}
	if got := strings.TrimSpace(answer); got != want {
		return fmt.Errorf("GET front/buy?%s answers %q, not %q", query, got, want)
	}
	return nil
}

// findBreakpoint finds the line with the comment BREAKPOINT.
func (d *demo) findBreakpoint() error {
	d.breakpoint.Path = filepath.Join(d.cluster.Programs.Shop(), "middle", "main.go")
	source, err := os.ReadFile(d.breakpoint.Path)
	if err != nil {
		return fmt.Errorf("the sample: %w", err)
	}
	before, _, found := bytes.Cut(source, []byte("// BREAKPOINT"))
	if !found {
		return fmt.Errorf("%s has no line with the comment BREAKPOINT", d.breakpoint.Path)
	}
	d.breakpoint.Line = bytes.Count(before, []byte("\n")) + 1
	return nil
}
