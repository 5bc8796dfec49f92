package images

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// entries reads a tar file.
func entries(t *testing.T, r io.Reader) (map[string]*tar.Header, map[string][]byte) {
	t.Helper()
	headers, contents := map[string]*tar.Header{}, map[string][]byte{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return headers, contents
		}
		if err != nil {
			t.Fatal(err)
		}
		if headers[h.Name] != nil {
			t.Errorf("%s is there twice", h.Name)
		}
		headers[h.Name] = h
		if contents[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
}

func someLayer(t *testing.T) Layer {
	t.Helper()
	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	if err := os.WriteFile(src, []byte("program"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := WriteLayer(filepath.Join(dir, "layer"), []File{
		{Path: "/tmp", Mode: 0o1777},
		{Path: "/usr/bin/a", Source: src},
		{Path: "/usr/bin/b", Link: "/usr/bin/a"},
		{Path: "/lib", Target: "usr/lib"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLayer(t *testing.T) {
	l := someLayer(t)
	data, err := os.ReadFile(l.path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	if want := "sha256:" + hex.EncodeToString(sum[:]); l.Digest != want || l.Size != int64(len(data)) {
		t.Errorf("digest %s, size %d; want %s, %d", l.Digest, l.Size, want, len(data))
	}
	headers, contents := entries(t, bytes.NewReader(data))
	tests := []struct {
		name string
		kind byte
		mode int64
	}{
		{"tmp/", tar.TypeDir, 0o1777},
		{"usr/", tar.TypeDir, 0o755},
		{"usr/bin/", tar.TypeDir, 0o755},
		{"usr/bin/a", tar.TypeReg, 0o755},
		{"usr/bin/b", tar.TypeLink, 0o755},
		{"lib", tar.TypeSymlink, 0o777},
	}
	for _, tt := range tests {
		h := headers[tt.name]
		if h == nil || h.Typeflag != tt.kind || h.Mode != tt.mode {
			t.Errorf("%s is %+v; want type %c, mode %o", tt.name, h, tt.kind, tt.mode)
		}
	}
	if got := string(contents["usr/bin/a"]); got != "program" {
		t.Errorf("usr/bin/a holds %q", got)
	}
	if again := someLayer(t); again.Digest != l.Digest {
		t.Errorf("the same input gave the digests %s and %s", l.Digest, again.Digest)
	}
}

func TestLayerRefusesBadPaths(t *testing.T) {
	for _, p := range []string{"relative", "/a/../b", "/a/", ""} {
		if _, err := WriteLayer(filepath.Join(t.TempDir(), "layer"), []File{{Path: p}}); err == nil {
			t.Errorf("%q is accepted", p)
		}
	}
}

func TestArchive(t *testing.T) {
	l := someLayer(t)
	var out bytes.Buffer
	err := WriteArchive(&out, []Image{
		{Ref: "test.local/a:1", Layers: []Layer{l}, Entrypoint: []string{"/usr/bin/a"}, User: "1000"},
		{Ref: "test.local/b:2", Layers: []Layer{l}, Cmd: []string{"x"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, contents := entries(t, &out)
	blob := func(digest string, into any) {
		t.Helper()
		data, ok := contents["blobs/"+strings.Replace(digest, ":", "/", 1)]
		if !ok {
			t.Fatalf("there is no blob %s", digest)
		}
		sum := sha256.Sum256(data)
		if digest != "sha256:"+hex.EncodeToString(sum[:]) {
			t.Errorf("the blob %s has another digest", digest)
		}
		if into != nil {
			if err := json.Unmarshal(data, into); err != nil {
				t.Fatal(err)
			}
		}
	}
	var idx index
	if err := json.Unmarshal(contents["index.json"], &idx); err != nil {
		t.Fatal(err)
	}
	if len(idx.Manifests) != 2 {
		t.Fatalf("%d images and not 2", len(idx.Manifests))
	}
	if got := idx.Manifests[1].Annotations["io.containerd.image.name"]; got != "test.local/b:2" {
		t.Errorf("the second image is called %q", got)
	}
	var man manifest
	var cfg config
	blob(idx.Manifests[0].Digest, &man)
	blob(man.Config.Digest, &cfg)
	blob(man.Layers[0].Digest, nil)
	if cfg.Config.User != "1000" || cfg.Config.Entrypoint[0] != "/usr/bin/a" || cfg.RootFS.DiffIDs[0] != l.Digest {
		t.Errorf("the first image's configuration is %+v", cfg)
	}
}

func TestCheckRef(t *testing.T) {
	for _, ref := range []string{"test.local/web:1", "localhost:5000/a/b:v1.2_3", "localhost/x:1"} {
		if err := CheckRef(ref); err != nil {
			t.Error(err)
		}
	}
	for _, ref := range []string{"", "web", "web:1", "library/web:1", "test.local/web", "test.local/Web:1", "test.local/web:a b", "test.local/web:1@sha256:0"} {
		if CheckRef(ref) == nil {
			t.Errorf("%q is accepted", ref)
		}
	}
}
