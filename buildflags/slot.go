package buildflags

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// unusedFor is after how long a configuration's binary is removed from the cache.
const unusedFor = 14 * 24 * time.Hour

// A slot is the place in the user's cache directory for the binaries of one
// configuration. It is locked while open. In it are
//
//	lock          locked by the owner; its time is that of the last use
//	work/NAME     what go build wrote: left there, since go build does nothing if it is up to date
//	NAME          what was published, a hard link to the former if all is well
//	NAME.sha256   its hash
//	tmp-*/        $GOTMPDIR of a running build, or of one that was killed
type slot struct {
	dir, name string
	work      string
	lock      *os.File
}

// cacheDir is the directory of all slots and keepers.
func cacheDir() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding a place for the binary: %w", err)
	}
	return filepath.Join(cache, "kubedelve", "build"), nil
}

// openSlot waits until nobody else builds the same configuration.
func openSlot(ctx context.Context, p *buildPlan, g *goCommand, progress func(string)) (*slot, error) {
	root, err := cacheDir()
	if err != nil {
		return nil, err
	}
	key, err := json.Marshal([]any{p.env.GOVERSION, p.target, g.dir, p.args, p.patterns, p.cfg.Env,
		g.getenv("CGO_ENABLED"), g.getenv("GOFLAGS")})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(key)
	s := &slot{dir: filepath.Join(root, hex.EncodeToString(sum[:10])), name: p.name}
	s.work = filepath.Join(s.dir, "work", s.name)
	for waiting := false; ; waiting = true {
		// Each time, since a process that prunes may just have removed it.
		if err := os.MkdirAll(filepath.Dir(s.work), 0o700); err != nil {
			return nil, fmt.Errorf("making a place for the binary: %w", err)
		}
		name := filepath.Join(s.dir, "lock")
		if s.lock, err = tryLock(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("locking the place for the binary: %w", err)
		}
		if s.lock != nil {
			mine, err1 := s.lock.Stat()
			there, err2 := os.Stat(name)
			if err1 == nil && err2 == nil && os.SameFile(mine, there) {
				break
			}
			_ = s.lock.Close()
			continue
		}
		if !waiting {
			progress("waiting for another build of the same program")
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
	_, _ = s.lock.WriteAt([]byte("\n"), 0) // sets its time; that is only for prune
	prune(root, s.dir, time.Now())
	leftover, _ := filepath.Glob(filepath.Join(s.dir, "tmp-*"))
	for _, dir := range leftover {
		_ = os.RemoveAll(dir)
	}
	return s, nil
}

func (s *slot) close() { _ = s.lock.Close() }

// prune removes slots that were not used for long, and keepers whose process is
// gone, as far as that is possible: failing to is no reason not to build.
func prune(root, except string, now time.Time) {
	locks, _ := filepath.Glob(filepath.Join(root, "*", "lock"))
	for _, name := range locks {
		st, err := os.Stat(name)
		dir := filepath.Dir(name)
		if err != nil || dir == except || now.Sub(st.ModTime()) < unusedFor && !isKeeper(dir) {
			continue
		}
		if lock, err := tryLock(name); err == nil && lock != nil {
			_ = os.RemoveAll(dir)
			_ = lock.Close()
		}
	}
}

// tempDir makes a directory for the go command's own files, in base or else in
// the slot: the go command can't remove them when it is killed.
func (s *slot) tempDir(base string) (string, error) {
	if base == "" {
		base = s.dir
	}
	dir, err := os.MkdirTemp(base, "tmp-")
	if err != nil {
		return "", fmt.Errorf("making a temporary directory for the build: %w", err)
	}
	return dir, nil
}

// publish puts what was built in its final place, in the slot and then at output if that is not empty, by renaming.
func (s *slot) publish(output string) (*Binary, error) {
	b := &Binary{Path: filepath.Join(s.dir, s.name)}
	var err error
	if b.SHA256, b.Size, err = hashFile(s.work); err != nil {
		return nil, fmt.Errorf("reading what was built: %w", err)
	}
	hashName := b.Path + ".sha256"
	last, err := os.ReadFile(hashName)
	st, statErr := os.Stat(b.Path)
	b.Cached = err == nil && strings.TrimSpace(string(last)) == b.SHA256 && statErr == nil && st.Size() == b.Size
	if !b.Cached {
		if err := placeFile(s.work, b.Path, true); err != nil {
			return nil, fmt.Errorf("publishing what was built: %w", err)
		}
		if err := os.WriteFile(hashName, []byte(b.SHA256+"\n"), 0o600); err != nil {
			return nil, fmt.Errorf("noting the hash of what was built: %w", err)
		}
	}
	if output == "" {
		return b, nil
	}
	b.Path = output
	if st, err := os.Stat(output); err == nil && st.IsDir() {
		b.Path = filepath.Join(output, s.name)
	}
	if err := placeFile(s.work, b.Path, false); err != nil {
		return nil, &ConfigError{Attr: "output", Message: fmt.Sprintf("%s can't be written: %v", output, err), Err: err}
	}
	return b, nil
}

// placeFile makes to the same as from, in one step for whoever looks. With link,
// they may then be one file: only for places where nobody else writes.
func placeFile(from, to string, link bool) error {
	tmp := fmt.Sprintf("%s.%d.tmp", to, os.Getpid())
	_ = os.Remove(tmp)
	if !link || os.Link(from, tmp) != nil {
		if err := copyFile(from, tmp); err != nil {
			_ = os.Remove(tmp)
			return err
		}
	}
	if err := os.Rename(tmp, to); err != nil {
		_ = os.Remove(tmp)
		return err
	}
	// Renaming a file to another name of the same file does nothing.
	_ = os.Remove(tmp)
	return nil
}

func copyFile(from, to string) error {
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	w, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755) //nolint:gosec // a program
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	if err2 := w.Close(); err == nil {
		err = err2
	}
	return err
}

func hashFile(name string) (sum string, size int64, err error) {
	f, err := os.Open(name)
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	size, err = io.CopyBuffer(h, f, make([]byte, 1<<20))
	return hex.EncodeToString(h.Sum(nil)), size, err
}
