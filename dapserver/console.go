package dapserver

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"unicode"
	"unicode/utf8"
)

// consoleQuery is what the cursor in the debug console stands behind, as far as the
// text tells. The console takes Delve's expressions, and behind "call" one that may
// call functions; and behind "dlv" its commands.
type consoleQuery struct {
	kind queryKind
	// from is where the completion begins, in bytes; what stands between that and
	// the cursor is word.
	from int
	word string
	// first says that nothing stands before the word, call that "call" does.
	first, call bool
	// words are those of the command before the cursor, without "dlv".
	words []string
	// operand is the expression before the dot, which can be evaluated without
	// calling or changing anything.
	operand string
}

type queryKind int

const (
	queryNothing    queryKind = iota // nothing can be offered
	queryExpression                  // the beginning of an operand
	querySelector                    // behind operand and a dot
	queryPath                        // in a quoted import path
	queryCommand                     // behind "dlv"
)

// maxQuery is how long a line may be that is looked at, in bytes.
const maxQuery = 4 << 10

// parseConsole looks at the text before the cursor.
func parseConsole(before string) consoleQuery {
	if len(before) > maxQuery || !utf8.ValidString(before) {
		return consoleQuery{}
	}
	text := strings.TrimLeft(before, " \t")
	at := len(before) - len(text)
	if rest, ok := cutWord(text, "dlv"); ok {
		return parseCommand(before, len(before)-len(rest))
	}
	call := false
	if rest, ok := cutWord(text, "call"); ok {
		at, call = len(before)-len(rest), true
	}
	q := parseExpression(before, at)
	q.call = call
	return q
}

// cutWord returns what follows word and a space.
func cutWord(text, word string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(text, word)
	if !ok || rest == "" || rest[0] != ' ' && rest[0] != '\t' {
		return "", false
	}
	return strings.TrimLeft(rest, " \t"), true
}

// parseCommand looks at a command of which the words begin at the byte at.
func parseCommand(before string, at int) consoleQuery {
	q := consoleQuery{kind: queryCommand, from: strings.LastIndexAny(before, " \t") + 1}
	q.word, q.words = before[q.from:], strings.Fields(before[at:max(q.from, at)])
	if len(q.words) > 1 && isCommand(q.words[0], "examinemem") {
		// What follows -x is an expression to its end, spaces and all.
		if i := strings.Index(before[at:], " -x "); i >= 0 {
			return parseExpression(before, at+i+len(" -x "))
		}
	}
	return q
}

// parseExpression looks at an expression that begins at the byte at.
func parseExpression(before string, at int) consoleQuery {
	quote, open := openQuote(before[at:])
	if open == '"' {
		from := at + quote + 1
		return consoleQuery{kind: queryPath, from: from, word: before[from:]}
	}
	if open != 0 {
		return consoleQuery{}
	}
	from := max(wordBefore(before), at)
	q := consoleQuery{kind: queryExpression, from: from, word: before[from:], first: from == at}
	switch {
	case q.word != "" && unicode.IsDigit(rune(q.word[0])):
		return consoleQuery{} // a number
	case from == at || before[from-1] != '.':
		return q
	}
	operand := operandBefore(before[at : from-1])
	if !isHarmless(operand) {
		return consoleQuery{}
	}
	q.kind, q.operand = querySelector, operand
	return q
}

// openQuote returns where a literal begins that s ends within, and its quotation
// mark; 0 if it does not.
func openQuote(s string) (at int, quote byte) {
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case quote == 0 && (c == '"' || c == '`' || c == '\''):
			at, quote = i, c
		case quote != 0 && quote != '`' && c == '\\':
			i++
		case c == quote:
			quote = 0
		}
	}
	return at, quote
}

// operandBefore returns the operand of a selector that s ends in: names, dots,
// indices, parentheses, and a quoted import path before them.
func operandBefore(s string) string {
	i := len(s)
	for i > 0 {
		switch s[i-1] {
		case ')', ']':
			open := matching(s[:i])
			if open < 0 {
				return ""
			}
			i = open
			if i > 0 && (s[i-1] == ')' || s[i-1] == ']' || s[i-1] == '"') {
				continue
			}
			i = wordBefore(s[:i])
		case '"':
			return s[max(strings.LastIndexByte(s[:i-1], '"'), 0):]
		default:
			i = wordBefore(s[:i])
		}
		if i == 0 || s[i-1] != '.' {
			break
		}
		i--
	}
	return s[i:]
}

// matching returns where the bracket is that the one at the end of s closes; -1
// if there is none.
func matching(s string) int {
	depth := 0
	for i := len(s) - 1; i >= 0; i-- {
		switch s[i] {
		case ')', ']':
			depth++
		case '(', '[':
			if depth--; depth == 0 {
				return i
			}
		case '"', '\'':
			if i = strings.LastIndexByte(s[:i], s[i]); i < 0 {
				return -1
			}
		}
	}
	return -1
}

// isHarmless says whether an expression only leads from a name to what is in it: to
// evaluate it has no effects.
func isHarmless(expression string) bool {
	e, err := parser.ParseExpr(expression)
	return err == nil && harmless(e)
}

func harmless(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.Ident:
		return true
	case *ast.BasicLit:
		return e.Kind == token.STRING // an import path
	case *ast.SelectorExpr:
		return harmless(e.X)
	case *ast.ParenExpr:
		return harmless(e.X)
	case *ast.StarExpr:
		return harmless(e.X)
	case *ast.UnaryExpr:
		return e.Op == token.AND && harmless(e.X)
	case *ast.TypeAssertExpr:
		return harmless(e.X) && e.Type != nil && harmless(e.Type)
	case *ast.IndexExpr:
		switch index := e.Index.(type) {
		case *ast.BasicLit:
			return harmless(e.X)
		case *ast.UnaryExpr:
			_, literal := index.X.(*ast.BasicLit)
			return harmless(e.X) && literal && index.Op == token.SUB
		default:
			return harmless(e.X) && harmless(e.Index)
		}
	}
	return false
}

func isWordRune(r rune) bool { return r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) }
