// Package packages finds the programs a node needs, on the host or in a layer made
// from the distribution's packages.
//
// The host stays as it is: apt-get works out which packages are missing and
// downloads them (with what they depend on), and dpkg unpacks them into a folder
// that becomes a lower layer of the node's /usr. Their install scripts do not run;
// what those would have done and a node needs (users, alternatives) the node's own
// /etc brings along.
package packages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/kubedelve/kubedelve/testdata/cluster/internal/cache"
)

// A need is a file that the node must have and the package that brings it.
type need struct {
	file string // below /usr
	pkg  string
}

var needs = []need{
	{"lib/systemd/systemd", "systemd"},
	{"bin/systemctl", "systemd"},
	{"bin/dbus-daemon", "dbus"},
	{"bin/containerd", "containerd"},
	{"bin/containerd-shim-runc-v2", "containerd"},
	{"bin/ctr", "containerd"},
	{"sbin/runc", "runc"},
	{"lib/cni/bridge", "containernetworking-plugins"},
	{"lib/cni/ptp", "containernetworking-plugins"},
	{"sbin/nft", "nftables"},
	{"sbin/iptables-nft", "iptables"},
	{"sbin/conntrack", "conntrack"},
	{"bin/socat", "socat"},
	{"sbin/ethtool", "ethtool"},
	{"bin/ip", "iproute2"},
	{"bin/mount", "mount"},
	{"sbin/losetup", "mount"},
	{"bin/nsenter", "util-linux"},
	{"sbin/modprobe", "kmod"},
	{"bin/ps", "procps"},
}

// A Set is where the programs of a node come from.
type Set struct {
	Layer string // folder with usr/ inside, or "" if the host has everything
}

// Lower lists the layers of /usr, topmost first.
func (s Set) Lower() []string {
	if s.Layer == "" {
		return []string{"/usr"}
	}
	return []string{filepath.Join(s.Layer, "usr"), "/usr"}
}

// Find returns the place of a file below /usr, or "". Links are followed as in the
// node, where the layers are one /usr.
func (s Set) Find(file string) string {
	for range 10 { // links
		place, target := s.look(file)
		if target == "" {
			return place
		}
		if !path.IsAbs(target) {
			target = path.Join("/usr", path.Dir(file), target)
		}
		target = mergedPath(strings.TrimPrefix(path.Clean(target), "/"))
		below, ok := strings.CutPrefix(target, "usr/")
		if !ok { // /etc/alternatives and the like: those of the host
			if fi, err := os.Stat(place); err == nil && fi.Mode().IsRegular() {
				return place
			}
			return ""
		}
		file = below
	}
	return ""
}

// look finds the topmost layer that has the file, and where it points if it is a link.
func (s Set) look(file string) (place, target string) {
	for _, l := range s.Lower() {
		p := filepath.Join(l, file)
		fi, err := os.Lstat(p)
		switch {
		case err != nil:
		case fi.Mode().IsRegular():
			return p, ""
		case fi.Mode()&os.ModeSymlink != 0:
			if target, err := os.Readlink(p); err == nil {
				return p, target
			}
		}
	}
	return "", ""
}

// alternatives are places a file may have instead: another packaging of the same.
var alternatives = map[string][]string{
	"sbin/runc":           {"bin/runc"},
	"bin/dbus-daemon":     {"bin/dbus-broker-launch"},
	"bin/ip":              {"sbin/ip"},
	"sbin/modprobe":       {"bin/modprobe"},
	"sbin/losetup":        {"bin/losetup"},
	"sbin/iptables-nft":   {"bin/iptables-nft"},
	"sbin/nft":            {"bin/nft"},
	"lib/systemd/systemd": nil,
}

// missing lists the packages that have to bring what is not there.
func (s Set) missing() []string {
	var pkgs []string
	for _, n := range needs {
		found := s.Find(n.file) != ""
		for _, a := range alternatives[n.file] {
			found = found || s.Find(a) != ""
		}
		if !found && !slices.Contains(pkgs, n.pkg) {
			pkgs = append(pkgs, n.pkg)
		}
	}
	return pkgs
}

// Program returns the place of a program on the node: the path below /usr under
// which Find sees it.
func (s Set) Program(file string) string {
	for _, f := range append([]string{file}, alternatives[file]...) {
		if s.Find(f) != "" {
			return "/usr/" + f
		}
	}
	return ""
}

const kind = "packages"

