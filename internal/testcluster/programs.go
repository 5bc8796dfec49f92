package testcluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// Programs are the binaries that a run needs, in one folder.
type Programs struct {
	Root string // of the repository
	Dir  string // with the binaries
}

// Root is the repository that this was compiled from.
func Root() (string, error) {
	_, file, _, ok := runtime.Caller(0)
	root := filepath.Dir(filepath.Dir(filepath.Dir(file)))
	if _, err := os.Stat(filepath.Join(root, "go.mod")); !ok || err != nil {
		return "", errors.New("the sources that this was built from are not there (it must be built without -trimpath)")
	}
	return root, nil
}

// Build builds kubedelve, its agent and the samples into dir, static and for this
// machine's architecture.
func Build(ctx context.Context, dir string) (*Programs, error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	p := &Programs{Root: root, Dir: dir}
	for _, b := range []struct{ name, dir, pkg string }{
		{"kubedelve", root, "./cmd/kubedelve"},
		{"kubedelve-agent", root, "./cmd/kubedelve-agent"},
		{"front", p.Shop(), "./front"},
		{"middle", p.Shop(), "./middle"},
		{"back", p.Shop(), "./back"},
		{"helper", p.Shop(), "./helper"},
	} {
		if err := goBuild(ctx, b.dir, p.Path(b.name), b.pkg); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Add builds one program more, of a folder of this repository.
func (p *Programs) Add(ctx context.Context, name, dir string) error {
	return goBuild(ctx, p.Root, p.Path(name), "./"+filepath.ToSlash(dir))
}

// Path is that of one of the binaries.
func (p *Programs) Path(name string) string { return filepath.Join(p.Dir, name) }

// Shop is the folder of the sample with three tiers.
func (p *Programs) Shop() string { return filepath.Join(p.Root, "testdata", "shop") }

func goBuild(ctx context.Context, dir, output, pkg string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags=-s -w", "-o", output, pkg) //nolint:gosec // our own programs
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+runtime.GOARCH)
	if strings.HasSuffix(output, "kubedelve") {
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s in %s: %w\n%s", pkg, dir, err, out)
	}
	return nil
}

// Image is what an image is made of.
type Image struct {
	Name  string            // agent, front, ...
	User  string            // numeric
	Files map[string]string // from the path in the image to the local one
	Entry string            // the entrypoint, a path in the image
}

// Images says what is in the images. shell is nil on a machine without dash, whose
// files it takes.
func (p *Programs) Images(ctx context.Context) (images []Image, shell error) {
	for name, binary := range map[string]string{
		"agent": "kubedelve-agent", "front": "front", "middle": "middle", "back": "back", "helper": "helper",
	} {
		images = append(images, Image{
			Name: name, User: "65532", Entry: "/" + binary, Files: map[string]string{"/" + binary: p.Path(binary)},
		})
	}
	files, err := shellFiles(ctx)
	if err != nil {
		return images, err
	}
	files["/middle"] = p.Path("middle")
	return append(images, Image{Name: "shell", User: "65532", Entry: "/bin/sh", Files: files}), nil
}

// shellFiles are this machine's own shell and the libraries it needs.
func shellFiles(ctx context.Context) (map[string]string, error) {
	shell, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		return nil, fmt.Errorf("an image with a shell: %w", err)
	}
	files := map[string]string{"/bin/sh": shell}
	out, err := exec.CommandContext(ctx, "ldd", shell).Output() //nolint:gosec // /bin/sh
	if err != nil {
		return files, nil // a static shell needs none
	}
	// "	libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)", "	/lib64/ld-linux-x86-64.so.2 (0x...)"
	for line := range strings.Lines(string(out)) {
		for word := range strings.FieldsSeq(line) {
			if !strings.HasPrefix(word, "/") {
				continue
			}
			if files[word], err = filepath.EvalSymlinks(word); err != nil {
				return nil, fmt.Errorf("an image with a shell: %w", err)
			}
		}
	}
	return files, nil
}

// tag is a hash of all that is in the image.
func (i Image) tag() (string, error) {
	sum := sha256.New()
	var names bytes.Buffer
	for _, name := range sorted(i.Files) {
		fmt.Fprintln(&names, name)
		f, err := os.Open(i.Files[name])
		if err != nil {
			return "", fmt.Errorf("image %s: %w", i.Name, err)
		}
		_, err = io.Copy(sum, f)
		if err = errors.Join(err, f.Close()); err != nil {
			return "", fmt.Errorf("image %s: %w", i.Name, err)
		}
	}
	fmt.Fprintln(&names, i.User, i.Entry)
	_, _ = sum.Write(names.Bytes())
	return hex.EncodeToString(sum.Sum(nil))[:12], nil
}
