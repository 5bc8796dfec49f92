package dapserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// decodeLaunchConfig reads the arguments of a launch or attach request. The
// text of an error names the attribute as the user typed it.
func decodeLaunchConfig(request string, arguments json.RawMessage) (*LaunchConfig, error) {
	if empty(arguments) {
		arguments = json.RawMessage("{}")
	}
	var given map[string]json.RawMessage
	if err := json.Unmarshal(arguments, &given); err != nil {
		return nil, fmt.Errorf("the launch configuration must be an object, not %s", kindOf(arguments))
	}
	cfg := &LaunchConfig{}
	passed, err := decodeFields("", given, cfg)
	if err != nil {
		return nil, err
	}
	cfg.Delve = passed
	// What the request is, the protocol says; editors repeat it here.
	if cfg.Request != "" && cfg.Request != request {
		return nil, fmt.Errorf(`"request" is %q in a %s request`, cfg.Request, request)
	}
	cfg.Request = request
	defaultMode := map[string]string{"launch": "debug", "attach": "remote"}[request]
	switch cfg.Mode {
	case "", defaultMode:
		cfg.Mode = defaultMode
	default:
		return nil, fmt.Errorf(`"mode" is %q, but kubedelve has only %q for "request": %q: leave "mode" out`, cfg.Mode, defaultMode, request)
	}
	if !empty(cfg.Build) && kindOf(cfg.Build) != "an object" {
		return nil, fmt.Errorf(`"build" must be an object, for example {"flags": ["-tags=dev"]}, not %s`, kindOf(cfg.Build))
	}
	return cfg, nil
}

// backendArguments are the arguments of the attach request to headless Delve:
// the user's own attributes, and the path rules with the user's first. With
// halt it leaves the component halted, whatever the user wants.
func (c *LaunchConfig) backendArguments(computed []PathRule, halt bool) (json.RawMessage, error) {
	args := maps.Clone(c.Delve)
	if args == nil {
		args = map[string]json.RawMessage{}
	}
	args["request"] = json.RawMessage(`"attach"`)
	args["mode"] = json.RawMessage(`"remote"`)
	if halt {
		args["stopOnEntry"] = json.RawMessage("true")
	}
	// A rule list, even one of the user's, turns off Delve's guess, which is
	// wrong now and then where one module's path begins like another's.
	if rules := slices.Concat(c.SubstitutePath, computed); len(rules) > 0 {
		b, err := json.Marshal(rules)
		if err != nil {
			return nil, err
		}
		args["substitutePath"] = b
	}
	return json.Marshal(args)
}

// decodeFields decodes the members of given into the fields of the struct that
// into points to, by their JSON names. It returns those members that Delve is
// to have: the ones without a field, and the ones whose field says so.
func decodeFields(path string, given map[string]json.RawMessage, into any) (passed map[string]json.RawMessage, err error) {
	v := reflect.ValueOf(into).Elem()
	passed = maps.Clone(given)
	for i := range v.NumField() {
		field := v.Type().Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		raw, ok := given[name]
		if name == "-" || !ok {
			continue
		}
		if field.Tag.Get("delve") != "pass" {
			delete(passed, name)
		}
		if empty(raw) {
			continue // null is how some editors write "not set"
		}
		if err := decodeField(path+name, raw, v.Field(i).Addr().Interface()); err != nil {
			return nil, err
		}
	}
	return passed, nil
}

// decodeField decodes one attribute.
func decodeField(path string, raw json.RawMessage, into any) error {
	want, example := "", ""
	switch into := into.(type) {
	case *Target:
		return decodeTarget(path, raw, into)
	case *[]PathRule:
		return decodePathRules(path, raw, into)
	case *Replicas:
		return decodeReplicas(path, raw, into)
	case **ChildRef:
		return decodeChild(path, raw, into)
	case *map[string]*string:
		return decodeEnv(path, raw, into)
	case *[]string:
		want, example = "a list of strings", `["--verbose", "file"]`
	case *string:
		want, example = "a string", `"text"`
	case *bool:
		want, example = "true or false", "true"
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf(`"%s" must be %s, for example %s, not %s`, path, want, example, kindOf(raw))
	}
	return nil
}

