package dapterminal

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/go-delve/liner"
)

// Keyboard is [Lines] on this process's terminal, with history and completion: the line
// editor of Delve's own terminal.
type Keyboard struct {
	*liner.State
	history string // a file
}

// maxHistory is what the line editor can read back: a longer line, and all after it, is lost.
const maxHistory = 4096

// OpenKeyboard takes the terminal. What was typed in earlier ones is in the file, if that
// is named.
func OpenKeyboard(history string) (*Keyboard, error) {
	k := &Keyboard{liner.NewLiner(), history}
	k.SetCtrlZStop(true)
	if history == "" {
		return k, nil
	}
	f, err := os.Open(history)
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if err == nil {
		_, _ = k.ReadHistory(f) // what can't be read is no reason to debug nothing
		err = f.Close()
	}
	if err != nil {
		return nil, errors.Join(err, k.State.Close())
	}
	return k, nil
}

// Prompt implements [Lines].
func (k *Keyboard) Prompt(prompt string) (string, error) {
	line, err := k.State.Prompt(prompt)
	if err == nil && line != "" && len(line) < maxHistory {
		k.AppendHistory(line)
	}
	return line, err
}

// SetCompleter implements [Lines].
func (k *Keyboard) SetCompleter(f func(string) []string) { k.State.SetCompleter(f) }

// Close puts the terminal's modes back, and keeps the history.
func (k *Keyboard) Close() error {
	err := k.State.Close()
	if k.history == "" {
		return err
	}
	if mkdir := os.MkdirAll(filepath.Dir(k.history), 0o700); mkdir != nil {
		return errors.Join(err, mkdir)
	}
	f, create := os.OpenFile(k.history, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if create != nil {
		return errors.Join(err, create)
	}
	_, write := k.WriteHistory(f)
	return errors.Join(err, write, f.Close())
}
