package nodeservice

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// Programs of the session's folder are ended before the original begins: those that end
// by themselves in their time, others by force. Nobody else is.
func TestEvict(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	shell, err := os.ReadFile("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	begin := func(name, script string) *exec.Cmd {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, shell, 0o700); err != nil {
			t.Fatal(err)
		}
		return child(t, script, func(cmd *exec.Cmd) { cmd.Path = path })
	}
	agent := begin(executable, waits)
	build := begin("bin/kubelet", `trap '' TERM; `+waits)
	other := child(t, waits, nil)
	builds, delves, err := tenants(dir)
	if err != nil || !slices.Equal(builds, []int{build.Process.Pid}) || !slices.Equal(delves, []int{agent.Process.Pid}) {
		t.Errorf("the tenants are %v and %v, not %d and %d; %v", builds, delves, build.Process.Pid, agent.Process.Pid, err)
	}
	done := make(chan struct{})
	go func() { // ends with evict's work
		_ = agent.Wait()
		_ = build.Wait()
		close(done)
	}()
	if err := evict(dir, 100*time.Millisecond); err != nil {
		t.Error(err)
	}
	<-done
	if builds, delves, err := tenants(dir); err != nil || len(builds)+len(delves) > 0 {
		t.Errorf("left: %v, %v, %v", builds, delves, err)
	}
	if err := evict(dir, time.Minute); err != nil {
		t.Errorf("with nobody there: %v", err)
	}
	p, err := describe(other.Process.Pid)
	if err != nil || !p.lives() {
		t.Errorf("a process of another folder has ended: %v", err)
	}
}