func decodeTarget(path string, raw json.RawMessage, into *Target) error {
	if raw[0] == '"' {
		return json.Unmarshal(raw, &into.Name)
	}
	var given map[string]json.RawMessage
	if err := json.Unmarshal(raw, &given); err != nil {
		return fmt.Errorf(`"%s" must be a string like "deploy/web" or an object like {"name": "deploy/web", "namespace": "shop"}, not %s`, path, kindOf(raw))
	}
	unknown, err := decodeFields(path+".", given, into)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(unknown)) {
		return fmt.Errorf(`"%s.%s" is not an attribute of "%s"; there are %s`, path, name, path, strings.Join(fieldNames(into), ", "))
	}
	if into.Name == "" && len(given) > 0 {
		return fmt.Errorf(`"%s.name" is missing: say what to debug, for example "deploy/web"`, path)
	}
	return nil
}

func decodeReplicas(path string, raw json.RawMessage, into *Replicas) error {
	if raw[0] == '"' {
		return json.Unmarshal(raw, (*string)(into))
	}
	var number json.Number
	if err := json.Unmarshal(raw, &number); err != nil {
		return fmt.Errorf(`"%s" must be a number or "all", not %s`, path, kindOf(raw))
	}
	*into = Replicas(number)
	return nil
}

func decodeChild(path string, raw json.RawMessage, into **ChildRef) error {
	var ref ChildRef
	if err := json.Unmarshal(raw, &ref); err != nil || ref.Token == "" {
		return fmt.Errorf(`"%s" is not what kubedelve has written: leave it out`, path)
	}
	*into = &ref
	return nil
}

// decodeEnv is stricter in its message than in what it takes: a number is the
// mistake that everybody makes.
func decodeEnv(path string, raw json.RawMessage, into *map[string]*string) error {
	var given map[string]json.RawMessage
	if err := json.Unmarshal(raw, &given); err != nil {
		return fmt.Errorf(`"%s" must be an object like {"LEVEL": "debug"}, not %s`, path, kindOf(raw))
	}
	*into = make(map[string]*string, len(given))
	for _, name := range slices.Sorted(maps.Keys(given)) {
		var value *string
		if err := json.Unmarshal(given[name], &value); err != nil {
			return fmt.Errorf(`"%s.%s" must be a string in quotes, or null to unset it, not %s`, path, name, kindOf(given[name]))
		}
		if name == "" || strings.ContainsAny(name, "=\x00") {
			return fmt.Errorf(`"%s" has %q, which cannot be the name of an environment variable`, path, name)
		}
		if value != nil && strings.Contains(*value, "\x00") {
			return fmt.Errorf(`"%s.%s" has a NUL character in it`, path, name)
		}
		(*into)[name] = value
	}
	return nil
}

func decodePathRules(path string, raw json.RawMessage, into *[]PathRule) error {
	var given []struct{ From, To *string }
	err := json.Unmarshal(raw, &given)
	if err == nil {
		for i, rule := range given {
			if rule.From == nil || rule.To == nil {
				return fmt.Errorf(`"%s[%d]" needs both "from" and "to"; an empty string is allowed`, path, i)
			}
			*into = append(*into, PathRule{*rule.From, *rule.To})
		}
		return nil
	}
	return fmt.Errorf(`"%s" must be a list like [{"from": "/local/path", "to": "/path/in/the/binary"}]%s`, path, typeHint(err))
}

func typeHint(err error) string {
	var mismatch *json.UnmarshalTypeError
	if errors.As(err, &mismatch) {
		return ", not " + article(mismatch.Value)
	}
	return ""
}

// fieldNames are the JSON names of a struct's fields.
func fieldNames(of any) []string {
	t := reflect.TypeOf(of).Elem()
	var names []string
	for i := range t.NumField() {
		if name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ","); name != "-" {
			names = append(names, name)
		}
	}
	return names
}

// empty says whether raw is absent or null.
func empty(raw json.RawMessage) bool {
	raw = bytes.TrimSpace(raw)
	return len(raw) == 0 || string(raw) == "null"
}

// kindOf names the kind of a JSON value in the words of an error message.
func kindOf(raw json.RawMessage) string {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 {
		return "nothing"
	}
	switch raw[0] {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case '"':
		return "a string"
	case 't', 'f':
		return string(raw)
	case 'n':
		return "null"
	}
	return "a number"
}

func article(kind string) string {
	kind, _, _ = strings.Cut(kind, " ")
	switch kind {
	case "array":
		return "a list"
	case "object":
		return "an object"
	case "bool":
		return "true or false"
	}
	return "a " + kind
}
