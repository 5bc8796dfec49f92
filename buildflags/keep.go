package buildflags

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// A keeper has binaries under names that no other build replaces, for as long as
// somebody uses them: in a directory of its own beside the slots, as hard links
// where the file system can. The directory is locked while the keeper is open, and
// removed by the next build of anybody if its process was killed.
type keeper struct {
	mu   sync.Mutex // guards all below
	dir  string     // "" before the first binary
	lock *os.File
}

const keeperPrefix = "keep-"

func isKeeper(dir string) bool { return strings.HasPrefix(filepath.Base(dir), keeperPrefix) }

// add keeps the binary file, whose hash is sum, and returns its path. The same one is
// kept once.
func (k *keeper) add(file, sum string) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	err := k.open()
	path := filepath.Join(k.dir, sum[:16], filepath.Base(file))
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil && !exists(path) {
		err = placeFile(file, path, true)
	}
	if err != nil {
		return "", fmt.Errorf("keeping what was built: %w", err)
	}
	return path, nil
}

func (k *keeper) open() error {
	if k.dir != "" {
		return nil
	}
	root, err := cacheDir()
	if err != nil {
		return err
	}
	for {
		dir, err := os.MkdirTemp(root, keeperPrefix)
		if err != nil {
			return err
		}
		lock, err := tryLock(filepath.Join(dir, "lock"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if lock != nil {
			k.dir, k.lock = dir, lock
			return nil
		}
		// Another process has just taken it for a leftover.
	}
}

// drop removes a binary that add has kept.
func (k *keeper) drop(path string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if dir := filepath.Dir(path); k.dir != "" && filepath.Dir(dir) == k.dir {
		return os.RemoveAll(dir)
	}
	return nil
}

func (k *keeper) close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.dir == "" {
		return nil
	}
	err := errors.Join(os.RemoveAll(k.dir), k.lock.Close())
	k.dir, k.lock = "", nil
	return err
}
