package reload

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/kubedelve/kubedelve/buildflags"
	"github.com/kubedelve/kubedelve/internal/watch"
)

// Mode says when a program is built again.
type Mode string

// The modes.
const (
	OnSave    Mode = "onSave"    // when a file is saved, and on Restart
	OnRestart Mode = "onRestart" // on Restart
	Off       Mode = "off"       // never: Restart starts the same binary
)

// Modes are all modes, the default first.
func Modes() []string { return []string{string(OnSave), string(OnRestart), string(Off)} }

// Spec says what runs and how.
type Spec struct {
	Build buildflags.Config
	Args  []string // as kubelaunch's options have them
	Env   []string
	Dir   string
}

// Kind tells events apart for programs.
type Kind string

// The kinds of events.
const (
	// Rebuilding: an activity begins.
	Rebuilding Kind = "rebuilding"
	// Stage: it goes on.
	Stage Kind = "stage"
	// BuildError is a message of the compiler, with At if it is about a place.
	BuildError Kind = "build-error"
	// Failed: an activity is over, and the old program goes on.
	Failed Kind = "failed"
	// Unchanged: the same, since the new binary is the old one.
	Unchanged Kind = "unchanged"
	// Swapped: the new program is there. Took is set.
	Swapped Kind = "swapped"
	// Note: something else to know.
	Note Kind = "note"
)

// Event is something that the user is to know.
type Event struct {
	Kind Kind
	// Activity numbers what goes on for a while: the same in all its events, from
	// Rebuilding to the one with Over. 0: the event is of none.
	Activity int
	Title    string // of the activity
	Stage    string // what is being done now
	Over     bool
	Cancel   func() // if set, takes the activity back; it may be called at any time

	Text      string // a line, without a newline; it may be empty
	Important bool
	At        *buildflags.Diagnostic
	Took      time.Duration // Swapped: since the last save, or since Restart
}

// Config is what a Reloader needs.
type Config struct {
	Spec Spec
	Mode Mode
	// Tell is told what happens, by one goroutine at a time, and must not block for
	// long.
	Tell func(Event)
	// Log may be nil.
	Log *slog.Logger
}

// Swap puts a binary in the place of the running one, and returns when it is there. It
// calls stage with what is being done, which begins with a verb: "uploading x". An
// error means that the old one goes on.
type Swap func(ctx context.Context, binary *buildflags.Binary, spec Spec, stage func(string)) error

// Reloader keeps one program up to date. Its methods may be called from any goroutine.
type Reloader struct {
	cfg     Config
	watcher *watch.Watcher // nil unless saves count

	requests chan *request
	abandons chan *request
	cancels  chan int // activities
	wake     chan struct{}
	over     chan struct{} // closed when Run has returned
	telling  sync.Mutex    // held while cfg.Tell runs

	choosing sync.Mutex // held while what is watched is chosen; guards these two:
	inputs   map[*buildflags.Builder]*buildflags.Inputs
	watching *buildflags.Inputs

	mu       sync.Mutex // guards all below
	saved    map[string]bool
	savedAt  time.Time
	builders []*buildflags.Builder // the first is that of First
	first    *buildflags.Binary
}

// New returns a Reloader that does nothing yet. Close it.
func New(cfg Config) *Reloader {
	if cfg.Tell == nil {
		cfg.Tell = func(Event) {}
	}
	r := &Reloader{
		cfg: cfg, requests: make(chan *request), abandons: make(chan *request), cancels: make(chan int),
		wake: make(chan struct{}, 1), over: make(chan struct{}),
		inputs: map[*buildflags.Builder]*buildflags.Inputs{}, saved: map[string]bool{},
	}
	r.newBuilder(cfg.Spec.Build)
	if cfg.Mode == OnSave {
		r.watcher = watch.New(watch.Options{
			Changed: r.noteSaved,
			Warn:    func(text string) { r.tell(Event{Kind: Note, Text: text, Important: true}) },
		})
	}
	return r
}

// First builds the program for the first time; its errors are those of
// [buildflags.Builder.Build]. From here on saves are noticed. It must have succeeded
// before Run is called.
func (r *Reloader) First(ctx context.Context, progress func(line string)) (*buildflags.Binary, error) {
	b := r.builders[0]
	binary, err := b.Build(ctx, progress, func(in *buildflags.Inputs) { r.watch(ctx, b, in) })
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.first = binary
	return binary, nil
}

// Close removes the binaries. It is called when nobody needs them any more and Run has
// returned, if it was called.
func (r *Reloader) Close() error {
	if r.watcher != nil {
		r.watcher.Close()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, b := range r.builders {
		errs = append(errs, b.Close())
	}
	return errors.Join(errs...)
}

func (r *Reloader) newBuilder(cfg buildflags.Config) *buildflags.Builder {
	b := buildflags.NewBuilder(cfg, r.cfg.Log)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.builders = append(r.builders, b)
	return b
}

// watch makes saves of the inputs of a build count, unless ctx, which is the build's,
// has ended: then another one has its place.
func (r *Reloader) watch(ctx context.Context, b *buildflags.Builder, in *buildflags.Inputs) {
	r.choosing.Lock()
	defer r.choosing.Unlock()
	if ctx.Err() != nil {
		return
	}
	r.inputs[b] = in
	r.choose(in)
}

// watchAgain goes back to the inputs of the last build of b.
func (r *Reloader) watchAgain(b *buildflags.Builder) {
	r.choosing.Lock()
	defer r.choosing.Unlock()
	r.choose(r.inputs[b])
}

func (r *Reloader) choose(in *buildflags.Inputs) {
	if r.watcher != nil && in != r.watching {
		r.watching = in
		r.watcher.Watch(watch.Set{Files: in.Files, Dirs: in.Dirs, Match: in.Match})
	}
}

func (r *Reloader) noteSaved(paths []string, at time.Time) {
	r.mu.Lock()
	for _, path := range paths {
		r.saved[path] = true
	}
	r.savedAt = at
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default: // Run has not looked yet
	}
}

func (r *Reloader) takeSaved() (paths []string, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	paths = slices.Sorted(maps.Keys(r.saved))
	r.saved = map[string]bool{}
	return paths, r.savedAt
}

func (r *Reloader) tell(e Event) {
	r.telling.Lock()
	defer r.telling.Unlock()
	r.cfg.Tell(e)
}

// request is a call of Restart.
type request struct {
	spec *Spec
	done chan error // has room for one
}

// ErrOver is returned by Restart when Run has returned, and ErrCancelled when the user
// has taken it back.
var (
	ErrOver      = errors.New("the session has ended")
	ErrCancelled = errors.New("cancelled")
)

// Restart builds the program as its sources are now, but not with mode Off unless spec
// asks for another build, and swaps it in, also if it is the same. spec replaces what
// runs, if it is not nil. It returns when the new program is there, or with an error
// that tells why the old one goes on, as it was.
func (r *Reloader) Restart(ctx context.Context, spec *Spec) error {
	q := &request{spec: spec, done: make(chan error, 1)}
	select {
	case r.requests <- q:
	case <-r.over:
		return ErrOver
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-q.done:
		return err
	case <-ctx.Done():
	}
	select {
	case r.abandons <- q:
	case <-r.over:
	}
	return context.Cause(ctx)
}
