package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kubedelve/kubedelve/dapserver"
)

// runIn runs the program as a shell would, without a cluster.
func runIn(t *testing.T, stdin io.Reader, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	t.Setenv("HOME", t.TempDir())
	// Of the go command: what counts for it would write there after the test's end.
	config, err := os.UserConfigDir()
	if err != nil {
		t.Fatal(err)
	}
	mode := filepath.Join(config, "go", "telemetry", "mode")
	if err := os.MkdirAll(filepath.Dir(mode), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(mode, []byte("off"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	code = run(t.Context(), append([]string{"kubedelve"}, args...), stdin, &out, &errs)
	return code, out.String(), errs.String()
}

func TestBadCommandLinesAreRefusedWithTheWayOut(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	for _, test := range []struct {
		name string
		args []string
		code int
		want string // in what it says
	}{
		{"an unknown command", []string{"frobnicate"}, exitUsage, `no command "frobnicate"`},
		{"an unknown flag", []string{"status", "--frob"}, exitUsage, "--frob"},
		{"no target", []string{"debug"}, exitUsage, "name one target"},
		{"two targets", []string{"debug", "deploy/a", "deploy/b"}, exitUsage, "name one target"},
		{"a target of no known kind", []string{"debug", "pod/x"}, exitUsage, "write deploy/NAME, ds/NAME@NODE, node/NAME:SERVICE or local"},
		{"a listener for the network", []string{"debug", "local", "--listen", "0.0.0.0:2345"}, exitUsage, "only a loopback address"},
		{"a listener without a port", []string{"debug", "local", "--listen", "127.0.0.1"}, exitUsage, "write HOST:PORT"},
		{"a port in use", []string{"debug", "local", "--listen", taken.Addr().String()}, exitError, "choose another port"},
		{"a log level there is not", []string{"debug", "local", "--log-level", "loud"}, exitUsage, "choose debug, info"},
		{"a pull policy there is not", []string{"debug", "deploy/a", "--agent-image-pull-policy", "Sometimes"}, exitUsage, "IfNotPresent"},
		{"a way to reload there is not", []string{"debug", "local", "--hot-reload", "always"}, exitUsage, "onSave, onRestart, off"},
		{"no replicas", []string{"debug", "deploy/a", "--replicas", "0"}, exitUsage, `--replicas is "0": write a number from 1, or all`},
		{"replicas that are no number", []string{"debug", "deploy/a", "--replicas", "many"}, exitUsage, `--replicas is "many"`},
		{"replicas of this machine", []string{"debug", "local", "--listen", "127.0.0.1:0", "--replicas", "2"}, exitError, "local is one process, not 2 replicas"},
		{"an output format there is not", []string{"status", "-o", "yaml"}, exitUsage, "there is only json"},
		{"no cluster", []string{"status"}, exitError, "set KUBECONFIG"},
		{"a session and all", []string{"restore", "x", "--all"}, exitUsage, "not both"},
		{"a backend of no known kind", []string{"dap", "--backend", "udp:x"}, exitUsage, "tcp:HOST:PORT"},
		{"a target that doctor does not know", []string{"doctor", "web"}, exitUsage, "write deploy/NAME, ds/NAME@NODE, node/NAME:SERVICE or local"},
		{"doctor without a cluster", []string{"doctor", "deploy/web"}, exitError, "a session of deploy/web would not begin"},
		{"programs of a folder there is not", []string{"programs", "nofolder"}, exitError, "is not a directory"},
		{"no such binary", []string{"inspect", "nofile"}, exitError, "nofile"},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, _, stderr := runIn(t, strings.NewReader(""), test.args...)
			if code != test.code || !strings.Contains(stderr, test.want) {
				t.Errorf("got exit code %d and %q, want %d and %q", code, stderr, test.code, test.want)
			}
			if test.code == exitUsage && !strings.Contains(stderr, "--help") {
				t.Errorf("%q does not lead to the help", stderr)
			}
		})
	}
}

const twoContexts = `
apiVersion: v1
kind: Config
clusters: [{name: c1, cluster: {server: "https://127.0.0.1:1"}}]
contexts: [{name: b, context: {cluster: c1, user: u1}}, {name: a, context: {cluster: gone, user: u1, namespace: store}}]
current-context: b
`

func TestContextsAreReadWithoutACluster(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, []byte(twoContexts), 0o600); err != nil {
		t.Fatal(err)
	}
	for current, args := range map[string][]string{"b": nil, "a": {"--context", "a"}} {
		code, stdout, stderr := runIn(t, nil, append([]string{"contexts", "-o", "json", "--kubeconfig", file}, args...)...)
		var got struct {
			Current  string
			Contexts []contextInfo
		}
		if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != exitOK {
			t.Fatalf("exit code %d, %v in %q (%s)", code, err, stdout, stderr)
		}
		want := []contextInfo{{"a", "gone", "", "u1", "store"}, {"b", "c1", "https://127.0.0.1:1", "u1", "default"}}
		if got.Current != current || !slices.Equal(got.Contexts, want) {
			t.Errorf("got %+v, want %q of %+v", got, current, want)
		}
	}
	if code, stdout, _ := runIn(t, nil, "contexts", "--kubeconfig", file); code != exitOK || !strings.Contains(stdout, "*         b") {
		t.Errorf("the table is %q", stdout)
	}
}

