package packages

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// mergeUsr moves what packages put into /bin, /sbin and /lib* to the same folder in
// /usr, where a merged system has it, and the rest as it is.
func mergeUsr(from, to string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == from {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		dst := filepath.Join(to, mergedPath(rel))
		if e.IsDir() {
			return os.MkdirAll(dst, 0o755)
		}
		if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
			return err
		}
		if e.Type() == fs.ModeSymlink {
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			target, same := mergedLink(rel, target)
			if same {
				return nil // /lib/x -> /usr/lib/x is the file itself
			}
			if err := os.Remove(dst); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return os.Symlink(target, dst)
		}
		return os.Rename(path, dst)
	})
}

// mergedPath is the place of a package's file on a merged system.
func mergedPath(rel string) string {
	first, _, _ := strings.Cut(rel, "/")
	switch first {
	case "bin", "sbin", "lib", "lib32", "lib64", "libx32":
		return "usr/" + rel
	}
	return rel
}

// mergedLink rewrites the target of a link at rel, and says whether it has become a
// link to itself.
func mergedLink(rel, target string) (string, bool) {
	at := mergedPath(rel)
	absolute := strings.TrimPrefix(target, "/")
	if absolute == target {
		absolute = filepath.Join(filepath.Dir(rel), target)
	}
	merged := mergedPath(filepath.Clean(absolute))
	if merged == at {
		return "", true
	}
	// Always absolute: the node's root is the only place where it is followed, except
	// when the target stays in the same folder.
	if !strings.Contains(target, "/") {
		return target, false
	}
	return "/" + merged, false
}
