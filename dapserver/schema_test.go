package dapserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/go-delve/delve/service/dap"
)

// TestReferenceOfVSCode checks that what the extension for VS Code says of launch
// configurations is what the configuration's structs say.
func TestReferenceOfVSCode(t *testing.T) {
	path := filepath.Join("..", "editors", "vscode", "package.json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const key = `"configurationAttributes": `
	before, rest, found := bytes.Cut(data, []byte(key))
	if !found {
		t.Fatalf("%s has no %s", path, key)
	}
	var old json.RawMessage // the value that begins here
	decoder := json.NewDecoder(bytes.NewReader(rest))
	if err := decoder.Decode(&old); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	var compact, indented bytes.Buffer
	encoder := json.NewEncoder(&compact)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(object{{"launch", requestSchema(t, "launch")}, {"attach", requestSchema(t, "attach")}}); err != nil {
		t.Fatal(err)
	}
	if err := json.Indent(&indented, bytes.TrimSpace(compact.Bytes()), strings.Repeat(" ", 8), "  "); err != nil {
		t.Fatal(err)
	}
	want := slices.Concat(before, []byte(key), indented.Bytes(), rest[decoder.InputOffset():])
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
	} else if !bytes.Equal(want, data) {
		t.Errorf("%s is not what the comments say: run make docs", path)
	}
}

// object is a JSON object whose members keep their order.
type object []property

type property struct {
	name  string
	value any
}

func (o object) MarshalJSON() ([]byte, error) {
	var out bytes.Buffer
	out.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			out.WriteByte(',')
		}
		value, err := marshal(m.value)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&out, "%q:%s", m.name, value)
	}
	out.WriteByte('}')
	return out.Bytes(), nil
}

// marshal leaves <, > and & as they are.
func marshal(v any) ([]byte, error) {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(v)
	return bytes.TrimSpace(out.Bytes()), err
}

// ofDelve are the attributes of Delve's that pass through, in our words.
var ofDelve = object{
	{"stackTraceDepth", attribute("integer", 50, "How many frames of a stack are shown at most.")},
	{"showGlobalVariables", attribute("boolean", false, "Shows the variables of the package, too.")},
	{"showRegisters", attribute("boolean", false, "Shows the registers of the processor, too.")},
	{"hideSystemGoroutines", attribute("boolean", false, "Hides the goroutines of Go's runtime.")},
	{"goroutineFilters", attribute("string", nil, "Which goroutines are shown, as in Delve's command `goroutines`: `-with user`, for example.")},
	{"showPprofLabels", object{
		{"type", "array"}, {"items", object{{"type", "string"}}}, {"default", []string{}},
		{"markdownDescription", "The pprof labels that are part of a goroutine's name."},
	}},
}

// ofTheExtension are the attributes that only the extension for VS Code knows.
var ofTheExtension = object{
	{"host", attribute("string", "127.0.0.1", "Where `kubedelve debug` listens.")},
	{"port", attribute("integer", 2345, "The port that `kubedelve debug` has printed.")},
}

func attribute(kind string, byDefault any, text string) object {
	o := object{{"type", kind}}
	if byDefault != nil {
		o = append(o, property{"default", byDefault})
	}
	return append(o, property{"markdownDescription", text})
}

// requestSchema is the schema for one kind of configuration.
func requestSchema(t *testing.T, request string) object {
	t.Helper()
	delves := reflect.TypeFor[dap.LaunchAttachCommonConfig]()
	for _, m := range ofDelve {
		if !slices.ContainsFunc(reflect.VisibleFields(delves), func(f reflect.StructField) bool {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			return name == m.name
		}) {
			t.Errorf("Delve has no attribute %s", m.name)
		}
	}
	properties := structSchema(t, "config.go", "LaunchConfig", request)
	if request == "attach" {
		properties = slices.Concat(ofTheExtension, properties)
	}
	return object{{"properties", slices.Concat(properties, ofDelve)}}
}

// structSchema are the properties for a struct's fields.
func structSchema(t *testing.T, file, name, request string) object {
	t.Helper()
	var properties object
	for _, f := range describe(t, file, name) {
		if only := tagOf(f.field, "editor"); only == "" || only == request {
			properties = append(properties, property{f.attribute, f.schema(t, request)})
		}
	}
	return properties
}

// literalDefault matches a default that is a value of JSON, and nothing else.
var literalDefault = regexp.MustCompile(`Default: ("[^"]*"|true|false|\d+|\w+)[.,]`)

func (f field) schema(t *testing.T, request string) object {
	t.Helper()
	o := f.typeSchema(t, request)
	enum := strings.Fields(tagOf(f.field, "enum"))
	if len(enum) > 0 {
		o = append(o, property{"enum", enum})
	}
	if m := literalDefault.FindStringSubmatch(f.text); m != nil {
		var value any
		if err := json.Unmarshal([]byte(m[1]), &value); err == nil {
			o = append(o, property{"default", value})
		} else if slices.Contains(enum, m[1]) {
			o = append(o, property{"default", m[1]})
		}
	}
	o = append(o, property{"markdownDescription", f.text})
	if why := tagOf(f.field, "deprecated"); why != "" {
		o = append(o, property{"deprecationMessage", why})
	}
	return o
}

func (f field) typeSchema(t *testing.T, request string) object {
	t.Helper()
	text := object{{"type", "string"}}
	switch f.kind {
	case "string", "Platform":
		return text
	case "bool":
		return object{{"type", "boolean"}}
	case "[]string":
		return object{{"type", "array"}, {"items", text}}
	case "map[string]string":
		return object{{"type", "object"}, {"additionalProperties", text}}
	case "map[string]*string":
		return object{{"type", "object"}, {"additionalProperties", object{{"type", []string{"string", "null"}}}}}
	case "Replicas":
		return object{{"type", []string{"integer", "string"}}, {"minimum", 1}, {"pattern", `^(all|[1-9][0-9]*)$`}}
	case "Target":
		return object{
			{"type", []string{"string", "object"}}, {"additionalProperties", false},
			{"properties", structSchema(t, "config.go", "Target", request)},
		}
	case "json.RawMessage": // build
		return object{
			{"type", "object"}, {"additionalProperties", false},
			{"properties", structSchema(t, filepath.Join("..", "buildflags", "config.go"), "Config", request)},
		}
	case "[]PathRule":
		return object{{"type", "array"}, {"items", object{
			{"type", "object"}, {"additionalProperties", false}, {"required", []string{"from", "to"}},
			{"properties", object{{"from", text}, {"to", text}}},
		}}}
	}
	t.Fatalf("%s: there is no schema for the type %s", f.attribute, f.kind)
	return nil
}
