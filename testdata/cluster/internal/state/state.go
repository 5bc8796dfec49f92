// Package state records the clusters of this machine: which exist, which index
// (and so which addresses) each one has, and what must be undone for it.
//
// A record is written before the first change to the machine and says by name
// everything that may come to exist: cgroup, link, folder. So whatever moment the
// starter dies at, the record is enough to find and remove what is there. The
// package changes nothing but the files of its own folder.
package state

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/kubedelve/kubedelve/testdata/cluster/internal/cache"
)

// MaxClusters is how many clusters fit side by side: each has a /16 of its own.
const MaxClusters = 40

// Phases of a cluster.
const (
	Creating = "creating" // up has begun and not ended
	Running  = "running"  // up has ended well
	Removing = "removing" // down has begun and not ended
)

// A Process is a process that cannot be taken for a later one with the same PID.
type Process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // start time in clock ticks since boot
}

// A Record is what is known of one cluster.
type Record struct {
	Name    string    `json:"name"`
	Index   int       `json:"index"`
	Flavour string    `json:"flavour"`
	Phase   string    `json:"phase"`
	Created time.Time `json:"created"`
	Starter Process   `json:"starter"` // the process that runs, or ran, up
	Init    Process   `json:"init"`    // the node's PID 1, as seen from the host

	// What is the cluster's own on the host. The names are never used twice, so that
	// two stores (of two users, or of a container) do not take each other's clusters
	// of one name for their own.
	Cgroup string `json:"cgroup"`
	Link   string `json:"link"`
}

// A Store is the folder that holds one folder per cluster.
type Store struct{ Dir string }

// Path is the folder of a cluster.
func (s Store) Path(name string) string { return filepath.Join(s.Dir, name) }

var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?$`)

// CheckName says whether a name can be a cluster's: it becomes part of host names,
// cgroup names and paths.
func CheckName(name string) error {
	if !nameForm.MatchString(name) {
		return fmt.Errorf("the cluster name %q is not usable: lower-case letters, digits and dashes, at most 30, no dash at the ends", name)
	}
	return nil
}

// ErrNotExist says that there is no cluster of that name.
var ErrNotExist = errors.New("no such cluster")

// Lock takes the lock of one cluster name; who changes a cluster holds it.
func (s Store) Lock(ctx context.Context, name string) (unlock func(), err error) {
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return nil, err
	}
	path := filepath.Join(s.Dir, "."+name+".lock")
	release, err := cache.Lock(ctx, path)
	if err != nil {
		return nil, err
	}
	return func() {
		// Only a cluster that is there keeps its lock file.
		if _, err := os.Stat(s.Path(name)); errors.Is(err, fs.ErrNotExist) {
			os.Remove(path)
		}
		release()
	}, nil
}

// Load reads the record of a cluster. A folder without one is reported as a record
// in phase Creating with index -1: up died before it did anything else, so there is
// nothing but the folder.
func (s Store) Load(name string) (Record, error) {
	if _, err := os.Stat(s.Path(name)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return Record{}, fmt.Errorf("%s: %w", name, ErrNotExist)
		}
		return Record{}, err
	}
	rec := Record{Name: name, Index: -1, Phase: Creating}
	data, err := os.ReadFile(filepath.Join(s.Path(name), "state.json"))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return rec, nil
		}
		return rec, err
	}
	if err := json.Unmarshal(data, &rec); err != nil {
		return rec, fmt.Errorf("reading the state of cluster %s: %w", name, err)
	}
	return rec, nil
}

// Save writes a record so that it is either the old one or the new one.
func (s Store) Save(rec Record) error {
	data, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(s.Path(rec.Name), "state.json")
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// Names lists the clusters that have a folder, sorted.
func (s Store) Names() ([]string, error) {
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && CheckName(e.Name()) == nil {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Create makes the folder and the record of a new cluster with the lowest index
// that no other record has and that usable accepts.
func (s Store) Create(ctx context.Context, rec Record, usable func(index int) bool) (Record, error) {
	unlock, err := cache.Lock(ctx, filepath.Join(s.Dir, ".index.lock"))
	if err != nil {
		return rec, err
	}
	defer unlock()
	names, err := s.Names()
	if err != nil {
		return rec, err
	}
	var taken []int
	for _, n := range names {
		other, err := s.Load(n)
		if err != nil {
			return rec, err
		}
		taken = append(taken, other.Index)
	}
	rec.Index, err = freeIndex(taken, usable)
	if err != nil {
		return rec, err
	}
	id := make([]byte, 4)
	rand.Read(id) // never fails
	rec.Cgroup = "kubedelve-" + rec.Name + "-" + hex.EncodeToString(id)
	rec.Link = "kd-" + hex.EncodeToString(id)
	if err := os.Mkdir(s.Path(rec.Name), 0o700); err != nil {
		return rec, err
	}
	return rec, s.Save(rec)
}

func freeIndex(taken []int, usable func(int) bool) (int, error) {
	for i := range MaxClusters {
		if !slices.Contains(taken, i) && usable(i) {
			return i, nil
		}
	}
	return 0, fmt.Errorf("no address range is free for one more cluster (%d exist; see the command status)", len(taken))
}
