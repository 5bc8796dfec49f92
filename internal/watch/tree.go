package watch

import (
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"
)

// tree is what is known of the files and folders that are watched.
type tree struct {
	set     Set
	files   map[string]bool    // of the set
	folders map[string]*folder // of the set, of its files, and those found below them
	before  map[string]*folder // those of the set before, while it is being replaced
	// watched are the folders that the kernel was asked about, by their real paths,
	// which are also those in its events.
	watched map[string]bool
	byReal  map[string][]string // the folders with that real path
	links   map[string][]string // the files that are links to the file with that real path, in another folder
	watch   func(real string) error
}

// folder is one that is looked at.
type folder struct {
	real  string              // without symbolic links; "": it is not there
	info  fs.FileInfo         // of real
	files map[string]*content // by name: those that are watched
	asked bool                // it is in the set, or a file of the set is in it
}

// content is what a file had in it. The zero value is that of a file that is not there.
type content struct {
	there bool
	size  int64
	time  time.Time
	sum   [sha256.Size]byte
	read  time.Time // when it was
	real  string    // what it is a link to, if that is in another folder
}

// reset replaces the set. It returns the files that were watched before and have
// changed since; of one that was not, what is in it now is the first that is known.
func (t *tree) reset(s Set) (changed []string) {
	if s.Match == nil {
		s.Match = func(string, bool) bool { return false }
	}
	if t.watched == nil {
		t.watched = map[string]bool{}
	}
	before := t.folders
	t.before = before
	t.set, t.files, t.folders = s, map[string]bool{}, map[string]*folder{}
	t.byReal, t.links = map[string][]string{}, map[string][]string{}
	for _, dir := range s.Dirs {
		t.add(filepath.Clean(dir)).asked = true
	}
	for _, path := range s.Files {
		path = filepath.Clean(path)
		t.files[path] = true
		t.add(filepath.Dir(path)).asked = true
	}
	for _, path := range t.scanAll(false) {
		if old := before[filepath.Dir(path)]; old != nil && old.files[filepath.Base(path)] != nil {
			changed = append(changed, path)
		}
	}
	t.before = nil
	return changed
}

// add returns the folder of that path, which is a new one, that of before, or there
// already.
func (t *tree) add(dir string) *folder {
	if f := t.folders[dir]; f != nil {
		return f
	}
	f := &folder{files: map[string]*content{}}
	if old := t.before[dir]; old != nil {
		f.real, f.info = old.real, old.info
		maps.Copy(f.files, old.files)
	}
	t.folders[dir] = f
	return f
}

// equal reports whether two files have the same in them.
func (c *content) equal(other *content) bool { return c.there == other.there && c.sum == other.sum }

// scan looks at a folder, and at those below it that belong to the set. It returns the
// files in it that have changed; with force also files with their old time and size
// are read.
func (t *tree) scan(dir string, force bool) (changed []string) {
	f := t.folders[dir]
	if f == nil {
		return nil
	}
	var entries []os.DirEntry
	real, err := t.enter(dir, f)
	if err == nil {
		entries, err = os.ReadDir(real)
	}
	if err != nil && !f.asked { // one that was found
		delete(t.folders, dir)
	}
	seen := map[string]bool{}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch {
		case e.IsDir():
			if t.folders[path] == nil && t.set.Match(path, true) {
				t.add(path)
				changed = append(changed, t.scan(path, force)...)
			}
		case t.files[path] || f.files[e.Name()] != nil || t.set.Match(path, false):
			seen[e.Name()] = true
			if t.refreshIn(dir, f, e.Name(), force) {
				changed = append(changed, path)
			}
		}
	}
	for name := range f.files {
		if path := filepath.Join(dir, name); t.before != nil && !t.files[path] && !t.set.Match(path, false) && exists(path) {
			delete(f.files, name) // the set before had it
			continue
		}
		if !seen[name] && t.refreshIn(dir, f, name, force) {
			changed = append(changed, filepath.Join(dir, name))
		}
	}
	return changed
}

// enter finds out where a folder really is and sees to it that it is watched.
func (t *tree) enter(dir string, f *folder) (real string, err error) {
	real, err = filepath.EvalSymlinks(dir)
	var info fs.FileInfo
	if err == nil {
		info, err = os.Stat(real)
	}
	if err == nil && !info.IsDir() {
		err = errors.New("not a folder")
	}
	if err == nil {
		if f.info != nil && !os.SameFile(info, f.info) {
			delete(t.watched, real) // it was about another folder of that name
		}
		err = t.ask(real)
	}
	if err != nil {
		real, info = "", nil
	}
	if real != f.real {
		t.byReal[f.real] = without(t.byReal[f.real], dir)
	}
	if real != "" {
		t.byReal[real] = append(without(t.byReal[real], dir), dir)
	}
	f.real, f.info = real, info
	return real, err
}

func (t *tree) ask(real string) error {
	if t.watched[real] {
		return nil
	}
	err := t.watch(real)
	if err == nil {
		t.watched[real] = true
	}
	return err
}

func without(names []string, name string) []string {
	var kept []string
	for _, n := range names {
		if n != name {
			kept = append(kept, n)
		}
	}
	return kept
}

