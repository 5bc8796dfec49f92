package reload

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kubedelve/kubedelve/buildflags"
)

// job is a program on its way from its sources to where it runs.
type job struct {
	activity int
	title    string
	spec     Spec
	builder  *buildflags.Builder
	began    time.Time // when it was saved, or Restart called
	saved    bool      // it is wanted because of a save
	waiters  []*request

	stop   context.CancelCauseFunc // of its build; nil: it has none
	binary *buildflags.Binary
	phases []phase
}

// forced reports whether a binary that runs already is wanted too.
func (j *job) forced() bool { return len(j.waiters) > 0 }

// phase is a part of the way.
type phase struct {
	name string
	took time.Duration
}

// runner is one call of Run: its state is changed by that goroutine only.
type runner struct {
	*Reloader
	swap    Swap
	tasks   sync.WaitGroup
	built   chan result
	swapped chan error
	numbers int // of activities
	builds  int // that have not said how they went

	now      version // what runs
	building *job    // nil: none
	ready    *job    // built, while another one is being swapped in; nil: none
	swapping *job    // nil: none
	kept     []version
}

// version is a program that was built.
type version struct {
	spec    Spec
	builder *buildflags.Builder
	binary  *buildflags.Binary
}

// result is how the build of a job went.
type result struct {
	job    *job
	binary *buildflags.Binary
	err    error
	took   time.Duration
}

var errSuperseded = errors.New("another build has taken its place")

// Run follows saves and calls of Restart until ctx ends. It is called once.
func (r *Reloader) Run(ctx context.Context, swap Swap) {
	ctx, cancel := context.WithCancel(ctx)
	l := &runner{Reloader: r, swap: swap, built: make(chan result), swapped: make(chan error, 1)}
	r.mu.Lock()
	l.now = version{r.cfg.Spec, r.builders[0], r.first}
	r.mu.Unlock()
	l.kept = []version{l.now}
	defer l.end()
	defer l.tasks.Wait()
	defer cancel()
	for {
		select {
		case <-r.wake:
			l.onSave(ctx)
		case q := <-r.requests:
			l.onRestart(ctx, q)
		case q := <-r.abandons:
			l.onAbandon(q)
		case activity := <-r.cancels:
			l.onCancel(func(j *job) bool { return j.activity == activity })
		case b := <-l.built:
			l.onBuilt(ctx, b)
		case err := <-l.swapped:
			l.onSwapped(ctx, err)
		case <-ctx.Done():
			return
		}
	}
}

// end answers those who wait.
func (l *runner) end() {
	close(l.over)
	for _, j := range []*job{l.building, l.ready, l.swapping} {
		if j != nil {
			l.answer(j, ErrOver)
		}
	}
}

func (l *runner) answer(j *job, err error) {
	for _, q := range j.waiters {
		q.done <- err
	}
	j.waiters = nil
}

func (l *runner) onSave(ctx context.Context) {
	paths, at := l.takeSaved()
	if len(paths) == 0 {
		return
	}
	names := make([]string, len(paths))
	for i, path := range paths {
		names[i] = filepath.Base(path)
	}
	if len(names) > 3 {
		names = append(names[:3], fmt.Sprintf("%d more", len(names)-3))
	}
	j := l.supersede(nil)
	j.saved, j.began = true, at
	l.build(ctx, j, strings.Join(names, ", ")+" saved")
}

func (l *runner) onRestart(ctx context.Context, q *request) {
	j := l.supersede(q.spec)
	j.waiters, j.began = append(j.waiters, q), time.Now()
	if l.cfg.Mode != Off || j.builder != l.now.builder {
		l.build(ctx, j, "restart")
		return
	}
	j.title, j.binary = "Restarting", l.now.binary
	l.tell(Event{Kind: Rebuilding, Activity: j.activity, Title: j.title})
	l.next(ctx, j)
}

