package nodeservice

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Process is how a process runs: all that another one needs to be like it.
type Process struct {
	PID int `json:"pid"`
	// Began is in clock ticks after the boot: with it a PID names one process
	// (proc_pid_stat(5), starttime).
	Began       uint64        `json:"began"`
	Exe         string        `json:"exe"`
	Argv        []string      `json:"argv"`
	Env         []string      `json:"env"`
	Dir         string        `json:"dir"`
	Cgroups     []Cgroup      `json:"cgroups"`
	Limits      []unix.Rlimit `json:"limits"` // by the number of the resource (getrlimit(2))
	OOMScoreAdj int           `json:"oomScoreAdj"`
	Nice        int           `json:"nice"`
	Umask       int           `json:"umask"`
	Groups      []uint32      `json:"groups"` // supplementary
	// Streams are the paths of the standard streams, for when nobody has them any more.
	Streams [3]string `json:"streams"`
}

// Cgroup is a process's place in one hierarchy (cgroups(7)).
type Cgroup struct {
	Controllers string `json:"controllers"` // "cpu,cpuacct", "name=systemd"; empty: version 2
	Path        string `json:"path"`        // below the hierarchy's root
}

func proc(pid int, parts ...string) string {
	return filepath.Join(append([]string{"/proc", strconv.Itoa(pid)}, parts...)...)
}

// describe reads how a process runs. It fails if it has ended.
func describe(pid int) (*Process, error) {
	p := &Process{PID: pid}
	if err := p.read(); err != nil {
		return nil, fmt.Errorf("reading how process %d runs: %w", pid, err)
	}
	return p, nil
}

func (p *Process) read() error {
	pid := p.PID
	stat, err := readStat(pid)
	if err != nil {
		return err
	}
	p.Began, p.Nice = stat.began, stat.nice
	if p.Exe, err = os.Readlink(proc(pid, "exe")); err != nil {
		return err
	}
	// A package manager has replaced the file since: its successor is what would run.
	p.Exe = strings.TrimSuffix(p.Exe, " (deleted)")
	if p.Dir, err = os.Readlink(proc(pid, "cwd")); err != nil {
		return err
	}
	for _, list := range []struct {
		name string
		into *[]string
	}{{"cmdline", &p.Argv}, {"environ", &p.Env}} {
		data, err := os.ReadFile(proc(pid, list.name))
		if err != nil {
			return err
		}
		*list.into = splitZero(data)
	}
	if len(p.Argv) == 0 {
		return errors.New("it has no command line")
	}
	data, err := os.ReadFile(proc(pid, "cgroup"))
	if err != nil {
		return err
	}
	p.Cgroups = parseCgroups(data)
	if p.Limits, err = limitsOf(pid); err != nil {
		return err
	}
	if data, err = os.ReadFile(proc(pid, "oom_score_adj")); err != nil {
		return err
	}
	if p.OOMScoreAdj, err = strconv.Atoi(strings.TrimSpace(string(data))); err != nil {
		return err
	}
	status, err := readStatus(pid)
	if err != nil {
		return err
	}
	mask, err := strconv.ParseUint(status["Umask"], 8, 12)
	if err != nil {
		return err
	}
	p.Umask = int(mask)
	for text := range strings.FieldsSeq(status["Groups"]) {
		group, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return err
		}
		p.Groups = append(p.Groups, uint32(group))
	}
	for i := range p.Streams {
		p.Streams[i], _ = os.Readlink(proc(pid, "fd", strconv.Itoa(i)))
	}
	return nil
}

// splitZero splits what ends with a zero byte each.
func splitZero(data []byte) []string {
	if len(data) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
}

// parseCgroups reads the format of /proc/PID/cgroup (cgroups(7)).
func parseCgroups(data []byte) []Cgroup {
	var groups []Cgroup
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) == 3 {
			groups = append(groups, Cgroup{Controllers: parts[1], Path: strings.TrimSuffix(parts[2], " (deleted)")})
		}
	}
	return groups
}

