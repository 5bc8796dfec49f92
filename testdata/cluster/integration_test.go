//go:build integration

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kubedelve/kubedelve/testdata/cluster/internal/cache"
	"github.com/kubedelve/kubedelve/testdata/cluster/internal/kubeapi"
)

// program builds the program under test, fills its cache, and skips the test where
// no cluster can run. In CI that is a failure: it must not pass by skipping.
func program(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("starts real clusters")
	}
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	path := filepath.Join(t.TempDir(), "cluster")
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("building the program: %v\n%s", err, out)
	}
	if out, err := exec.Command(path, "build").CombinedOutput(); err != nil {
		t.Fatalf("filling the cache: %v\n%s", err, out)
	}
	return path
}

// do runs the program to its end and returns what it printed on stdout.
func do(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, code := attempt(t, program, args...)
	if code != 0 {
		t.Fatalf("cluster %s: exit code %d", strings.Join(args, " "), code)
	}
	return out
}

func attempt(t *testing.T, program string, args ...string) (stdout string, code int) {
	t.Helper()
	cmd := exec.Command(program, args...)
	var out, progress bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &progress
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	t.Logf("cluster %s\n%s", strings.Join(args, " "), progress.String())
	return out.String(), cmd.ProcessState.ExitCode()
}

// traces lists what a cluster of this name, or of no name any more, has on the host:
// its folder, cgroups, processes, mounts; all links; and the machine's settings.
func traces(t *testing.T, name string) []string {
	t.Helper()
	dir, err := cache.Default()
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	add := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	run := filepath.Join(string(dir), "run")
	for _, p := range []string{name, "." + name + ".lock"} {
		if _, err := os.Lstat(filepath.Join(run, p)); err == nil {
			add("file %s", p)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(mounts)) {
		if strings.Contains(l, filepath.Join(run, name)+"/") {
			add("mount %s", l)
		}
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, e fs.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(e.Name(), "kubedelve-"+name+"-") {
			add("cgroup %s", path)
		}
		return nil
	})
	procs, _ := filepath.Glob("/proc/[0-9]*/cgroup")
	for _, p := range procs {
		data, err := os.ReadFile(p)
		if err == nil && strings.Contains(string(data), "/kubedelve-"+name+"-") && !zombie(filepath.Dir(p)) {
			add("process %s", p)
		}
	}
	for _, s := range []string{"kernel/panic", "kernel/panic_on_oops", "vm/overcommit_memory", "vm/panic_on_oom",
		"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes", "net/ipv4/ip_forward", "net/netfilter/nf_conntrack_max"} {
		if data, err := os.ReadFile("/proc/sys/" + s); err == nil {
			add("setting %s = %s", s, strings.TrimSpace(string(data)))
		}
	}
	return found
}

// zombie says whether a process has ended and only waits for its parent to notice. A
// node outlives its starter, so this is the host's PID 1, which takes its time.
func zombie(proc string) bool {
	data, err := os.ReadFile(filepath.Join(proc, "stat"))
	return err != nil || strings.HasPrefix(string(data[bytes.LastIndexByte(data, ')')+1:]), " Z")
}

func links(t *testing.T) []string {
	t.Helper()
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range interfaces {
		names = append(names, i.Name)
	}
	return names
}

// wantNothing takes a cluster down, twice, and compares the traces with those before.
func wantNothing(t *testing.T, program, name, link string, before []string) {
	t.Helper()
	begin := time.Now()
	do(t, program, "down", "--name", name)
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("down took %v", d)
	}
	do(t, program, "down", "--name", name)
	if got := traces(t, name); !slices.Equal(got, before) {
		t.Errorf("after down:\n%s\nbefore up:\n%s", strings.Join(got, "\n"), strings.Join(before, "\n"))
	}
	if link != "" && slices.Contains(links(t), link) {
		t.Errorf("the link %s is still there", link)
	}
}

// linkOf is the host's end of a cluster's veth pair.
func linkOf(t *testing.T, name string) string {
	t.Helper()
	dir, err := cache.Default()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(string(dir), "run", name, "state.json"))
	if err != nil {
		return ""
	}
	var rec struct{ Link string }
	if err := json.Unmarshal(data, &rec); err != nil {
		return ""
	}
	return rec.Link
}

