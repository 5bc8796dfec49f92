package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/kubedelve/kubedelve/internal/agentapi"
)

var sha256Pattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

// maxBinary bounds a binary, in bytes: above it something else is wrong.
const maxBinary = 4 << 30

// keepBinaries is how many binaries are kept besides the one that runs: every save
// in the editor brings one, and a container's disk is small.
const keepBinaries = 2

const maxName = 255 // NAME_MAX, limits.h(0p)

const incomingPrefix = "incoming-"

// path returns where a file is or will be stored, if its description is sound:
// its parts become parts of a path.
func (d layout) path(f agentapi.File) (string, error) {
	if !sha256Pattern.MatchString(f.SHA256) {
		return "", fmt.Errorf("%q is not a SHA-256", f.SHA256)
	}
	if f.Name == "" || f.Name == "." || f.Name == ".." || len(f.Name) > maxName || strings.ContainsAny(f.Name, "/\x00") {
		return "", fmt.Errorf("%q is not a file name", f.Name)
	}
	if f.Size <= 0 || f.Size > maxBinary {
		return "", fmt.Errorf("%d bytes is no size for a binary", f.Size)
	}
	return d.bin(f.SHA256, f.Name), nil
}

// store reads a compressed binary from r and gives it its name only when length
// and hash are right: a stream that was cut short leaves nothing behind.
func (d layout) store(f agentapi.File, r io.Reader) error {
	target, err := d.path(f)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(d.incoming(), incomingPrefix)
	if err != nil {
		return fmt.Errorf("storing %s: %w", f.Name, err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20))
	if err != nil {
		return errors.Join(fmt.Errorf("storing %s: %w", f.Name, err), tmp.Close())
	}
	defer z.Close()
	hash := sha256.New()
	// One byte more than promised tells a stream that is too long.
	n, err := io.Copy(io.MultiWriter(tmp, hash), io.LimitReader(z, f.Size+1))
	if err = errors.Join(err, tmp.Chmod(0o755), tmp.Close()); err != nil {
		return fmt.Errorf("storing %s after %d of %d bytes: %w", f.Name, n, f.Size, err)
	}
	if n > f.Size {
		return fmt.Errorf("storing %s: got more than its %d bytes", f.Name, f.Size)
	}
	if n < f.Size {
		return fmt.Errorf("storing %s: got %d bytes, not %d", f.Name, n, f.Size)
	}
	if got := hex.EncodeToString(hash.Sum(nil)); got != f.SHA256 {
		return fmt.Errorf("storing %s: its SHA-256 is %s, not %s", f.Name, got, f.SHA256)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
		return fmt.Errorf("storing %s: %w", f.Name, err)
	}
	if err := os.Rename(tmp.Name(), target); err != nil {
		return fmt.Errorf("storing %s: %w", f.Name, err)
	}
	return nil
}

// room tells before an upload whether there is space for it.
func (d layout) room(f agentapi.File) error {
	var disk unix.Statfs_t
	if unix.Statfs(d.incoming(), &disk) != nil || disk.Bsize <= 0 {
		return nil //nolint:nilerr // the write will tell
	}
	if free := disk.Bavail * uint64(disk.Bsize); free < uint64(f.Size) { //nolint:gosec // checked
		return fmt.Errorf("storing %s: it takes %d MB, and the folder %s has %d MB left: %w", f.Name, f.Size>>20, d, free>>20, unix.ENOSPC)
	}
	return nil
}

// prune removes binaries but for the newest ones and those in use, by SHA-256.
func (d layout) prune(inUse []string) {
	entries, _ := os.ReadDir(d.incoming())
	var old []fs.FileInfo
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && sha256Pattern.MatchString(e.Name()) && !slices.Contains(inUse, e.Name()) {
			old = append(old, info)
		}
	}
	slices.SortFunc(old, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	for i, info := range old {
		if i >= keepBinaries {
			_ = os.RemoveAll(filepath.Join(d.incoming(), info.Name()))
		}
	}
}

// touch makes a binary the newest.
func (d layout) touch(f agentapi.File) {
	now := time.Now()
	_ = os.Chtimes(filepath.Join(d.incoming(), f.SHA256), now, now)
}

// noExec tells whether programs in the folder can't be run.
func (d layout) noExec() bool {
	var disk unix.Statfs_t
	return unix.Statfs(d.incoming(), &disk) == nil && disk.Flags&unix.ST_NOEXEC != 0
}
