// Package rootfs fills the folder that becomes a node's "/": the parts that are the
// node's own, beside the /usr that it shares with the host.
//
// Nothing of the host's /etc, /home, /root or /var gets in, except for a handful of
// files that programs in /usr rely on (links of the alternatives system, the
// library cache). So the node's systemd starts what a node needs and nothing that
// happens to be installed on the host.
package rootfs

import (
	"bytes"
	"crypto/rand"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/kubedelve/kubedelve/testdata/cluster/internal/clonetree"
)

//go:embed files
var files embed.FS

// A Config says what differs between nodes.
type Config struct {
	Cluster         string // name of the cluster
	Node            string // name of the node
	NodeIP          string
	PodRange        string // of the cluster
	Pods            string // of the node
	ServiceRange    string
	Kubernetes      string // version, with the v
	Repository      string // of the images
	PauseImage      string
	Runc            string // path in the node
	ContainerdMajor string // "1" or "2"
	SystemdCgroup   bool   // who makes cgroups of pods: systemd, or runc itself
	BridgeFiltered  bool   // packets between ports of a bridge pass kube-proxy's rules
	Systemd         bool   // PID 1 is systemd
}

// Write fills root, and layer with what belongs to the node's /usr. lower are the
// other layers of /usr, topmost first.
func Write(root, layer string, lower []string, c Config) error {
	w := &writer{root: root}
	w.skeleton()
	w.etc(c)
	w.cni(lower, c)
	if c.Systemd {
		w.systemd(lower)
		w.root = layer
		w.embedded("usr/lib/systemd/system/kubelet.service", "kubelet.service", nil)
		w.embedded("usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf", "10-kubeadm.conf", nil)
		w.embedded("usr/lib/systemd/system/containerd.service", "containerd.service", nil)
	} else {
		w.root = layer
		w.mkdir("usr", 0o755)
	}
	return w.err
}

// A writer makes files below root and keeps the first error.
type writer struct {
	root string
	err  error
}

func (w *writer) do(f func() error) {
	if w.err == nil {
		w.err = f()
	}
}

func (w *writer) path(p string) string { return filepath.Join(w.root, p) }

func (w *writer) mkdir(p string, mode fs.FileMode) {
	w.do(func() error {
		if err := os.MkdirAll(w.path(p), 0o755); err != nil {
			return err
		}
		return os.Chmod(w.path(p), mode)
	})
}

func (w *writer) file(p, content string) {
	w.do(func() error {
		if err := os.MkdirAll(filepath.Dir(w.path(p)), 0o755); err != nil {
			return err
		}
		return os.WriteFile(w.path(p), []byte(content), 0o644)
	})
}

func (w *writer) link(target, p string) {
	w.do(func() error {
		if err := os.MkdirAll(filepath.Dir(w.path(p)), 0o755); err != nil {
			return err
		}
		err := os.Symlink(target, w.path(p))
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	})
}

// embedded writes one of the files of this package; data is for a template.
func (w *writer) embedded(p, name string, data any) {
	w.do(func() error {
		text, err := render(name, data)
		if err != nil {
			return err
		}
		w.file(p, text)
		return w.err
	})
}

func render(name string, data any) (string, error) {
	src, err := files.ReadFile("files/" + name)
	if err != nil {
		return "", err
	}
	if data == nil {
		return string(src), nil
	}
	t, err := template.New(name).Option("missingkey=error").Parse(string(src))
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, data); err != nil {
		return "", err
	}
	return out.String(), nil
}

// copy copies a file, or a tree, of the host if it is there.
func (w *writer) copy(src, dst string) {
	w.do(func() error {
		if _, err := os.Lstat(src); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return clonetree.Clone(src, w.path(dst), nil)
	})
}

