// Package images makes container images from files of this machine, without a
// registry and without a container tool: each image is a few layers and a
// configuration, and an archive of images is an OCI image layout in a tar file, as
// containerd imports it.
//
// Layers are not compressed: they never travel further than to the containerd of a
// node on this machine. The same input gives the same bytes and so the same digests.
package images

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"strings"
)

// A File is one entry of a layer.
type File struct {
	Path string // in the image, absolute

	// One of these says what it is; a File with none of them is a folder.
	Source string // a file of this machine, whose content it has
	Link   string // another File's Path, of which it is a hard link
	Target string // where it points, as a symbolic link

	Mode int64 // permission bits; 0 means 0755
}

// A Layer is a tar file on disk with its digest.
type Layer struct {
	path   string
	Digest string // sha256:...
	Size   int64
}

// WriteLayer writes a layer with these entries, and the folders above them, to path.
func WriteLayer(path string, files []File) (Layer, error) {
	f, err := os.Create(path)
	if err != nil {
		return Layer{}, err
	}
	defer f.Close()
	c := &counter{hash: sha256.New()}
	if err := writeTar(io.MultiWriter(f, c), files); err != nil {
		return Layer{}, err
	}
	return Layer{path: path, Digest: c.digest(), Size: c.n}, f.Close()
}

func writeTar(w io.Writer, files []File) error {
	t := &layerWriter{tar: tar.NewWriter(w), folders: map[string]bool{"/": true}}
	for _, f := range files {
		if err := t.add(f); err != nil {
			return fmt.Errorf("adding %s: %w", f.Path, err)
		}
	}
	return t.tar.Close()
}

type layerWriter struct {
	tar     *tar.Writer
	folders map[string]bool // those already written
}

func (t *layerWriter) add(f File) error {
	if !path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path {
		return fmt.Errorf("the path %q is not absolute and clean", f.Path)
	}
	if f.Mode == 0 {
		f.Mode = 0o755
	}
	if err := t.folder(path.Dir(f.Path), 0o755); err != nil {
		return err
	}
	h := &tar.Header{Name: strings.TrimPrefix(f.Path, "/"), Mode: f.Mode, Format: tar.FormatPAX}
	switch {
	case f.Source != "":
		return t.content(h, f.Source)
	case f.Link != "":
		h.Typeflag, h.Linkname = tar.TypeLink, strings.TrimPrefix(f.Link, "/")
		return t.tar.WriteHeader(h)
	case f.Target != "":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.Target, 0o777
		return t.tar.WriteHeader(h)
	default:
		return t.folder(f.Path, f.Mode)
	}
}

func (t *layerWriter) content(h *tar.Header, source string) error {
	src, err := os.Open(source)
	if err != nil {
		return err
	}
	defer src.Close()
	fi, err := src.Stat()
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", source)
	}
	h.Typeflag, h.Size = tar.TypeReg, fi.Size()
	if err := t.tar.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(t.tar, src)
	return err
}

// folder writes a folder after those above it, once.
func (t *layerWriter) folder(p string, mode int64) error {
	if t.folders[p] {
		return nil
	}
	if err := t.folder(path.Dir(p), 0o755); err != nil {
		return err
	}
	t.folders[p] = true
	return t.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: strings.TrimPrefix(p, "/") + "/", Mode: mode, Format: tar.FormatPAX})
}

// counter is a writer that takes the digest and the size of what passes.
type counter struct {
	hash hash.Hash
	n    int64
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.hash.Write(p)
}

func (c *counter) digest() string { return "sha256:" + hex.EncodeToString(c.hash.Sum(nil)) }
