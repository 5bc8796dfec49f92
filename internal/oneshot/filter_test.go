package oneshot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kubedelve/kubedelve/internal/agentapi"
)

func TestRuntimeCommandLines(t *testing.T) {
	for _, test := range []struct{ args, command, id, bundle, root string }{
		{"runc", "", "", "", ""},
		{"runc --version", "", "", "", ""},
		{"runc --root /run/r --log /l --log-format json --systemd-cgroup create --bundle /b --pid-file /p c1", "create", "c1", "/b", "/run/r"},
		{"runc --root=/run/r create -b /b c1", "create", "c1", "/b", "/run/r"},
		{"runc exec --process /p --detach --pid-file /p c1 sh -c x", "exec", "c1", "", ""},
		{"runc kill --all c1 9", "kill", "c1", "", ""},
		{"runc delete --force c1", "delete", "c1", "", ""},
		{"runc --root", "", "", "", ""},
		{"/usr/bin/containerd-shim-runc-v2 -namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/containerd -id c1 start", "start", "c1", "", ""},
		{"containerd-shim-runc-v2 -namespace k8s.io -id c1 -bundle /b delete", "delete", "c1", "/b", ""},
		{"containerd-shim-runc-v2 -namespace k8s.io -id c1 -address /run/c.sock", "serve", "c1", "", ""},
	} {
		c := &Call{Args: strings.Fields(test.args)}
		c.readRuntime()
		if c.Command != test.command || c.ID != test.id || c.bundle != test.bundle || c.root != test.root {
			t.Errorf("%s: command %q, id %q, bundle %q, root %q", test.args, c.Command, c.ID, c.bundle, c.root)
		}
	}
}

