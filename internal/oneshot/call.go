package oneshot

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Call is one execution of the program, which waits to be told what to execute.
type Call struct {
	PID  int
	Args []string // with the program's own name first, as its caller gives it
	Env  []string
	Dir  string // its working directory

	// What it is about, as far as it can be known.

	Command string // of runc: "create"; of a CNI plugin: "ADD"
	ID      string // of the container or sandbox

	// What of it is to be stopped.

	Itself bool
	Init   bool // the init that it starts

	bundle string // runc's, if its arguments tell
	root   string // runc's --root

	lookUp sync.Once
	where  workload // see about

	conn     *net.UnixConn
	answered chan struct{}
	answer   sync.Once
}

// workload is for whom the kubelet has asked for a container.
type workload struct{ namespace, pod, container string }

// Execute lets the call execute a program in the original's place, with the call's
// arguments.
func (c *Call) Execute(program string) (err error) {
	c.answer.Do(func() {
		if _, err = c.conn.Write(append([]byte(program), 0)); err != nil {
			err = fmt.Errorf("process %d does not wait any more: %w", c.PID, err)
		}
		close(c.answered)
	})
	return err
}

// Release lets the call execute the original. After Execute it does nothing.
func (c *Call) Release() { c.answer.Do(func() { close(c.answered) }) }

// String tells the user what it is: "runc create (process 83, pod default/web, container app)".
func (c *Call) String() string {
	about := []string{fmt.Sprintf("process %d", c.PID)}
	w := c.about()
	if w.pod != "" {
		about = append(about, "pod "+w.namespace+"/"+w.pod)
	}
	if w.container != "" {
		about = append(about, "container "+w.container)
	} else if w.pod == "" && c.ID != "" {
		about = append(about, "id "+c.ID)
	}
	name := filepath.Base(c.Args[0])
	if c.Command != "" {
		name += " " + c.Command
	}
	return name + " (" + strings.Join(about, ", ") + ")"
}

// InitString is String for the init that it starts.
func (c *Call) InitString(pid int) string {
	name, about, _ := strings.Cut(c.String(), " (")
	_, about, _ = strings.Cut(strings.TrimSuffix(about, ")"), ", ")
	if about != "" {
		about = ", " + about
	}
	return fmt.Sprintf("%s init (process %d%s) of %s", filepath.Base(c.Args[0]), pid, about, name)
}

// Limit tells users how long its caller waits, as far as that is known: "the kubelet gives
// up 2 min after it has asked for it, as a rule".
func (c *Call) Limit() string {
	w := c.about()
	switch {
	case w.pod == "" || !slices.Contains([]string{"create", "start", "ADD"}, c.Command):
		return ""
	case w.container == "": // a pod's sandbox, with its network
		return "the kubelet gives up 4 min after it has asked for it, as a rule"
	}
	return "the kubelet gives up 2 min after it has asked for it, as a rule"
}

// describe reads what a process was called with.
func describe(pid int) (*Call, error) {
	proc := fmt.Sprintf("/proc/%d/", pid)
	args, err := os.ReadFile(proc + "cmdline")
	if err != nil {
		return nil, fmt.Errorf("a call: %w", err)
	}
	env, err := os.ReadFile(proc + "environ")
	if err != nil {
		return nil, fmt.Errorf("a call: %w", err)
	}
	c := &Call{PID: pid, Args: splitZero(args), Env: splitZero(env)}
	if c.Dir, err = os.Readlink(proc + "cwd"); err != nil {
		return nil, fmt.Errorf("a call: %w", err)
	}
	if len(c.Args) == 0 {
		return nil, fmt.Errorf("process %d has no arguments", pid)
	}
	if command := c.env("CNI_COMMAND"); command != "" {
		c.Command, c.ID = command, c.env("CNI_CONTAINERID")
		return c, nil
	}
	c.readRuntime()
	return c, nil
}

func splitZero(text []byte) (words []string) {
	if len(text) == 0 {
		return nil
	}
	for _, word := range bytes.Split(bytes.TrimSuffix(text, []byte{0}), []byte{0}) {
		words = append(words, string(word))
	}
	return words
}

func (c *Call) env(name string) string {
	for _, e := range c.Env {
		if n, value, _ := strings.Cut(e, "="); n == name {
			return value
		}
	}
	return ""
}

