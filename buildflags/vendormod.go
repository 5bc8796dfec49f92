package buildflags

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// vendorMod is the name that projects give their go.mod that must not have one: the docker
// command line, whose versions are none in Go's sense. Their own builds make a go.mod for
// the moment. Here the go command is shown the file under that name (-overlay), and the
// sources stay as they are.
const vendorMod = "vendor.mod"

// useVendorMod lets the go command take a vendor.mod for the go.mod that is missing, and
// remembers it. env is as it was read without it.
func (g *goCommand) useVendorMod(env *goEnv) error {
	if env.GOMOD != "" && env.GOMOD != os.DevNull || env.GOWORK != "" && env.GOWORK != "off" || strings.Contains(env.GOFLAGS, "-overlay") {
		return nil
	}
	file := nearest(g.dir, vendorMod)
	if file == "" {
		return nil
	}
	dir := filepath.Dir(file)
	replace := map[string]string{filepath.Join(dir, "go.mod"): file}
	if sum := sumOf(file); exists(sum) {
		replace[filepath.Join(dir, "go.sum")] = sum
	}
	overlay, err := writeOverlay(replace)
	if err != nil {
		return fmt.Errorf("building with %s: %w", file, err)
	}
	flag, err := joinQuoted([]string{"-overlay=" + overlay})
	if err != nil {
		return err
	}
	env.GOFLAGS = strings.TrimSpace(env.GOFLAGS + " " + flag)
	g.setenv("GOFLAGS", env.GOFLAGS)
	g.vendorMod = file
	return nil
}

// sumOf is the file of hashes that belongs to one that names modules.
func sumOf(mod string) string { return strings.TrimSuffix(mod, ".mod") + ".sum" }

// writeOverlay writes a file for -overlay, whose name depends on what is in it.
func writeOverlay(replace map[string]string) (string, error) {
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	root, err := cacheDir()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	path := filepath.Join(filepath.Dir(root), "overlay", hex.EncodeToString(sum[:10])+".json")
	if there, err := os.ReadFile(path); err == nil && string(there) == string(text) {
		return path, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "tmp-*")
	if err != nil {
		return "", err
	}
	_, err = f.Write(text)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return path, err
}
