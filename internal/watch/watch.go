package watch

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Set says what to watch. All paths are absolute.
type Set struct {
	// Files need not exist.
	Files []string
	// Dirs are folders in which more files may appear. They need not exist.
	Dirs []string
	// Match tells whether something in Dirs that is not in Files is to be watched: a
	// file, or a folder (dir) with such files in it. It is called often, and may look
	// at the file.
	Match func(path string, dir bool) bool
}

// Options say how to watch. The zero value is usable.
type Options struct {
	// Changed is told which files have other contents than before, are new or are
	// gone, sorted, and when the last of them was noticed. It is called from one
	// goroutine, which notices no more until it returns; it must not call Close.
	Changed func(paths []string, at time.Time)
	// Warn is told, in a sentence, why changes are noticed late.
	Warn func(text string)
	// Quiet is how long nothing must happen before files are looked at.
	// Default: 30 ms.
	Quiet time.Duration
	// Poll makes it look at the files every so often instead of asking the kernel.
	// Default: 0, don't, but 500 ms where the kernel can't tell.
	Poll time.Duration
}

const (
	defaultQuiet = 30 * time.Millisecond
	defaultPoll  = 500 * time.Millisecond
	// longest bounds how long a burst may go on before it is looked at.
	longest = 500 * time.Millisecond
	// reappearance bounds how long a file that is gone or empty is waited for: it
	// is most often about to be written.
	reappearance = 250 * time.Millisecond
	// missingEvery and foldersEvery are how often folders that are not there, and
	// all others, are looked for.
	missingEvery, foldersEvery = 250 * time.Millisecond, 2 * time.Second
)

// Watcher watches one Set at a time. Its methods may be called from any goroutine.
type Watcher struct {
	options Options
	kick    chan struct{} // holds one if changes were found that run doesn't know of
	stop    chan struct{}
	done    sync.WaitGroup
	closing sync.Once

	mu     sync.Mutex        // guards all below
	notify *fsnotify.Watcher // nil: polling
	tree   tree
	// What is to be looked at:
	files   map[string]bool // files
	dirs    map[string]bool // folders
	all     bool
	changed map[string]bool // found, but not told yet
}

// New returns a Watcher that watches nothing yet.
func New(o Options) *Watcher {
	if o.Quiet <= 0 {
		o.Quiet = defaultQuiet
	}
	if o.Changed == nil {
		o.Changed = func([]string, time.Time) {}
	}
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	w := &Watcher{
		options: o, kick: make(chan struct{}, 1), stop: make(chan struct{}),
		files: map[string]bool{}, dirs: map[string]bool{}, changed: map[string]bool{},
	}
	w.tree.watch = w.watchFolder
	if o.Poll <= 0 {
		notify, err := fsnotify.NewWatcher()
		if err != nil {
			w.poll(err)
		}
		w.notify = notify
	}
	w.done.Go(w.run) // ends with Close
	return w
}

// Watch replaces what is watched. When it returns, the contents of all files are
// known: every later change is told. Of a file that was watched before, so is a change
// that was not told yet.
func (w *Watcher) Watch(s Set) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.note(w.tree.reset(s))
	w.dropFolders()
}

// Check compares all files now, and reports whether one has changed that was not told
// yet: it is being saved. It is told when the saving is over.
func (w *Watcher) Check() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.note(w.tree.scanAll(false))
	return len(w.changed) > 0
}

// note makes run tell of files. The caller holds mu.
func (w *Watcher) note(paths []string) {
	for _, path := range paths {
		w.changed[path] = true
	}
	if len(w.changed) > 0 {
		select {
		case w.kick <- struct{}{}:
		default: // it will look anyway
		}
	}
}

// Close ends it. Nothing is told when it has returned. It is idempotent.
func (w *Watcher) Close() {
	w.closing.Do(func() { close(w.stop) })
	w.done.Wait()
}

// run is the Watcher's goroutine.
func (w *Watcher) run() {
	defer w.endNotify()
	b := burst{quiet: w.options.Quiet, timer: time.NewTimer(time.Hour)}
	b.timer.Stop()
	defer b.timer.Stop()
	look := time.NewTimer(missingEvery)
	defer look.Stop()
	folders := time.Now()
	for {
		events, errs := w.channels()
		select {
		case e, ok := <-events:
			if ok && w.hint(e) {
				b.extend()
			}
		case err, ok := <-errs:
			if ok && errors.Is(err, fsnotify.ErrEventOverflow) {
				w.mu.Lock()
				w.all = true
				w.mu.Unlock()
				b.extend()
			}
		case <-w.kick:
			b.extend()
		case <-look.C:
			every := time.Since(folders) >= foldersEvery-missingEvery/2
			if every {
				folders = time.Now()
			}
			if w.look(every) {
				b.extend()
			}
			look.Reset(w.interval())
		case <-b.timer.C:
			w.settle(&b)
		case <-w.stop:
			return
		}
	}
}

// burst is a number of changes that come one upon the other.
type burst struct {
	quiet time.Duration
	timer *time.Timer // fires when it seems to be over
	began time.Time   // zero: there is none
	last  time.Time   // what made it longer last
}

