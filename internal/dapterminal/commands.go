package dapterminal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-dap"
)

// command is something that a user types.
type command struct {
	names []string // the first is the one that help shows first
	takes string
	help  string
	group string
	run   func(t *terminal, ctx context.Context, args string) error
}

// errLeave ends the terminal.
var errLeave = errors.New("the user leaves")

// commands are all, in the order of the help. Their names are those of Delve's terminal.
func commands() []command {
	return []command{
		{[]string{"break", "b"}, "[FILE:]LINE|FUNCTION [if CONDITION]", "set a breakpoint", "Breakpoints", (*terminal).cmdBreak},
		{[]string{"breakpoints", "bp"}, "", "list them", "Breakpoints", (*terminal).cmdBreakpoints},
		{[]string{"clear"}, "ID", "take one away", "Breakpoints", (*terminal).cmdClear},
		{[]string{"clearall"}, "", "take all away", "Breakpoints", (*terminal).cmdClearAll},
		{[]string{"condition", "cond"}, "ID [CONDITION]", "give one a condition, or take that away", "Breakpoints", (*terminal).cmdCondition},

		{[]string{"continue", "c"}, "", "run until a breakpoint, or the end; Ctrl-C halts", "Running the program", (*terminal).cmdContinue},
		{[]string{"next", "n"}, "", "run to the next line", "Running the program", step("next")},
		{[]string{"step", "s"}, "", "run to the next line, also in a function that is called", "Running the program", step("stepIn")},
		{[]string{"stepout", "so"}, "", "run to the end of the function", "Running the program", step("stepOut")},
		{[]string{"restart", "r"}, "", "begin anew, with the breakpoints there are", "Running the program", (*terminal).cmdRestart},

		{[]string{"print", "p"}, "[-LEVELS] EXPRESSION", "evaluate an expression; with -2, with its members and theirs", "Data", (*terminal).cmdPrint},
		{[]string{"whatis"}, "EXPRESSION", "the type of an expression", "Data", (*terminal).cmdWhatis},
		{[]string{"set"}, "VARIABLE = VALUE", "change a variable", "Data", (*terminal).cmdSet},
		{[]string{"call"}, "FUNCTION(ARGUMENTS)", "call a function of the program, if the debug adapter is Delve's", "Data", (*terminal).cmdCall},
		{[]string{"locals"}, "[-LEVELS]", "the local variables", "Data", (*terminal).cmdLocals},
		{[]string{"args"}, "[-LEVELS]", "the arguments of the function", "Data", (*terminal).cmdArgs},

		{[]string{"list", "ls", "l"}, "[[FILE:]LINE]", "show source", "Where", (*terminal).cmdList},
		{[]string{"stack", "bt"}, "[N]", "the stack, or its first N frames", "Where", (*terminal).cmdStack},
		{[]string{"frame"}, "N", "look at another frame", "Where", (*terminal).cmdFrame},
		{[]string{"up"}, "[N]", "look at the caller", "Where", moveBy(1)},
		{[]string{"down"}, "[N]", "look at the callee", "Where", moveBy(-1)},
		{[]string{"goroutines", "grs", "threads"}, "", "list what the debug adapter calls threads: goroutines, for Delve", "Where", (*terminal).cmdThreads},
		{[]string{"goroutine", "gr", "thread"}, "ID", "look at another one", "Where", (*terminal).cmdThread},

		{[]string{"repl"}, "TEXT", "what an editor's debug console sends; \"repl dlv help\" for Delve", "Other", (*terminal).cmdRepl},
		{[]string{"request"}, "COMMAND [JSON]", "send any request of the protocol", "Other", (*terminal).cmdRequest},
		{[]string{"help", "h"}, "[COMMAND]", "this list, or one of it", "Other", (*terminal).cmdHelp},
		{[]string{"exit", "quit", "q"}, "", "leave; what this session has begun ends, what it was attached to goes on", "Other",
			func(*terminal, context.Context, string) error { return errLeave }},
	}
}

// find is the command of a name, or of the beginning of one if there is only one such.
func find(name string) (command, error) {
	var like []command
	for _, c := range commands() {
		if slices.Contains(c.names, name) {
			return c, nil
		}
		if strings.HasPrefix(c.names[0], name) {
			like = append(like, c)
		}
	}
	if len(like) == 1 {
		return like[0], nil
	}
	return command{}, fmt.Errorf("there is no command %q: see help", name)
}

