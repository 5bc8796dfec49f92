// Package components builds what Kubernetes consists of, from Go modules alone: one
// program that is all server components at once, the pause program, and from these
// the images that kubeadm expects.
//
// The module in the folder kube pins the versions; go.sum makes the build the same
// everywhere. The constants below follow from it.
package components

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/kubedelve/kubedelve/testdata/cluster/internal/cache"
	"github.com/kubedelve/kubedelve/testdata/cluster/internal/images"
	"github.com/kubedelve/kubedelve/testdata/cluster/internal/packages"
)

// Versions and names that kubeadm of this Kubernetes version looks for: cmd/kubeadm
// /app/constants in k8s.io/kubernetes has the tags.
const (
	Kubernetes = "v1.37.2"
	Repository = "test.local"
	etcdTag    = "3.7.0-0"
	corednsTag = "v1.14.6"
	pauseTag   = "3.10.2"

	PauseImage = Repository + "/pause:" + pauseTag

	// PausePath is where a node has the pause program: it does all that a PID 1 has to.
	PausePath = "/usr/libexec/kubedelve/pause"
)

// Set is the built components.
type Set struct {
	dir string // the cache entry
	nft []images.File
	key string // of all of it
}

// Layer is a folder with usr/bin/kubelet and usr/bin/kubeadm, a layer of the node's /usr.
func (s Set) Layer() string { return filepath.Join(s.dir, "layer") }

// PlainLayer has usr/bin/kube-apiserver and so on, for a node where these are processes.
func (s Set) PlainLayer() string { return filepath.Join(s.dir, "layer-plain") }

// Key changes when anything in the images does.
func (s Set) Key() string { return s.key }

// ldflags strips the program and gives it the version that each component reports.
func ldflags() string {
	parts := strings.SplitN(strings.TrimPrefix(Kubernetes, "v"), ".", 3)
	flags := []string{"-s", "-w"}
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		for _, v := range []string{
			"gitVersion=" + Kubernetes, "gitMajor=" + parts[0], "gitMinor=" + parts[1], "gitTreeState=clean",
			"gitCommit=0000000000000000000000000000000000000000", "buildDate=2026-01-01T00:00:00Z",
		} {
			flags = append(flags, "-X", pkg+"."+v)
		}
	}
	return strings.Join(flags, " ")
}

// Prepare builds what is not in the cache. source is the folder of this module.
func Prepare(ctx context.Context, dir cache.Dir, source string, pkgs packages.Set, say func(format string, args ...any)) (Set, error) {
	bin, err := programs(ctx, dir, source, say)
	if err != nil {
		return Set{}, err
	}
	set := Set{dir: bin}
	if set.nft, err = nftFiles(pkgs); err != nil {
		return Set{}, fmt.Errorf("collecting nft for the kube-proxy image: %w", err)
	}
	var key cache.Key
	key.Add("1", filepath.Base(bin))
	for _, f := range set.nft {
		key.Add(f.Path)
		if f.Source != "" {
			if err := key.AddFile(f.Source); err != nil {
				return Set{}, err
			}
		}
	}
	set.key = key.String()
	return set, nil
}

