package nodeservice

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.yaml.in/yaml/v2"
)

// Manifest is where a service comes from that runs in a static pod: the kubelet runs what
// its file says, whatever the API server knows.
//
// For a session another file has its name, and the original waits beside it, as the same
// file that it always was: it comes back with all that belongs to a file, by a rename,
// which the agent in the container can do as well.
type Manifest struct {
	Path      string `json:"path"`      // "/etc/kubernetes/manifests/etcd.yaml"
	Container string `json:"container"` // that runs the service
	Pod       string `json:"pod"`       // the static pod's UID, which the kubelet computes of the file
	// Original and Debug are the SHA-256 of what the file is, and is during the session,
	// in hexadecimal: what is neither is somebody else's, and stays.
	Original string `json:"original"`
	Debug    string `json:"debug,omitempty"`
}

// aside is where a file waits that is, or is going to be, the manifest. The kubelet
// ignores names that begin with a dot.
func (m *Manifest) aside(what string) string {
	return filepath.Join(filepath.Dir(m.Path), "."+filepath.Base(m.Path)+".kubedelve-"+what)
}

func (m *Manifest) waiting() string { return m.aside("original") }

// What a session's containers mount, besides what they have.
const (
	sessionVolume   = "kubedelve-session"
	manifestsVolume = "kubedelve-manifests"
)

// object is a mapping in YAML.
type object = map[any]any

// debugManifest is what runs the agent of the folder dir in the container's place. The
// folders that it needs are where they are on the node.
func (m *Manifest) debugManifest(text []byte, dir string) ([]byte, error) {
	pod := object{}
	if err := yaml.Unmarshal(text, &pod); err != nil {
		return nil, fmt.Errorf("the manifest %s: %w", m.Path, err)
	}
	spec, _ := pod["spec"].(object)
	list, _ := spec["containers"].([]any)
	for _, c := range list {
		container, _ := c.(object)
		if container["name"] != m.Container {
			continue
		}
		// What is halted answers to no probe.
		delete(container, "livenessProbe")
		delete(container, "readinessProbe")
		delete(container, "startupProbe")
		command, _ := container["command"].([]any)
		container["command"] = append([]any{filepath.Join(dir, executable), "stand-in", "--dir", dir, "--"}, command...)
		mounts, _ := container["volumeMounts"].([]any)
		container["volumeMounts"] = append(mounts,
			object{"name": sessionVolume, "mountPath": dir},
			object{"name": manifestsVolume, "mountPath": filepath.Dir(m.Path)})
		// Delve takes several hundred MB, for which the component's limit was not made.
		if resources, ok := container["resources"].(object); ok {
			if limits, ok := resources["limits"].(object); ok {
				delete(limits, "memory")
			}
		}
		volumes, _ := spec["volumes"].([]any)
		spec["volumes"] = append(volumes,
			object{"name": sessionVolume, "hostPath": object{"path": dir, "type": "Directory"}},
			object{"name": manifestsVolume, "hostPath": object{"path": filepath.Dir(m.Path), "type": "Directory"}})
		debug, err := yaml.Marshal(pod)
		return append([]byte("# Made by kubedelve for a debug session, which puts the original back at its end.\n"), debug...), err
	}
	return nil, fmt.Errorf("the manifest %s has no container %s any more", m.Path, m.Container)
}

// prepare looks whether the manifest can be replaced, and says what for: then the
// journal can be written.
func (m *Manifest) prepare(dir string) ([]byte, error) {
	text, err := os.ReadFile(m.Path)
	if err != nil {
		return nil, fmt.Errorf("the manifest: %w", err)
	}
	if sum(text) != m.Original {
		return nil, fmt.Errorf("the manifest %s has changed meanwhile", m.Path)
	}
	debug, err := m.debugManifest(text, dir)
	m.Debug = sum(debug)
	return debug, err
}

// replace puts the debug manifest in the original's place, and returns when the agent
// runs in the container. If it fails the manifest may be either, and restore is to be called.
func (m *Manifest) replace(dir string, debug []byte) error {
	if err := m.put(debug); err != nil {
		return err
	}
	return m.awaitStandIn(dir)
}

