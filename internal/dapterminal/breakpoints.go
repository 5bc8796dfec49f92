package dapterminal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/google/go-dap"
)

// mark is a breakpoint of the user's.
type mark struct {
	id        int    // the user's
	path      string // of a line's file; empty: it is at a function
	line      int
	function  string
	condition string
	at        dap.Breakpoint // what the server says of it, with the server's id
}

func (m *mark) where() string {
	if m.path == "" {
		return m.function
	}
	return fmt.Sprintf("%s:%d", short(m.path), m.line)
}

// String is how the list has it.
func (m *mark) String() string {
	text := fmt.Sprintf("Breakpoint %d at %s", m.id, m.where())
	if m.condition != "" {
		text += " if " + m.condition
	}
	if !m.at.Verified {
		text += " (pending"
		if m.at.Message != "" {
			text += ": " + m.at.Message
		}
		text += ")"
	}
	return text
}

// marks are all breakpoints. They outlive a session.
type marks struct {
	mu   sync.Mutex // guards all below
	all  []*mark
	last int // id that was given
	// early is what the server has said of its breakpoints before their ids were known; nil
	// if nobody waits for such.
	early map[int]dap.Breakpoint
}

func (b *marks) list() (all []mark) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range b.all {
		all = append(all, *m)
	}
	return all
}

// add adds one, and sets all of its file or all at functions.
func (b *marks) add(ctx context.Context, s *session, m mark) (mark, error) {
	if m.path == "" && !s.can().SupportsFunctionBreakpoints {
		return m, errors.New("this debug adapter has no breakpoints at functions: write FILE:LINE")
	}
	b.mu.Lock()
	b.last++
	m.id = b.last
	kept := &m
	b.all = append(b.all, kept)
	b.mu.Unlock()
	err := b.set(ctx, s, m.path)
	if err != nil {
		_ = b.remove(ctx, s, m.id)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return *kept, err
}

// remove takes one away.
func (b *marks) remove(ctx context.Context, s *session, id int) error {
	b.mu.Lock()
	i := slices.IndexFunc(b.all, func(m *mark) bool { return m.id == id })
	if i < 0 {
		b.mu.Unlock()
		return fmt.Errorf("there is no breakpoint %d", id)
	}
	path := b.all[i].path
	b.all = slices.Delete(b.all, i, i+1)
	b.mu.Unlock()
	return b.set(ctx, s, path)
}

// condition gives one a condition, or takes that away.
func (b *marks) condition(ctx context.Context, s *session, id int, condition string) error {
	b.mu.Lock()
	i := slices.IndexFunc(b.all, func(m *mark) bool { return m.id == id })
	if i < 0 {
		b.mu.Unlock()
		return fmt.Errorf("there is no breakpoint %d", id)
	}
	b.all[i].condition = condition
	path := b.all[i].path
	b.mu.Unlock()
	return b.set(ctx, s, path)
}

// setAll tells a new session of all.
func (b *marks) setAll(ctx context.Context, s *session) error {
	var paths []string
	for _, m := range b.list() {
		if !slices.Contains(paths, m.path) {
			paths = append(paths, m.path)
		}
	}
	for _, path := range paths {
		if err := b.set(ctx, s, path); err != nil {
			return err
		}
	}
	return nil
}

// set tells the server of all breakpoints in a file, or of those at functions.
func (b *marks) set(ctx context.Context, s *session, path string) error {
	b.mu.Lock()
	var of []*mark
	lines, functions := []dap.SourceBreakpoint{}, []dap.FunctionBreakpoint{}
	for _, m := range b.all {
		if m.path == path {
			of = append(of, m)
			lines = append(lines, dap.SourceBreakpoint{Line: m.line, Condition: m.condition})
			functions = append(functions, dap.FunctionBreakpoint{Name: m.function, Condition: m.condition})
		}
	}
	b.early = map[int]dap.Breakpoint{}
	b.mu.Unlock()
	var answer dap.SetBreakpointsResponseBody
	var err error
	if path == "" {
		err = s.call(ctx, "setFunctionBreakpoints", dap.SetFunctionBreakpointsArguments{Breakpoints: functions}, &answer)
	} else {
		err = s.call(ctx, "setBreakpoints", dap.SetBreakpointsArguments{
			Source: dap.Source{Name: filepath.Base(path), Path: path}, Breakpoints: lines,
		}, &answer)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	early := b.early
	b.early = nil
	if err != nil {
		return err
	}
	for i, m := range of {
		if i >= len(answer.Breakpoints) {
			break
		}
		m.at = answer.Breakpoints[i]
		if later, ok := early[m.at.Id]; ok && m.at.Id != 0 {
			m.at = later
		}
	}
	return nil
}

// update takes in what the server says later, and returns the breakpoint if the user is
// to know.
func (b *marks) update(now dap.Breakpoint) (_ mark, tell bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.early != nil {
		b.early[now.Id] = now
	}
	for _, m := range b.all {
		if m.at.Id != 0 && m.at.Id == now.Id {
			was := m.at
			m.at = now
			return *m, now.Verified != was.Verified || now.Verified && now.Line != was.Line
		}
	}
	return mark{}, false
}

// hit are the user's ids of those that the server names.
func (b *marks) hit(ids []int) (hit []string) {
	for _, m := range b.list() {
		if slices.Contains(ids, m.at.Id) {
			hit = append(hit, strconv.Itoa(m.id))
		}
	}
	return hit
}

// parseMark reads "[FILE:]LINE [if CONDITION]" or "FUNCTION [if CONDITION]"; current is
// the file that the program is halted in.
func parseMark(text, current string) (mark, error) {
	var m mark
	text, m.condition, _ = strings.Cut(text, " if ")
	text, m.condition = strings.TrimSpace(text), strings.TrimSpace(m.condition)
	if text == "" {
		return m, errors.New("write FILE:LINE, LINE or FUNCTION, and \"if CONDITION\" after it if you like")
	}
	file, line := "", text
	if i := strings.LastIndex(text, ":"); i >= 0 {
		file, line = text[:i], text[i+1:]
	}
	n, err := strconv.Atoi(line)
	if err != nil {
		if file != "" && !strings.HasSuffix(file, ":") { // std::sort
			return m, fmt.Errorf("%q is no line", line)
		}
		m.function = text
		return m, nil
	}
	if n < 1 {
		return m, fmt.Errorf("lines begin at 1, not at %d", n)
	}
	m.line = n
	m.path, err = source(file, current)
	return m, err
}

// source is the file of a name: in this folder, or beside the current one.
func source(name, current string) (string, error) {
	if name == "" {
		if current == "" {
			return "", errors.New("the program is halted in no file: write FILE:LINE")
		}
		return current, nil
	}
	path, err := filepath.Abs(name)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if current != "" {
		beside := filepath.Join(filepath.Dir(current), name)
		if _, err := os.Stat(beside); err == nil {
			return beside, nil
		}
	}
	return "", fmt.Errorf("there is no file %s here, nor where the program is halted", name)
}
