package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-dap"

	"github.com/kubedelve/kubedelve/buildflags"
	"github.com/kubedelve/kubedelve/internal/editor"
	"github.com/kubedelve/kubedelve/internal/testcluster"
)

// warm compiles the standard library with debug flags into Go's cache, which on a
// new machine takes a minute: the session then takes what every later one takes.
func (d *demo) warm(ctx context.Context, dir string) error {
	_, err := buildflags.Build(ctx, buildflags.Config{
		Dir: d.cluster.Programs.Shop(), Program: "./middle", Output: filepath.Join(dir, "warm"),
	}, nil, nil)
	return err
}

// session is the debug session, from F5 to the end.
func (d *demo) session(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := d.findBreakpoint(); err != nil {
		return err
	}
	pressed := time.Now()
	adapter, err := d.cluster.BeginAdapter(testcluster.Command{})
	if err != nil {
		return err
	}
	var debugger *editor.Debugger
	var armed time.Time
	err = d.step("F5: kubedelve builds, swaps, starts Delve, arms a breakpoint", func() (err error) {
		debugger, armed, err = editor.Start(ctx, adapter, "launch", map[string]any{
			"type": "kubedelve", "request": "launch", "name": "middle",
			"target":  map[string]any{"name": "deploy/middle", "namespace": d.namespace.Name},
			"program": filepath.Join(d.cluster.Programs.Shop(), "middle"),
		}, d.breakpoint)
		return err
	})
	defer func() { // if something went wrong, the adapter restores by itself
		_ = debugger.Close()
		_, _, _ = adapter.Wait(context.WithoutCancel(ctx))
	}()
	if err != nil {
		return errors.Join(err, errors.New(debugger.Output()))
	}
	d.show("%s:%d", d.breakpoint.Path, d.breakpoint.Line)
	shares := sharesOf(debugger.Events(), pressed, armed)
	if err := d.step("the debug pod takes over from the original", func() error {
		if _, err := debugger.AwaitOutput(ctx, "now serves"); err != nil {
			return err
		}
		return d.namespace.Alone(ctx, "middle")
	}); err != nil {
		return err
	}
	if err := d.stop(ctx, debugger); err != nil {
		return err
	}
	if err := d.step("end the session: everything is put back", func() error { return debugger.Disconnect(ctx) }); err != nil {
		return err
	}
	if code, stderr, err := adapter.Wait(ctx); err != nil || code != 0 {
		return fmt.Errorf("kubedelve dap ended with code %d: %w: %s", code, err, stderr)
	}
	if err := d.compare(ctx); err != nil {
		return err
	}
	d.report(shares, armed.Sub(pressed))
	return nil
}

// stop is what happens at the breakpoint.
func (d *demo) stop(ctx context.Context, debugger *editor.Debugger) error {
	type result struct {
		text string
		err  error
	}
	answered := make(chan result, 1)
	go func() { // ends with the answer or ctx
		text, err := d.namespace.Get(ctx, "front", "buy", "item=tea&count=2")
		answered <- result{text, err}
	}()
	if err := d.step("GET front/buy?item=tea&count=2 hits the breakpoint", func() error {
		return debugger.AwaitStop(ctx, "breakpoint")
	}); err != nil {
		return err
	}
	stack, err := debugger.Stack(ctx)
	if err != nil {
		return err
	}
	if len(stack) == 0 || stack[0].Source == nil || stack[0].Source.Path != d.breakpoint.Path || stack[0].Line != d.breakpoint.Line {
		return fmt.Errorf("the stack does not begin at %s:%d: %+v", d.breakpoint.Path, d.breakpoint.Line, stack)
	}
	for _, f := range stack[:min(len(stack), 5)] {
		d.show("%-36s %s:%d", f.Name, f.Source.Path, f.Line)
	}
	locals, scope, err := debugger.Locals(ctx, stack[0].Id)
	if err != nil {
		return err
	}
	for _, v := range locals {
		d.show("%-8s = %.90s", v.Name, v.Value)
	}
	if err := expect(locals, "total", "12"); err != nil {
		return err
	}
	if err := d.step("set total to 4711, and continue", func() error {
		if err := debugger.Set(ctx, scope, "total", "4711"); err != nil {
			return err
		}
		return debugger.Continue(ctx)
	}); err != nil {
		return err
	}
	return d.step("the answer that front gives", func() error {
		select {
		case r := <-answered:
			if r.err != nil || strings.TrimSpace(r.text) != "front: 2 tea cost 4711" {
				return fmt.Errorf("it is %q (%w)", r.text, r.err)
			}
			d.show("%s", r.text)
			return nil
		case <-ctx.Done():
			return fmt.Errorf("it does not come: %w", context.Cause(ctx))
		}
	})
}

