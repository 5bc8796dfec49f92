package nodeservice

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Service is a program that runs on the node.
type Service struct {
	Name    string   `json:"name"` // as it was asked for
	Process *Process `json:"process"`
	// What supervises it: one of these, or nobody.
	Unit     *Unit     `json:"unit,omitempty"`
	Manifest *Manifest `json:"manifest,omitempty"`
}

// Original is the service's command line, with the program's path first.
func (s *Service) Original() []string {
	return append([]string{s.Process.Exe}, s.Process.Argv[1:]...)
}

// String tells the user what it is: "process 83 (/usr/bin/kubelet)".
func (s *Service) String() string {
	switch {
	case s.Unit != nil:
		return fmt.Sprintf("unit %s (%s)", s.Unit.Name, s.Process.Exe)
	case s.Manifest != nil:
		return fmt.Sprintf("static pod %s (%s)", s.Manifest.Path, s.Process.Exe)
	}
	return fmt.Sprintf("process %d (%s)", s.Process.PID, s.Process.Exe)
}

// FindError says why a service can't be debugged.
type FindError struct{ Name, Reason string }

func (e *FindError) Error() string { return fmt.Sprintf("service %s: %s", e.Name, e.Reason) }

// multicall are programs that have others inside.
var multicall = []string{"k3s", "k0s", "rke2", "kubelite"}

// Find finds out how a service runs: the unit or the process of that name, which may be
// that of a static pod.
func Find(name string) (*Service, error) {
	refuse := func(format string, args ...any) (*Service, error) {
		return nil, &FindError{name, fmt.Sprintf(format, args...)}
	}
	if name == "" || strings.ContainsAny(name, "/\x00") {
		return refuse("that is no name")
	}
	unit, err := findUnit(name)
	if err != nil {
		return nil, err
	}
	var pid int
	switch {
	case unit != nil && unit.mainPID != 0:
		pid = unit.mainPID
	case unit != nil:
		return nil, unit.check()
	default:
		if pid, err = findProcess(name); err != nil {
			return nil, err
		}
		if staticPod(pid) != "" {
			return findManifest(name, pid)
		}
		// It may belong to a unit of another name.
		if unit, err = unitOf(pid); err != nil {
			return nil, err
		}
	}
	process, err := describe(pid)
	if err != nil {
		return nil, err
	}
	if session := sessionOf(process.Exe); session != "" {
		return refuse("session %s debugs it already; end that, or run: kubedelve restore %s", session, session)
	}
	s := &Service{Name: name, Process: process, Unit: unit}
	if unit != nil {
		return s, unit.check()
	}
	parent, err := readStat(pid)
	if err != nil {
		return refuse("it has just ended")
	}
	if parent.parent != 1 {
		argv, _ := os.ReadFile(proc(parent.parent, "cmdline"))
		return refuse("process %d was started by another that may start it again (%q, PID %d), which kubedelve can't put on hold", pid, splitZero(argv), parent.parent)
	}
	return s, checkPlain(name, pid)
}

// findProcess finds the one process of that name in the node's own namespaces, or else
// in a static pod.
func findProcess(name string) (int, error) {
	all, err := processes()
	if err != nil {
		return 0, err
	}
	var found, static, contained []int
	for _, pid := range slices.Sorted(maps.Keys(all)) {
		exe, _ := os.Readlink(proc(pid, "exe"))
		if filepath.Base(all[pid][0]) != name && filepath.Base(exe) != name {
			continue
		}
		switch {
		case sameNamespaces(pid):
			found = append(found, pid)
		case staticPod(pid) != "":
			static = append(static, pid)
		default:
			contained = append(contained, pid)
		}
	}
	if len(found) == 0 {
		found = static
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return 0, &FindError{name, fmt.Sprintf("several processes have that name: %v", found)}
	case len(contained) > 0:
		return 0, &FindError{name, fmt.Sprintf("it runs in a container (process %d): debug its workload instead", contained[0])}
	}
	for _, argv := range all {
		if base := filepath.Base(argv[0]); slices.Contains(multicall, base) {
			return 0, &FindError{name, fmt.Sprintf("no process and no unit has that name; it may be a part of %s, which runs here and can be debugged as a whole", base)}
		}
	}
	return 0, &FindError{name, "no process and no unit of systemd has that name"}
}

// namespaces are those that a service shares with PID 1, or else it is in a container.
var namespaces = []string{"mnt", "net", "pid", "ipc", "uts", "user"}

func sameNamespaces(pid int) bool {
	for _, name := range namespaces {
		host, err1 := os.Readlink(proc(1, "ns", name))
		own, err2 := os.Readlink(proc(pid, "ns", name))
		if err1 != nil || err2 != nil || host != own {
			return false
		}
	}
	return true
}

// checkPlain tells what would keep us from starting a process that is like this one.
func checkPlain(name string, pid int) error {
	status, err := readStatus(pid)
	if err != nil {
		return err
	}
	self, err := readStatus(os.Getpid())
	if err != nil {
		return err
	}
	for _, c := range []struct{ field, want, what string }{
		{"Uid", "0\t0\t0\t0", "it does not run as root"},
		{"NoNewPrivs", "0", "it may not gain privileges (no_new_privs)"},
		{"Seccomp", "0", "it has a seccomp filter"},
		{"TracerPid", "0", "another debugger is attached to it"},
		{"CapBnd", self["CapBnd"], "its capabilities are bounded"},
	} {
		if got := status[c.field]; got != c.want {
			return &FindError{name, fmt.Sprintf("%s (%s %s), which kubedelve can't do for its debug build yet", c.what, c.field, cmp.Or(got, "unknown"))}
		}
	}
	return nil
}