func (m *Manifest) put(debug []byte) error {
	was, err := os.Lstat(m.Path)
	if err == nil && !was.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", m.Path)
	}
	if err == nil {
		err = os.Link(m.Path, m.waiting())
	}
	if left, _ := os.Lstat(m.waiting()); errors.Is(err, fs.ErrExist) && os.SameFile(left, was) {
		err = nil // of a session that was lost
	}
	if err != nil {
		return fmt.Errorf("keeping the original manifest: %w", err)
	}
	next := m.aside("debug")
	if err := writeFile(next, debug); err != nil {
		return fmt.Errorf("the debug manifest: %w", err)
	}
	copyLabel(m.Path, next)
	if err := errors.Join(os.Chmod(next, was.Mode().Perm()), os.Rename(next, m.Path)); err != nil {
		return errors.Join(fmt.Errorf("the debug manifest: %w", err), os.Remove(next))
	}
	return nil
}

// podPatience is how long the kubelet may take to end a static pod, whose containers
// have 30 s for that, and to run the next one of the same name. The client waits a
// little longer.
const podPatience = 100 * time.Second

// awaitStandIn waits until the kubelet runs the agent of the folder.
func (*Manifest) awaitStandIn(dir string) error {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for deadline := time.Now().Add(podPatience); !standInRuns(dir); <-tick.C {
		if time.Now().After(deadline) {
			return fmt.Errorf("the kubelet did not run the debug manifest in %v (kubectl get events, and the kubelet's log, tell why)", podPatience)
		}
	}
	return nil
}

// standInRuns tells whether an agent runs in a container of the session's.
func standInRuns(dir string) bool {
	all, err := processes()
	if err != nil {
		return false
	}
	for pid, argv := range all {
		exe, _ := os.Readlink(proc(pid, "exe"))
		if exe == filepath.Join(dir, executable) && len(argv) > 1 && argv[1] == "stand-in" {
			return true
		}
	}
	return false
}

// What a manifest's file is.
type manifestState int

const (
	manifestForeign  manifestState = iota // somebody else has changed or removed it
	manifestOriginal                      // as it was
	manifestDebug                         // the session's
)

func (m *Manifest) state() (manifestState, error) {
	text, err := os.ReadFile(m.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return manifestForeign, nil
	case err != nil:
		return 0, fmt.Errorf("the manifest: %w", err)
	}
	switch sum(text) {
	case m.Debug:
		return manifestDebug, nil
	case m.Original:
		return manifestOriginal, nil
	}
	return manifestForeign, nil
}

// restore puts the original manifest back, unless somebody else has put another one
// there. Several processes may do so at once.
func (m *Manifest) restore() error {
	state, err := m.state()
	if err != nil || state != manifestDebug {
		return err
	}
	err = os.Rename(m.waiting(), m.Path)
	if now, _ := m.state(); err != nil && now != manifestDebug { // another process was faster
		return nil
	}
	if err != nil {
		return fmt.Errorf("the original manifest: %w", err)
	}
	return nil
}

// clean removes what a replacement that was interrupted has left, when the manifest is
// not the session's. Nobody may replace it meanwhile.
func (m *Manifest) clean() (err error) {
	for _, left := range []string{m.waiting(), m.aside("debug"), m.aside("debug") + ".new"} {
		if removeErr := os.Remove(left); !errors.Is(removeErr, fs.ErrNotExist) {
			err = errors.Join(err, removeErr)
		}
	}
	return err
}

// runs tells whether the original runs again: a process with its command line in the
// same static pod.
func (m *Manifest) runs(p *Process) bool {
	all, err := processes()
	if err != nil {
		return false
	}
	for pid, argv := range all {
		if slices.Equal(argv, p.Argv) && staticPod(pid) == m.Pod {
			return true
		}
	}
	return false
}

func sum(text []byte) string {
	hash := sha256.Sum256(text)
	return hex.EncodeToString(hash[:])
}
