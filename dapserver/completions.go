package dapserver

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-dap"
)

const (
	// completionTimeout is how long Delve may take for what it contributes.
	completionTimeout = 2 * time.Second
	// completionLimit is how many completions are offered at most.
	completionLimit = 2000
	// embeddedLimit is of how many embedded structs the fields are offered too.
	embeddedLimit = 8
)

// consoleRequests are about the debug console.
func consoleRequests() map[string]handler {
	return map[string]handler{
		"completions": {from: phaseInitialized, to: phaseEnded, handle: (*session).onCompletions, background: true},
	}
}

// onCompletions offers what can stand at the cursor in the debug console: variables,
// fields and methods from Delve while the component is halted; packages, and what
// is in them, from the binary; Delve's commands. Delve is only asked for values,
// and never for one that it would have to call a function for.
func (s *session) onCompletions(ctx context.Context, m message) {
	var args dap.CompletionsArguments
	if body := m.env.body.in(m.raw); !empty(body) {
		_ = json.Unmarshal(body, &args) // checkRequest has done so
	}
	line := lineOf(args.Text, args.Line)
	before := line[:offset(line, args.Column)]
	c := &completer{
		s: s, query: parseConsole(before), program: s.program(), frame: args.FrameId,
		seen: map[string]bool{}, items: []dap.CompletionItem{},
	}
	s.update(func(st *state) {
		if st.halted && st.phase == phaseRunning {
			c.delve = st.backend
		}
	})
	if c.query.kind != queryNothing {
		c.start, c.length = column(line, c.query.from), units(c.query.word)
	}
	if err := c.complete(ctx); err != nil {
		if ctx.Err() != nil {
			s.fail(context.WithoutCancel(ctx), &m.env, newError(idCancelled, ""))
			return
		}
		// What there is without it is better than nothing.
		s.log.Debug("completing", "error", err)
	}
	slices.SortFunc(c.items, func(a, b dap.CompletionItem) int { return cmp.Compare(a.SortText, b.SortText) })
	s.respond(ctx, &m.env, dap.CompletionsResponseBody{Targets: c.items[:min(len(c.items), completionLimit)]})
}

// completer makes the answer to one request.
type completer struct {
	s       *session
	query   consoleQuery
	program program
	delve   *backend // nil while the component runs
	frame   int      // Delve's id; 0 for none
	// start and length are of what a completion replaces, as DAP counts.
	start, length int
	items         []dap.CompletionItem
	seen          map[string]bool // labels
}

// The ranks of completions, for sortText.
const (
	rankLocal   = "0"
	rankMember  = "1" // fields; functions and variables of a package
	rankMethod  = "2"
	rankPackage = "3" // and what is in the current one
	rankWord    = "4"
)

// add offers a completion if the word can become it. Of several with one name the
// first counts.
func (c *completer) add(rank, label, detail string, kind dap.CompletionItemType) {
	if !matchesWord(label, c.query.word) || c.seen[label] {
		return
	}
	c.seen[label] = true
	c.items = append(c.items, dap.CompletionItem{
		Label: label, Text: label, Detail: detail, Type: kind, SortText: rank + strings.ToLower(label),
		Start: c.start, Length: c.length,
	})
}

func (c *completer) complete(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	switch c.query.kind {
	case queryExpression:
		defer c.words()
		return errors.Join(c.locals(ctx), c.current(ctx), c.packages(ctx))
	case querySelector:
		return c.selected(ctx)
	case queryPath:
		return c.paths(ctx)
	case queryCommand:
		return c.command(ctx)
	case queryNothing:
	}
	return nil
}

// locals offers the frame's arguments and variables.
func (c *completer) locals(ctx context.Context) error {
	if c.delve == nil || c.frame == 0 {
		return nil
	}
	var scopes dap.ScopesResponseBody
	if err := c.ask(ctx, "scopes", dap.ScopesArguments{FrameId: c.frame}, &scopes); err != nil {
		return err
	}
	for _, scope := range scopes.Scopes {
		if !strings.HasPrefix(scope.Name, "Locals") { // "Locals (warning: optimized function)"
			continue
		}
		variables, err := c.children(ctx, scope.VariablesReference)
		if err != nil {
			return err
		}
		for _, v := range variables {
			if token.IsIdentifier(v.Name) { // not one that is shadowed, nor ~r0
				c.add(rankLocal, v.Name, detailOf(v), "variable")
			}
		}
	}
	return nil
}

