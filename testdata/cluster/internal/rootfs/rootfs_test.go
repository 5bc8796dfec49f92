package rootfs

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

var config = Config{
	Cluster: "c", Node: "n1", NodeIP: "10.201.0.2", PodRange: "10.201.64.0/18", Pods: "10.201.64.0/24",
	ServiceRange: "10.201.192.0/18", Kubernetes: "v1.2.3", Repository: "test.local", PauseImage: "test.local/pause:1",
	Runc: "/usr/sbin/runc", ContainerdMajor: "1", SystemdCgroup: true, BridgeFiltered: true, Systemd: true,
}

func TestRenderedConfigurations(t *testing.T) {
	for _, name := range []string{"kubeadm.yaml", "kube-proxy.yaml"} {
		text, err := render(name, config)
		if err != nil {
			t.Fatal(err)
		}
		for _, doc := range strings.Split(text, "\n---\n") {
			var v struct{ APIVersion, Kind string }
			if err := yaml.UnmarshalStrict([]byte(doc), new(map[string]any)); err != nil {
				t.Errorf("%s: %v\n%s", name, err, doc)
			}
			if err := yaml.Unmarshal([]byte(doc), &v); err != nil || v.Kind == "" {
				t.Errorf("%s: kind %q, %v", name, v.Kind, err)
			}
		}
	}
	for _, name := range []string{"bridge.conflist", "ptp.conflist"} {
		text, err := render(name, config)
		if err != nil {
			t.Fatal(err)
		}
		var list struct{ Plugins []struct{ Type string } }
		if err := json.Unmarshal([]byte(text), &list); err != nil || len(list.Plugins) != 2 {
			t.Errorf("%s: %+v, %v", name, list, err)
		}
	}
	for _, major := range []string{"1", "2"} {
		text, err := render("containerd-"+major+".toml", config)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{`"test.local/pause:1"`, "SystemdCgroup = true", `BinaryName = "/usr/sbin/runc"`} {
			if !strings.Contains(text, want) {
				t.Errorf("containerd %s: %s is missing in\n%s", major, want, text)
			}
		}
	}
	if _, err := render("kubeadm.yaml", struct{ Node string }{"n"}); err == nil {
		t.Error("a template with missing values is rendered")
	}
}

func TestWrite(t *testing.T) {
	root, layer, usr := t.TempDir(), t.TempDir(), t.TempDir()
	for _, f := range []string{"lib/systemd/system/sysinit.target.wants/hardware.service", "lib/systemd/system/multi-user.target.wants/dbus.service", "lib/cni/bridge"} {
		if err := os.MkdirAll(filepath.Join(usr, filepath.Dir(f)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(usr, f), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := Write(root, layer, []string{usr}, config); err != nil {
		t.Fatal(err)
	}
	const units = "etc/systemd/system/"
	if target, err := os.Readlink(filepath.Join(root, units+"hardware.service")); err != nil || target != "/dev/null" {
		t.Errorf("a unit of the host that a node does not need is not masked: %q, %v", target, err)
	}
	if _, err := os.Lstat(filepath.Join(root, units+"dbus.service")); err == nil {
		t.Error("dbus is masked")
	}
	if _, err := os.Lstat(filepath.Join(root, units+"multi-user.target.wants/kubelet.service")); err == nil {
		t.Error("the kubelet starts before kubeadm has configured it")
	}
	if err := EnableKubelet(root); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{
		filepath.Join(root, units+"multi-user.target.wants/kubelet.service"),
		filepath.Join(root, "opt/cni/bin/bridge"),
		filepath.Join(root, "etc/kubernetes/kubeadm.yaml"),
		filepath.Join(layer, "usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf"),
	} {
		if _, err := os.Lstat(p); err != nil {
			t.Error(err)
		}
	}
	if fi, err := os.Stat(filepath.Join(root, "var/tmp")); err != nil || fi.Mode()&(os.ModeSticky|0o777) != os.ModeSticky|0o777 {
		t.Errorf("/var/tmp: %v, %v", fi.Mode(), err)
	}
}
