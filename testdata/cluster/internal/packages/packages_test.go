package packages

import (
	"os"
	"path/filepath"
	"testing"
)

func TestParseVersion(t *testing.T) {
	tests := []struct{ name, text, major string }{
		{"Debian 12", "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3\n", "1"},
		{"Ubuntu 24.04", "containerd github.com/containerd/containerd 1.7.28 \n", "1"},
		{"version 2", "containerd github.com/containerd/containerd/v2 2.1.3 2.1.3-0ubuntu2", "2"},
		{"upstream", "containerd github.com/containerd/containerd/v2 v2.4.2 abc1234", "2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v, err := parseVersion(tt.text)
			if err != nil || v.Major != tt.major {
				t.Errorf("got %q, %v; want %q", v.Major, err, tt.major)
			}
		})
	}
	if v, err := parseVersion("no number here"); err == nil {
		t.Errorf("got %+v from a text without a version", v)
	}
}

func TestMergedPaths(t *testing.T) {
	for rel, want := range map[string]string{
		"bin/kmod": "usr/bin/kmod", "lib64/ld.so": "usr/lib64/ld.so", "usr/bin/x": "usr/bin/x",
		"etc/x": "etc/x", "libexec/x": "libexec/x",
	} {
		if got := mergedPath(rel); got != want {
			t.Errorf("%s goes to %s and not %s", rel, got, want)
		}
	}
}

func TestMergedLinks(t *testing.T) {
	tests := []struct {
		rel, target, want string
		itself            bool
	}{
		{"sbin/modprobe", "/bin/kmod", "/usr/bin/kmod", false},
		{"usr/lib/x.so", "../../lib/x.so", "", true},
		{"usr/lib/a/x.so.1", "x.so.1.2", "x.so.1.2", false},
		{"usr/sbin/iptables", "/etc/alternatives/iptables", "/etc/alternatives/iptables", false},
	}
	for _, tt := range tests {
		got, itself := mergedLink(tt.rel, tt.target)
		if got != tt.want || itself != tt.itself {
			t.Errorf("%s -> %s becomes %q, %v; want %q, %v", tt.rel, tt.target, got, itself, tt.want, tt.itself)
		}
	}
}

func TestMergeUsr(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	for _, f := range []string{"bin/kmod", "usr/bin/other", "etc/conf"} {
		if err := os.MkdirAll(filepath.Join(from, filepath.Dir(f)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(from, f), []byte(f), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(from, "sbin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/bin/kmod", filepath.Join(from, "sbin/a-tool-of-no-host")); err != nil {
		t.Fatal(err)
	}
	if err := mergeUsr(from, to); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"usr/bin/kmod", "usr/bin/other", "etc/conf"} {
		if _, err := os.Stat(filepath.Join(to, f)); err != nil {
			t.Error(err)
		}
	}
	// The layer's own file is found behind a link that is absolute in the node.
	set := Set{Layer: to}
	if got, want := set.Find("sbin/a-tool-of-no-host"), filepath.Join(to, "usr/bin/kmod"); got != want {
		t.Errorf("the link leads to %q and not to %q", got, want)
	}
	if got := set.Find("bin/nothing-has-this-name"); got != "" {
		t.Errorf("found %q", got)
	}
}
