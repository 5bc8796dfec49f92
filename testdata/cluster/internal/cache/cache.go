// Package cache keeps what is expensive to make (binaries, package layers, image
// archives) in folders named by kind and key, so that a second cluster starts from
// files.
//
// An entry is either complete or absent: it is made in a temporary folder beside
// its final place and renamed when done. A lock file per kind lets two processes
// that need the same entry make it once. Entries are never changed after the
// rename, which is what makes it safe to use them as overlay lower layers.
package cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// A Dir is the root of the cache.
type Dir string

// Default is the cache below the user's own cache folder.
func Default() (Dir, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding the user's cache folder (set HOME or XDG_CACHE_HOME): %w", err)
	}
	return Dir(filepath.Join(base, "kubedelve", "cluster")), nil
}

// Path is where the entry of that kind and key is, whether it exists or not.
func (d Dir) Path(kind, key string) string {
	return filepath.Join(string(d), kind+"-"+key)
}

// Ensure returns the folder of an entry and makes it with build if it is absent.
// Older entries of the same kind stay, because a running cluster may use them.
func (d Dir) Ensure(ctx context.Context, kind, key string, build func(ctx context.Context, dir string) error) (path string, built bool, err error) {
	path = d.Path(kind, key)
	if exists(path) {
		return path, false, nil
	}
	if err := os.MkdirAll(string(d), 0o755); err != nil {
		return "", false, err
	}
	unlock, err := Lock(ctx, filepath.Join(string(d), kind+".lock"))
	if err != nil {
		return "", false, err
	}
	defer unlock()
	if exists(path) { // another process made it while this one waited
		return path, false, nil
	}
	// Leftovers of a build that was killed: the lock says that nobody works there.
	old, _ := filepath.Glob(filepath.Join(string(d), "."+kind+"-*.tmp"))
	for _, o := range old {
		os.RemoveAll(o)
	}
	tmp := filepath.Join(string(d), "."+kind+"-"+key+".tmp")
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return "", false, err
	}
	defer os.RemoveAll(tmp)
	if err := build(ctx, tmp); err != nil {
		return "", false, err
	}
	if err := os.Rename(tmp, path); err != nil {
		return "", false, err
	}
	return path, true, nil
}

// Remove deletes an entry, for one that turned out not to fit the machine any more.
func (d Dir) Remove(kind, key string) error { return os.RemoveAll(d.Path(kind, key)) }

// A Key collects everything that an entry depends on.
type Key struct{ parts []string }

// Add puts values into the key.
func (k *Key) Add(values ...string) *Key {
	k.parts = append(k.parts, values...)
	return k
}

// AddFile puts the content of a file into the key.
func (k *Key) AddFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	k.Add(filepath.Base(path), hex.EncodeToString(h.Sum(nil)))
	return nil
}

// String is the key as it stands in file names.
func (k *Key) String() string {
	sum := sha256.Sum256([]byte(strings.Join(k.parts, "\x00")))
	return hex.EncodeToString(sum[:])[:16]
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