// detailOf is a variable's type, or its value for a client that does not want types.
func detailOf(v dap.Variable) string {
	const limit = 80
	text := []rune(cmp.Or(v.Type, v.Value))
	if len(text) > limit {
		return string(text[:limit]) + "..."
	}
	return string(text)
}

// current offers what is in the package of the frame's function: it needs no name
// before it.
func (c *completer) current(ctx context.Context) error {
	if c.delve == nil || c.frame == 0 || c.program.Program == nil {
		return nil
	}
	// Delve has the frame's program counter under the name of the register.
	for _, register := range []string{"RIP", "PC"} {
		var pc dap.EvaluateResponseBody
		if c.ask(ctx, "evaluate", dap.EvaluateArguments{Expression: register, FrameId: c.frame, Context: "watch"}, &pc) != nil {
			continue
		}
		text, _, _ := strings.Cut(pc.Result, " ") // "4843262 = 0x49e6fe"
		at, err := strconv.ParseUint(text, 0, 64)
		if err != nil {
			continue
		}
		pkg, err := c.program.PackageAt(ctx, at)
		if err != nil || pkg == "" {
			return err
		}
		return c.members(ctx, rankPackage, pkg)
	}
	return nil
}

// packages offers the names of packages.
func (c *completer) packages(ctx context.Context) error {
	if c.program.Program == nil {
		return nil
	}
	packages, err := c.program.Packages(ctx)
	for name, paths := range packages {
		detail := paths[0]
		if len(paths) > 1 {
			detail += " and " + strconv.Itoa(len(paths)-1) + " more"
		}
		c.add(rankPackage, name, detail, "module")
	}
	return err
}

// words offers the words that are not names of anything in the program.
func (c *completer) words() {
	if c.query.first && !c.query.call {
		c.add(rankWord, "call", "call a function, as in: call f(x)", "keyword")
		c.add(rankWord, "dlv", "a command of Delve's, as in: dlv help", "keyword")
	}
	for _, name := range []string{"cap", "complex", "imag", "len", "max", "min", "real"} {
		c.add(rankWord, name, "builtin", "function")
	}
	for _, name := range []string{"false", "nil", "true"} {
		c.add(rankWord, name, "", "value")
	}
}

// members offers what is in a package.
func (c *completer) members(ctx context.Context, rank, pkg string) error {
	functions, variables, err := c.program.Members(ctx, pkg)
	for _, name := range variables {
		c.add(rank, name, pkg, "variable")
	}
	for _, name := range functions {
		c.add(rank, name, pkg, "function")
	}
	return err
}

// selected offers what can stand behind a dot. A variable hides a package of the
// same name.
func (c *completer) selected(ctx context.Context) error {
	operand := c.query.operand
	var failed error
	if c.delve != nil && operand[0] != '"' {
		var v dap.EvaluateResponseBody
		err := c.ask(ctx, "evaluate", dap.EvaluateArguments{Expression: operand, FrameId: c.frame, Context: "watch"}, &v)
		// In package main, main is a function too.
		isFunction := strings.HasPrefix(v.Type, "func(") || v.Type == "" && v.Result == "main."+operand
		if err == nil && !isFunction {
			return c.fields(ctx, dap.Variable{Value: v.Result, Type: v.Type, VariablesReference: v.VariablesReference})
		}
		if err != nil && !isRefusal(err) {
			failed = err
		}
	}
	if c.program.Program == nil {
		return failed
	}
	if path, err := strconv.Unquote(operand); err == nil {
		return c.members(ctx, rankMember, path)
	}
	packages, err := c.program.Packages(ctx)
	failed = errors.Join(failed, err)
	for _, path := range packages[operand] {
		failed = errors.Join(failed, c.members(ctx, rankMember, path))
	}
	return failed
}