// valued are the flags of an OCI runtime (runc(8), crun(1)) that are followed by a value.
var valued = []string{
	"root", "log", "log-format", "log-level", "rootless", "criu", "cgroup-manager",
	"bundle", "b", "config", "f", "console-socket", "pid-file", "pidfd-socket", "preserve-fds",
	"cwd", "env", "e", "user", "u", "additional-gids", "g", "process", "p", "process-label", "apparmor", "cap", "c", "cgroup",
	"image-path", "work-path", "parent-path", "page-server", "manage-cgroups-mode", "empty-ns", "lsm-profile", "lsm-mount-context",
	"format", "resources", "r", "interval",
}

// valuedOfShims are those of containerd's shims; their command has no further words.
var valuedOfShims = []string{"namespace", "address", "publish-binary", "id", "socket", "debug-socket"}

// serveCommand is how users call a shim without a command, which stays for as long as its
// pod: "start" starts it, as the program by whose path it is known itself.
const serveCommand = "serve"

// isShim tells whether it is a shim of containerd that is called.
func (c *Call) isShim() bool { return strings.HasPrefix(filepath.Base(c.Args[0]), "containerd-shim") }

// readRuntime reads the command line of an OCI runtime: flags, the command, flags, the
// container's ID, more; or that of a shim. Of another program the first argument counts
// as the command.
func (c *Call) readRuntime() {
	var words []string
	valued := valued
	if c.isShim() {
		valued = slices.Concat(valued, valuedOfShims)
	}
	for args := c.Args[1:]; len(args) > 0 && len(words) < 2; args = args[1:] {
		if !strings.HasPrefix(args[0], "-") {
			words = append(words, args[0])
			continue
		}
		name, value, has := strings.Cut(strings.TrimLeft(args[0], "-"), "=")
		if !has && slices.Contains(valued, name) && len(args) > 1 {
			args = args[1:]
			value = args[0]
		}
		switch name {
		case "root":
			c.root = value
		case "bundle", "b":
			c.bundle = value
		case "id":
			c.ID = value
		}
	}
	switch {
	case len(words) > 0:
		c.Command = words[0]
	case c.isShim():
		c.Command = serveCommand
	}
	if len(words) > 1 {
		c.ID = words[1]
	}
}

// about is for whom the call is. It reads files, so it is asked last.
func (c *Call) about() workload {
	c.lookUp.Do(func() {
		if args := c.env("CNI_ARGS"); args != "" {
			c.where = ofCNI(args)
		} else if bundle := c.bundleDir(); bundle != "" {
			c.where = ofBundle(bundle)
		}
	})
	return c.where
}

// ofCNI reads CNI_ARGS, as the container runtimes of Kubernetes set it.
func ofCNI(args string) (w workload) {
	for _, pair := range strings.Split(args, ";") {
		switch name, value, _ := strings.Cut(pair, "="); name {
		case "K8S_POD_NAMESPACE":
			w.namespace = value
		case "K8S_POD_NAME":
			w.pod = value
		}
	}
	return w
}

// bundleDir is the folder of the container's configuration: told to the commands that
// make a container, and kept by the runtime for the others.
func (c *Call) bundleDir() string {
	switch {
	case c.bundle != "":
		return absolute(c.Dir, c.bundle)
	case c.Command == "create" || c.Command == "run" || c.isShim():
		return c.Dir
	case c.ID == "" || strings.Contains(c.ID, "/"):
		return ""
	}
	var state struct {
		Config struct {
			Labels []string `json:"labels"`
		} `json:"config"`
	}
	path := filepath.Join(absolute(c.Dir, cmp.Or(c.root, "/run/runc")), c.ID, "state.json")
	if !readJSON(path, &state) {
		return ""
	}
	for _, label := range state.Config.Labels {
		if bundle, ok := strings.CutPrefix(label, "bundle="); ok {
			return bundle
		}
	}
	return ""
}

func absolute(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// ofBundle reads the annotations that containerd and CRI-O give a container.
func ofBundle(dir string) workload {
	var config struct {
		Annotations map[string]string `json:"annotations"`
	}
	readJSON(filepath.Join(dir, "config.json"), &config)
	first := func(names ...string) string {
		for _, name := range names {
			if value := config.Annotations[name]; value != "" {
				return value
			}
		}
		return ""
	}
	return workload{
		namespace: first("io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace"),
		pod:       first("io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"),
		container: first("io.kubernetes.cri.container-name", "io.kubernetes.container.name"),
	}
}

// maxJSON bounds what is read of other programs' files, in bytes.
const maxJSON = 8 << 20

func readJSON(path string, into any) bool {
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() || info.Size() > maxJSON {
		return false
	}
	data, err := os.ReadFile(path)
	return err == nil && json.Unmarshal(data, into) == nil
}