// programs builds the all-in-one and pause, and the layer that holds them as files.
func programs(ctx context.Context, dir cache.Dir, source string, say func(format string, args ...any)) (string, error) {
	var key cache.Key
	for _, f := range []string{"kube/go.mod", "kube/go.sum", "kube/main.go", "pause/main.go"} {
		if err := key.AddFile(filepath.Join(source, f)); err != nil {
			return "", fmt.Errorf("reading the sources of the test cluster (see --source): %w", err)
		}
	}
	version := exec.CommandContext(ctx, "go", "env", "GOVERSION")
	version.Dir = filepath.Join(source, "kube") // its go.mod may ask for another toolchain
	goVersion, err := version.Output()
	if err != nil {
		return "", fmt.Errorf("asking go for its version: %w", err)
	}
	key.Add("2", string(goVersion), runtime.GOARCH, ldflags())
	path, _, err := dir.Ensure(ctx, "programs", key.String(), func(ctx context.Context, tmp string) error {
		say("building Kubernetes %s (minutes if Go's build cache is cold)", Kubernetes)
		if err := build(ctx, filepath.Join(source, "kube"), filepath.Join(tmp, "kubernetes"), ldflags()); err != nil {
			return err
		}
		say("building pause")
		if err := build(ctx, filepath.Join(source, "pause"), filepath.Join(tmp, "pause"), "-s -w"); err != nil {
			return err
		}
		links := map[string][]string{
			"kubernetes": {"layer/usr/bin/kubelet", "layer/usr/bin/kubeadm"},
			"pause":      {"layer" + PausePath},
		}
		for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy"} {
			links["kubernetes"] = append(links["kubernetes"], "layer-plain/usr/bin/"+name)
		}
		for from, to := range links {
			for _, l := range to {
				if err := os.MkdirAll(filepath.Dir(filepath.Join(tmp, l)), 0o755); err != nil {
					return err
				}
				if err := os.Link(filepath.Join(tmp, from), filepath.Join(tmp, l)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return path, err
}

func build(ctx context.Context, dir, out, ldflags string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-ldflags", ldflags, "-o", out, ".")
	cmd.Dir = dir
	// Flags of the caller's environment would make another program than the key says.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOOS=linux", "GOARCH="+runtime.GOARCH)
	output, err := cmd.CombinedOutput()
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("building in %s: %w\n%s", dir, err, output)
	}
	return nil
}

// nftFiles is nft with its libraries: kube-proxy writes its rules with it.
func nftFiles(pkgs packages.Set) ([]images.File, error) {
	program := pkgs.Program("sbin/nft")
	if program == "" {
		return nil, fmt.Errorf("there is no nft")
	}
	closure, err := pkgs.Closure(strings.TrimPrefix(program, "/usr/"))
	if err != nil {
		return nil, err
	}
	files := []images.File{
		{Path: "/lib", Target: "usr/lib"}, {Path: "/lib64", Target: "usr/lib64"},
	}
	for _, c := range closure {
		files = append(files, images.File{Path: "/usr/" + c, Source: pkgs.Find(c)})
	}
	return files, nil
}

// WriteArchive writes all images into one archive; dir is a folder for layers, which
// is empty again afterwards.
func (s Set) WriteArchive(path, dir string) error {
	all := filepath.Join(s.dir, "kubernetes")
	// Every image has this layer, so it is stored and unpacked once. Hard links: each
	// component is a file of its own name, as in the images of a release.
	const apiserver = "/usr/local/bin/kube-apiserver"
	files := []images.File{{Path: "/tmp", Mode: 0o1777}, {Path: apiserver, Source: all}}
	for _, name := range []string{"/usr/local/bin/kube-controller-manager", "/usr/local/bin/kube-scheduler", "/usr/local/bin/kube-proxy", "/usr/local/bin/etcd", "/coredns"} {
		files = append(files, images.File{Path: name, Link: apiserver})
	}
	layers := map[string][]images.File{
		"base":  files,
		"nft":   s.nft,
		"pause": {{Path: "/pause", Source: filepath.Join(s.dir, "pause")}},
	}
	written := map[string]images.Layer{}
	for name, files := range layers {
		file := filepath.Join(dir, name+".layer")
		defer os.Remove(file)
		l, err := images.WriteLayer(file, files)
		if err != nil {
			return err
		}
		written[name] = l
	}
	base := []images.Layer{written["base"]}
	list := []images.Image{
		{Ref: PauseImage, Layers: []images.Layer{written["pause"]}, Entrypoint: []string{"/pause"}, User: "65535:65535"},
		{Ref: Repository + "/etcd:" + etcdTag, Layers: base, Entrypoint: []string{"/usr/local/bin/etcd"}},
		{Ref: Repository + "/coredns:" + corednsTag, Layers: base, Entrypoint: []string{"/coredns"}},
		{Ref: Repository + "/kube-proxy:" + Kubernetes, Layers: append(base[:1:1], written["nft"]), Entrypoint: []string{"/usr/local/bin/kube-proxy"}},
	}
	for _, name := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		list = append(list, images.Image{Ref: Repository + "/" + name + ":" + Kubernetes, Layers: base, Entrypoint: []string{"/usr/local/bin/" + name}})
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := images.WriteArchive(f, list); err != nil {
		return err
	}
	return f.Close()
}
