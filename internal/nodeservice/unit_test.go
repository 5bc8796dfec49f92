package nodeservice

import (
	"strings"
	"testing"
)

func TestOverride(t *testing.T) {
	u := &Unit{Name: "kubelet.service", Path: "/usr/bin/kubelet", Prefix: "-"}
	got := u.override([]string{"/var/lib/kubedelve/1a/kubedelve-agent", "stand-in", "--", "/usr/bin/kubelet", "$KUBELET_EXTRA_ARGS", "${A}", `with "quotes" and \`, "50%", "two\nlines", ""})
	want := `# Made by kubedelve for a debug session, which removes it at its end.
[Service]
NotifyAccess=all
WatchdogSec=0
TimeoutStartSec=infinity
ExecStart=
ExecStart=-"/var/lib/kubedelve/1a/kubedelve-agent" "stand-in" "--" "/usr/bin/kubelet" "$KUBELET_EXTRA_ARGS" "${A}" "with \"quotes\" and \\" "50%%" "two\nlines" ""
`
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	if u.dropIn() != "/run/systemd/system/kubelet.service.d/95-kubedelve.conf" {
		t.Errorf("it is at %s", u.dropIn())
	}
}

func TestUnitsThatAreRefused(t *testing.T) {
	good := Unit{Name: "x.service", Path: "/x", Argv: []string{"x"}, mainPID: 7, active: "active", kind: "notify", executions: 1}
	if err := good.check(); err != nil {
		t.Errorf("a good one: %v", err)
	}
	for _, test := range []struct {
		change func(*Unit)
		want   string
	}{
		{func(u *Unit) { u.active, u.sub = "failed", "failed" }, "start it first"},
		{func(u *Unit) { u.mainPID = 0 }, "start it first"},
		{func(u *Unit) { u.kind = "forking" }, "Type=forking"},
		{func(u *Unit) { u.kind = "oneshot" }, "Type=oneshot"},
		{func(u *Unit) { u.user = "etcd" }, "user etcd"},
		{func(u *Unit) { u.executions = 2 }, "ExecStart"},
		{func(u *Unit) { u.Path = "" }, "ExecStart"},
	} {
		u := good
		test.change(&u)
		if err := u.check(); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v, want %q", u, err, test.want)
		}
	}
}
