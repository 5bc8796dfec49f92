package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/kubedelve/kubedelve/testdata/cluster/internal/images"
	"github.com/kubedelve/kubedelve/testdata/cluster/internal/node"
)

// ErrUsage marks errors in what the caller asked for.
var ErrUsage = errors.New("wrong call")

// LoadOptions describe an image.
type LoadOptions struct {
	Name       string   // of the cluster
	Ref        string   // of the image, with host and tag
	Files      []string // SRC or SRC:DST
	Entrypoint []string // default: the first file
	Cmd        []string
	Env        []string
	User       string // numeric; default: root
}

var userForm = regexp.MustCompile(`^[0-9]+(:[0-9]+)?$`)

// parse turns the options into an image without layers, and the entries of its layer.
func (l LoadOptions) parse() (images.Image, []images.File, error) {
	bad := func(format string, args ...any) (images.Image, []images.File, error) {
		return images.Image{}, nil, fmt.Errorf("%w: "+format, append([]any{ErrUsage}, args...)...)
	}
	if l.Ref == "" {
		return bad("--ref is missing")
	}
	if err := images.CheckRef(l.Ref); err != nil {
		return bad("%w", err)
	}
	if l.User != "" && !userForm.MatchString(l.User) {
		return bad("--user %q is not numeric: a kubelet cannot tell whether a named user is root", l.User)
	}
	files := []images.File{{Path: "/tmp", Mode: 0o1777}}
	for _, f := range l.Files {
		src, dst, ok := strings.Cut(f, ":")
		if !ok {
			dst = "/" + filepath.Base(src)
		}
		if !path.IsAbs(dst) || path.Clean(dst) != dst || dst == "/" {
			return bad("%q is not an absolute path of a file in the image", dst)
		}
		files = append(files, images.File{Path: dst, Source: src})
	}
	entrypoint := l.Entrypoint
	if len(entrypoint) == 0 {
		entrypoint = []string{files[1].Path}
	}
	return images.Image{Ref: l.Ref, Entrypoint: entrypoint, Cmd: l.Cmd, Env: l.Env, User: l.User}, files, nil
}

// Load makes an image and imports it into the cluster's node.
func (m *Manager) Load(ctx context.Context, l LoadOptions) error {
	img, files, err := l.parse()
	if err != nil {
		return err
	}
	rec, err := m.running(l.Name)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "kubedelve-load-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	layer, err := images.WriteLayer(filepath.Join(tmp, "layer"), files)
	if err != nil {
		return fmt.Errorf("making the image %s: %w", l.Ref, err)
	}
	img.Layers = []images.Layer{layer}
	r, w := io.Pipe()
	defer r.Close()
	// The goroutine owns w; it ends when the archive is written or r is closed.
	go func() { w.CloseWithError(images.WriteArchive(w, []images.Image{img})) }()
	if err := m.importImages(ctx, rec, r); err != nil {
		return err
	}
	m.say("%s is in cluster %s (%.1f MB)", l.Ref, l.Name, float64(layer.Size)/1e6)
	return nil
}

// Command prepares a command in the node of a cluster.
func (m *Manager) Command(ctx context.Context, name string, argv ...string) (*exec.Cmd, error) {
	rec, err := m.running(name)
	if err != nil {
		return nil, err
	}
	return node.Command(ctx, rec.Cgroup, rec.Init.PID, argv...)
}

// LogOptions say which log is wanted.
type LogOptions struct {
	Name   string // of the cluster
	What   string
	Follow bool
}

// LogSource says where a log is: in a file of this machine, or in what a command in
// the node prints.
func (m *Manager) LogSource(l LogOptions) (file string, argv []string, err error) {
	if filepath.Base(l.What) != l.What {
		return "", nil, fmt.Errorf("%w: %q is not the name of a log", ErrUsage, l.What)
	}
	file = m.path(l.Name, "logs", l.What+".log")
	if _, err := os.Stat(file); err == nil {
		return file, nil, nil
	}
	rec, err := m.running(l.Name)
	if err != nil {
		return "", nil, err
	}
	if rec.Flavour == Plain {
		argv = []string{"tail", "-n", "+1"}
		if l.Follow {
			argv = append(argv, "-f")
		}
		return "", append(argv, plainLogs+"/"+l.What+".log"), nil
	}
	argv = []string{"journalctl", "--no-pager", "-o", "short-precise", "-u", l.What}
	if l.Follow {
		argv = append(argv, "-f")
	}
	return "", argv, nil
}