// execute runs a line.
func (t *terminal) execute(ctx context.Context, line string) error {
	name, args, _ := strings.Cut(strings.TrimSpace(line), " ")
	c, err := find(name)
	if err != nil {
		return err
	}
	args = strings.TrimSpace(args)
	if c.takes == "" && args != "" {
		return fmt.Errorf("%s takes no arguments", c.names[0])
	}
	return c.run(t, ctx, args)
}

func (t *terminal) cmdBreak(ctx context.Context, args string) error {
	m, err := parseMark(args, t.s.file(ctx))
	if err != nil {
		return err
	}
	if m, err = t.marks.add(ctx, t.s, m); err != nil {
		return err
	}
	t.tellMark(m)
	return nil
}

// tellMark says where a breakpoint is, or that it is not yet anywhere.
func (t *terminal) tellMark(m mark) {
	if !m.at.Verified {
		t.out.say("%v", &m)
		return
	}
	if m.at.Line > 0 {
		m.line = m.at.Line
	}
	if m.path == "" && m.at.Source != nil && m.at.Source.Path != "" {
		m.path = m.at.Source.Path
	}
	t.out.say("Breakpoint %d set at %s", m.id, m.where())
}

func (t *terminal) cmdBreakpoints(context.Context, string) error {
	for _, m := range t.marks.list() {
		t.out.say("%v", &m)
	}
	return nil
}

func (t *terminal) cmdClear(ctx context.Context, args string) error {
	id, err := strconv.Atoi(args)
	if err != nil {
		return fmt.Errorf("write the number of a breakpoint, not %q", args)
	}
	if err := t.marks.remove(ctx, t.s, id); err != nil {
		return err
	}
	t.out.say("Breakpoint %d cleared", id)
	return nil
}

func (t *terminal) cmdClearAll(ctx context.Context, _ string) error {
	for _, m := range t.marks.list() {
		if err := t.cmdClear(ctx, strconv.Itoa(m.id)); err != nil {
			return err
		}
	}
	return nil
}

func (t *terminal) cmdCondition(ctx context.Context, args string) error {
	number, condition, _ := strings.Cut(args, " ")
	id, err := strconv.Atoi(number)
	if err != nil {
		return fmt.Errorf("write the number of a breakpoint, not %q", number)
	}
	return t.marks.condition(ctx, t.s, id, strings.TrimSpace(condition))
}

func (t *terminal) cmdContinue(ctx context.Context, _ string) error {
	if p, _ := t.s.now(); p == configuring {
		defer t.rests()
		if err := t.s.configured(ctx, t.goOn); err != nil {
			return err
		}
		return t.settle(ctx)
	}
	return t.resume(ctx, "continue")
}

func step(request string) func(*terminal, context.Context, string) error {
	return func(t *terminal, ctx context.Context, _ string) error { return t.resume(ctx, request) }
}

// resume lets the program go on, and waits until it is halted again or gone.
func (t *terminal) resume(ctx context.Context, request string) error {
	switch p, _ := t.s.now(); p {
	case configuring:
		return errors.New("the program has not begun: continue")
	case ended:
		return errEnded
	case running: // since the last prompt; it may be halted again in a moment
		return t.settle(ctx)
	}
	t.s.mu.Lock()
	thread := t.s.thread
	t.s.mu.Unlock()
	t.s.change(t.s.resume)
	defer t.rests()
	if err := t.s.callWithin(ctx, request, map[string]any{"threadId": thread}, t.goOn); err != nil {
		t.s.change(func() {
			if ctx.Err() == nil { // else it may have been let go
				t.s.fails(halted)
			}
		})
		return err
	}
	return t.settle(ctx)
}

func (t *terminal) cmdRestart(ctx context.Context, _ string) error {
	p, _ := t.s.now()
	if p == configuring {
		return errors.New("the program has not begun: continue")
	}
	if p != ended && t.s.can().SupportsRestartRequest {
		t.s.change(t.s.restarts)
		defer t.rests()
		if err := t.s.call(ctx, "restart", map[string]any{"arguments": t.again()}, nil); err != nil {
			if ctx.Err() == nil {
				t.s.change(t.s.stays)
			}
			return err
		}
		// Some want to be configured anew, and of some the program is gone.
		for {
			if err := t.settle(ctx); err != nil {
				return err
			}
			if p, _ = t.s.now(); p != configuring {
				break
			}
			if err := errors.Join(t.marks.setAll(ctx, t.s), t.s.configured(ctx, t.goOn)); err != nil {
				return err
			}
		}
		if p == halted {
			return nil
		}
	}
	return t.anew(ctx)
}

