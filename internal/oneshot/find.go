package oneshot

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// callers are the programs that start others again and again.
var callers = []string{"containerd", "crio", "dockerd", "kubelet"}

// caller is a process that may call programs.
type caller struct {
	pid  int
	name string
	args []string
	path string // its PATH
	dir  string // where its own program is
}

// defaultPath is where a program is looked for that its caller has no PATH for.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// findCallers finds the processes that may call programs, in the order of callers.
func findCallers() (found []caller) {
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range paths {
		text, err := os.ReadFile(path)
		args := splitZero(text)
		if err != nil || len(args) == 0 || !slices.Contains(callers, filepath.Base(args[0])) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			continue
		}
		env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		c := caller{pid: pid, name: filepath.Base(args[0]), args: args}
		for _, e := range splitZero(env) {
			if value, ok := strings.CutPrefix(e, "PATH="); ok {
				c.path = value
			}
		}
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil {
			c.dir = filepath.Dir(exe)
		}
		found = append(found, c)
	}
	slices.SortStableFunc(found, func(a, b caller) int {
		return cmp.Or(slices.Index(callers, a.name)-slices.Index(callers, b.name), a.pid-b.pid)
	})
	return found
}

// FindError says why the calls of a program can't be debugged.
type FindError struct{ Program, Reason string }

func (e *FindError) Error() string { return fmt.Sprintf("calls of %s: %s", e.Program, e.Reason) }

// Find finds the file that is executed when a program is called: what the container
// runtime's configuration says, else the first in its PATH. A path it takes as it is.
func Find(program string) (string, error) { return find(program, findCallers()) }

func find(program string, running []caller) (string, error) {
	refuse := func(format string, args ...any) (string, error) {
		return "", &FindError{program, fmt.Sprintf(format, args...)}
	}
	path := program
	if !strings.HasPrefix(program, "/") {
		if program == "" || strings.Contains(program, "/") {
			return refuse("write a program's name, or its absolute path")
		}
		if path = lookUp(program, running); path == "" {
			var names []string
			for _, c := range running {
				names = append(names, fmt.Sprintf("%s (process %d)", c.name, c.pid))
			}
			return refuse("it is in no PATH of those that run here and start programs: %s", cmp.Or(strings.Join(names, ", "), "there is none of "+strings.Join(callers, ", ")))
		}
	}
	// What a link leads to is mounted over.
	path, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return refuse("there is no such file on the node")
	}
	if err != nil {
		return refuse("%v", err)
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return refuse("%v", err)
	case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
		return refuse("%s is not a program", path)
	case info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0:
		return refuse("%s runs with the rights of its owner (set-user-ID), which a debug build can't have", path)
	}
	return path, nil
}

// lookUp finds a program by its name, as those look for it that call it.
func lookUp(name string, running []caller) string {
	for _, c := range running {
		if only := callersOf(name); only != "" && c.name != only {
			continue
		}
		if path := configured(name, c); path != "" {
			return path
		}
		dirs := filepath.SplitList(cmp.Or(c.path, defaultPath))
		if c.name == "dockerd" {
			dirs = slices.Concat(dockerDirs, dirs)
		}
		if c.name == "containerd" && c.dir != "" {
			dirs = append(dirs, c.dir) // of shims
		}
		for _, dir := range dirs {
			path := filepath.Join(dir, name)
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				return path
			}
		}
	}
	return ""
}

// callersOf is the one program that calls another; "": any may.
func callersOf(name string) string {
	switch {
	case name == "docker-proxy":
		return "dockerd"
	case strings.HasPrefix(name, "containerd-shim-"):
		return "containerd"
	}
	return ""
}

// dockerDirs are where dockerd looks for its helpers before its PATH.
var dockerDirs = []string{"/usr/local/libexec/docker", "/usr/libexec/docker", "/usr/local/lib/docker", "/usr/lib/docker"}

// configurations are the files in which a caller's runtimes are configured, unless its
// arguments name another.
var configurations = map[string][]string{
	"containerd": {"/etc/containerd/config.toml", "/etc/containerd/conf.d/*.toml"},
	"crio":       {"/etc/crio/crio.conf", "/etc/crio/crio.conf.d/*", "/usr/lib/crio/crio.conf.d/*"},
	"dockerd":    {"/etc/docker/daemon.json"},
}

// configuredPath matches the path of a program in the configuration of containerd
// (BinaryName of runc; runtime_path of a shim), CRI-O (runtime_path) and dockerd.
var configuredPath = regexp.MustCompile(`(?m)^\s*(?:BinaryName|runtime_path)\s*=\s*["']([^"'\n]+)["']|"(?:userland-proxy-path|path)"\s*:\s*"([^"\n]+)"`)

// configured finds the path of a program in its caller's configuration.
func configured(name string, c caller) string {
	files := configurations[c.name]
	for i, arg := range c.args {
		flag, value, has := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if !strings.HasPrefix(arg, "-") {
			continue
		}
		if !has && i+1 < len(c.args) {
			value = c.args[i+1]
		}
		switch flag {
		case "config", "c", "config-file":
			files = append([]string{value}, files...)
		case "userland-proxy-path":
			if filepath.IsAbs(value) && filepath.Base(value) == name {
				return value
			}
		}
	}
	for _, pattern := range files {
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				continue
			}
			for _, match := range configuredPath.FindAllStringSubmatch(string(text), -1) {
				if path := cmp.Or(match[1], match[2]); filepath.IsAbs(path) && filepath.Base(path) == name {
					return path
				}
			}
		}
	}
	return ""
}
