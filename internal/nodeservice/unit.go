package nodeservice

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
)

// Unit is a service unit of systemd.
type Unit struct {
	Name string `json:"name"` // "kubelet.service"
	// Path and Argv are its ExecStart, with references to variables as they are
	// written; Prefix is what stands before it ("-", ":" and so on, systemd.service(5)).
	Path   string   `json:"path"`
	Argv   []string `json:"argv"`
	Prefix string   `json:"prefix"`

	mainPID    int
	active     string // ActiveState
	sub        string // SubState
	kind       string // Type=
	user       string
	executions int
}

// Where drop-ins are that a reboot takes away (systemd.unit(5)); the name sorts late.
const (
	dropInRoot = "/run/systemd/system"
	dropInName = "95-kubedelve.conf"
)

func (u *Unit) dropIn() string { return filepath.Join(dropInRoot, u.Name+".d", dropInName) }

// systemdPatience bounds what is asked of systemd: a unit's stop may take its
// TimeoutStopSec, 90 s by default.
const systemdPatience = 2 * time.Minute

// withSystemd calls f with a connection to the node's systemd, if that is what
// supervises the node.
func withSystemd(f func(ctx context.Context, conn *dbus.Conn) error) error {
	if _, err := os.Stat("/run/systemd/system"); errors.Is(err, fs.ErrNotExist) { // sd_booted(3)
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), systemdPatience)
	defer cancel()
	conn, err := dbus.NewSystemdConnectionContext(ctx)
	if err != nil {
		return fmt.Errorf("connecting to systemd: %w", err)
	}
	defer conn.Close()
	return f(ctx, conn)
}

// findUnit returns the unit of a service's name, or nil if there is none.
func findUnit(name string) (unit *Unit, err error) {
	if !strings.HasSuffix(name, ".service") {
		name += ".service"
	}
	err = withSystemd(func(ctx context.Context, conn *dbus.Conn) (err error) {
		unit, err = readUnit(ctx, conn, name)
		return err
	})
	return unit, err
}

// unitOf returns the service unit that a process is the main process of, or nil.
func unitOf(pid int) (unit *Unit, err error) {
	err = withSystemd(func(ctx context.Context, conn *dbus.Conn) error {
		name, err := conn.GetUnitNameByPID(ctx, uint32(pid)) //nolint:gosec // a PID
		if err != nil || !strings.HasSuffix(name, ".service") {
			return nil //nolint:nilerr // it is in no unit
		}
		unit, err = readUnit(ctx, conn, name)
		if err == nil && unit != nil && unit.mainPID != pid {
			return &FindError{unit.Name, fmt.Sprintf("process %d is a part of this unit, but not its main process", pid)}
		}
		return err
	})
	return unit, err
}

// readUnit returns nil if there is no such unit.
func readUnit(ctx context.Context, conn *dbus.Conn, name string) (*Unit, error) {
	properties, err := conn.GetAllPropertiesContext(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("reading unit %s: %w", name, err)
	}
	if properties["LoadState"] != "loaded" {
		return nil, nil //nolint:nilnil // no unit is an answer
	}
	u := &Unit{Name: name}
	// An alias is followed.
	if id, ok := properties["Id"].(string); ok {
		u.Name = id
	}
	u.active, _ = properties["ActiveState"].(string)
	u.sub, _ = properties["SubState"].(string)
	u.kind, _ = properties["Type"].(string)
	u.user, _ = properties["User"].(string)
	if pid, ok := properties["MainPID"].(uint32); ok {
		u.mainPID = int(pid)
	}
	// a(sasasttttuii): path, argv, flags, and how it went (org.freedesktop.systemd1(5)).
	list, _ := properties["ExecStartEx"].([][]any)
	u.executions = len(list)
	if len(list) > 0 && len(list[0]) > 2 {
		u.Path, _ = list[0][0].(string)
		u.Argv, _ = list[0][1].([]string)
		flags, _ := list[0][2].([]string)
		for _, f := range flags {
			u.Prefix += execPrefix[f]
		}
	}
	return u, nil
}

// execPrefix is how the flags of ExecStartEx are written (systemd.service(5)).
var execPrefix = map[string]string{
	"ignore-failure": "-", "privileged": "+", "no-setuid": "!", "ambient": "!!", "no-env-expand": ":",
}

// check tells what would keep us from taking its place.
func (u *Unit) check() error {
	refuse := func(format string, args ...any) error { return &FindError{u.Name, fmt.Sprintf(format, args...)} }
	switch {
	case u.active != "active" || u.mainPID == 0:
		return refuse("it does not run (%s, %s): start it first", u.active, u.sub)
	case u.kind == "forking" || u.kind == "oneshot":
		return refuse("a unit of Type=%s has no main process that could be debugged", u.kind)
	case u.user != "" && u.user != "root" && u.user != "0":
		return refuse("it runs as user %s, which kubedelve can't do for its debug build yet", u.user)
	case u.executions != 1 || u.Path == "" || len(u.Argv) == 0:
		return refuse("its ExecStart could not be read (this takes systemd 243 or later)")
	}
	return nil
}