// again is the configuration for a restart. Delve builds a program again, and ends it if it has
// not built it itself.
func (t *terminal) again() map[string]any {
	again := maps.Clone(t.Configuration)
	if _, said := again["rebuild"]; !said && again["mode"] == "exec" {
		again["rebuild"] = false
	}
	return again
}

// levels reads "-N" before other arguments.
func levels(args string) (n int, rest string, err error) {
	if !strings.HasPrefix(args, "-") || len(args) < 2 || args[1] < '0' || args[1] > '9' {
		return 0, args, nil
	}
	number, rest, _ := strings.Cut(args[1:], " ")
	n, err = strconv.Atoi(number)
	if err != nil || n > maxLevels {
		return 0, args, fmt.Errorf("write a number of levels up to %d, not %q", maxLevels, number)
	}
	return n, strings.TrimSpace(rest), nil
}

func (t *terminal) cmdPrint(ctx context.Context, args string) error {
	n, expression, err := levels(args)
	if err != nil {
		return err
	}
	if expression == "" {
		return errors.New("write an expression")
	}
	value, err := t.s.evaluate(ctx, expression, t.s.whole())
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintln(&b, value.Result)
	if n > 0 && value.VariablesReference > 0 {
		below, err := t.s.variables(ctx, value.VariablesReference)
		if err != nil {
			return err
		}
		if err := t.s.members(ctx, &b, below, "\t", n-1); err != nil {
			return err
		}
	}
	t.out.write(b.String())
	return nil
}

func (t *terminal) cmdWhatis(ctx context.Context, args string) error {
	value, err := t.s.evaluate(ctx, args, "watch")
	if err != nil {
		return err
	}
	if value.Type == "" {
		return errors.New("the debug adapter does not tell its type")
	}
	t.out.say("%s", value.Type)
	return nil
}

func (t *terminal) cmdSet(ctx context.Context, args string) error {
	name, value, ok := strings.Cut(args, "=")
	if name, value = strings.TrimSpace(name), strings.TrimSpace(value); !ok || name == "" || value == "" {
		return errors.New("write VARIABLE = VALUE")
	}
	return t.s.assign(ctx, name, value)
}

func (t *terminal) cmdCall(ctx context.Context, args string) error {
	return t.cmdRepl(ctx, "call "+args)
}

func (t *terminal) cmdRepl(ctx context.Context, args string) error {
	value, err := t.s.evaluate(ctx, args, "repl")
	if err != nil {
		return err
	}
	if value.Result != "" {
		t.out.say("%s", value.Result)
	}
	return nil
}

func (t *terminal) cmdLocals(ctx context.Context, args string) error {
	return t.show(ctx, args, func(scopes []dap.Scope) (dap.Scope, bool) {
		i := slices.IndexFunc(scopes, func(s dap.Scope) bool { return s.PresentationHint == "locals" })
		if i < 0 {
			i = 0 // the first is the nearest
		}
		return scopes[i], true
	})
}

func (t *terminal) cmdArgs(ctx context.Context, args string) error {
	return t.show(ctx, args, func(scopes []dap.Scope) (dap.Scope, bool) {
		i := slices.IndexFunc(scopes, func(s dap.Scope) bool {
			return s.PresentationHint == "arguments" || strings.HasPrefix(strings.ToLower(s.Name), "arg")
		})
		return scopes[max(i, 0)], i >= 0
	})
}

// show shows the scope that is chosen.
func (t *terminal) show(ctx context.Context, args string, choose func([]dap.Scope) (dap.Scope, bool)) error {
	n, rest, err := levels(args)
	if err != nil || rest != "" {
		return errors.Join(err, notMore(rest))
	}
	scopes, err := t.s.scopes(ctx)
	if err != nil {
		return err
	}
	if len(scopes) == 0 {
		return errors.New("this frame has no variables")
	}
	scope, ok := choose(scopes)
	if !ok {
		return errors.New("this debug adapter has the arguments among the locals")
	}
	all, err := t.s.variables(ctx, scope.VariablesReference)
	if err != nil {
		return err
	}
	var b strings.Builder
	err = t.s.members(ctx, &b, all, "", n)
	t.out.write(b.String())
	return err
}

func notMore(rest string) error {
	if rest == "" {
		return nil
	}
	return fmt.Errorf("%q is not understood", rest)
}

func (t *terminal) cmdList(ctx context.Context, args string) error {
	if args == "" {
		f, err := t.s.current(ctx)
		if err != nil {
			return err
		}
		return t.list(ctx, f)
	}
	at, err := parseMark(args, t.s.file(ctx))
	if err != nil {
		return err
	}
	if at.path == "" {
		return errors.New("write [FILE:]LINE: the protocol can't find functions")
	}
	text, err := t.s.listing(ctx, dap.Source{Path: at.path}, at.line, 0)
	t.out.write(text)
	return err
}

