package images

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime"
	"strings"
)

// An Image is layers and how to run them.
type Image struct {
	Ref        string // name and tag: "test.local/web:1"
	Layers     []Layer
	Entrypoint []string
	Cmd        []string
	User       string // numeric, "1000" or "1000:1000"; empty is root
	Env        []string
}

// The parts of the OCI image format that are used here.
type (
	descriptor struct {
		MediaType   string            `json:"mediaType"`
		Digest      string            `json:"digest"`
		Size        int64             `json:"size"`
		Platform    *platform         `json:"platform,omitempty"`
		Annotations map[string]string `json:"annotations,omitempty"`
	}
	platform struct {
		Architecture string `json:"architecture"`
		OS           string `json:"os"`
	}
	manifest struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Config        descriptor   `json:"config"`
		Layers        []descriptor `json:"layers"`
	}
	index struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Manifests     []descriptor `json:"manifests"`
	}
	config struct {
		platform
		Config runConfig `json:"config"`
		RootFS rootFS    `json:"rootfs"`
	}
	runConfig struct {
		User       string   `json:",omitempty"`
		Env        []string `json:",omitempty"`
		Entrypoint []string `json:",omitempty"`
		Cmd        []string `json:",omitempty"`
		WorkingDir string   `json:",omitempty"`
	}
	rootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	}
)

const mediaType = "application/vnd.oci.image."

var refForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)

// CheckRef says whether a reference can be used as it is: a kubelet adds a registry
// or a tag to one that lacks it, and then does not find the image.
func CheckRef(ref string) error {
	host, _, ok := strings.Cut(ref, "/")
	if !ok || !strings.ContainsAny(host, ".:") && host != "localhost" || !refForm.MatchString(ref) {
		return fmt.Errorf("the image reference %q is not complete: it needs a host, a name and a tag, like test.local/web:1", ref)
	}
	return nil
}

// WriteArchive writes the images to w as one archive. What they share is in it once.
func WriteArchive(w io.Writer, images []Image) error {
	a := &archiveWriter{tar: tar.NewWriter(w), blobs: map[string]bool{}}
	if err := a.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	idx := index{SchemaVersion: 2, MediaType: mediaType + "index.v1+json"}
	for _, img := range images {
		d, err := a.image(img)
		if err != nil {
			return fmt.Errorf("writing the image %s: %w", img.Ref, err)
		}
		idx.Manifests = append(idx.Manifests, d)
	}
	data, err := json.Marshal(idx)
	if err != nil {
		return err
	}
	if err := a.file("index.json", data); err != nil {
		return err
	}
	return a.tar.Close()
}

type archiveWriter struct {
	tar   *tar.Writer
	blobs map[string]bool // digests already written
}

func (a *archiveWriter) file(name string, data []byte) error {
	if err := a.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
		return err
	}
	_, err := a.tar.Write(data)
	return err
}

// blob writes a JSON document under its digest.
func (a *archiveWriter) blob(kind string, v any) (descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return descriptor{}, err
	}
	sum := sha256.Sum256(data)
	d := descriptor{MediaType: mediaType + kind, Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(len(data))}
	if a.blobs[d.Digest] {
		return d, nil
	}
	a.blobs[d.Digest] = true
	return d, a.file(blobName(d.Digest), data)
}

func (a *archiveWriter) layer(l Layer) (descriptor, error) {
	d := descriptor{MediaType: mediaType + "layer.v1.tar", Digest: l.Digest, Size: l.Size}
	if a.blobs[d.Digest] {
		return d, nil
	}
	a.blobs[d.Digest] = true
	f, err := os.Open(l.path)
	if err != nil {
		return d, err
	}
	defer f.Close()
	if err := a.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: blobName(d.Digest), Mode: 0o644, Size: l.Size}); err != nil {
		return d, err
	}
	_, err = io.Copy(a.tar, f)
	return d, err
}

func (a *archiveWriter) image(img Image) (descriptor, error) {
	here := platform{Architecture: runtime.GOARCH, OS: "linux"}
	cfg := config{
		platform: here,
		Config: runConfig{
			User:       img.User,
			Env:        append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, img.Env...),
			Entrypoint: img.Entrypoint,
			Cmd:        img.Cmd,
			WorkingDir: "/",
		},
		RootFS: rootFS{Type: "layers"},
	}
	man := manifest{SchemaVersion: 2, MediaType: mediaType + "manifest.v1+json"}
	for _, l := range img.Layers {
		d, err := a.layer(l)
		if err != nil {
			return descriptor{}, err
		}
		man.Layers = append(man.Layers, d)
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, l.Digest)
	}
	var err error
	if man.Config, err = a.blob("config.v1+json", cfg); err != nil {
		return descriptor{}, err
	}
	d, err := a.blob("manifest.v1+json", man)
	if err != nil {
		return descriptor{}, err
	}
	d.Platform = &here
	_, tag, _ := cutLast(img.Ref, ":")
	d.Annotations = map[string]string{
		"io.containerd.image.name":          img.Ref,
		"org.opencontainers.image.ref.name": tag,
	}
	return d, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func blobName(digest string) string {
	return "blobs/" + strings.Replace(digest, ":", "/", 1)
}
