package editor

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/google/go-dap"
)

// Breakpoint is a line that the user marked.
type Breakpoint struct {
	Path      string // of a local file
	Line      int
	Condition string // empty: always
}

// mark is what the adapter says of a breakpoint.
type mark struct {
	path string
	dap.Breakpoint
}

// Mark replaces the breakpoints of the files named, whatever the adapter says of them:
// the lines may not be those of the program that runs. See [Debugger.AwaitVerified].
func (d *Debugger) Mark(ctx context.Context, breakpoints ...Breakpoint) error {
	files := map[string][]dap.SourceBreakpoint{}
	for _, b := range breakpoints {
		files[b.Path] = append(files[b.Path], dap.SourceBreakpoint{Line: b.Line, Condition: b.Condition})
	}
	for path, lines := range files {
		var set dap.SetBreakpointsResponseBody
		if err := d.Call(ctx, "setBreakpoints", dap.SetBreakpointsArguments{Source: dap.Source{Path: path}, Breakpoints: lines}, &set); err != nil {
			return err
		}
		if len(set.Breakpoints) != len(lines) {
			return fmt.Errorf("%d breakpoints were set in %s, %d were asked for", len(set.Breakpoints), path, len(lines))
		}
		for id, m := range d.marks {
			if m.path == path {
				delete(d.marks, id)
			}
		}
		for _, b := range set.Breakpoints {
			if d.marks[b.Id].Id != 0 || b.Id == 0 {
				return fmt.Errorf("two breakpoints, or none, have the id %d", b.Id)
			}
			d.marks[b.Id] = mark{path, b}
		}
	}
	return nil
}

// SetBreakpoints is Mark, but it fails unless the adapter verifies each at its line at
// once.
func (d *Debugger) SetBreakpoints(ctx context.Context, breakpoints ...Breakpoint) error {
	if err := d.Mark(ctx, breakpoints...); err != nil {
		return err
	}
	for _, b := range breakpoints {
		if m, ok := d.verified(b); !ok {
			return fmt.Errorf("the breakpoint %s:%d is not verified: %+v", b.Path, b.Line, m)
		}
	}
	return nil
}

// verified tells whether a breakpoint is, at its line; else it returns what is known
// of those in the file.
func (d *Debugger) verified(b Breakpoint) (others []mark, ok bool) {
	for _, m := range d.marks {
		if m.path != b.Path {
			continue
		}
		if m.Verified && m.Line == b.Line {
			return nil, true
		}
		others = append(others, m)
	}
	return others, false
}

// AwaitVerified waits until the adapter has verified each of the breakpoints that were
// marked at its line.
func (d *Debugger) AwaitVerified(ctx context.Context, breakpoints ...Breakpoint) error {
	for _, b := range breakpoints {
		for {
			others, ok := d.verified(b)
			if ok {
				break
			}
			e, err := d.Next(ctx, "breakpoint")
			if err != nil {
				return fmt.Errorf("the breakpoint %s:%d is not verified, but %+v: %w", b.Path, b.Line, others, err)
			}
			var changed dap.BreakpointEventBody
			if err := json.Unmarshal(e.Body, &changed); err != nil {
				return fmt.Errorf("the event breakpoint: %w", err)
			}
			if m, ok := d.marks[changed.Breakpoint.Id]; ok {
				d.marks[m.Id] = mark{m.path, changed.Breakpoint}
			}
		}
	}
	return nil
}