// Prepare returns the set for this host. With all, every package comes into the
// layer, as on a host that has none of them.
func Prepare(ctx context.Context, dir cache.Dir, all bool, say func(format string, args ...any)) (Set, error) {
	if pkgs := (Set{}).missing(); len(pkgs) == 0 && !all {
		return Set{}, nil
	}
	var key cache.Key
	if err := key.AddFile("/etc/os-release"); err != nil {
		return Set{}, fmt.Errorf("finding out which distribution this is: %w", err)
	}
	key.Add("2", fmt.Sprint(all))
	for range 2 {
		layer, built, err := dir.Ensure(ctx, kind, key.String(), func(ctx context.Context, tmp string) error {
			pkgs := (Set{}).missing()
			if all {
				pkgs = nil
				for _, n := range needs {
					if !slices.Contains(pkgs, n.pkg) {
						pkgs = append(pkgs, n.pkg)
					}
				}
			}
			say("downloading the packages %s", strings.Join(pkgs, ", "))
			return makeLayer(ctx, tmp, pkgs, all)
		})
		if err != nil {
			return Set{}, err
		}
		set := Set{Layer: layer}
		still := set.missing()
		if len(still) == 0 {
			return set, nil
		}
		if built {
			return Set{}, fmt.Errorf("the packages %s do not bring what a node needs on this distribution", strings.Join(still, ", "))
		}
		// Something was removed from the host since the layer was made: make it anew.
		if err := dir.Remove(kind, key.String()); err != nil {
			return Set{}, err
		}
	}
	return Set{}, errors.New("the package layer does not fit this host")
}

// makeLayer downloads packages and unpacks them into dir.
func makeLayer(ctx context.Context, dir string, pkgs []string, all bool) error {
	for _, tool := range []string{"apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is not here, so the packages %s cannot be fetched: only Debian and Ubuntu are supported, or install those programs yourself", tool, strings.Join(pkgs, ", "))
		}
	}
	debs := filepath.Join(dir, "debs")
	if err := os.MkdirAll(filepath.Join(debs, "partial"), 0o755); err != nil {
		return err
	}
	args := []string{"-q", "-y", "--no-install-recommends", "--download-only",
		"-o", "Dir::Cache::archives=" + debs, "-o", "Debug::NoLocking=true", "-o", "APT::Sandbox::User=root",
		"install"}
	if all {
		args = append(args, "--reinstall")
	}
	args = append(args, pkgs...)
	err := run(ctx, "apt-get", args...)
	if err != nil && ctx.Err() == nil {
		// Most likely the lists are absent or old.
		if err := run(ctx, "apt-get", "-q", "update"); err != nil {
			return err
		}
		err = run(ctx, "apt-get", args...)
	}
	if err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return err
	}
	raw := filepath.Join(dir, "raw")
	for _, f := range files {
		if err := run(ctx, "dpkg-deb", "-x", f, raw); err != nil {
			return err
		}
	}
	if err := mergeUsr(raw, dir); err != nil {
		return fmt.Errorf("merging the packages' files into one /usr: %w", err)
	}
	if err := os.RemoveAll(raw); err != nil {
		return err
	}
	if err := alternativeLinks(dir); err != nil {
		return err
	}
	for _, d := range []string{"doc", "man", "locale", "bash-completion", "info", "lintian"} {
		if err := os.RemoveAll(filepath.Join(dir, "usr/share", d)); err != nil {
			return err
		}
	}
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = filepath.Base(f)
	}
	if err := os.RemoveAll(debs); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "packages"), []byte(strings.Join(names, "\n")+"\n"), 0o644)
}

// alternativeLinks makes the links that update-alternatives makes at installation.
func alternativeLinks(dir string) error {
	for _, l := range []string{"iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"} {
		link := filepath.Join(dir, "usr/sbin", l)
		base, suffix, _ := strings.Cut(l, "-")
		target := base + "-nft"
		if suffix != "" {
			target += "-" + suffix
		}
		if _, err := os.Stat(filepath.Join(dir, "usr/sbin", target)); err != nil {
			continue
		}
		if _, err := os.Lstat(link); err == nil {
			continue
		}
		if err := os.Symlink(target, link); err != nil {
			return err
		}
	}
	return nil
}

// A CommandError is a command that failed, with what it printed.
type CommandError struct {
	Args   []string
	Output string
	Err    error
}

func (e *CommandError) Error() string {
	return fmt.Sprintf("running %s: %v\n%s", strings.Join(e.Args, " "), e.Err, e.Output)
}

func (e *CommandError) Unwrap() error { return e.Err }

func run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return &CommandError{Args: append([]string{name}, args...), Output: strings.TrimSpace(string(out)), Err: err}
	}
	return nil
}

// A Version is what a program says of itself.
type Version struct {
	Major string
	Text  string // the whole line
}

var versionForm = regexp.MustCompile(`\bv?(\d+)\.\d+\.\d+`)

// parseVersion takes the first version number out of what `containerd --version` says.
func parseVersion(text string) (Version, error) {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	m := versionForm.FindStringSubmatch(line)
	if m == nil {
		return Version{}, fmt.Errorf("no version number in %q", text)
	}
	return Version{Major: m[1], Text: line}, nil
}

// Containerd is the version of the set's containerd.
func (s Set) Containerd(ctx context.Context) (Version, error) {
	cmd := exec.CommandContext(ctx, s.Find("bin/containerd"), "--version")
	// From the layer it needs the layer's libraries.
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+strings.Join(s.libraries(), ":"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		return Version{}, &CommandError{Args: cmd.Args, Output: string(out), Err: err}
	}
	return parseVersion(string(out))
}