// skeleton makes the folders and links of a Debian root.
func (w *writer) skeleton() {
	for _, d := range []string{"usr", "proc", "sys", "dev", "run", "tmp", "etc", "opt", "srv", "mnt", "media", "home", "boot",
		"var/lib", "var/log/journal", "var/cache", "var/spool", "var/local", "var/lib/systemd", "var/lib/kubelet", "var/lib/dbus"} {
		w.mkdir(d, 0o755)
	}
	w.mkdir("root", 0o700)
	w.mkdir("var/tmp", fs.ModeSticky|0o777)
	for _, l := range []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"} {
		// Those that the host has; its /usr is the node's.
		if target, err := os.Readlink("/" + l); err == nil && strings.TrimPrefix(target, "/") == "usr/"+l {
			w.link("usr/"+l, l)
		} else if l == "bin" {
			w.do(func() error {
				return errors.New("this host has /bin apart from /usr/bin: only hosts with a merged /usr are supported (Debian 12, Ubuntu 20.04 and later)")
			})
		}
	}
	w.link("/run", "var/run")
	w.link("/run/lock", "var/lock")
}

func (w *writer) etc(c Config) {
	w.file("etc/hostname", c.Node+"\n")
	w.file("etc/hosts", fmt.Sprintf("127.0.0.1 localhost\n%s %s\n", c.NodeIP, c.Node))
	// Nobody listens on this port of the node, so names from outside the cluster fail
	// at once and not after a timeout.
	w.file("etc/resolv.conf", "nameserver "+c.NodeIP+"\n")
	w.file("etc/fstab", "")
	w.file("etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\nethers: files\nrpc: files\n")
	w.file("etc/passwd", passwd)
	w.file("etc/group", group)
	w.file("etc/shells", "/bin/sh\n/bin/bash\n")
	w.link("../usr/lib/os-release", "etc/os-release")
	w.link("/proc/self/mounts", "etc/mtab")
	w.link("/usr/share/zoneinfo/Etc/UTC", "etc/localtime")
	w.do(func() error {
		id := make([]byte, 16)
		rand.Read(id) // never fails
		w.file("etc/machine-id", hex.EncodeToString(id)+"\n")
		return w.err
	})
	w.link("/etc/machine-id", "var/lib/dbus/machine-id")
	w.mkdir("etc/ssl/certs", 0o755)
	for _, f := range []string{"alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "services", "protocols", "ethertypes", "iproute2", "profile", "bash.bashrc", "debian_version", "modprobe.d"} {
		w.copy("/etc/"+f, "etc/"+f)
	}
	w.embedded("etc/containerd/config.toml", "containerd-"+c.ContainerdMajor+".toml", c)
	w.embedded("etc/kubernetes/kubeadm.yaml", "kubeadm.yaml", c)
	if !c.Systemd {
		w.embedded("etc/kubernetes/kube-proxy.yaml", "kube-proxy.yaml", c)
	}
	w.embedded("etc/kubernetes/patches/corednsdeployment.yaml", "corednsdeployment.yaml", nil)
}

// The users that are not made by systemd's own sysusers files at the first boot.
const (
	passwd = `root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
bin:x:2:2:bin:/bin:/usr/sbin/nologin
sys:x:3:3:sys:/dev:/usr/sbin/nologin
messagebus:x:100:102::/nonexistent:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
`
	group = `root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
shadow:x:42:
utmp:x:43:
staff:x:50:
messagebus:x:102:
nogroup:x:65534:
`
)

// cni installs the network plugins where a node has them, and the configuration.
func (w *writer) cni(lower []string, c Config) {
	w.mkdir("opt/cni/bin", 0o755)
	plugin := "ptp"
	if c.BridgeFiltered {
		plugin = "bridge"
	}
	for _, p := range []string{"bridge", "ptp", "host-local", "loopback", "portmap"} {
		for _, l := range lower {
			src := filepath.Join(l, "lib/cni", p)
			if _, err := os.Stat(src); err == nil {
				w.copy(src, "opt/cni/bin/"+p)
				break
			}
		}
	}
	w.mkdir("etc/cni/net.d", 0o755)
	w.embedded("etc/cni/net.d/10-kubernetes.conflist", plugin+".conflist", c)
}