func limitsOf(pid int) ([]unix.Rlimit, error) {
	limits := make([]unix.Rlimit, unix.RLIMIT_RTTIME+1)
	for i := range limits {
		if err := unix.Prlimit(pid, i, nil, &limits[i]); err != nil {
			return nil, fmt.Errorf("its limits: %w", err)
		}
	}
	return limits, nil
}

// processStat is what is needed of /proc/PID/stat (proc_pid_stat(5)).
type processStat struct {
	state  string
	parent int
	nice   int
	began  uint64
}

func readStat(pid int) (s processStat, err error) {
	text, err := os.ReadFile(proc(pid, "stat"))
	if err != nil {
		return s, err
	}
	// The second field is a name in parentheses, which may hold anything.
	_, rest, found := bytes.Cut(text[bytes.LastIndexByte(text, ')')+1:], []byte(" "))
	const first = 3 // of the fields in rest
	fields := strings.Fields(string(rest))
	if !found || len(fields) <= 22-first {
		return s, fmt.Errorf("%s: %q", proc(pid, "stat"), text)
	}
	parent, err1 := strconv.Atoi(fields[4-first])
	nice, err2 := strconv.Atoi(fields[19-first])
	began, err3 := strconv.ParseUint(fields[22-first], 10, 64)
	return processStat{fields[0], parent, nice, began}, errors.Join(err1, err2, err3)
}

// readStatus reads the fields of /proc/PID/status (proc_pid_status(5)).
func readStatus(pid int) (map[string]string, error) {
	data, err := os.ReadFile(proc(pid, "status"))
	if err != nil {
		return nil, err
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			fields[name] = strings.TrimSpace(value)
		}
	}
	return fields, nil
}

// processes lists the PIDs of all processes but kernel threads and zombies, with
// their command lines.
func processes() (map[int][]string, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	all := map[int][]string{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		data, err := os.ReadFile(proc(pid, "cmdline"))
		if argv := splitZero(data); err == nil && len(argv) > 0 { // else it has ended since
			all[pid] = argv
		}
	}
	return all, nil
}

// lives tells whether it is still the same process.
func (p *Process) lives() bool {
	stat, err := readStat(p.PID)
	return err == nil && stat.began == p.Began && stat.state != "Z"
}

// runs tells whether a process runs that is like it: the same program in the same
// cgroups with the same arguments.
func (p *Process) runs() bool {
	all, err := processes()
	if err != nil {
		return false
	}
	for pid, argv := range all {
		if !slices.Equal(argv, p.Argv) {
			continue
		}
		exe, err := os.Readlink(proc(pid, "exe"))
		data, _ := os.ReadFile(proc(pid, "cgroup"))
		if err == nil && strings.TrimSuffix(exe, " (deleted)") == p.Exe && slices.Equal(parseCgroups(data), p.Cgroups) {
			return true
		}
	}
	return false
}

// stop ends the process: with SIGTERM, and with SIGKILL after grace.
func (p *Process) stop(grace time.Duration) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) || !p.lives() {
		return nil
	}
	if err != nil {
		return fmt.Errorf("ending process %d: %w", p.PID, err)
	}
	defer func() { _ = unix.Close(fd) }()
	for _, step := range []struct {
		signal unix.Signal
		wait   time.Duration
	}{{unix.SIGTERM, grace}, {unix.SIGKILL, 10 * time.Second}} {
		if err := unix.PidfdSendSignal(fd, step.signal, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("ending process %d: %w", p.PID, err)
		}
		if awaitEnd(fd, step.wait) {
			return nil
		}
	}
	return fmt.Errorf("process %d does not end, not even by SIGKILL", p.PID)
}

// awaitEnd waits until a process has ended: then its descriptor is readable
// (pidfd_open(2)).
func awaitEnd(pidfd int, patience time.Duration) bool {
	for deadline := time.Now().Add(patience); ; {
		left := time.Until(deadline).Milliseconds()
		if left <= 0 {
			return false
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(left)) //nolint:gosec // a descriptor
		if n > 0 {
			return true
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false
		}
	}
}

