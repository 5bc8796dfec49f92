package cluster

import (
	"errors"
	"slices"
	"testing"
)

func TestCommandOfStaticPod(t *testing.T) {
	got, err := commandOf([]byte("spec:\n  containers:\n  - command: [etcd, --a=b]\n    args: [--c]\n"))
	if want := []string{"etcd", "--a=b", "--c"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	for name, manifest := range map[string]string{
		"no container":   "spec: {}",
		"no command":     "spec: {containers: [{args: [x]}]}",
		"two containers": "spec: {containers: [{command: [a]}, {command: [b]}]}",
		"a variable":     "spec: {containers: [{command: [a, $(HOST)]}]}",
		"no YAML":        "\t:",
	} {
		if got, err := commandOf([]byte(manifest)); err == nil {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

func TestLoadOptions(t *testing.T) {
	l := LoadOptions{Ref: "test.local/web:1", Files: []string{"bin/web", "conf:/etc/web.conf"}, User: "1000"}
	img, files, err := l.parse()
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"/web"}; !slices.Equal(img.Entrypoint, want) {
		t.Errorf("the entrypoint is %q and not %q", img.Entrypoint, want)
	}
	var paths []string
	for _, f := range files {
		paths = append(paths, f.Path)
	}
	if want := []string{"/tmp", "/web", "/etc/web.conf"}; !slices.Equal(paths, want) {
		t.Errorf("the layer has %q and not %q", paths, want)
	}
	for name, bad := range map[string]LoadOptions{
		"named user":    {Ref: "test.local/web:1", Files: []string{"web"}, User: "nobody"},
		"bare name":     {Ref: "web", Files: []string{"web"}},
		"relative path": {Ref: "test.local/web:1", Files: []string{"web:web"}},
		"root":          {Ref: "test.local/web:1", Files: []string{"web:/"}},
	} {
		if _, _, err := bad.parse(); !errors.Is(err, ErrUsage) {
			t.Errorf("%s: got %v and not an ErrUsage", name, err)
		}
	}
}