// supersede makes a job, of spec or else of what was wanted last, that takes the place
// of one that is being built or waits for its swap.
func (l *runner) supersede(spec *Spec) *job {
	old := l.building
	if old != nil {
		old.stop(errSuperseded)
	} else {
		old = l.ready
	}
	l.building, l.ready = nil, nil
	j := &job{spec: l.now.spec, builder: l.now.builder}
	if old != nil {
		j.activity, j.spec, j.builder, j.saved, j.waiters = old.activity, old.spec, old.builder, old.saved, old.waiters
	} else {
		l.numbers++
		j.activity = l.numbers
	}
	if spec != nil {
		switch {
		case reflect.DeepEqual(spec.Build, l.now.spec.Build):
			j.builder = l.now.builder
		case !reflect.DeepEqual(spec.Build, j.spec.Build):
			j.builder = l.newBuilder(spec.Build)
		}
		j.spec = *spec
	}
	program := j.spec.Build.Program
	if program == "" {
		program = "."
	}
	j.title = "Rebuilding " + program
	return j
}

// build begins to build a job.
func (l *runner) build(ctx context.Context, j *job, why string) {
	cancel := func() {
		select {
		case l.cancels <- j.activity:
		case <-l.over:
		}
	}
	l.tell(Event{Kind: Rebuilding, Activity: j.activity, Title: j.title, Stage: why, Cancel: cancel})
	l.building = j
	l.builds++
	building, stop := context.WithCancelCause(ctx)
	j.stop = stop
	builder := j.builder
	l.tasks.Go(func() { // ends with the build, and soon after it is stopped
		defer stop(nil)
		start := time.Now()
		progress := func(line string) {
			if building.Err() == nil {
				l.tell(Event{Kind: Stage, Activity: j.activity, Title: j.title, Stage: line, Cancel: cancel})
			}
		}
		binary, err := builder.Build(building, progress, func(in *buildflags.Inputs) { l.watch(building, builder, in) })
		select {
		case l.built <- result{j, binary, err, time.Since(start)}:
		case <-ctx.Done():
		}
	})
}

func (l *runner) onBuilt(ctx context.Context, b result) {
	l.builds--
	if b.err == nil {
		l.kept = append(l.kept, version{b.job.spec, b.job.builder, b.binary})
	}
	if b.job != l.building {
		return // another one has its place
	}
	l.building = nil
	switch {
	case b.err == nil:
	case !errors.Is(b.err, ErrCancelled) && l.watcher != nil && l.watcher.Check():
		l.build(ctx, b.job, "saved again") // it may have read a file that was being written
		return
	default:
		l.buildFailed(b.job, b.err)
		return
	}
	b.job.binary, b.job.phases = b.binary, []phase{{"build", b.took}}
	l.next(ctx, b.job)
}

// next swaps a job in, now or after the one that is being swapped in, unless it is what
// runs already.
func (l *runner) next(ctx context.Context, j *job) {
	switch {
	case l.swapping != nil:
		l.ready = j
		return
	case !j.forced() && j.binary.Same(l.now.binary):
		l.tell(Event{
			Kind: Unchanged, Activity: j.activity, Title: j.title, Over: true,
			Text: fmt.Sprintf("no change in the program (%s)", phasesText(j.phases)),
		})
		return
	}
	l.swapping = j
	l.tasks.Go(func() { // ends with the swap, which heeds ctx
		name, began := "", time.Now()
		next := func(stage string) {
			if name != "" {
				j.phases = append(j.phases, phase{name, time.Since(began)})
			}
			name, began = phaseName(stage), time.Now()
		}
		err := l.swap(ctx, j.binary, j.spec, func(stage string) {
			next(stage)
			l.tell(Event{Kind: Stage, Activity: j.activity, Title: j.title, Stage: stage})
		})
		next("")
		l.swapped <- err // has room for the only one
	})
}

