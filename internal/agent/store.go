package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"

	"github.com/klauspost/compress/zstd"

	"github.com/kubedelve/kubedelve/internal/agentapi"
)

var sha256Pattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

// maxBinary bounds a binary, in bytes: above it something else is wrong.
const maxBinary = 4 << 30

// path returns where a file is or will be stored, if its description is sound:
// its parts become parts of a path.
func (d layout) path(f agentapi.File) (string, error) {
	if !sha256Pattern.MatchString(f.SHA256) {
		return "", fmt.Errorf("%q is not a SHA-256", f.SHA256)
	}
	if f.Name == "" || f.Name == "." || f.Name == ".." || f.Name != filepath.Base(f.Name) {
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
	tmp, err := os.CreateTemp(d.incoming(), "incoming-")
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
	if n != f.Size {
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