// stdio duplicates the process's standard streams. One that can't be had is /dev/null.
func (p *Process) stdio() (files [3]*os.File, err error) {
	pidfd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return files, fmt.Errorf("the streams of process %d: %w", p.PID, err)
	}
	defer func() { _ = unix.Close(pidfd) }()
	for i := range files {
		// The same open file, not the same path opened again: its offset and flags are shared.
		fd, err := unix.PidfdGetfd(pidfd, i, 0)
		if err == nil {
			files[i] = os.NewFile(uintptr(fd), "stream")
			continue
		}
		if files[i], err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
			return files, fmt.Errorf("the streams of process %d: %w", p.PID, err)
		}
	}
	return files, nil
}

// reopen opens the standard streams by their paths: files at their ends. What was no
// file is /dev/null.
func (p *Process) reopen() (files [3]*os.File, err error) {
	for i, path := range p.Streams {
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() {
			files[i], _ = os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0)
		}
		if files[i] == nil {
			if files[i], err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
				return files, err
			}
		}
	}
	return files, nil
}

// start starts a program of ours in p's folder with its environment and streams, which
// it takes over, in a session of its own.
func (p *Process) start(streams [3]*os.File, extra []*os.File, program string, args ...string) error {
	defer func() {
		for _, f := range streams {
			_ = f.Close()
		}
	}()
	cmd := exec.Command(program, args...) //nolint:gosec // our own program
	cmd.Env, cmd.Dir = p.Env, p.Dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = streams[0], streams[1], streams[2], extra
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true,
		// A container's processes may have groups that the original has not.
		Credential: &syscall.Credential{Groups: p.Groups},
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // ends with what it becomes, which may be after this process
	return nil
}

// assume makes the calling process like p in all that a child inherits and that can't
// be said when it is started.
func (p *Process) assume() error {
	if err := joinCgroups(p.Cgroups); err != nil {
		return err
	}
	for i, limit := range p.Limits {
		if err := unix.Setrlimit(i, &limit); err != nil {
			// Without CAP_SYS_RESOURCE a limit can't be raised: it is a lower one then.
			if errors.Is(err, unix.EPERM) {
				continue
			}
			return fmt.Errorf("setting limit %d: %w", i, err)
		}
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(p.OOMScoreAdj)), 0); err != nil && !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("setting oom_score_adj: %w", err)
	}
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, p.Nice); err != nil {
		return fmt.Errorf("setting the priority: %w", err)
	}
	unix.Umask(p.Umask)
	return nil
}

// joinCgroups moves the calling process.
func joinCgroups(groups []Cgroup) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	self := []byte(strconv.Itoa(os.Getpid()))
	for _, g := range groups {
		root := hierarchy(string(mounts), g.Controllers)
		if root == "" {
			continue // it is not mounted: nobody can be moved in it
		}
		if err := os.WriteFile(filepath.Join(root, g.Path, "cgroup.procs"), self, 0); err != nil {
			return fmt.Errorf("joining the cgroup: %w", err)
		}
	}
	return nil
}

// hierarchy finds where a cgroup hierarchy is mounted in a table of the format of
// /proc/PID/mountinfo (proc_pid_mountinfo(5)).
func hierarchy(mountinfo, controllers string) string {
	for line := range strings.Lines(mountinfo) {
		head, tail, found := strings.Cut(line, " - ")
		fields, options := strings.Fields(head), strings.Fields(tail)
		if !found || len(fields) < 5 || len(options) < 3 || fields[3] != "/" {
			continue
		}
		switch {
		case controllers == "" && options[0] == "cgroup2":
			return fields[4]
		case controllers != "" && options[0] == "cgroup":
			has := strings.Split(options[2], ",")
			all := true
			for c := range strings.SplitSeq(controllers, ",") {
				all = all && slices.Contains(has, c)
			}
			if all {
				return fields[4]
			}
		}
	}
	return ""
}
