package nodeservice

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestParseCgroups(t *testing.T) {
	got := parseCgroups([]byte("4:cpu,cpuacct:/a:b\n1:name=systemd:/system.slice/x.service\n0::/user (deleted)\nnonsense\n"))
	want := []Cgroup{{"cpu,cpuacct", "/a:b"}, {"name=systemd", "/system.slice/x.service"}, {"", "/user"}}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestHierarchy(t *testing.T) {
	const mounts = `25 30 0:22 / /sys rw - sysfs sysfs rw
31 25 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
33 25 0:29 /docker/1 /other/cpu rw - cgroup cgroup rw,cpuacct,cpu
32 25 0:28 / /sys/fs/cgroup/cpu rw shared:5 - cgroup cgroup rw,cpuacct,cpu
34 25 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
broken
`
	for _, test := range []struct{ controllers, want string }{
		{"", "/sys/fs/cgroup/unified"},
		{"cpu,cpuacct", "/sys/fs/cgroup/cpu"},
		{"cpu", "/sys/fs/cgroup/cpu"},
		{"name=systemd", "/sys/fs/cgroup/systemd"},
		{"hugetlb", ""},
		{"cpu,hugetlb", ""},
	} {
		if got := hierarchy(mounts, test.controllers); got != test.want {
			t.Errorf("%q is at %q, want %q", test.controllers, got, test.want)
		}
	}
}

// child starts a shell that has said "ready".
func child(t *testing.T, script string, change func(*exec.Cmd)) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", script)
	if change != nil {
		change(cmd)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("the child said %q, %v", line, err)
	}
	return cmd
}

const waits = `echo ready; while :; do sleep 0.01; done`

func TestDescribe(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cmd := child(t, `umask 027; ulimit -n 100; `+waits, func(cmd *exec.Cmd) {
		cmd.Dir, cmd.Env = dir, []string{"B=2", "A=1 ="}
	})
	p, err := describe(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	shell, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	if p.Exe != shell || !slices.Equal(p.Argv, cmd.Args) || p.Dir != dir || p.Umask != 0o027 || p.Limits[unix.RLIMIT_NOFILE].Cur != 100 {
		t.Errorf("got %+v", p)
	}
	if !slices.Contains(p.Env, "B=2") || !slices.Contains(p.Env, "A=1 =") {
		t.Errorf("the environment is %q", p.Env)
	}
	if !p.lives() || !p.runs() {
		t.Error("it is said not to run")
	}
	another := *p
	another.Began++
	if another.lives() {
		t.Error("another process with this PID is said to live")
	}
	if _, err := describe(1 << 30); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a process that does not exist: %v", err)
	}
}

func TestStop(t *testing.T) {
	for _, test := range []struct {
		name, script string
		grace        time.Duration
		want         unix.Signal // that ended it; 0: it ended in order
	}{
		{"in order", `trap 'exit 0' TERM; ` + waits, time.Minute, 0},
		{"it does not listen", `trap '' TERM; ` + waits, 50 * time.Millisecond, unix.SIGKILL},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd := child(t, test.script, nil)
			p, err := describe(cmd.Process.Pid)
			if err != nil {
				t.Fatal(err)
			}
			if err := p.stop(test.grace); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
			if got := status.Signal(); status.Signaled() && got != test.want || !status.Signaled() && test.want != 0 {
				t.Errorf("it ended with %v", cmd.ProcessState)
			}
			if err := p.stop(test.grace); err != nil {
				t.Errorf("one that has ended: %v", err)
			}
		})
	}
}

func TestStreamsAreOpenedAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(file, []byte("before\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &Process{Streams: [3]string{"/dev/null", file, "pipe:[1]"}}
	streams, err := p.reopen()
	if err != nil {
		t.Fatal(err)
	}
	for i, text := range []string{"", "after\n", "nowhere"} {
		if _, err := streams[i].WriteString(text); err != nil {
			t.Error(err)
		}
		_ = streams[i].Close()
	}
	got, err := os.ReadFile(file)
	if err != nil || string(got) != "before\nafter\n" {
		t.Errorf("the file holds %q, %v", got, err)
	}
}

func TestTheLockIsHeldByOne(t *testing.T) {
	dir := t.TempDir()
	if _, err := tryLock(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a lock: %v", err)
	}
	if err := writeFile(filepath.Join(dir, lockName), nil); err != nil {
		t.Fatal(err)
	}
	first, err := tryLock(dir)
	if err != nil || first == nil {
		t.Fatal(first, err)
	}
	if second, err := tryLock(dir); err != nil || second != nil {
		t.Errorf("a second one gets %v, %v", second, err)
	}
	_ = first.Close()
	if third, err := tryLock(dir); err != nil || third == nil {
		t.Errorf("after its end: %v, %v", third, err)
	}
}

func TestJournal(t *testing.T) {
	dir := t.TempDir()
	if j, err := readJournal(dir); j != nil || err != nil {
		t.Fatalf("an empty folder: %+v, %v", j, err)
	}
	want := &journal{Version: journalVersion, Session: "1a", Service: &Service{Name: "kubelet", Process: &Process{PID: 7, Argv: []string{"kubelet"}}}}
	if err := writeJournal(dir, want); err != nil {
		t.Fatal(err)
	}
	got, err := readJournal(dir)
	if err != nil || got.Session != want.Session || got.Service.Process.PID != 7 {
		t.Errorf("got %+v, %v", got, err)
	}
	if st, err := os.Stat(filepath.Join(dir, journalName)); err != nil || st.Mode() != 0o600 {
		t.Errorf("it is %v, %v", st.Mode(), err)
	}
	for _, bad := range []string{"", "{", `{"version":99,"service":{"process":{}}}`, `{"version":1}`} {
		if err := os.WriteFile(filepath.Join(dir, journalName), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if j, err := readJournal(dir); err == nil {
			t.Errorf("%q is read as %+v", bad, j)
		}
	}
}

func TestRemoveDir(t *testing.T) {
	base := filepath.Join(t.TempDir(), "kubedelve")
	for _, name := range []string{"1a", "2b"} {
		if err := os.MkdirAll(filepath.Join(base, name, "bin"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"1a", "1a"} { // twice is no error
		if err := removeDir(filepath.Join(base, name)); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(filepath.Join(base, "2b", "bin")); err != nil {
		t.Errorf("another session's folder: %v", err)
	}
	if err := removeDir(filepath.Join(base, "2b")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(base); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder above is left: %v", err)
	}
}

func TestFindRefuses(t *testing.T) {
	for _, test := range []struct{ name, want string }{
		{"", "no name"},
		{"a/b", "no name"},
		{"no-such-program-at-all", "no process and no unit"},
	} {
		_, err := Find(test.name)
		var refused *FindError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v", test.name, err)
		}
	}
}