// extend begins a burst, or waits longer for its end.
func (b *burst) extend() {
	b.last = time.Now()
	if b.began.IsZero() {
		b.began = b.last
	}
	b.timer.Reset(max(0, min(b.quiet, longest-b.last.Sub(b.began))))
}

// channels are nil while nothing comes.
func (w *Watcher) channels() (<-chan fsnotify.Event, <-chan error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.notify == nil {
		return nil, nil
	}
	return w.notify.Events, w.notify.Errors
}

func (w *Watcher) interval() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.notify != nil && !w.tree.missing():
		return foldersEvery
	case w.notify != nil:
		return missingEvery
	case w.options.Poll > 0:
		return w.options.Poll
	}
	return defaultPoll
}

// hint notes what an event is about, and reports whether it is of interest.
func (w *Watcher) hint(e fsnotify.Event) bool {
	if e.Op == fsnotify.Chmod {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename) {
		delete(w.tree.watched, e.Name) // a folder that is no more is not watched
	}
	files, dirs := w.tree.concerned(e.Name)
	for _, path := range files {
		w.files[path] = true
	}
	for _, path := range dirs {
		w.dirs[path] = true
	}
	return len(files)+len(dirs) > 0
}

// look finds out what no event tells: all if there are none, else whether folders
// are still the same; with every, also of those that are there.
func (w *Watcher) look(every bool) (found bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.notify == nil {
		for _, path := range w.tree.scanAll(false) {
			w.changed[path] = true
		}
		return len(w.changed) > 0
	}
	dirs := w.tree.replaced(every)
	if every {
		dirs = append(dirs, w.tree.unwatched(w.notify.WatchList())...)
	}
	for _, dir := range dirs {
		w.dirs[dir] = true
	}
	return len(dirs) > 0
}

// settle looks at what the burst was about and tells what has changed, unless it
// seems to go on.
func (w *Watcher) settle(b *burst) {
	w.mu.Lock()
	files, dirs, all := w.files, w.dirs, w.all
	w.files, w.dirs, w.all = map[string]bool{}, map[string]bool{}, false
	if all {
		for _, path := range w.tree.scanAll(true) {
			w.changed[path] = true
		}
	}
	for dir := range dirs {
		for _, path := range w.tree.scan(dir, false) {
			w.changed[path] = true
		}
	}
	for path := range files {
		if w.tree.refresh(path, true) {
			w.changed[path] = true
		}
	}
	w.dropFolders()
	// A file that is gone or empty is about to be written.
	if w.tree.anyBlank(w.changed) && time.Since(b.began) < reappearance {
		for path := range w.changed {
			w.files[path] = true
		}
		w.mu.Unlock()
		b.timer.Reset(b.quiet)
		return
	}
	changed := slices.Sorted(maps.Keys(w.changed))
	w.changed = map[string]bool{}
	w.mu.Unlock()
	b.began = time.Time{}
	if len(changed) > 0 {
		w.options.Changed(changed, b.last)
	}
}

// watchFolder asks the kernel for the events of a folder. The caller holds mu.
func (w *Watcher) watchFolder(real string) error {
	if w.notify == nil {
		return nil
	}
	err := w.notify.Add(real)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		w.poll(err)
		return nil
	}
	return err
}

// dropFolders lets go of folders that are of no interest any more. The caller holds mu.
func (w *Watcher) dropFolders() {
	for _, real := range w.tree.unneeded() {
		if w.notify != nil {
			_ = w.notify.Remove(real) // it may be gone already
		}
	}
}

// poll gives up on events. The caller holds mu, but for New.
func (w *Watcher) poll(err error) {
	w.options.Warn(limitText(err, len(w.tree.watched), w.options.interval()))
	if w.notify != nil {
		notify := w.notify
		w.notify = nil
		// Its goroutine may wait for us to take an event: for Close it does not.
		_ = notify.Close()
	}
}

func (o *Options) interval() time.Duration {
	if o.Poll > 0 {
		return o.Poll
	}
	return defaultPoll
}

func (w *Watcher) endNotify() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.notify != nil {
		_ = w.notify.Close()
		w.notify = nil
	}
}

// limitText tells which of the kernel's limits was met, and how to raise it.
// (inotify(7): ENOSPC is about watches, EMFILE about instances or descriptors.)
func limitText(err error, watched int, every time.Duration) string {
	limit, wanted := "max_user_watches", 524288
	if errors.Is(err, syscall.EMFILE) {
		limit, wanted = "max_user_instances", 1024
	}
	text := "files can't be watched"
	if watched > 0 {
		text = fmt.Sprintf("only %d folders can be watched", watched)
	}
	text += fmt.Sprintf(" (%v)", err)
	if now, readErr := os.ReadFile(filepath.Join("/proc/sys/fs/inotify", limit)); readErr == nil {
		text += fmt.Sprintf(": fs.inotify.%s is %s, raise it with: sudo sysctl fs.inotify.%s=%d", limit, strings.TrimSpace(string(now)), limit, wanted)
	}
	return text + fmt.Sprintf("; until then changes are looked for every %v", every)
}
