package editor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Save is a way in which editors write a file.
type Save func(path string, content []byte) error

// The ways that differ for who watches the file.
var (
	// InPlace is what VS Code does, for instance: the file is emptied and written.
	InPlace Save = func(path string, content []byte) error { return os.WriteFile(path, content, 0o644) } //nolint:gosec // a source file

	// ByRename is what JetBrains' editors do, for instance: another file is written
	// and takes the place of the first.
	ByRename Save = func(path string, content []byte) error {
		next, old := path+"___jb_tmp___", path+"___jb_old___"
		return errors.Join(os.WriteFile(next, content, 0o644), os.Rename(path, old), os.Rename(next, path), os.Remove(old)) //nolint:gosec // a source file
	}

	// WithBackup is what vim and Emacs do, for instance: the file becomes a backup,
	// and another one is written.
	WithBackup Save = func(path string, content []byte) error {
		dir, name := filepath.Split(path)
		probe, backup := filepath.Join(dir, "4913"), filepath.Join(dir, name+"~")
		return errors.Join(os.WriteFile(probe, nil, 0o600), os.Remove(probe), os.Rename(path, backup),
			os.WriteFile(path, content, 0o644), os.Remove(backup)) //nolint:gosec // a source file
	}
)

// Saves are all ways.
func Saves() []Save { return []Save{InPlace, ByRename, WithBackup} }

// Edit changes a file with change and saves it.
func Edit(path string, save Save, change func(text string) string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("editing: %w", err)
	}
	changed := change(string(text))
	if changed == string(text) {
		return fmt.Errorf("editing %s: nothing has changed", path)
	}
	if err := save(path, []byte(changed)); err != nil {
		return fmt.Errorf("saving %s: %w", path, err)
	}
	return nil
}
