package clonetree

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestClone(t *testing.T) {
	src, dst := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	put := func(name, content string, mode fs.FileMode) {
		t.Helper()
		p := filepath.Join(src, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
	}
	put("d/a", "a", 0o755)
	put("d/shared", "s", 0o644)
	put("sticky/x", "x", 0o600)
	if err := os.Chmod(filepath.Join(src, "sticky"), fs.ModeSticky|0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(src, "d/a"), filepath.Join(src, "d/b")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(src, "link")); err != nil {
		t.Fatal(err)
	}
	err := Clone(src, dst, func(path string, _ fs.FileInfo) bool { return strings.HasSuffix(path, "shared") })
	if err != nil {
		t.Fatal(err)
	}
	stat := func(dir, name string) fs.FileInfo {
		t.Helper()
		fi, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return fi
	}
	for _, name := range []string{"d/a", "d/shared", "sticky/x", "sticky", "link"} {
		if got, want := stat(dst, name).Mode(), stat(src, name).Mode(); got != want {
			t.Errorf("%s has the mode %v and not %v", name, got, want)
		}
	}
	if !os.SameFile(stat(dst, "d/a"), stat(dst, "d/b")) {
		t.Error("two names of one file became two files")
	}
	if os.SameFile(stat(dst, "d/a"), stat(src, "d/a")) {
		t.Error("a file that may be written is shared with the source")
	}
	if !os.SameFile(stat(dst, "d/shared"), stat(src, "d/shared")) {
		t.Error("a file that is never written was copied")
	}
}