func TestFilter(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"bundle/config.json": `{"annotations": {"io.kubernetes.cri.sandbox-namespace": "default", "io.kubernetes.cri.sandbox-name": "web-1", "io.kubernetes.cri.container-name": "app"}}`,
		"crio/config.json":   `{"annotations": {"io.kubernetes.pod.namespace": "default", "io.kubernetes.pod.name": "web-1", "io.kubernetes.container.name": "app"}}`,
		"root/c1/state.json": `{"config": {"labels": ["x=y", "bundle=` + filepath.Join(dir, "bundle") + `"]}}`,
		"root/c2/state.json": `{`,
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ofPod := agentapi.CallFilter{Namespace: "default", Pod: "web-*", Container: "app"}
	cni := []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=abc", "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-1"}
	for _, test := range []struct {
		name   string
		filter agentapi.CallFilter
		args   string
		env    []string
		want   bool
	}{
		{"all", agentapi.CallFilter{}, "runc create c1", nil, true},
		{"command", agentapi.CallFilter{Commands: []string{"create", "start"}}, "runc start c1", nil, true},
		{"another command", agentapi.CallFilter{Commands: []string{"create", "start"}}, "runc state c1", nil, false},
		{"id", agentapi.CallFilter{ID: "c?"}, "runc state c1", nil, true},
		{"another id", agentapi.CallFilter{ID: "d*"}, "runc state c1", nil, false},
		{"argument", agentapi.CallFilter{Args: []string{"--root=*"}}, "runc --root=/a/b state c1", nil, true},
		{"not the name", agentapi.CallFilter{Args: []string{"runc"}}, "runc state c1", nil, false},
		{"variable", agentapi.CallFilter{Env: []string{"A=/*"}}, "runc state c1", []string{"A=/x/y"}, true},
		{"another variable", agentapi.CallFilter{Env: []string{"A=1", "B=*"}}, "runc state c1", []string{"A=1"}, false},
		{"pattern that is none", agentapi.CallFilter{ID: "[c"}, "runc state [c", nil, false},
		{"pod by the bundle", ofPod, "runc create --bundle DIR/bundle c1", nil, true},
		{"pod of CRI-O", ofPod, "runc create --bundle DIR/crio c1", nil, true},
		{"pod by the folder", ofPod, "runc create c1", nil, true}, // where it is called in DIR/bundle
		{"pod by the state", ofPod, "runc --root DIR/root exec c1 sh", nil, true},
		{"a state that can't be read", ofPod, "runc --root DIR/root exec c2 sh", nil, false},
		{"no such container", ofPod, "runc --root DIR/root exec c3 sh", nil, false},
		{"not a container's id", ofPod, "runc --root DIR/root exec ../root/c1 sh", nil, false},
		{"pod of a shim", ofPod, "containerd-shim-runc-v2 -namespace k8s.io -id c1 delete", nil, true},
		{"what starts a shim", ofPod, "containerd-shim-runc-v2 -namespace k8s.io -id c1 start", nil, false},
		{"what starts a shim, if it is asked for", agentapi.CallFilter{Commands: []string{"start"}}, "containerd-shim-runc-v2 -namespace k8s.io -id c1 start", nil, true},
		{"a shim that stays", agentapi.CallFilter{Commands: []string{"serve"}, Pod: ofPod.Pod}, "containerd-shim-runc-v2 -namespace k8s.io -id c1 -address /run/c.sock", nil, true},
		{"another container", agentapi.CallFilter{Container: "proxy"}, "runc create --bundle DIR/bundle c1", nil, false},
		{"no pod at all", ofPod, "runc --version", nil, false},
		{"pod by CNI", agentapi.CallFilter{Commands: []string{"ADD"}, Namespace: "default", Pod: "web-1"}, "bridge", cni, true},
		{"another pod by CNI", agentapi.CallFilter{Pod: "web-2"}, "bridge", cni, false},
		{"another command by CNI", agentapi.CallFilter{Commands: []string{"DEL"}}, "bridge", cni, false},
	} {
		c := &Call{Args: strings.Fields(strings.ReplaceAll(test.args, "DIR", dir)), Env: test.env, Dir: filepath.Join(dir, "bundle")}
		if test.env != nil && c.env("CNI_COMMAND") != "" {
			c.Command, c.ID = c.env("CNI_COMMAND"), c.env("CNI_CONTAINERID")
		} else {
			c.readRuntime()
		}
		if got := matches(test.filter, c); got != test.want {
			t.Errorf("%s: %v lets %s through: %v", test.name, test.filter, test.args, got)
		}
	}
}

func TestWhatUsersAreToldOfCalls(t *testing.T) {
	for _, test := range []struct {
		call              *Call
		where             workload
		name, init, limit string
	}{
		{
			&Call{PID: 5, Args: []string{"/usr/bin/runc", "create", "c1"}, Command: "create", ID: "c1"}, workload{"default", "web", "app"},
			"runc create (process 5, pod default/web, container app)", "runc init (process 7, pod default/web, container app) of runc create", "2 min",
		},
		{
			&Call{PID: 5, Args: []string{"bridge"}, Command: "ADD", ID: "c1"}, workload{"default", "web", ""},
			"bridge ADD (process 5, pod default/web)", "bridge init (process 7, pod default/web) of bridge ADD", "4 min",
		},
		{
			&Call{PID: 5, Args: []string{"runc", "run", "c1"}, Command: "run", ID: "c1"}, workload{},
			"runc run (process 5, id c1)", "runc init (process 7, id c1) of runc run", "",
		},
		{
			&Call{PID: 5, Args: []string{"runc"}}, workload{},
			"runc (process 5)", "runc init (process 7) of runc", "",
		},
	} {
		c := test.call
		c.lookUp.Do(func() { c.where = test.where })
		if c.String() != test.name || c.InitString(7) != test.init {
			t.Errorf("%q, %q; want %q, %q", c, c.InitString(7), test.name, test.init)
		}
		if got := c.Limit(); !strings.Contains(got, test.limit) || (got == "") != (test.limit == "") {
			t.Errorf("%s: %q, want something with %q", test.name, got, test.limit)
		}
	}
}