func TestIntegrationTwoClustersSideBySide(t *testing.T) {
	program := program(t)
	probe := filepath.Join(t.TempDir(), "probe")
	build := exec.Command("go", "build", "-o", probe, "./testdata/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the probe: %v\n%s", err, out)
	}
	clusters := map[string]string{"test-kubeadm": "kubeadm", "test-plain": "plain"}
	before := map[string][]string{}
	for name := range clusters {
		do(t, program, "down", "--name", name)
		before[name] = traces(t, name)
		t.Cleanup(func() { attempt(t, program, "down", "--name", name) })
	}
	var wg sync.WaitGroup
	for name, flavour := range clusters {
		wg.Go(func() {
			config := lastLine(do(t, program, "up", "--name", name, "--flavour", flavour))
			if again := lastLine(do(t, program, "up", "--name", name, "--flavour", flavour)); again != config {
				t.Errorf("up a second time printed %q and not %q", again, config)
			}
			do(t, program, "load", "--name", name, "--ref", "test.local/probe:1", "--user", "1000", probe)
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for name, flavour := range clusters {
		t.Run(flavour, func(t *testing.T) {
			useCluster(t, program, name)
		})
	}
	for name := range clusters {
		wantNothing(t, program, name, linkOf(t, name), before[name])
		for other := range clusters { // the one that is left still works
			if linkOf(t, other) != "" {
				do(t, program, "status", "--name", other)
			}
		}
	}
}

func lastLine(out string) string {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return lines[len(lines)-1]
}

// object is a Kubernetes object, or a part of one.
type object = map[string]any

// useCluster runs a web server where PodSecurity "restricted" is enforced, and a
// client that finds it by name.
func useCluster(t *testing.T, program, name string) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	api, err := kubeapi.Load(lastLine(do(t, program, "kubeconfig", "--name", name)))
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	create := func(path string, o object) {
		t.Helper()
		if err := api.Do(ctx, "POST", path, o, nil); err != nil {
			t.Fatal(err)
		}
	}
	create("/api/v1/namespaces", object{"metadata": object{"name": "strict", "labels": object{"pod-security.kubernetes.io/enforce": "restricted"}}})
	if err := kubeapi.Await(ctx, "the namespace has its service account", func(ctx context.Context) error {
		return api.ServiceAccountExists(ctx, "strict", "default")
	}); err != nil {
		t.Fatal(err)
	}
	create("/api/v1/namespaces/strict/services", object{"metadata": object{"name": "web"},
		"spec": object{"selector": object{"app": "web"}, "ports": []object{{"port": 80, "targetPort": 8080}}}})
	pod := func(name string, args ...string) object {
		return object{
			"metadata": object{"name": name, "labels": object{"app": name}},
			"spec": object{
				"restartPolicy":   "OnFailure",
				"securityContext": object{"runAsNonRoot": true, "seccompProfile": object{"type": "RuntimeDefault"}},
				"containers": []object{{"name": "c", "image": "test.local/probe:1", "args": args,
					"securityContext": object{"allowPrivilegeEscalation": false, "capabilities": object{"drop": []string{"ALL"}}}}},
			},
		}
	}
	create("/api/v1/namespaces/strict/pods", pod("web"))
	create("/api/v1/namespaces/strict/pods", pod("client", "get", "web.strict.svc.cluster.local"))
	var said string
	err = kubeapi.Await(ctx, "the client has fetched from the server", func(ctx context.Context) error {
		var p struct {
			Status struct {
				Phase             string
				ContainerStatuses []struct {
					State struct{ Terminated struct{ Message string } }
				}
			}
		}
		if err := api.Do(ctx, "GET", "/api/v1/namespaces/strict/pods/client", nil, &p); err != nil {
			return err
		}
		if p.Status.Phase != "Succeeded" {
			return fmt.Errorf("the client is %s", p.Status.Phase)
		}
		said = p.Status.ContainerStatuses[0].State.Terminated.Message
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(said, ": uid 1000") {
		t.Errorf("the client said %q and not ADDRESS: uid 1000", said)
	}
	// Logs, and so the API server's way to the kubelet.
	if err := api.Do(ctx, "GET", "/api/v1/namespaces/strict/pods/web/log", nil, nil); err != nil {
		t.Error(err)
	}

	if _, code := attempt(t, program, "exec", "--name", name, "--", "sh", "-c", "exit 7"); code != 7 {
		t.Errorf("exec gave the exit code %d and not the command's 7", code)
	}
	out := do(t, program, "exec", "--name", name, "--", "sh", "-c", "cat /proc/1/comm; ls /root; ip route get 192.0.2.1")
	if want := "dev sink"; !strings.Contains(out, want) {
		t.Errorf("the node's way out is not %q: %s", want, out)
	}
	if out := do(t, program, "logs", "--name", name, "kubelet"); !strings.Contains(out, "kubelet") {
		t.Errorf("the kubelet's log is %q", out)
	}
	var status struct{ Healthy bool }
	if err := json.Unmarshal([]byte(do(t, program, "status", "--name", name, "-o", "json")), &status); err != nil || !status.Healthy {
		t.Errorf("status says healthy=%v (%v)", status.Healthy, err)
	}
}

// TestIntegrationStarterKilled kills the starter at many moments and expects that
// down finds all there is.
func TestIntegrationStarterKilled(t *testing.T) {
	program := program(t)
	const name = "test-killed"
	dir, err := cache.Default()
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(string(dir), "run", name)
	is := func(path string) func(string) bool {
		return func(string) bool {
			found, _ := filepath.Glob(path)
			return len(found) > 0
		}
	}
	says := func(what string) func(string) bool {
		return func(said string) bool { return strings.Contains(said, what) }
	}
	moments := []struct {
		name string
		at   func(said string) bool
	}{
		{"as soon as the folder is there", is(folder)},
		{"as soon as the record is there", is(filepath.Join(folder, "state.json"))},
		{"while files are written", is(filepath.Join(folder, "root/var/lib/containerd"))},
		{"when the first process is there", is(filepath.Join(folder, "logs/console.log"))},
		{"when the first cgroup is there", is("/sys/fs/cgroup/*/kubedelve-" + name + "-*")},
		{"when the link is there", func(string) bool {
			l := linkOf(t, name)
			return l != "" && slices.Contains(links(t), l)
		}},
		{"when systemd has begun", is(filepath.Join(folder, "root/var/log/journal/*"))},
		{"when the node has booted", says("has booted")},
		{"during kubeadm init", is(filepath.Join(folder, "root/etc/kubernetes/manifests/kube-scheduler.yaml"))},
		{"when the API server's data is there", is(filepath.Join(folder, "root/var/lib/etcd/member/snap/db"))},
		{"when kubeadm is done", says("kubeadm init is done")},
	}
	for _, m := range moments {
		t.Run(m.name, func(t *testing.T) {
			do(t, program, "down", "--name", name)
			before := traces(t, name)
			said := interrupted(t, m.at, syscall.SIGKILL, program, "up", "--name", name)
			link := linkOf(t, name)
			if _, code := attempt(t, program, "status", "--name", name); code == 0 && said != "" {
				t.Error("status says that a half-made cluster is healthy")
			}
			wantNothing(t, program, name, link, before)
		})
	}
	t.Run("up repairs what is left", func(t *testing.T) {
		before := traces(t, name)
		interrupted(t, says("has booted"), syscall.SIGKILL, program, "up", "--name", name)
		do(t, program, "up", "--name", name)
		do(t, program, "status", "--name", name)
		// The node itself dies as well.
		killNode(t, folder)
		if _, code := attempt(t, program, "status", "--name", name); code != 1 {
			t.Errorf("status of a dead node gave the exit code %d", code)
		}
		do(t, program, "up", "--name", name)
		wantNothing(t, program, name, linkOf(t, name), before)
	})
	t.Run("an interrupt cleans up by itself", func(t *testing.T) {
		before := traces(t, name)
		interrupted(t, says("has booted"), syscall.SIGINT, program, "up", "--name", name)
		if got := traces(t, name); !slices.Equal(got, before) {
			t.Errorf("after the interrupt:\n%s\nbefore:\n%s", strings.Join(got, "\n"), strings.Join(before, "\n"))
		}
		wantNothing(t, program, name, "", before)
	})
}

func killNode(t *testing.T, folder string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(folder, "state.json"))
	if err != nil {
		t.Fatal(err)
	}
	var rec struct{ Init struct{ PID int } }
	if err := json.Unmarshal(data, &rec); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(rec.Init.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := kubeapi.Await(t.Context(), "the node's PID 1 is gone", func(context.Context) error {
		// It is one only when all other processes of the node have ended.
		if !zombie(fmt.Sprintf("/proc/%d", rec.Init.PID)) {
			return errors.New("it is there")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// interrupted runs the program and sends it a signal as soon as at says so, which is
// asked all the time with what the program has said so far.
func interrupted(t *testing.T, at func(said string) bool, sig syscall.Signal, program string, args ...string) string {
	t.Helper()
	cmd := exec.Command(program, args...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex // guards said
	var said strings.Builder
	read := make(chan struct{})
	go func() { // ends with the program's stderr
		defer close(read)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			mu.Lock()
			fmt.Fprintln(&said, lines.Text())
			mu.Unlock()
		}
	}()
	tick := time.NewTicker(200 * time.Microsecond)
	defer tick.Stop()
	for ended := false; !ended; {
		mu.Lock()
		now := said.String()
		mu.Unlock()
		if at(now) {
			break
		}
		select {
		case <-read:
			ended = true
			t.Errorf("the moment never came; the program said:\n%s", now)
		case <-tick.C:
		}
	}
	_ = cmd.Process.Signal(sig)
	<-read
	_ = cmd.Wait()
	t.Logf("interrupted after:\n%s", said.String())
	return said.String()
}