// override is the drop-in's text.
func (u *Unit) override(command []string) string {
	var b strings.Builder
	b.WriteString("# Made by kubedelve for a debug session, which removes it at its end.\n[Service]\n")
	// The component is the agent's grandchild: its messages count as the main process's.
	b.WriteString("NotifyAccess=all\n")
	// At a breakpoint nothing pings, and nothing becomes ready.
	b.WriteString("WatchdogSec=0\nTimeoutStartSec=infinity\n")
	b.WriteString("ExecStart=\nExecStart=" + u.Prefix)
	for i, word := range command {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(quoteExec(word))
	}
	b.WriteByte('\n')
	return b.String()
}

// quoteExec writes a word of a command line for a unit: what systemd reads is what was
// there, with references to variables left to it (systemd.syntax(7), systemd.service(5)).
func quoteExec(word string) string {
	replacer := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`, "%", "%%")
	return `"` + replacer.Replace(word) + `"`
}

// replace puts the stand-in into the unit's place. It returns when that runs; if it
// fails the unit may be anything, and restore is to be called.
func (u *Unit) replace(dir string) error {
	command := append([]string{filepath.Join(dir, executable), "stand-in", "--dir", dir, "--", u.Path}, u.Argv[1:]...)
	if err := os.MkdirAll(filepath.Dir(u.dropIn()), 0o755); err != nil {
		return fmt.Errorf("the drop-in of %s: %w", u.Name, err)
	}
	if err := os.WriteFile(u.dropIn(), []byte(u.override(command)), 0o644); err != nil { //nolint:gosec // systemd reads it, and so may others
		return fmt.Errorf("the drop-in of %s: %w", u.Name, err)
	}
	return withSystemd(func(ctx context.Context, conn *dbus.Conn) error {
		if err := conn.ReloadContext(ctx); err != nil {
			return fmt.Errorf("reloading systemd: %w", err)
		}
		if err := u.restart(ctx, conn); err != nil {
			return err
		}
		return u.awaitProgram(ctx, conn, filepath.Join(dir, executable))
	})
}

// awaitProgram waits until the unit's main process runs a program. systemd calls a unit of
// Type=simple active when it has forked, before it can know whether there is that
// program for it: the unit may have a root folder of its own, or may not see ours.
func (u *Unit) awaitProgram(ctx context.Context, conn *dbus.Conn, program string) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		now, err := readUnit(ctx, conn, u.Name)
		if err != nil {
			return err
		}
		if now != nil && now.mainPID != 0 {
			if exe, err := os.Readlink(proc(now.mainPID, "exe")); err == nil && exe == program {
				return nil
			}
		}
		if now == nil || now.mainPID == 0 && now.active != "active" {
			return fmt.Errorf("%s can't run %s: does the unit hide that folder?", u.Name, program)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("starting %s in the place of %s: %w", program, u.Name, context.Cause(ctx))
		}
	}
}

// restart restarts the unit and waits until it is active.
func (u *Unit) restart(ctx context.Context, conn *dbus.Conn) error {
	done := make(chan string, 1)
	if _, err := conn.RestartUnitContext(ctx, u.Name, "replace", done); err != nil {
		return fmt.Errorf("restarting %s: %w", u.Name, err)
	}
	select {
	case result := <-done:
		if result != "done" {
			return fmt.Errorf("restarting %s: %s", u.Name, result)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("restarting %s: %w", u.Name, context.Cause(ctx))
	}
}

// forget takes the drop-in away and does nothing to the unit.
func (u *Unit) forget() error {
	if err := os.Remove(u.dropIn()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the drop-in of %s: %w", u.Name, err)
	}
	_ = os.Remove(filepath.Dir(u.dropIn())) // if it is empty
	return withSystemd(func(ctx context.Context, conn *dbus.Conn) error {
		if err := conn.ReloadContext(ctx); err != nil {
			return fmt.Errorf("reloading systemd: %w", err)
		}
		return nil
	})
}

// restore brings the original back. With wait it returns when the unit is active;
// without, when systemd has been told: then it may be called by the unit itself.
func (u *Unit) restore(wait bool) error {
	if err := u.forget(); err != nil {
		return err
	}
	return withSystemd(func(ctx context.Context, conn *dbus.Conn) error {
		if wait {
			return u.restart(ctx, conn)
		}
		if _, err := conn.RestartUnitContext(ctx, u.Name, "replace", nil); err != nil {
			return fmt.Errorf("restarting %s: %w", u.Name, err)
		}
		return nil
	})
}