func expect(variables []dap.Variable, name, value string) error {
	v, err := editor.Variable(variables, name)
	if err == nil && v.Value != value {
		err = fmt.Errorf("%s is %s, not %s", name, v.Value, value)
	}
	return err
}

// compare shows that the cluster is as it was.
func (d *demo) compare(ctx context.Context) error {
	return d.step("compare the Deployment with what it was", func() error {
		after, err := d.namespace.Snapshot(ctx, "middle")
		if err != nil {
			return err
		}
		diff := d.before.Diff(after)
		if diff != "" {
			return fmt.Errorf("it is not as it was:\n%s", diff)
		}
		if after.Generation != d.before.Generation {
			return fmt.Errorf("its generation went from %d to %d", d.before.Generation, after.Generation)
		}
		left, err := d.namespace.Leftovers(ctx)
		if err != nil {
			return err
		}
		if len(left) > 0 {
			return fmt.Errorf("left over: %q", left)
		}
		d.show("diff of deployment/middle: empty (%d lines, generation %d); nothing of kubedelve is left in the namespace",
			strings.Count(after.Deployment, "\n"), after.Generation)
		if err := d.buy(ctx, "item=tea&count=2", "front: 2 tea cost 12"); err != nil {
			return err
		}
		d.show("front: 2 tea cost 12")
		return nil
	})
}

// share is a part of the time from F5 to the breakpoint.
type share struct {
	build, delve, own time.Duration
	stages            []stage
}

type stage struct {
	title string
	took  time.Duration
}

// sharesOf reads off the progress events who took the time: go build, Delve's
// loading of the program, or the rest, which is kubedelve with the cluster.
func sharesOf(events []editor.Event, from, to time.Time) share {
	var s share
	last, title := from, "starting kubedelve"
	end := func(at time.Time) {
		took := at.Sub(last)
		switch {
		case strings.HasPrefix(title, "building "):
			s.build += took
		case strings.HasPrefix(title, "loading "):
			s.delve += took
		default:
			s.own += took
		}
		s.stages = append(s.stages, stage{title, took})
		last = at
	}
	for _, e := range events {
		var body dap.ProgressUpdateEventBody
		if !strings.HasPrefix(e.Name, "progress") || json.Unmarshal(e.Body, &body) != nil || body.Message == "" || e.At.After(to) {
			continue
		}
		// A build's details ("compiling x") are part of it.
		if strings.HasPrefix(title, "building ") && !strings.HasPrefix(body.Message, "claiming ") {
			continue
		}
		end(e.At)
		title = body.Message
	}
	end(to)
	return s
}

// The aims on a warm cluster.
const (
	aimAll = 6 * time.Second
	aimOwn = 2 * time.Second
)

func (d *demo) report(s share, all time.Duration) {
	d.show("")
	d.show("from F5 to the breakpoint armed: %.2f s (aim: less than %.0f s)", all.Seconds(), aimAll.Seconds())
	d.show("  go build           %5.2f s", s.build.Seconds())
	d.show("  Delve's loading    %5.2f s", s.delve.Seconds())
	d.show("  kubedelve's share  %5.2f s (aim: less than %.0f s)", s.own.Seconds(), aimOwn.Seconds())
	for _, stage := range s.stages {
		d.show("    %5.2f s  %s", stage.took.Seconds(), stage.title)
	}
}