// list shows the source of a frame.
func (t *terminal) list(ctx context.Context, f dap.StackFrame) error {
	if f.Source == nil {
		return errors.New("this frame has no source")
	}
	text, err := t.s.listing(ctx, *f.Source, f.Line, f.Line)
	t.out.write(text)
	return err
}

func (t *terminal) cmdStack(ctx context.Context, args string) error {
	n := maxFrames
	if args != "" {
		var err error
		if n, err = strconv.Atoi(args); err != nil || n < 1 {
			return fmt.Errorf("write a number of frames, not %q", args)
		}
	}
	frames, err := t.s.stack(ctx)
	if err != nil {
		return err
	}
	for i, f := range frames[:min(n, len(frames))] {
		t.out.say("%2d  %s", i, place(f))
	}
	return nil
}

func (t *terminal) cmdFrame(ctx context.Context, args string) error {
	n, err := strconv.Atoi(args)
	if err != nil {
		return fmt.Errorf("write the number of a frame, not %q", args)
	}
	return t.look(ctx, n)
}

func moveBy(sign int) func(*terminal, context.Context, string) error {
	return func(t *terminal, ctx context.Context, args string) error {
		n := 1
		if args != "" {
			var err error
			if n, err = strconv.Atoi(args); err != nil {
				return fmt.Errorf("write a number of frames, not %q", args)
			}
		}
		t.s.mu.Lock()
		to := t.s.frame + sign*n
		t.s.mu.Unlock()
		return t.look(ctx, to)
	}
}

// look makes a frame the current one, and shows it.
func (t *terminal) look(ctx context.Context, frame int) error {
	frames, err := t.s.stack(ctx)
	if err != nil {
		return err
	}
	if frame < 0 || frame >= len(frames) {
		return fmt.Errorf("the frames are 0 to %d", len(frames)-1)
	}
	t.s.change(func() { t.s.frame = frame })
	t.out.say("Frame %d: %s", frame, place(frames[frame]))
	return t.list(ctx, frames[frame])
}

func (t *terminal) cmdThreads(ctx context.Context, _ string) error {
	all, err := t.s.threads(ctx)
	if err != nil {
		return err
	}
	t.s.mu.Lock()
	current := t.s.thread
	t.s.mu.Unlock()
	for _, thread := range all {
		sign := " "
		if thread.Id == current {
			sign = "*"
		}
		t.out.say("%s %d  %s", sign, thread.Id, thread.Name)
	}
	return nil
}

func (t *terminal) cmdThread(ctx context.Context, args string) error {
	id, err := strconv.Atoi(args)
	if err != nil {
		return fmt.Errorf("write the number of one, as the list has it, not %q", args)
	}
	all, err := t.s.threads(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(all, func(thread dap.Thread) bool { return thread.Id == id }) {
		return fmt.Errorf("the list has none with the number %d", id)
	}
	t.s.change(func() { t.s.thread, t.s.frames, t.s.frame = id, nil, 0 })
	return t.look(ctx, 0)
}

func (t *terminal) cmdRequest(ctx context.Context, args string) error {
	name, text, _ := strings.Cut(args, " ")
	if name == "" {
		return errors.New("write a command of the protocol, and its arguments as JSON")
	}
	var arguments any
	if text = strings.TrimSpace(text); text != "" {
		if err := json.Unmarshal([]byte(text), &arguments); err != nil {
			return fmt.Errorf("the arguments are no JSON: %w", err)
		}
	}
	var body any
	if err := t.s.call(ctx, name, arguments, &body); err != nil {
		return err
	}
	if body == nil {
		return nil
	}
	indented, err := json.MarshalIndent(body, "", "  ")
	if err != nil {
		return err
	}
	t.out.say("%s", indented)
	return nil
}

func (t *terminal) cmdHelp(_ context.Context, args string) error {
	if args != "" {
		c, err := find(args)
		if err != nil {
			return err
		}
		t.out.say("%s %s\n\n%s.", strings.Join(c.names, " | "), c.takes, c.help)
		return nil
	}
	group := ""
	for _, c := range commands() {
		if c.group != group {
			group = c.group
			t.out.say("\n%s", group)
		}
		t.out.say("    %-24s %s", strings.Join(c.names, ", "), c.help)
	}
	t.out.say("\nAn empty line repeats the last command. \"help COMMAND\" tells what one takes.")
	return nil
}