// refresh is refreshIn for a path.
func (t *tree) refresh(path string, force bool) bool {
	f := t.folders[filepath.Dir(path)]
	return f != nil && t.refreshIn(filepath.Dir(path), f, filepath.Base(path), force)
}

// refreshIn reads a file, and reports whether it has something else in it than
// before. One that is seen for the first time has if it is not the set that is new.
func (t *tree) refreshIn(dir string, f *folder, name string, force bool) bool {
	path := filepath.Join(dir, name)
	old := f.files[name]
	if old == nil {
		old = &content{}
	}
	now := t.content(path, f, old, force)
	f.files[name] = now
	if !now.there && !t.files[path] {
		delete(f.files, name)
	}
	return !now.equal(old)
}

// freshness is how old a file must be for its time to tell that it is the same: file
// systems round to a tick of the kernel's clock, and some to a second or two.
const freshness = 2 * time.Second

// content reads a file, or returns old if its time and size tell that it is the same.
func (t *tree) content(path string, f *folder, old *content, force bool) *content {
	st, err := os.Lstat(path)
	if err != nil {
		return &content{}
	}
	now := &content{there: true}
	if st.Mode()&fs.ModeSymlink != 0 {
		if real, err := filepath.EvalSymlinks(path); err == nil && filepath.Dir(real) != f.real {
			now.real = real
			t.links[real] = append(without(t.links[real], path), path)
			if t.ask(filepath.Dir(real)) != nil {
				now.real = ""
			}
		}
		st, err = os.Stat(path)
	}
	if err != nil || !st.Mode().IsRegular() {
		return &content{}
	}
	now.size, now.time, now.read = st.Size(), st.ModTime(), time.Now()
	if !force && old.there && now.size == old.size && now.time.Equal(old.time) && old.read.Sub(old.time) > freshness && now.real == old.real {
		return old
	}
	if now.sum, err = sum(path); err != nil {
		return &content{}
	}
	return now
}

func sum(path string) (s [sha256.Size]byte, err error) {
	file, err := os.Open(path)
	if err != nil {
		return s, err
	}
	defer func() { _ = file.Close() }()
	h := sha256.New()
	_, err = io.Copy(h, file)
	h.Sum(s[:0])
	return s, err
}

// scanAll is scan for all folders.
func (t *tree) scanAll(force bool) (changed []string) {
	dirs := make([]string, 0, len(t.folders))
	for dir := range t.folders {
		dirs = append(dirs, dir)
	}
	for _, dir := range dirs {
		changed = append(changed, t.scan(dir, force)...)
	}
	return changed
}

// concerned are the files and folders that an event with a name is about: a file that
// is watched is to be read, a folder in which something of interest appears or
// vanishes is to be scanned.
func (t *tree) concerned(real string) (files, dirs []string) {
	dirs = append(dirs, t.byReal[real]...) // the folder itself
	files = append(files, t.links[real]...)
	name := filepath.Base(real)
	for _, dir := range t.byReal[filepath.Dir(real)] {
		path := filepath.Join(dir, name)
		switch f := t.folders[dir]; {
		case f == nil:
		case t.folders[path] != nil:
			dirs = append(dirs, path) // it comes back
		case f.files[name] != nil:
			files = append(files, path)
		case t.files[path] || t.set.Match(path, false) || t.set.Match(path, true) && isDir(path):
			dirs = append(dirs, dir)
		}
	}
	return files, dirs
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

// missing reports whether a folder of the set is not there.
func (t *tree) missing() bool {
	for _, f := range t.folders {
		if f.real == "" {
			return true
		}
	}
	return false
}

// replaced are the folders that are another one now, or were not there and are; those
// that were there are looked at with every.
func (t *tree) replaced(every bool) (dirs []string) {
	for dir, f := range t.folders {
		if f.real != "" && !every {
			continue
		}
		st, err := os.Stat(dir)
		if (err == nil) != (f.real != "") || err == nil && !os.SameFile(st, f.info) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// unwatched forgets the folders that are not among those that are really watched, and
// returns them by the names that they have in the tree: a folder that goes and comes
// at the wrong moment is lost to fsnotify.
func (t *tree) unwatched(really []string) (dirs []string) {
	there := make(map[string]bool, len(really))
	for _, real := range really {
		there[real] = true
	}
	for real := range t.watched {
		if !there[real] {
			delete(t.watched, real)
			dirs = append(dirs, t.byReal[real]...)
		}
	}
	return dirs
}

// anyBlank reports whether one of the files is gone or empty.
func (t *tree) anyBlank(paths map[string]bool) bool {
	for path := range paths {
		f := t.folders[filepath.Dir(path)]
		if f == nil || f.files[filepath.Base(path)] == nil {
			return true
		}
		if c := f.files[filepath.Base(path)]; !c.there || c.size == 0 {
			return true
		}
	}
	return false
}

// unneeded forgets the folders that are watched and of no interest any more, and
// returns their real paths.
func (t *tree) unneeded() (reals []string) {
	needed := map[string]bool{}
	for _, f := range t.folders {
		needed[f.real] = true
		for _, c := range f.files {
			if c.real != "" {
				needed[filepath.Dir(c.real)] = true
			}
		}
	}
	for real := range t.watched {
		if !needed[real] {
			delete(t.watched, real)
			reals = append(reals, real)
		}
	}
	return reals
}