func TestFilterForInit(t *testing.T) {
	for _, test := range []struct {
		commands, command string
		itself, init      bool
	}{
		{"", "create", true, false},
		{"create", "create", true, false},
		{"init", "create", false, true},
		{"init", "exec", false, true},
		{"init", "run", false, true},
		{"init", "start", false, false},
		{"init", "", false, false},
		{"create init", "create", true, true},
		{"create init", "exec", false, false},
		{"init start", "start", true, false},
	} {
		itself, init := stops(strings.Fields(test.commands), test.command)
		if itself != test.itself || init != test.init {
			t.Errorf("commands %q, %s: itself %v, its init %v", test.commands, test.command, itself, init)
		}
		f := agentapi.CallFilter{Commands: strings.Fields(test.commands)}
		if got := matches(f, &Call{Args: []string{"runc"}, Command: test.command}); got != (test.itself || test.init) {
			t.Errorf("commands %q lets %s through: %v", test.commands, test.command, got)
		}
	}
}

func TestFindTakesWhatCallersRun(t *testing.T) {
	dir := t.TempDir()
	program := func(path string, mode os.FileMode) string {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	first, second, own := program("a/runc", 0o644), program("b/runc", 0o755), program("opt/runc", 0o755)
	link := filepath.Join(dir, "link")
	if err := os.Symlink(second, link); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(config, []byte("[x]\n  BinaryName = \""+own+"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	running := caller{name: "containerd", args: []string{"containerd"}, path: filepath.Dir(first) + ":" + filepath.Dir(second)}
	shim, proxy := program("containerd/bin/containerd-shim-runc-v2", 0o755), program("b/docker-proxy", 0o755)
	running.dir = filepath.Dir(shim)
	docker := caller{name: "dockerd", args: []string{"dockerd"}, path: filepath.Dir(proxy)}
	ownProxy := program("own/docker-proxy", 0o755)
	told := docker
	told.args = []string{"dockerd", "--userland-proxy-path=" + ownProxy}
	daemon := filepath.Join(dir, "daemon.json")
	if err := os.WriteFile(daemon, []byte(`{"userland-proxy-path": "`+ownProxy+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	configuredDocker := docker
	configuredDocker.args = []string{"dockerd", "--config-file", daemon}
	configured := running
	configured.args = []string{"containerd", "--config", config}
	for _, test := range []struct {
		name, program string
		running       []caller
		want, refused string
	}{
		{"in the PATH", "runc", []caller{running}, second, ""},
		{"configured", "runc", []caller{configured}, own, ""},
		{"configured for another", "crun", []caller{configured}, "", "in no PATH"},
		{"beside its caller", "containerd-shim-runc-v2", []caller{running}, shim, ""},
		{"a shim is not dockerd's", "containerd-shim-runc-v2", []caller{{name: "dockerd", path: filepath.Dir(shim)}}, "", "in no PATH"},
		{"dockerd's proxy", "docker-proxy", []caller{running, docker}, proxy, ""},
		{"dockerd is told which", "docker-proxy", []caller{running, told}, ownProxy, ""},
		{"dockerd is configured", "docker-proxy", []caller{configuredDocker}, ownProxy, ""},
		{"no caller", "runc", nil, "", "none of containerd"},
		{"a path", own, nil, own, ""},
		{"a link", link, nil, second, ""},
		{"nothing there", dir + "/no", nil, "", "no such file"},
		{"no program", first, nil, "", "is not a program"},
		{"set-user-ID", program("su", 0o755|os.ModeSetuid), nil, "", "rights of its owner"},
		{"neither", "a/runc", nil, "", "a program's name"},
	} {
		got, err := find(test.program, test.running)
		if got != test.want || (err == nil) != (test.refused == "") || err != nil && !strings.Contains(err.Error(), test.refused) {
			t.Errorf("%s: %q, %v", test.name, got, err)
		}
	}
}
