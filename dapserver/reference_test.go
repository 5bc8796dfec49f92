package dapserver

import (
	"flag"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the generated parts of docs/launch.md anew")

// TestReference checks that the tables in docs/launch.md are what the comments of
// the configuration's structs say.
func TestReference(t *testing.T) {
	path := filepath.Join("..", "docs", "launch.md")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	for _, table := range []struct{ file, name string }{
		{"config.go", "LaunchConfig"},
		{"config.go", "Target"},
		{filepath.Join("..", "buildflags", "config.go"), "Config"},
	} {
		begin, end := fmt.Sprintf("<!-- begin %s: written by make docs -->\n", table.name), fmt.Sprintf("<!-- end %s -->\n", table.name)
		before, rest, found := strings.Cut(text, begin)
		_, after, foundEnd := strings.Cut(rest, end)
		if !found || !foundEnd {
			t.Fatalf("%s has no %q", path, begin)
		}
		text = before + begin + attributes(t, table.file, table.name) + end + after
	}
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if text != string(data) {
		t.Errorf("%s is not what the comments say: run make docs", path)
	}
}

// field is a field of a struct, as users see it.
type field struct {
	field     *ast.Field
	attribute string // its name in JSON
	kind      string // its type in Go
	text      string // its comment
}

// describe reads the fields of a struct that are in JSON.
func describe(t *testing.T, file, name string) []field {
	t.Helper()
	fset := token.NewFileSet()
	parsed, err := parser.ParseFile(fset, file, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var fields []*ast.Field
	ast.Inspect(parsed, func(n ast.Node) bool {
		if spec, ok := n.(*ast.TypeSpec); ok && spec.Name.Name == name {
			if s, ok := spec.Type.(*ast.StructType); ok {
				fields = s.Fields.List
			}
		}
		return true
	})
	if len(fields) == 0 {
		t.Fatalf("%s has no struct %s", file, name)
	}
	names := map[string]string{} // from the struct's to JSON's
	for _, f := range fields {
		names[f.Names[0].Name] = attributeOf(f)
	}
	var described []field
	for _, f := range fields {
		attribute := attributeOf(f)
		if attribute == "" {
			continue
		}
		var kind strings.Builder
		if err := format.Node(&kind, fset, f.Type); err != nil {
			t.Fatal(err)
		}
		described = append(described, field{f, attribute, kind.String(), forUsers(f.Names[0].Name, f.Doc.Text(), names)})
	}
	return described
}

// attributes makes a table of a struct's fields, as they are in JSON.
func attributes(t *testing.T, file, name string) string {
	t.Helper()
	var out strings.Builder
	out.WriteString("\n| attribute | type | |\n| --- | --- | --- |\n")
	for _, f := range describe(t, file, name) {
		text := strings.ReplaceAll(strings.ReplaceAll(f.text, "|", `\|`), "<", "&lt;")
		_, _ = fmt.Fprintf(&out, "| `%s` | %s | %s |\n", f.attribute, jsonType(f.kind), text)
	}
	return out.String() + "\n"
}

// attributeOf is a field's name in JSON; empty if it has none.
func attributeOf(f *ast.Field) string {
	name, _, _ := strings.Cut(tagOf(f, "json"), ",")
	return strings.TrimPrefix(name, "-")
}

// tagOf is a field's tag with the key; empty if it has none.
func tagOf(f *ast.Field, key string) string {
	if f.Tag == nil {
		return ""
	}
	return reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get(key)
}

// forUsers rewords a field's comment, which is for programmers: what stands beside
// the attribute need not name it, and other fields have the names of JSON.
func forUsers(field, comment string, names map[string]string) string {
	words := strings.Fields(comment)
	if len(words) > 1 && words[0] == field {
		switch words[1] {
		case "of", "in": // "Namespace of the workload"
		case "is", "are":
			words = words[2:]
		default:
			words = words[1:]
		}
	}
	for i, word := range words {
		name := strings.TrimRight(word, ".,:;)")
		end := word[len(name):]
		switch {
		case i == 0:
			words[0] = strings.ToUpper(word[:1]) + word[1:]
		case name == "Binary.Sources":
			words[i] = "the computed path rules" + end
		case names[name] != "" && !strings.HasSuffix(words[i-1], "."):
			words[i] = "`" + names[name] + "`" + end
		}
	}
	return strings.Join(words, " ")
}

// jsonType says what a field is in JSON.
func jsonType(kind string) string {
	switch kind {
	case "bool":
		return "true or false"
	case "string", "Platform":
		return "string"
	case "[]string":
		return "list of strings"
	case "*ChildRef", "map[string]string", "map[string]*string", "json.RawMessage":
		return "object"
	case "Target":
		return "string or object"
	case "Replicas":
		return "number or string"
	case "[]PathRule":
		return "list of objects"
	}
	return kind
}