// fields offers the fields and methods of a value and of what is embedded in it, the
// outer ones first.
func (c *completer) fields(ctx context.Context, v dap.Variable) error {
	var failed error
	for all := []dap.Variable{v}; len(all) > 0 && len(c.items) < completionLimit; all = all[1:] {
		value, children, err := c.behind(ctx, all[0])
		failed = errors.Join(failed, err)
		for _, field := range children {
			if !token.IsIdentifier(field.Name) {
				continue
			}
			c.add(rankMember, field.Name, detailOf(field), "field")
			if field.Name == embeddedName(field) && len(all) <= embeddedLimit {
				all = append(all, field)
			}
		}
		if c.program.Program == nil {
			continue
		}
		typ := strings.TrimLeft(typeOf(value), "*")
		methods, err := c.program.Methods(ctx, typ)
		failed = errors.Join(failed, err)
		for _, name := range methods {
			c.add(rankMethod, name, typ, "method")
		}
	}
	return failed
}

// behind goes through pointers and interfaces to the value behind them, and
// returns it with its fields.
func (c *completer) behind(ctx context.Context, v dap.Variable) (dap.Variable, []dap.Variable, error) {
	for range 4 {
		if v.VariablesReference == 0 || strings.HasPrefix(typeOf(v), "chan ") {
			return v, nil, nil
		}
		children, err := c.children(ctx, v.VariablesReference)
		if err != nil {
			return v, nil, err
		}
		if len(children) != 1 {
			return v, children, nil
		}
		// What a pointer points to has no name, or for &x that of x; what is in
		// an interface is called data.
		switch only := children[0]; {
		case only.Name == "", strings.HasPrefix(typeOf(v), "*"), only.Name == "data" && strings.HasSuffix(typeOf(v), ")"):
			v = only
		default:
			return v, children, nil
		}
	}
	return v, nil, nil
}

// typeOf is a value's type, which Delve puts before the value of structs too.
func typeOf(v dap.Variable) string {
	if v.Type != "" {
		return v.Type
	}
	typ, _, _ := strings.Cut(v.Value, " {")
	return strings.TrimSuffix(typ, " nil")
}

// embeddedName is what the field would be called if it were an embedded one.
func embeddedName(field dap.Variable) string {
	typ, _, _ := strings.Cut(strings.TrimLeft(typeOf(field), "*"), "[")
	return typ[strings.LastIndexByte(typ, '.')+1:]
}

// paths offers import paths, for a name that several packages have.
func (c *completer) paths(ctx context.Context) error {
	if c.program.Program == nil {
		return nil
	}
	packages, err := c.program.Packages(ctx)
	for name, paths := range packages {
		for _, path := range paths {
			c.add(rankPackage, path, "package "+name, "module")
		}
	}
	return err
}

// command offers what can follow in a command of Delve's.
func (c *completer) command(ctx context.Context) error {
	words := c.query.words
	for _, w := range commandWords(words) {
		c.add(rankWord, w.text, w.help, w.kind)
	}
	if len(words) != 1 || !isCommand(words[0], "sources") || c.program.Program == nil {
		return nil
	}
	files, err := c.program.Sources(ctx)
	for _, file := range files {
		c.add(rankWord, file[strings.LastIndexByte(file, '/')+1:], file, "file")
	}
	return err
}

// children are the variables behind a reference.
func (c *completer) children(ctx context.Context, reference int) ([]dap.Variable, error) {
	var body dap.VariablesResponseBody
	err := c.ask(ctx, "variables", dap.VariablesArguments{VariablesReference: reference}, &body)
	return body.Variables, err
}

func (c *completer) ask(ctx context.Context, command string, arguments, body any) error {
	m, err := c.s.ask(ctx, c.delve, request{command, arguments})
	if err != nil {
		return err
	}
	return json.Unmarshal(m.env.body.in(m.raw), body)
}

// isRefusal says whether Delve has answered, with an error.
func isRefusal(err error) bool {
	var refused *requestError
	return errors.As(err, &refused)
}
