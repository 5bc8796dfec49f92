package dapserver

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

// TestErrorsAreOfTheTable finds all errors that the package makes, and checks that
// they are as errorKinds says: the same id, the same words, and shown to the user
// only if there is something to do about it.
func TestErrorsAreOfTheTable(t *testing.T) {
	ids := map[string]int{}      // by the constant's name
	kinds := map[int]errorKind{} // by id
	made := map[int]int{}        // how many errors of an id there are
	for _, kind := range errorKinds {
		if kinds[kind.id].id != 0 {
			t.Errorf("errorKinds has %d twice", kind.id)
		}
		kinds[kind.id] = kind
	}
	fset := token.NewFileSet()
	files := map[string]*ast.File{}
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		if files[name], err = parser.ParseFile(fset, name, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	for name, file := range files {
		for _, decl := range file.Decls {
			gen, ok := decl.(*ast.GenDecl)
			if !ok || gen.Tok != token.CONST {
				continue
			}
			for _, spec := range gen.Specs {
				value, ok := spec.(*ast.ValueSpec)
				if !ok || len(value.Values) != 1 || !isErrorID(value.Names[0].Name) {
					continue
				}
				lit, ok := value.Values[0].(*ast.BasicLit)
				if !ok {
					continue
				}
				id, err := strconv.Atoi(lit.Value)
				if err != nil {
					continue
				}
				if name != "errors.go" {
					t.Errorf("%s: the id %s stands outside of errors.go", fset.Position(value.Pos()), value.Names[0].Name)
				}
				if kinds[id].id == 0 {
					t.Errorf("%s: %s = %d is not in errorKinds", fset.Position(value.Pos()), value.Names[0].Name, id)
				}
				ids[value.Names[0].Name] = id
			}
		}
	}
	for name, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.Ident: // a kind that is made by newError or later
				if id, ok := ids[n.Name]; ok && name != "errors.go" {
					made[id]++
				}
			case *ast.CompositeLit:
				if kind, ok := n.Type.(*ast.Ident); !ok || kind.Name != "requestError" || name == "errors.go" {
					return true
				}
				checkError(t, fset, n, ids, kinds)
			}
			return true
		})
	}
	for id := range kinds {
		if made[id] == 0 {
			t.Errorf("no error has the id %d of errorKinds", id)
		}
	}
}

// isErrorID says whether a constant's name is that of an error's id: idInternal.
func isErrorID(name string) bool {
	rest, ok := strings.CutPrefix(name, "id")
	return ok && rest != "" && unicode.IsUpper(rune(rest[0]))
}

// checkError checks one requestError literal.
func checkError(t *testing.T, fset *token.FileSet, lit *ast.CompositeLit, ids map[string]int, kinds map[int]errorKind) {
	t.Helper()
	at := fset.Position(lit.Pos())
	fields := map[string]ast.Expr{}
	for i, e := range lit.Elts {
		if kv, ok := e.(*ast.KeyValueExpr); ok {
			fields[kv.Key.(*ast.Ident).Name] = kv.Value
		} else {
			fields[[]string{"id", "summary", "details", "showUser"}[i]] = e
		}
	}
	if at.Filename == "backend.go" && fields["details"] == nil {
		return // delveError: Delve's own words
	}
	id, ok := fields["id"].(*ast.Ident)
	if !ok || ids[id.Name] == 0 {
		t.Errorf("%s: the id is not one of the constants in errors.go", at)
		return
	}
	kind := kinds[ids[id.Name]]
	if summary, ok := fields["summary"].(*ast.BasicLit); !ok || summary.Value != strconv.Quote(kind.summary) {
		t.Errorf("%s: the summary of %s is not %q", at, id.Name, kind.summary)
	}
	show, ok := fields["showUser"].(*ast.Ident)
	if want := strconv.FormatBool(kind.todo != ""); (ok || want == "true") && (!ok || show.Name != want) {
		t.Errorf("%s: showUser of %s is not %s", at, id.Name, want)
	}
	// Details follow a colon: they begin in lower case, unless it is a name, and
	// end without a stop.
	if details, ok := fields["details"].(*ast.BasicLit); ok {
		text, err := strconv.Unquote(details.Value)
		if err != nil || strings.HasSuffix(text, ".") || strings.HasSuffix(text, "\n") {
			t.Errorf("%s: the details %q end like a sentence", at, text)
		}
	}
}

// TestReferenceErrors checks that the table in docs/troubleshooting.md is errorKinds.
func TestReferenceErrors(t *testing.T) {
	path := filepath.Join("..", "docs", "troubleshooting.md")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- begin errors: written by make docs -->\n", "<!-- end errors -->\n"
	before, rest, found := strings.Cut(string(data), begin)
	_, after, foundEnd := strings.Cut(rest, end)
	if !found || !foundEnd {
		t.Fatalf("%s has no %q", path, begin)
	}
	table := "\n| id | text | when | what to do |\n| --- | --- | --- | --- |\n"
	for _, kind := range errorKinds {
		table += fmt.Sprintf("| %d | %s | %s | %s |\n", kind.id, kind.summary, kind.when, kind.todo)
	}
	text := before + begin + table + "\n" + end + after
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if text != string(data) {
		t.Errorf("%s is not what errorKinds says: run make docs", path)
	}
}
