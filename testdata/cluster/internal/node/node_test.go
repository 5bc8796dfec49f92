package node

import (
	"bufio"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseHierarchies(t *testing.T) {
	tests := []struct {
		name, mountinfo string
		want            []hierarchy
	}{
		{"v2 alone", `24 1 8:1 / / rw - ext4 /dev/sda1 rw
30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
`, []hierarchy{{Dir: "/sys/fs/cgroup"}}},
		{"hybrid", `31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/systemd rw shared:10 - cgroup cgroup rw,xattr,name=systemd
33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
34 30 0:29 / /somewhere/else rw - cgroup cgroup rw,cpu,cpuacct
`, []hierarchy{
			{Dir: "/sys/fs/cgroup/unified"},
			{Dir: "/sys/fs/cgroup/systemd", Name: "systemd", Opts: "name=systemd"},
			{Dir: "/sys/fs/cgroup/cpu,cpuacct", Name: "cpu,cpuacct", Opts: "cpu,cpuacct"},
		}},
		{"none", "24 1 8:1 / / rw - ext4 /dev/sda1 rw\nnonsense\n", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseHierarchies(bufio.NewScanner(strings.NewReader(tt.mountinfo)))
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
}

func TestPlansDoNotOverlap(t *testing.T) {
	const most = 40
	for i := range most {
		p := Plan{Index: i}
		for _, part := range []netip.Prefix{p.Pods(), p.PodsHere(), p.Services(), netip.PrefixFrom(p.Node(), 30)} {
			if !part.Addr().IsPrivate() || !p.Range().Contains(part.Addr()) {
				t.Errorf("index %d: %s is not in %s", i, part, p.Range())
			}
		}
		if p.Pods().Overlaps(p.Services()) || p.Pods().Contains(p.Node()) || p.Services().Contains(p.Node()) {
			t.Errorf("index %d: the parts overlap", i)
		}
		if !p.Services().Contains(p.DNS()) || !p.Services().Contains(p.APIService()) {
			t.Errorf("index %d: a service is outside %s", i, p.Services())
		}
		for j := range i {
			if p.Range().Overlaps(Plan{Index: j}.Range()) {
				t.Errorf("the ranges of %d and %d overlap", i, j)
			}
		}
	}
}

func TestCommandRefusesForeignProcesses(t *testing.T) {
	if _, err := Command(t.Context(), "kubedelve-none", 1, "true"); err == nil {
		t.Error("the host's PID 1 is taken for a node's")
	}
}

func TestRoomForInotify(t *testing.T) {
	if err := roomForInotify(1); err != nil {
		t.Error(err)
	}
	// More than any kernel allows by default, and fewer than there may be descriptors.
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	if err := roomForInotify(int(files.Cur)); err == nil || !strings.Contains(err.Error(), "max_user_instances") {
		t.Errorf("room for %d: %v", files.Cur, err)
	}
}
