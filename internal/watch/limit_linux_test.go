package watch

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// limitVar is set in the process that has a limit of its own.
const limitVar = "WATCH_TEST_LIMIT"

// The kernel has room for two folders only: in a user namespace the limits are its
// own, so that nobody else on the machine feels them.
func TestALimitThatIsMetIsNamed(t *testing.T) {
	if os.Getenv(limitVar) == "" {
		t.Parallel()
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestALimitThatIsMetIsNamed$", "-test.v")
		cmd.Env = append(os.Environ(), limitVar+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		}
		out, err := cmd.CombinedOutput()
		if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
			t.Skip("no user namespaces here:", err)
		}
		if err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Errorf("in a user namespace of its own: %v\n%s", err, out)
		}
		return
	}
	if err := os.WriteFile("/proc/sys/user/max_inotify_watches", []byte("2"), 0); err != nil {
		t.Fatal(err)
	}
	w := start(t, Options{})
	set := w.set(w.dir)
	for _, name := range []string{"a", "b", "c"} {
		w.write(name+"/lib.go", "package lib\n")
		set.Dirs = append(set.Dirs, w.path(name))
	}
	w.Watch(set)
	select {
	case got := <-w.warns:
		for _, want := range []string{"only 2 folders can be watched", "no space left", "fs.inotify.max_user_watches is ", "sudo sysctl fs.inotify.max_user_watches=", "every 500ms"} {
			if !strings.Contains(got, want) {
				t.Errorf("it says %q, want %q in it", got, want)
			}
		}
	case <-time.After(patience):
		t.Fatal("nothing was said of the limit")
	}
	for _, name := range []string{"a/lib.go", "b/lib.go", "c/lib.go", "main.go"} {
		w.write(name, "package changed\n")
		w.changed(name)
	}
	if len(w.warns) > 0 {
		t.Errorf("it says more: %q", <-w.warns)
	}
}
