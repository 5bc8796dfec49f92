package nodeservice

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// Folders of sessions are below one of these: the first that is there or can be made,
// and from which programs can be run. (/run may be mounted noexec, / read-only.)
var bases = []string{"/var/lib/kubedelve", "/run/kubedelve", "/opt/kubedelve", "/home/kubernetes/kubedelve"}

var sessionPattern = regexp.MustCompile(`^[0-9a-z]{1,32}$`)

// sessionDir finds the folder of a session, or where to make one.
func sessionDir(session string) (string, error) {
	if !sessionPattern.MatchString(session) {
		return "", fmt.Errorf("%q is no name of a session", session)
	}
	for _, base := range bases {
		dir := filepath.Join(base, session)
		if _, err := os.Stat(dir); err == nil {
			return dir, nil
		}
	}
	var tried []error
	for _, base := range bases {
		err := os.Mkdir(base, 0o700)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			tried = append(tried, err)
			continue
		}
		var disk unix.Statfs_t
		if err := unix.Statfs(base, &disk); err != nil || disk.Flags&(unix.ST_NOEXEC|unix.ST_RDONLY) != 0 {
			tried = append(tried, fmt.Errorf("%s: no programs can be run from there", base))
			_ = os.Remove(base) // if it is empty
			continue
		}
		return filepath.Join(base, session), nil
	}
	return "", fmt.Errorf("no folder for the session: %w", errors.Join(tried...))
}

// sessionOf returns the session that a program belongs to, or "".
func sessionOf(program string) string {
	for _, base := range bases {
		if below, ok := strings.CutPrefix(program, base+"/"); ok {
			session, _, _ := strings.Cut(below, "/")
			return session
		}
	}
	return ""
}

// removeDir removes a session's folder, and the one above if it was the last. The
// folder is gone at once for whoever looks for it.
func removeDir(dir string) error {
	old := dir + ".old"
	err := os.Rename(dir, old)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	err = errors.Join(err, os.RemoveAll(old))
	_ = os.Remove(filepath.Dir(dir))
	if err != nil {
		return fmt.Errorf("removing the session's folder: %w", err)
	}
	return nil
}

// ConfigName is the agent's configuration in a session's folder.
const ConfigName = "agent.json"

const (
	journalName = "journal.json"
	lockName    = "lock" // held by a process's stand-in
	heldName    = "held" // there was an agent in the service's place
)

// journal says what is about to be changed on the node, or was.
type journal struct {
	Version int      `json:"version"`
	Session string   `json:"session"`
	Service *Service `json:"service"`
}

const journalVersion = 1

// writeJournal makes it last before it returns.
func writeJournal(dir string, j *journal) error {
	data, err := json.Marshal(j)
	if err != nil {
		return fmt.Errorf("the node's journal: %w", err)
	}
	if err := writeFile(filepath.Join(dir, journalName), data); err != nil {
		return fmt.Errorf("the node's journal: %w", err)
	}
	return nil
}

// readJournal returns nil if nothing is changed.
func readJournal(dir string) (*journal, error) {
	data, err := os.ReadFile(filepath.Join(dir, journalName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // nothing is changed
	}
	j := &journal{}
	if err == nil {
		err = json.Unmarshal(data, j)
	}
	if err == nil && (j.Version != journalVersion || j.Service == nil || j.Service.Process == nil) {
		err = fmt.Errorf("it is of another version of kubedelve (format %d, not %d)", j.Version, journalVersion)
	}
	if err != nil {
		return nil, fmt.Errorf("the node's journal in %s: %w", dir, err)
	}
	return j, nil
}

// writeFile writes a file that only root can read, whole or not at all.
func writeFile(path string, data []byte) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		_ = os.Remove(tmp)
	}
	return err
}
