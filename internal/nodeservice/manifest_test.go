package nodeservice

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v2"
)

const staticPodText = `# A comment of the cluster's.
apiVersion: v1
kind: Pod
metadata: {name: kube-thing, labels: {version: "1.10", enabled: "yes"}}
spec:
  priority: 2000001000
  hostNetwork: true
  containers:
  - name: beside
    image: x
    livenessProbe: {httpGet: {port: 1}}
  - name: thing
    image: x
    command: [/go-runner, --log-file=/x, kube-thing, --node=$(NODE)]
    args: ["--on=yes"]
    livenessProbe: {httpGet: {port: 1}}
    readinessProbe: {httpGet: {port: 1}}
    startupProbe: {httpGet: {port: 1}}
    resources: {requests: {memory: 1Gi, cpu: 200m}, limits: {memory: 1Gi, cpu: "2"}}
    volumeMounts: [{name: certs, mountPath: /certs, readOnly: true}]
  volumes: [{name: certs, hostPath: {path: /certs}}]
`

// debugPodText is what is to be made of it.
const debugPodText = `
apiVersion: v1
kind: Pod
metadata: {name: kube-thing, labels: {version: "1.10", enabled: "yes"}}
spec:
  priority: 2000001000
  hostNetwork: true
  containers:
  - name: beside
    image: x
    livenessProbe: {httpGet: {port: 1}}
  - name: thing
    image: x
    command: [/d/kubedelve-agent, stand-in, --dir, /d, --, /go-runner, --log-file=/x, kube-thing, --node=$(NODE)]
    args: ["--on=yes"]
    resources: {requests: {memory: 1Gi, cpu: 200m}, limits: {cpu: "2"}}
    volumeMounts:
    - {name: certs, mountPath: /certs, readOnly: true}
    - {name: kubedelve-session, mountPath: /d}
    - {name: kubedelve-manifests, mountPath: /manifests}
  volumes:
  - {name: certs, hostPath: {path: /certs}}
  - {name: kubedelve-session, hostPath: {path: /d, type: Directory}}
  - {name: kubedelve-manifests, hostPath: {path: /manifests, type: Directory}}
`

func TestDebugManifest(t *testing.T) {
	m := &Manifest{Path: "/manifests/thing.yaml", Container: "thing"}
	got, err := m.debugManifest([]byte(staticPodText), "/d")
	if err != nil {
		t.Fatal(err)
	}
	var pod, want any
	for text, into := range map[string]*any{string(got): &pod, debugPodText: &want} {
		if err := yaml.Unmarshal([]byte(text), into); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
	}
	if !reflect.DeepEqual(pod, want) {
		t.Errorf("got\n%s\nwant%s", got, debugPodText)
	}
	for _, text := range []string{"", "{", "spec: {containers: [{name: other}]}", "spec: []", "- x"} {
		if got, err := m.debugManifest([]byte(text), "/d"); err == nil {
			t.Errorf("%q became %q", text, got)
		}
	}
}

// manifestFile is a manifest in a folder, whose mode and time tell it from others.
func manifestFile(t *testing.T) (*Manifest, os.FileInfo) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "thing.yaml")
	if err := os.WriteFile(path, []byte(staticPodText), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Time{}, time.Unix(1e9, 5)); err != nil {
		t.Fatal(err)
	}
	found, err := manifestsOf(filepath.Dir(path), []string{"kube-thing", "--node=n1", "--on=yes"})
	if err != nil || len(found) != 1 || !found[0].hostNetwork || found[0].Container != "thing" {
		t.Fatalf("found %+v, %v", found, err)
	}
	was, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return &found[0].Manifest, was
}

// swapIn puts the debug manifest in the place, but for the kubelet.
func (m *Manifest) swapIn(t *testing.T) []byte {
	t.Helper()
	debug, err := m.prepare("/d")
	if err != nil {
		t.Fatal(err)
	}
	if err := m.put(debug); err != nil {
		t.Fatal(err)
	}
	if now, err := m.state(); now != manifestDebug || err != nil {
		t.Fatalf("the manifest is %v, %v", now, err)
	}
	return debug
}

// is checks what the manifest's file is, and that nothing is beside it.
func (m *Manifest) is(t *testing.T, want manifestState, text string) {
	t.Helper()
	if err := m.clean(); err != nil {
		t.Fatal(err)
	}
	got, err := m.state()
	now, _ := os.ReadFile(m.Path)
	if got != want || err != nil || string(now) != text {
		t.Errorf("the manifest is %v, %v, not %v: %s", got, err, want, now)
	}
	entries, err := os.ReadDir(filepath.Dir(m.Path))
	if err != nil || len(entries) > 1 {
		t.Errorf("beside it is %v, %v", entries, err)
	}
}

func TestManifestComesBackAsTheSameFile(t *testing.T) {
	m, was := manifestFile(t)
	debug := m.swapIn(t)
	now, err := os.Stat(m.Path)
	if err != nil || now.Mode() != was.Mode() {
		t.Errorf("the debug manifest has mode %v, the original %v, %v", now.Mode(), was.Mode(), err)
	}
	if text, err := os.ReadFile(m.Path); err != nil || string(text) != string(debug) {
		t.Errorf("it is %q, %v", text, err)
	}
	for range 2 { // a second time changes nothing
		if err := m.restore(); err != nil {
			t.Fatal(err)
		}
	}
	now, err = os.Stat(m.Path)
	if err != nil || !os.SameFile(now, was) || now.Mode() != was.Mode() || !now.ModTime().Equal(was.ModTime()) {
		t.Errorf("another file came back: %v %v, was %v %v, %v", now.Mode(), now.ModTime(), was.Mode(), was.ModTime(), err)
	}
	m.is(t, manifestOriginal, staticPodText)
}

