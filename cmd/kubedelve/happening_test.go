package main

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/kubedelve/kubedelve/buildflags"
	"github.com/kubedelve/kubedelve/dapserver"
	"github.com/kubedelve/kubedelve/internal/reload"
	"github.com/kubedelve/kubedelve/kubelaunch"
)

func TestActivitiesOfBothSidesAreToldApart(t *testing.T) {
	seen := map[int]bool{}
	for n := 1; n <= 3; n++ {
		for _, h := range []happening{ofSession(kubelaunch.Event{Activity: n}), ofReload(reload.Event{Activity: n})} {
			if h.activity == 0 || seen[h.activity] {
				t.Errorf("the number %d is given twice, or is that of none", h.activity)
			}
			seen[h.activity] = true
		}
	}
	if ofSession(kubelaunch.Event{}).activity != 0 || ofReload(reload.Event{}).activity != 0 {
		t.Error("an event of no activity got a number")
	}
}

func TestEditorsGetALinkForEachMessageOfTheCompiler(t *testing.T) {
	got := ofReload(reload.Event{
		Kind: reload.BuildError, Text: "/x/main.go:4:2: undefined: y", Important: true,
		At: &buildflags.Diagnostic{File: "/x/main.go", Line: 4, Col: 2},
	}).forDAP()
	want := dapserver.Event{
		Percent: -1, Text: "/x/main.go:4:2: undefined: y\n", Stream: dapserver.Important,
		At: &dapserver.Location{Path: "/x/main.go", Line: 4, Column: 2},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if e := ofReload(reload.Event{Kind: reload.Swapped, Took: time.Second}).forDAP(); e.Swapped != time.Second {
		t.Errorf("a swap of a second took %v", e.Swapped)
	}
	if e := ofSession(kubelaunch.Event{Kind: kubelaunch.KindBack, Took: time.Second}).forDAP(); e.Swapped != 0 {
		t.Errorf("a way that is there again is a swap of %v", e.Swapped)
	}
	if e := ofSession(kubelaunch.Event{Kind: kubelaunch.KindLost, Activity: 1, Title: "Reconnecting"}).forDAP(); e.Text != "" || e.Activity == 0 || e.Title == "" {
		t.Errorf("got %+v of an event without a text", e)
	}
}

func TestTheConsoleShowsWhatHappens(t *testing.T) {
	happenings := []happening{
		ofReload(reload.Event{Kind: reload.Rebuilding, Activity: 1, Title: "Rebuilding ./web", Stage: "main.go saved"}),
		ofReload(reload.Event{Kind: reload.Stage, Activity: 1, Title: "Rebuilding ./web", Stage: "compiling x"}),
		ofReload(reload.Event{Kind: reload.BuildError, Text: "/x/main.go:4:2: no", At: &buildflags.Diagnostic{File: "/x/main.go", Line: 4, Col: 2}}),
		ofReload(reload.Event{Kind: reload.Failed, Activity: 1, Over: true, Text: "it does not compile"}),
		ofReload(reload.Event{Kind: reload.Swapped, Activity: 2, Over: true, Text: "swapped in 1.5 s", Took: 1500 * time.Millisecond}),
		ofSession(kubelaunch.Event{Kind: kubelaunch.KindExited, Text: "it has ended", Exit: &kubelaunch.Exit{Code: 3}}),
		ofSession(kubelaunch.Event{Kind: kubelaunch.KindNotServing, Text: "it does not serve"}),
	}
	var text, objects bytes.Buffer
	for _, h := range happenings {
		newConsole(formatText, nil, &text).happened(h)
		newConsole(formatJSON, &objects, nil).happened(h)
	}
	for _, want := range []string{"rebuilding ./web: main.go saved\n", "/x/main.go:4:2: no\n", "it does not compile\n", "swapped in 1.5 s\n", "it has ended\n"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the text is\n%s, want %q in it", &text, want)
		}
	}
	var got []event
	for decoder := json.NewDecoder(&objects); decoder.More(); {
		var e event
		if err := decoder.Decode(&e); err != nil {
			t.Fatal(err)
		}
		e.Seconds = 0
		got = append(got, e)
	}
	code := 3
	want := []event{
		{Event: "rebuilding", Text: "rebuilding ./web: main.go saved"},
		{Event: "build-error", Text: "/x/main.go:4:2: no", File: "/x/main.go", Line: 4, Column: 2},
		{Event: "failed", Text: "it does not compile"},
		{Event: "swapped", Text: "swapped in 1.5 s", Took: 1.5},
		{Event: "exited", Text: "it has ended", Code: &code},
		{Event: "serving", Text: "it does not serve"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the objects are %+v, want %+v", got, want)
	}
}

func TestRestartHeedsWhatCanChange(t *testing.T) {
	was := &dapserver.LaunchConfig{
		Target: dapserver.Target{Name: "deploy/a", Namespace: "n"}, Program: "./a", Args: []string{"x"}, HotReload: "off",
	}
	s := &dapSession{launched: &launched{node: buildflags.Platform{OS: "linux", Arch: "arm64"}}, config: was}
	change := func(f func(*dapserver.LaunchConfig)) *dapserver.LaunchConfig {
		c := *was
		f(&c)
		return &c
	}
	value := "1"
	spec, err := s.specOf(change(func(c *dapserver.LaunchConfig) {
		c.Program, c.Args, c.Cwd, c.Env = "./b", []string{"y", "z"}, "/tmp", map[string]*string{"B": nil, "A": &value}
		c.Build, c.StopOnEntry = []byte(`{"tags": ["dev"]}`), true
	}))
	want := reload.Spec{
		Build: buildflags.Config{Program: "./b", Tags: []string{"dev"}, Platform: s.node},
		Args:  []string{"y", "z"}, Env: []string{"A=1", "B"}, Dir: "/tmp",
	}
	if err != nil || !reflect.DeepEqual(spec, want) {
		t.Errorf("got %+v, %v, want %+v", spec, err, want)
	}
	for _, test := range []struct {
		name string
		cfg  *dapserver.LaunchConfig
		want string
	}{
		{"another target", change(func(c *dapserver.LaunchConfig) { c.Target.Name = "deploy/b" }), "the target is deploy/b now and was deploy/a: end the session"},
		{"another place", change(func(c *dapserver.LaunchConfig) { c.Target.Namespace = "m" }), `"target" was changed: end the session`},
		{"another mode", change(func(c *dapserver.LaunchConfig) { c.HotReload = "onSave" }), `"hotReload" was changed`},
		{"another grace", change(func(c *dapserver.LaunchConfig) { c.ReloadGrace = "5s" }), `"reloadGrace" was changed`},
		{"another platform", change(func(c *dapserver.LaunchConfig) { c.Build = []byte(`{"platform": "linux/amd64"}`) }), "deploy/a runs on linux/arm64"},
		{"no such attribute", change(func(c *dapserver.LaunchConfig) { c.Build = []byte(`{"frobnicate": 1}`) }), "frobnicate"},
	} {
		if _, err := s.specOf(test.cfg); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		}
	}
}
