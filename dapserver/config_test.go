package dapserver

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestLaunchConfigErrors(t *testing.T) {
	for _, test := range []struct{ name, request, arguments, want string }{
		{"arguments are a list", "launch", `[]`, "must be an object, not a list"},
		{"unknown attribute of the target", "launch", `{"target":{"name":"deploy/web","namspace":"shop"}}`,
			`"target.namspace" is not an attribute of "target"; there are name, namespace, container, context, kubeconfig, agentImage, agentImagePullPolicy, entrypoint, replicas, keepReplicas, keepReadiness, calls, grace, ttl`},
		{"target without a name", "launch", `{"target":{"namespace":"shop"}}`, `"target.name" is missing`},
		{"target is a number", "launch", `{"target":1}`, `"target" must be a string like "deploy/web" or an object`},
		{"namespace is a list", "launch", `{"target":{"name":"x","namespace":[]}}`, `"target.namespace" must be a string, for example "text", not a list`},
		{"replicas is a list", "launch", `{"target":{"name":"x","replicas":[2]}}`, `"target.replicas" must be a number or "all", not a list`},
		{"replicas is true", "launch", `{"target":{"name":"x","replicas":true}}`, `"target.replicas" must be a number or "all", not true`},
		{"args is a string", "launch", `{"args":"-v"}`, `"args" must be a list of strings, for example ["--verbose", "file"], not a string`},
		{"args has a number", "launch", `{"args":["-p",8080]}`, `"args" must be a list of strings`},
		{"env has a number", "launch", `{"env":{"PORT":8080}}`, `"env.PORT" must be a string in quotes, or null to unset it, not a number`},
		{"env is a list", "launch", `{"env":["A=1"]}`, `"env" must be an object like {"LEVEL": "debug"}, not a list`},
		{"env name", "launch", `{"env":{"A=B":"1"}}`, "cannot be the name of an environment variable"},
		{"stopOnEntry is a string", "launch", `{"stopOnEntry":"yes"}`, `"stopOnEntry" must be true or false`},
		{"build is a string", "launch", `{"build":"make"}`, `"build" must be an object`},
		{"path rule without to", "launch", `{"substitutePath":[{"from":"/a","to":""},{"from":"/a"}]}`, `"substitutePath[1]" needs both`},
		{"path rules are an object", "launch", `{"substitutePath":{"/a":"/b"}}`, `"substitutePath" must be a list like [{"from"`},
		{"mode", "launch", `{"mode":"test"}`, `"mode" is "test", but kubedelve has only "debug" for "request": "launch"`},
		{"mode of attach", "attach", `{"mode":"local"}`, `has only "remote"`},
		{"request", "launch", `{"request":"attach"}`, `"request" is "attach" in a launch request`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := decodeLaunchConfig(test.request, json.RawMessage(test.arguments))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v\nwant %s", err, test.want)
			}
		})
	}
}

func TestLaunchConfigDefaults(t *testing.T) {
	for _, arguments := range []string{``, `null`, `{}`, `{"target":null,"args":null,"env":null,"mode":"","build":null}`} {
		cfg, err := decodeLaunchConfig("launch", json.RawMessage(arguments))
		if err != nil {
			t.Fatalf("%s: %v", arguments, err)
		}
		if cfg.Mode != "debug" || cfg.Args != nil || cfg.Env != nil || !reflect.DeepEqual(cfg.Target, Target{}) {
			t.Errorf("%s: got %+v", arguments, cfg)
		}
	}
	cfg, err := decodeLaunchConfig("attach", json.RawMessage(`{"target":"deploy/web","args":[]}`))
	if err != nil || cfg.Target.Name != "deploy/web" || cfg.Args == nil || len(cfg.Args) != 0 || cfg.Mode != "remote" {
		t.Errorf("got %+v, %v", cfg, err)
	}
}

func TestReplicasAreANumberOrAWord(t *testing.T) {
	for raw, want := range map[string]Replicas{`2`: "2", `"2"`: "2", `"all"`: "all", `null`: ""} {
		cfg, err := decodeLaunchConfig("launch", json.RawMessage(`{"target":{"name":"deploy/web","replicas":`+raw+`}}`))
		if err != nil || cfg.Target.Replicas != want {
			t.Errorf("%s: got %+v, %v, want %q", raw, cfg, err, want)
		}
	}
}

func TestChangedCapabilities(t *testing.T) {
	b, err := json.Marshal(capabilities())
	if err != nil {
		t.Fatal(err)
	}
	var same map[string]any
	if err := json.Unmarshal(b, &same); err != nil {
		t.Fatal(err)
	}
	same["supportsRestartRequest"] = true // ours to decide
	same["supportsStepBack"] = false      // as good as absent
	check := func(name string, want string) {
		t.Helper()
		b, _ := json.Marshal(same)
		changed, err := changedCapabilities(b)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := json.Marshal(changed); string(got) != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
	check("the same", `{}`)
	same["supportsStepInTargetsRequest"] = true
	delete(same, "supportsDataBreakpoints")
	check("differences", `{"supportsDataBreakpoints":false,"supportsStepInTargetsRequest":true}`)
}

func TestBreakpointsAreRecorded(t *testing.T) {
	var b breakpoints
	for _, r := range []struct{ command, arguments string }{
		{"setBreakpoints", `{"source":{"path":"/a.go"},"breakpoints":[{"line":1}]}`},
		{"setBreakpoints", `{"source":{"path":"/b.go"},"breakpoints":[{"line":2}]}`},
		{"setBreakpoints", `{"source":{"path":"/a.go"},"breakpoints":[{"line":3,"condition":"x"}]}`},
		{"setBreakpoints", `{"source":{"path":"/b.go"},"breakpoints":[]}`},
		{"setBreakpoints", `nonsense`},
		{"setFunctionBreakpoints", `{"breakpoints":[{"name":"main.f"}]}`},
		{"threads", `{}`},
	} {
		b.record(r.command, json.RawMessage(r.arguments), Run{})
	}
	var got []string
	for _, set := range b.sets {
		got = append(got, set.command+" "+string(set.arguments))
	}
	if want := []string{
		`setBreakpoints {"source":{"path":"/a.go"},"breakpoints":[{"line":3,"condition":"x"}]}`,
		// Without any it is kept until Delve has been told.
		`setBreakpoints {"source":{"path":"/b.go"},"breakpoints":[]}`,
		`setFunctionBreakpoints {"breakpoints":[{"name":"main.f"}]}`,
	}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	clear, _ := json.Marshal(b.clearing()[0].arguments)
	if want := `{"breakpoints":[],"source":{"path":"/a.go"}}`; string(clear) != want {
		t.Errorf("got clearing %s, want %s", clear, want)
	}
}
