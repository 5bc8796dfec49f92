package rootfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// wanted are the units of the distribution that a node starts. Everything else that
// a *.wants folder in /usr asks for is masked: it would touch the machine's
// hardware, settings or terminals, or wait for something that never comes.
var wanted = []string{
	"dbus.service", "dbus.socket", "dbus-broker.service",
	"dev-mqueue.mount",
	"systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket", "systemd-journal-flush.service",
	"systemd-sysusers.service", "systemd-tmpfiles-setup.service",
	"systemd-user-sessions.service",
}

// masked are units that are started by other ways than a *.wants folder.
var masked = []string{
	"systemd-udevd.service", "systemd-udevd-control.socket", "systemd-udevd-kernel.socket", "systemd-udev-trigger.service", "systemd-udev-settle.service",
	"systemd-networkd.service", "systemd-networkd.socket", "systemd-networkd-wait-online.service", "systemd-resolved.service", "systemd-timesyncd.service",
	"systemd-logind.service", "systemd-hostnamed.service", "systemd-tmpfiles-setup-dev.service", "systemd-tmpfiles-setup-dev-early.service",
	"modprobe@.service", "getty@.service", "serial-getty@.service", "console-getty.service", "container-getty@.service",
	"systemd-firstboot.service", "systemd-remount-fs.service", "systemd-pcrphase.service", "ldconfig.service",
}

// systemd configures the node's PID 1.
func (w *writer) systemd(lower []string) {
	const own = "etc/systemd/system/"
	w.link("/usr/lib/systemd/system/multi-user.target", own+"default.target")
	w.link("/usr/lib/systemd/system/containerd.service", own+"multi-user.target.wants/containerd.service")
	for _, u := range masked {
		w.link("/dev/null", own+u)
	}
	w.do(func() error {
		for _, l := range lower {
			units, err := wantedUnits(filepath.Join(l, "lib/systemd/system"))
			if err != nil {
				return err
			}
			for _, u := range units {
				if !slices.Contains(wanted, u) && !strings.HasSuffix(u, ".target") {
					w.link("/dev/null", own+u)
				}
			}
		}
		return nil
	})
	w.file("etc/systemd/journald.conf.d/node.conf", "[Journal]\nStorage=persistent\nReadKMsg=no\nSystemMaxUse=200M\nRateLimitBurst=0\n")
	w.file("etc/systemd/system.conf.d/node.conf", "[Manager]\nDefaultTimeoutStopSec=15s\n")
}

// EnableKubelet makes the link that "systemctl enable kubelet" makes. It is made
// when the node has booted: a kubelet that starts before kubeadm has configured it
// fails and is started again ten seconds later.
func EnableKubelet(root string) error {
	w := &writer{root: root}
	w.link("/usr/lib/systemd/system/kubelet.service", "etc/systemd/system/multi-user.target.wants/kubelet.service")
	return w.err
}

// wantedUnits lists what the *.wants folders of a unit folder ask for.
func wantedUnits(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, err
	}
	var units []string
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".wants") {
			continue
		}
		inside, err := os.ReadDir(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		for _, u := range inside {
			units = append(units, u.Name())
		}
	}
	return units, nil
}