func TestManifestOfOthersStays(t *testing.T) {
	const theirs = "spec: {containers: [{name: thing, image: y}]}"
	m, _ := manifestFile(t)
	m.swapIn(t)
	if err := os.WriteFile(m.Path, []byte(theirs), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.restore(); err != nil {
		t.Fatal(err)
	}
	m.is(t, manifestForeign, theirs)

	m, _ = manifestFile(t)
	m.swapIn(t)
	if err := os.Remove(m.Path); err != nil {
		t.Fatal(err)
	}
	if err := m.restore(); err != nil {
		t.Fatal(err)
	}
	m.is(t, manifestForeign, "")

	m, _ = manifestFile(t)
	if err := os.WriteFile(m.Path, []byte(theirs), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := m.prepare("/d"); err == nil {
		t.Error("a manifest that has changed since it was found is replaced")
	}
}

// A helper that was killed between any two steps leaves what the next one takes back.
func TestManifestAfterAKill(t *testing.T) {
	m, _ := manifestFile(t)
	if err := os.Link(m.Path, m.waiting()); err != nil {
		t.Fatal(err)
	}
	m.swapIn(t) // what an earlier session has left does no harm
	if err := m.restore(); err != nil {
		t.Fatal(err)
	}
	for _, left := range []string{m.waiting(), m.aside("debug"), m.aside("debug") + ".new"} {
		if err := os.WriteFile(left, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.put(nil); err == nil || !strings.Contains(err.Error(), "keeping the original") {
		t.Errorf("what waits beside the manifest is overwritten: %v", err)
	}
	if err := m.restore(); err != nil {
		t.Fatal(err)
	}
	m.is(t, manifestOriginal, staticPodText)
}

func TestEndsLike(t *testing.T) {
	for _, test := range []struct {
		command, argv string
		want          bool
	}{
		{"a --x", "a --x", true},
		{"tini -- a --x", "a --x", true},
		{"a --x=$(Y)", "a --x=1", true},
		{"a --x", "a --y", false},
		{"a", "a --x", false},
		{"a --x", "", false},
	} {
		if got := endsLike(strings.Fields(test.command), strings.Fields(test.argv)); got != test.want {
			t.Errorf("%q, %q: %v", test.command, test.argv, got)
		}
	}
}

func TestManifestFolder(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"config.yaml": "staticPodPath: /of/config", "relative.yaml": "staticPodPath: pods", "none.yaml": "a: b",
		"d/10.conf": "staticPodPath: /of/ten", "d/20.conf": "staticPodPath: /of/twenty", "d/30.conf": "a: b", "d/40.other": "staticPodPath: /x",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct{ flags, want string }{
		{"--config=DIR/config.yaml", "/of/config"},
		{"--config DIR/config.yaml --v 2", "/of/config"},
		{"-config=config.yaml", "/of/config"},
		{"--config=DIR/relative.yaml", dir + "/pods"},
		{"--config=DIR/config.yaml --config-dir=DIR/d", "/of/twenty"},
		{"--config-dir=DIR/d --pod-manifest-path=/of/flag", "/of/flag"},
		{"--pod-manifest-path pods", dir + "/pods"},
		{"--config=DIR/none.yaml", ""},
		{"--config=DIR/missing.yaml", ""},
		{"", ""},
	} {
		p := &Process{Argv: append([]string{"kubelet"}, strings.Fields(strings.ReplaceAll(test.flags, "DIR", dir))...), Dir: dir}
		if got, err := p.manifestFolder(); got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%s: %q, %v, want %q", test.flags, got, err, test.want)
		}
	}
}

func TestStaticPodPattern(t *testing.T) {
	for _, test := range []struct{ cgroup, want string }{
		{"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod3ecc7d1d3df5f66c1a176130585eb96d.slice/cri-containerd-b2.scope", "3ecc7d1d3df5f66c1a176130585eb96d"},
		{"0::/kubepods/burstable/pod3ecc7d1d3df5f66c1a176130585eb96d/b2", "3ecc7d1d3df5f66c1a176130585eb96d"},
		{"0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod3ecc7d1d3df5f66c1a176130585eb96d.slice/b2", "3ecc7d1d3df5f66c1a176130585eb96d"},
		{"0::/kubepods/burstable/pod3ecc7d1d-3df5-f66c-1a17-6130585eb96d/b2", ""},
		{"0::/kubepods.slice/kubepods-pod3ecc7d1d_3df5_f66c_1a17_6130585eb96d.slice/cri-containerd-b2.scope", ""},
		{"0::/system.slice/kubelet.service", ""},
	} {
		got := ""
		if match := staticPodPattern.FindStringSubmatch(test.cgroup); match != nil {
			got = match[1]
		}
		if got != test.want {
			t.Errorf("%s: %q", test.cgroup, got)
		}
	}
}
