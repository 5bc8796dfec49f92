package dapterminal

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/google/go-dap"
)

const (
	around    = 5    // lines of source before and after the current one
	maxFrames = 50   // as in Delve's terminal
	maxLevels = 10   // of a variable's members
	maxSource = 4096 // bytes of a line of source that are shown
)

// stack returns the frames of the current thread, the innermost first.
func (s *session) stack(ctx context.Context) ([]dap.StackFrame, error) {
	s.mu.Lock()
	thread, frames, stop := s.thread, s.frames, s.phase
	s.mu.Unlock()
	switch {
	case stop == ended:
		return nil, errEnded
	case stop != halted:
		return nil, fmt.Errorf("the program is not halted")
	case frames != nil:
		return frames, nil
	}
	var answer dap.StackTraceResponseBody
	if err := s.call(ctx, "stackTrace", dap.StackTraceArguments{ThreadId: thread, Levels: maxFrames}, &answer); err != nil {
		return nil, err
	}
	s.change(func() {
		if s.phase == halted && s.thread == thread {
			s.frames = answer.StackFrames
		}
	})
	return answer.StackFrames, nil
}

// current is the frame that the commands are about.
func (s *session) current(ctx context.Context) (dap.StackFrame, error) {
	frames, err := s.stack(ctx)
	if err != nil {
		return dap.StackFrame{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frame >= len(frames) {
		return dap.StackFrame{}, fmt.Errorf("the thread has %d frames", len(frames))
	}
	return frames[s.frame], nil
}

// file is where the current frame is, or empty.
func (s *session) file(ctx context.Context) string {
	if p, _ := s.now(); p != halted {
		return ""
	}
	f, err := s.current(ctx)
	if err != nil || f.Source == nil {
		return ""
	}
	return f.Source.Path
}

// listing is the source around a line, which an arrow points to, as Delve's terminal
// has it. The file is this machine's; else the server may have the text.
func (s *session) listing(ctx context.Context, of dap.Source, line, arrow int) (string, error) {
	var text string
	if data, err := os.ReadFile(of.Path); err == nil { // the user's own file
		text = string(data)
	} else {
		var answer dap.SourceResponseBody
		if of.SourceReference == 0 {
			return "", fmt.Errorf("the source is not on this machine: %w", err)
		}
		if err := s.call(ctx, "source", dap.SourceArguments{Source: &of, SourceReference: of.SourceReference}, &answer); err != nil {
			return "", err
		}
		text = answer.Content
	}
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if line < 1 || line > len(lines) {
		return "", fmt.Errorf("%s has %d lines, not a line %d", short(of.Path), len(lines), line)
	}
	var b strings.Builder
	for n := max(1, line-around); n <= min(len(lines), line+around); n++ {
		sign := "  "
		if n == arrow {
			sign = "=>"
		}
		fmt.Fprintf(&b, "%s%4d:\t%s\n", sign, n, cut(strings.TrimSuffix(lines[n-1], "\r")))
	}
	return b.String(), nil
}

func cut(line string) string {
	if len(line) > maxSource {
		return line[:maxSource] + "..."
	}
	return line
}

// evaluate is the value of an expression in the current frame. The context is one of
// the protocol's.
func (s *session) evaluate(ctx context.Context, expression, contextName string) (dap.EvaluateResponseBody, error) {
	var answer dap.EvaluateResponseBody
	arguments := dap.EvaluateArguments{Expression: expression, Context: contextName}
	if p, _ := s.now(); p == halted {
		f, err := s.current(ctx)
		if err != nil {
			return answer, err
		}
		arguments.FrameId = f.Id
	}
	err := s.call(ctx, "evaluate", arguments, &answer)
	return answer, err
}

// whole is the context in which a value is not cut short.
func (s *session) whole() string {
	if s.can().SupportsClipboardContext {
		return "clipboard"
	}
	return "watch"
}

// scopes are those of the current frame.
func (s *session) scopes(ctx context.Context) ([]dap.Scope, error) {
	f, err := s.current(ctx)
	if err != nil {
		return nil, err
	}
	var answer dap.ScopesResponseBody
	err = s.call(ctx, "scopes", dap.ScopesArguments{FrameId: f.Id}, &answer)
	return answer.Scopes, err
}

func (s *session) variables(ctx context.Context, reference int) ([]dap.Variable, error) {
	var answer dap.VariablesResponseBody
	err := s.call(ctx, "variables", dap.VariablesArguments{VariablesReference: reference}, &answer)
	return answer.Variables, err
}

// members writes variables, and those in them down to some level.
func (s *session) members(ctx context.Context, b *strings.Builder, all []dap.Variable, indent string, levels int) error {
	for _, v := range all {
		fmt.Fprintf(b, "%s%s = %s\n", indent, v.Name, v.Value)
		if levels <= 0 || v.VariablesReference == 0 {
			continue
		}
		below, err := s.variables(ctx, v.VariablesReference)
		if err != nil {
			return err
		}
		if err := s.members(ctx, b, below, indent+"\t", levels-1); err != nil {
			return err
		}
	}
	return nil
}

// threads are what the server calls so: goroutines, for Delve.
func (s *session) threads(ctx context.Context) ([]dap.Thread, error) {
	var answer dap.ThreadsResponseBody
	err := s.call(ctx, "threads", nil, &answer)
	return answer.Threads, err
}

// assign gives a variable a value: by the request for expressions, else by that for the
// variables of a frame.
func (s *session) assign(ctx context.Context, name, value string) error {
	f, err := s.current(ctx)
	if err != nil {
		return err
	}
	can := s.can()
	if can.SupportsSetExpression {
		return s.call(ctx, "setExpression", dap.SetExpressionArguments{Expression: name, Value: value, FrameId: f.Id}, nil)
	}
	if !can.SupportsSetVariable {
		return fmt.Errorf("this debug adapter can't change variables")
	}
	scopes, err := s.scopes(ctx)
	if err != nil {
		return err
	}
	for _, scope := range scopes {
		all, err := s.variables(ctx, scope.VariablesReference)
		if err != nil {
			return err
		}
		for _, v := range all {
			if v.Name == name {
				return s.call(ctx, "setVariable", dap.SetVariableArguments{VariablesReference: scope.VariablesReference, Name: name, Value: value}, nil)
			}
		}
	}
	return fmt.Errorf("no scope of this frame has a variable %s", name)
}

// completions are what an expression may become, as the server knows it.
func (s *session) completions(ctx context.Context, text string) (lines []string) {
	if !s.can().SupportsCompletionsRequest {
		return nil
	}
	arguments := dap.CompletionsArguments{Text: text, Column: len(text) + 1}
	if p, _ := s.now(); p == halted {
		if f, err := s.current(ctx); err == nil {
			arguments.FrameId = f.Id
		}
	}
	var answer dap.CompletionsResponseBody
	if s.call(ctx, "completions", arguments, &answer) != nil {
		return nil
	}
	for _, item := range answer.Targets {
		insert := item.Text
		if insert == "" {
			insert = item.Label
		}
		start, end := len(text), len(text)
		if item.Length > 0 { // columns begin at 1
			start = min(max(item.Start-1, 0), len(text))
			end = min(start+item.Length, len(text))
		} else if i := strings.LastIndexAny(text, " .()[]{}*&!+-/%<>=,"); strings.HasPrefix(insert, text[i+1:]) {
			start = i + 1 // the server leaves it to us what is replaced
		}
		lines = append(lines, text[:start]+insert+text[end:])
	}
	return lines
}