func TestInspectTellsItsOwnBinary(t *testing.T) {
	code, stdout, stderr := runIn(t, nil, "inspect", "/proc/self/exe", "-o", "json")
	var info struct {
		Package    string
		Debuggable *bool
	}
	if err := json.Unmarshal([]byte(stdout), &info); err != nil {
		t.Fatalf("%v in %q (%s)", err, stdout, stderr)
	}
	if want := "github.com/kubedelve/kubedelve/cmd/kubedelve"; info.Package != want || info.Debuggable == nil {
		t.Errorf("got %+v, want package %s", info, want)
	}
	// A test binary is optimised: the exit code says so to scripts.
	if code != exitError {
		t.Errorf("got exit code %d, want %d", code, exitError)
	}
}

func TestBackendIsPassedThroughOnStdio(t *testing.T) {
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = backend.Close() }()
	const sent, answer = "Content-Length: 1\r\n\r\n{ not JSON \x00\xff", "anything\x00at all"
	got := make(chan string, 1)
	go func() { // ends with the relay
		conn, err := backend.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		data := make([]byte, len(sent))
		_, _ = io.ReadFull(conn, data)
		_, _ = io.WriteString(conn, answer)
		got <- string(data)
	}()
	code, stdout, stderr := runIn(t, strings.NewReader(sent), "dap", "--backend", "tcp:"+backend.Addr().String())
	select {
	case data := <-got:
		if data != sent {
			t.Errorf("Delve got %q, want %q", data, sent)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("nothing reached Delve in 10 s")
	}
	if code != exitOK || stdout != answer {
		t.Errorf("got exit code %d and %q (%s), want %q", code, stdout, stderr, answer)
	}
}

func TestARefusedJSONRPCClientGetsAnAnswer(t *testing.T) {
	client, server := net.Pipe()
	defer func() { _ = client.Close() }()
	done := make(chan error, 1)
	go func() { done <- newRPCRelay(server).refuse("in use by somebody") }()
	if _, err := io.WriteString(client, `{"method":"RPCServer.GetVersion","params":[{}],"id":7}`); err != nil {
		t.Fatal(err)
	}
	var reply struct {
		ID    int
		Error string
	}
	if err := json.NewDecoder(client).Decode(&reply); err != nil {
		t.Fatal(err)
	}
	_ = client.Close() // it is refused for as long as it asks
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if reply.ID != 7 || reply.Error != "in use by somebody" {
		t.Errorf("got %+v", reply)
	}
}

func TestHelpNamesKubectlWhenItIsAPlugin(t *testing.T) {
	var out bytes.Buffer
	if code := run(t.Context(), []string{"/usr/bin/kubectl-delve", "--help"}, nil, &out, &out); code != exitOK {
		t.Fatalf("exit code %d: %s", code, &out)
	}
	if !strings.Contains(out.String(), "kubectl delve debug deploy/web") {
		t.Errorf("the help names the program otherwise:\n%s", &out)
	}
}

func TestOnlyReleasesHaveAnAgentImageOfTheirOwn(t *testing.T) {
	for version, want := range map[string]string{
		"devel": "devel", "devel-0123456789ab": "devel", "v0.1.0": "v0.1.0", "v1.2.3-rc.1": "v1.2.3-rc.1",
		"v0.0.0-20261122180000-0123456789ab": "devel", "v1.2.4-0.20261122180000-0123456789ab": "devel", "v1.2.3+dirty": "devel",
	} {
		if got := agentTag(version); got != want {
			t.Errorf("agentTag(%q) = %q, want %q", version, got, want)
		}
	}
}

func TestLaunchConfigurationsNameWhatIsWrong(t *testing.T) {
	for _, test := range []struct {
		name string
		cfg  dapserver.LaunchConfig
		want string // in the error; empty: none
	}{
		{"nothing said", dapserver.LaunchConfig{}, ""},
		{"times", dapserver.LaunchConfig{Target: dapserver.Target{Grace: "1s", TTL: "1h"}, ReloadGrace: "200ms"}, ""},
		{"a number for a time", dapserver.LaunchConfig{Target: dapserver.Target{Grace: "30"}}, "target.grace"},
		{"a time that is none", dapserver.LaunchConfig{Target: dapserver.Target{TTL: "0s"}}, "target.ttl"},
		{"a negative time", dapserver.LaunchConfig{ReloadGrace: "-1s"}, "reloadGrace"},
		{"a pull policy there is not", dapserver.LaunchConfig{Target: dapserver.Target{AgentImagePullPolicy: "Sometimes"}}, "IfNotPresent"},
		{"a mode there is", dapserver.LaunchConfig{HotReload: "onRestart"}, ""},
		{"a mode there is not", dapserver.LaunchConfig{HotReload: "always"}, `hotReload is "always": choose one of onSave, onRestart, off`},
		{"an attribute there is not", dapserver.LaunchConfig{Build: []byte(`{"tag": "x"}`)}, `unknown field "tag"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := requestOf(&test.cfg)
			if (err == nil) != (test.want == "") || (err != nil && !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got error %v, want %q", err, test.want)
			}
		})
	}
}
