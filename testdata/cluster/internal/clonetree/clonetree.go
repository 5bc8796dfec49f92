// Package clonetree copies folders that are too large to be copied each time: files
// that nobody will write to are hard-linked instead.
package clonetree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Clone copies the tree at src to dst, which may exist, with modes, symbolic links
// and the hard links within the tree. Owners become those of this process. Files for
// which share is true become links to the source where the file systems allow it:
// neither side may change them afterwards. Sockets, pipes and devices are left out.
func Clone(src, dst string, share func(path string, fi fs.FileInfo) bool) error {
	c := cloner{share: share, links: map[inode]string{}}
	if err := c.clone(src, dst); err != nil {
		return fmt.Errorf("copying %s: %w", src, err)
	}
	return nil
}

type inode struct{ dev, ino uint64 }

type cloner struct {
	share func(path string, fi fs.FileInfo) bool
	links map[inode]string // copies of files that have several names
}

func (c *cloner) clone(src, dst string) error {
	fi, err := os.Lstat(src)
	if err != nil {
		return err
	}
	switch {
	case fi.IsDir():
		return c.dir(src, dst, fi)
	case fi.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(src)
		if err != nil {
			return err
		}
		return os.Symlink(target, dst)
	case fi.Mode().IsRegular():
		return c.file(src, dst, fi)
	}
	return nil
}

func (c *cloner) dir(src, dst string, fi fs.FileInfo) error {
	if err := os.Mkdir(dst, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	entries, err := os.ReadDir(src)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := c.clone(filepath.Join(src, e.Name()), filepath.Join(dst, e.Name())); err != nil {
			return err
		}
	}
	return os.Chmod(dst, fi.Mode())
}

func (c *cloner) file(src, dst string, fi fs.FileInfo) error {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 {
		// Before sharing: on an overlay a link to each name of a file that lies in a lower
		// layer would make a copy of each.
		id := inode{st.Dev, st.Ino}
		if first, ok := c.links[id]; ok {
			return os.Link(first, dst)
		}
		c.links[id] = dst
	}
	if c.share != nil && c.share(src, fi) && os.Link(src, dst) == nil {
		return nil
	}
	return Copy(src, dst, fi.Mode())
}

// Copy copies one file.
func Copy(src, dst string, mode fs.FileMode) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	if err := out.Chmod(mode); err != nil {
		return err
	}
	return out.Close()
}