func (l *runner) onSwapped(ctx context.Context, err error) {
	j := l.swapping
	l.swapping = nil
	if err != nil {
		l.failed(j, err, fmt.Sprintf("the new program could not be swapped in: %v; the old one goes on", err), true)
	} else {
		l.now = version{j.spec, j.builder, j.binary}
		l.releaseOld()
		how, took := "started again", time.Since(j.began)
		if j.stop != nil {
			how = "swapped"
		}
		l.tell(Event{
			Kind: Swapped, Activity: j.activity, Title: j.title, Over: true, Took: took,
			Text: fmt.Sprintf("%s in %s: %s", how, seconds(took), phasesText(j.phases)),
		})
		l.answer(j, nil)
	}
	if j := l.ready; j != nil {
		l.ready = nil
		l.next(ctx, j)
	}
}

// releaseOld removes the binaries that neither run nor are about to. A build that goes
// on may come to one of them: then they stay until the next time.
func (l *runner) releaseOld() {
	if l.builds > 0 {
		return
	}
	needed := func(v version) bool {
		return v.binary.Path == l.now.binary.Path || l.ready != nil && v.binary.Path == l.ready.binary.Path
	}
	for _, v := range l.kept {
		if !needed(v) {
			_ = v.builder.Release(v.binary) // else Close does
		}
	}
	l.kept = slices.DeleteFunc(l.kept, func(v version) bool { return !needed(v) })
}

// onAbandon forgets a call of Restart that does not wait any more, and its job if
// nobody else wants that.
func (l *runner) onAbandon(q *request) {
	for _, j := range []*job{l.building, l.ready, l.swapping} {
		if j != nil && slices.Contains(j.waiters, q) {
			j.waiters = slices.DeleteFunc(j.waiters, func(other *request) bool { return other == q })
			if len(j.waiters) == 0 && !j.saved {
				l.onCancel(func(other *job) bool { return other == j })
			}
			return
		}
	}
}

// onCancel takes the job back that match finds, unless it is being swapped in.
func (l *runner) onCancel(match func(*job) bool) {
	switch {
	case l.building != nil && match(l.building):
		l.building.stop(ErrCancelled) // onBuilt tells
	case l.ready != nil && match(l.ready):
		j := l.ready
		l.ready = nil
		l.failed(j, ErrCancelled, "cancelled; the old program goes on", false)
	}
}

func (l *runner) buildFailed(j *job, err error) {
	var compile *buildflags.CompileError
	switch {
	case errors.Is(err, ErrCancelled):
		l.failed(j, ErrCancelled, "cancelled; the old program goes on", false)
	case errors.As(err, &compile):
		for _, d := range compile.Diagnostics {
			l.tell(Event{Kind: BuildError, Text: fmt.Sprintf("%s:%d:%d: %s", d.File, d.Line, d.Col, d.Message), Important: true, At: &d})
		}
		if len(compile.Diagnostics) == 0 {
			l.tell(Event{Kind: BuildError, Text: compile.Output, Important: true})
		}
		l.failed(j, err, compile.Program+" does not compile; the old program goes on", true)
	default:
		l.failed(j, err, fmt.Sprintf("%v; the old program goes on", err), true)
	}
}

// failed tells that a job has come to nothing, and goes back to what runs.
func (l *runner) failed(j *job, err error, text string, important bool) {
	if j.builder != l.now.builder {
		l.watchAgain(l.now.builder)
	}
	l.tell(Event{Kind: Failed, Activity: j.activity, Title: j.title, Over: true, Text: text, Important: important})
	l.answer(j, err)
}

// phaseName makes "upload" of "uploading x (3 MB)".
func phaseName(stage string) string {
	verb, _, _ := strings.Cut(stage, " ")
	return strings.TrimSuffix(verb, "ing")
}

func phasesText(phases []phase) string {
	var parts []string
	for _, p := range phases {
		parts = append(parts, p.name+" "+seconds(p.took))
	}
	return strings.Join(parts, ", ")
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
