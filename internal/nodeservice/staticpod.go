package nodeservice

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v2"
)

// The cgroup of a static pod's container: its UID is a hash and has no dashes, which
// those have that the API server gives.
var staticPodPattern = regexp.MustCompile(`kubepods.*pod([0-9a-f]{32})\b`)

// staticPod is the UID of the static pod that a process is in, or empty.
func staticPod(pid int) string {
	data, _ := os.ReadFile(proc(pid, "cgroup"))
	match := staticPodPattern.FindSubmatch(data)
	if match == nil {
		return ""
	}
	return string(match[1])
}

// findManifest finds how a process in a static pod was started.
func findManifest(name string, pid int) (*Service, error) {
	refuse := func(format string, args ...any) (*Service, error) {
		return nil, &FindError{name, fmt.Sprintf(format, args...)}
	}
	process, err := describe(pid)
	if err != nil {
		return nil, err
	}
	status, err := readStatus(pid)
	if err != nil {
		return nil, err
	}
	if status["Uid"] != "0\t0\t0\t0" {
		return refuse("it does not run as root in its static pod, which kubedelve can't do for its debug build yet")
	}
	if status["TracerPid"] != "0" {
		return refuse("another debugger is attached to it")
	}
	folder, err := manifestFolder()
	if err != nil {
		return refuse("it runs in a static pod (process %d), but where its manifest is can't be told: %v", pid, err)
	}
	found, err := manifestsOf(folder, process.Argv)
	switch {
	case err != nil:
		return nil, err
	case len(found) != 1:
		return refuse("it runs in a static pod (process %d), but %d containers of the manifests in %s have its command line, not one", pid, len(found), folder)
	}
	manifest := found[0]
	if !manifest.hostNetwork {
		return refuse("its static pod has a network of its own (%s), which kubedelve can't reach yet", manifest.Path)
	}
	manifest.Pod = staticPod(pid)
	return &Service{Name: name, Process: process, Manifest: &manifest.Manifest}, nil
}

type foundManifest struct {
	Manifest
	hostNetwork bool
}

// manifestsOf finds the containers with a command line in the manifests of a folder. What
// is no manifest is left out, as the kubelet does it.
func manifestsOf(folder string, argv []string) (found []foundManifest, err error) {
	paths := []string{folder}
	if st, err := os.Stat(folder); err == nil && st.IsDir() {
		if paths, err = filepath.Glob(filepath.Join(folder, "[^.]*")); err != nil {
			return nil, err
		}
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // a folder, or it has just gone
		}
		var pod struct {
			Spec struct {
				HostNetwork bool `yaml:"hostNetwork"`
				Containers  []struct {
					Name          string
					Command, Args []string
				}
			}
		}
		if yaml.Unmarshal(text, &pod) != nil {
			continue
		}
		for _, c := range pod.Spec.Containers {
			// Without a command it is the image's, which is not known here.
			if len(c.Command) > 0 && endsLike(slices.Concat(c.Command, c.Args), argv) {
				found = append(found, foundManifest{Manifest{Path: path, Container: c.Name, Original: sum(text)}, pod.Spec.HostNetwork})
			}
		}
	}
	return found, nil
}

// endsLike tells whether a container's command line, before its references to variables
// are replaced, ends with that of the program: others may start it, such as tini.
func endsLike(command, argv []string) bool {
	if len(argv) == 0 || len(command) < len(argv) {
		return false
	}
	for i, word := range command[len(command)-len(argv):] {
		if word != argv[i] && !strings.Contains(word, "$(") {
			return false
		}
	}
	return true
}

// manifestFolder finds where the node's kubelet looks for static pods: a folder, or a file.
func manifestFolder() (string, error) {
	pid, err := findProcess("kubelet")
	if err != nil {
		return "", err
	}
	kubelet, err := describe(pid)
	if err != nil {
		return "", err
	}
	return kubelet.manifestFolder()
}

// manifestFolder is that of a kubelet's flags and configuration, of which the later counts
// and a flag more than a file (kubelet --help; KubeletConfiguration v1beta1).
func (p *Process) manifestFolder() (string, error) {
	inKubelet := func(path string) string {
		if !filepath.IsAbs(path) {
			path = filepath.Join(p.Dir, path)
		}
		return path
	}
	if folder := flagOf(p.Argv, "pod-manifest-path"); folder != "" {
		return inKubelet(folder), nil
	}
	var files []string
	if config := flagOf(p.Argv, "config"); config != "" {
		files = append(files, inKubelet(config))
	}
	if dropIns := flagOf(p.Argv, "config-dir"); dropIns != "" {
		more, err := filepath.Glob(filepath.Join(inKubelet(dropIns), "*.conf"))
		if err != nil {
			return "", err
		}
		files = append(files, more...)
	}
	folder := ""
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("the kubelet's configuration: %w", err)
		}
		var config struct {
			StaticPodPath string `yaml:"staticPodPath"`
		}
		if err := yaml.Unmarshal(text, &config); err != nil {
			return "", fmt.Errorf("the kubelet's configuration %s: %w", file, err)
		}
		if config.StaticPodPath != "" {
			folder = config.StaticPodPath
			if !filepath.IsAbs(folder) {
				folder = filepath.Join(filepath.Dir(file), folder)
			}
		}
	}
	if folder == "" {
		return "", errors.New("the kubelet has no folder of static pods (staticPodPath)")
	}
	return folder, nil
}

// flagOf is the value of a flag on a command line of Kubernetes, or empty.
func flagOf(argv []string, name string) (value string) {
	for i, word := range argv {
		if word = strings.TrimPrefix(word, "-"); word == argv[i] {
			continue
		}
		flag, after, found := strings.Cut(strings.TrimPrefix(word, "-"), "=")
		switch {
		case flag != name:
		case found:
			value = after
		case i+1 < len(argv):
			value = argv[i+1]
		}
	}
	return value
}
