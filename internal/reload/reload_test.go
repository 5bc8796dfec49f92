package reload

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kubedelve/kubedelve/buildflags"
	"github.com/kubedelve/kubedelve/internal/leakcheck"
)

const patience = 60 * time.Second

// The test binary stands for a go command that takes its time: with waitVar, which
// names a folder, "build" makes a file there and waits until the folder is gone, before
// the real one does what it was told.
const waitVar = "RELOAD_TEST_WAIT"

func TestMain(m *testing.M) {
	if dir := os.Getenv(waitVar); dir != "" {
		os.Exit(slowGo(dir, os.Args[1:]))
	}
	os.Exit(testMain(m))
}

func slowGo(dir string, args []string) int {
	if args[0] == "build" {
		_ = os.WriteFile(filepath.Join(dir, "begun"), nil, 0o600)
		for {
			if _, err := os.Stat(dir); err != nil {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	cmd := exec.Command("go", args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if cmd.Run() != nil {
		return 1
	}
	return 0
}

// testMain runs the tests with a cache of their own for binaries, but with the user's
// for packages.
func testMain(m *testing.M) int {
	out, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		fmt.Fprintln(os.Stderr, "these tests run the go command:", err)
		return 1
	}
	_ = os.Setenv("GOCACHE", strings.TrimSpace(string(out)))
	dir, err := os.MkdirTemp("", "reload-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	_ = os.Setenv("XDG_CACHE_HOME", dir)
	_ = os.Setenv("GOFLAGS", "-buildvcs=false")
	return leakcheck.Main(m, "fsnotify")
}

// project is a module, a Reloader on it, and a place where its program "runs".
type project struct {
	*Reloader
	t      *testing.T
	dir    string
	spec   Spec
	events chan Event
	swaps  chan *swapped // that wait for an answer

	mu  sync.Mutex
	all []Event
}

// swapped is a call of Swap.
type swapped struct {
	says   string // what the binary prints
	path   string
	spec   Spec
	answer chan error
}

const program = "package main\n\nfunc main() { println(\"%s\") }\n"

// open makes a module whose program says "one" and runs a Reloader on it.
func open(t *testing.T, mode Mode, change func(*Spec)) *project {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p := &project{t: t, dir: dir, events: make(chan Event, 1000), swaps: make(chan *swapped)}
	p.write("go.mod", "module example.com/app\n\ngo 1.26\n")
	p.write("main.go", fmt.Sprintf(program, "one"))
	p.spec = Spec{Build: buildflags.Config{Dir: dir, Program: "."}, Args: []string{"a"}}
	if change != nil {
		change(&p.spec)
	}
	p.Reloader = New(Config{Spec: p.spec, Mode: mode, Tell: func(e Event) {
		p.mu.Lock()
		p.all = append(p.all, e)
		p.mu.Unlock()
		p.events <- e
	}})
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(p.keptIn()); err == nil {
			t.Errorf("left over: %s", p.keptIn())
		}
	})
	binary, err := p.First(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := says(t, binary); got != "one" {
		t.Fatalf("the first program says %q", got)
	}
	return p
}

func (p *project) keptIn() string {
	return filepath.Dir(filepath.Dir(p.first.Path))
}

// run calls Run until the test ends.
func (p *project) run() {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		p.Run(ctx, func(ctx context.Context, b *buildflags.Binary, spec Spec, stage func(string)) error {
			stage("uploading app (1 MB)")
			s := &swapped{says(p.t, b), b.Path, spec, make(chan error, 1)}
			stage("loading app into Delve")
			select {
			case p.swaps <- s:
			case <-ctx.Done():
				return ctx.Err()
			}
			select {
			case err := <-s.answer:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	p.t.Cleanup(func() { cancel(); running.Wait() })
}

func says(t *testing.T, b *buildflags.Binary) string {
	out, err := exec.Command(b.Path).CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v\n%s", b.Path, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (p *project) write(name, content string) {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		p.t.Fatal(err)
	}
}

func (p *project) say(word string) { p.write("main.go", fmt.Sprintf(program, word)) }

// await waits for an event of a kind and passes over stages only.
func (p *project) await(kind Kind) Event {
	p.t.Helper()
	for {
		select {
		case e := <-p.events:
			if e.Kind == kind {
				return e
			}
			if e.Kind != Stage {
				p.t.Fatalf("got the event %+v, want %s; all: %+v", e, kind, p.told())
			}
		case <-time.After(patience):
			p.t.Fatalf("the event %s has not come; these have: %+v", kind, p.told())
		}
	}
}

func (p *project) told() []Event {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.all)
}

// swap waits for the next swap, of the program that says so.
func (p *project) swap(word string) *swapped {
	p.t.Helper()
	select {
	case s := <-p.swaps:
		if s.says != word {
			p.t.Errorf("the program that is swapped in says %q, want %q", s.says, word)
		}
		return s
	case <-time.After(patience):
		p.t.Fatalf("nothing is swapped in; the events are %+v", p.told())
		return nil
	}
}

func TestASaveSwapsTheProgram(t *testing.T) {
	t.Parallel()
	p := open(t, OnSave, nil)
	p.run()
	for _, word := range []string{"two", "three"} {
		p.say(word)
		begun := p.await(Rebuilding)
		if begun.Activity == 0 || begun.Title != "Rebuilding ." || begun.Stage != "main.go saved" || begun.Cancel == nil {
			t.Errorf("it begins with %+v", begun)
		}
		s := p.swap(word)
		if !slices.Equal(s.spec.Args, p.spec.Args) {
			t.Errorf("the arguments are %q", s.spec.Args)
		}
		s.answer <- nil
		done := p.await(Swapped)
		if done.Activity != begun.Activity || !done.Over || done.Took <= 0 {
			t.Errorf("it ends with %+v", done)
		}
		for _, want := range []string{"swapped in ", " s: build ", " s, upload ", " s, load "} {
			if !strings.Contains(done.Text, want) {
				t.Errorf("it says %q, want %q in it", done.Text, want)
			}
		}
		t.Log(done.Text)
		if left, _ := filepath.Glob(filepath.Join(p.keptIn(), "*", "app")); !slices.Equal(left, []string{s.path}) {
			t.Errorf("the binaries are %q, want only the one that runs, %s", left, s.path)
		}
	}
	// A comment changes nothing of the binary.
	p.write("main.go", fmt.Sprintf(program, "three")+"// the end\n")
	begun := p.await(Rebuilding)
	same := p.await(Unchanged)
	if same.Activity != begun.Activity || !same.Over || !strings.Contains(same.Text, "no change in the program (build ") {
		t.Errorf("a comment ends with %+v", same)
	}
}

func TestSavesBeforeRunCount(t *testing.T) {
	t.Parallel()
	p := open(t, OnSave, nil)
	p.say("early")
	for len(p.wake) == 0 { // the watcher has noticed
		time.Sleep(time.Millisecond)
	}
	p.run()
	p.swap("early").answer <- nil
}

func TestABuildErrorLeavesTheOldProgram(t *testing.T) {
	t.Parallel()
	p := open(t, OnSave, nil)
	p.run()
	p.write("main.go", "package main\n\nfunc main() {\n\tundefined()\n\tvar s string = 1\n\tprintln(s)\n}\n")
	begun := p.await(Rebuilding)
	main := filepath.Join(p.dir, "main.go")
	for _, want := range []string{"4:2: undefined: undefined", "5:17: cannot use 1"} {
		e := p.await(BuildError)
		if e.At == nil || e.At.File != main || !strings.HasPrefix(e.Text, main+":"+want) || !e.Important {
			t.Errorf("got %+v, want %s", e, want)
		}
	}
	failed := p.await(Failed)
	if failed.Activity != begun.Activity || !failed.Over || failed.Text != ". does not compile; the old program goes on" {
		t.Errorf("it ends with %+v", failed)
	}
	// New files, also in a package that is not there yet, count while it is broken.
	p.write("main.go", "package main\n\nimport \"example.com/app/lib\"\n\nfunc main() { println(lib.Word) }\n")
	p.await(Rebuilding)
	p.await(BuildError)
	p.await(Failed)
	p.write("lib/lib.go", "package lib\n\nconst Word = \"lib\"\n")
	p.await(Rebuilding)
	p.swap("lib").answer <- nil
	p.await(Swapped)
	p.write("lib/lib.go", "package lib\n\nconst Word = \"library\"\n")
	p.await(Rebuilding)
	p.swap("library").answer <- nil
	p.await(Swapped)
	p.write("lib/lib.go", "package lib\n")
	p.await(Rebuilding)
	p.await(BuildError)
	p.await(Failed)
	p.write("lib/lib.go", "package lib\n\nconst Word = \"library\"\n")
	p.await(Rebuilding)
	p.await(Unchanged)
}

// slow makes builds wait. It returns functions that wait until one has begun, and that
// let all go on.
func slow(t *testing.T) (change func(*Spec), begun, release func()) {
	dir := filepath.Join(t.TempDir(), "wait")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	change = func(s *Spec) {
		s.Build.Go = self
		s.Build.Env = map[string]string{waitVar: dir}
	}
	begun = func() {
		t.Helper()
		for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
			if os.Remove(filepath.Join(dir, "begun")) == nil {
				return
			}
			if time.Now().After(deadline) {
				t.Fatal("no build has begun")
			}
		}
	}
	return change, begun, func() { _ = os.RemoveAll(dir) }
}

// hold makes the next builds wait.
func hold(t *testing.T, p *project) {
	t.Helper()
	if err := os.MkdirAll(p.spec.Build.Env[waitVar], 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestASaveDuringABuildStartsItAnew(t *testing.T) {
	t.Parallel()
	change, begun, release := slow(t)
	p := open(t, OnSave, change)
	hold(t, p)
	p.run()
	p.say("two")
	first := p.await(Rebuilding)
	begun()
	p.say("three")
	second := p.await(Rebuilding)
	if second.Activity != first.Activity {
		t.Errorf("the activity was %d and is %d: it is the same that goes on", first.Activity, second.Activity)
	}
	begun()
	restarted := make(chan error, 1)
	go func() { restarted <- p.Restart(t.Context(), nil) }()
	p.await(Rebuilding)
	begun()
	p.say("four")
	p.await(Rebuilding)
	release()
	p.swap("four").answer <- nil
	p.await(Swapped)
	if err := <-restarted; err != nil {
		t.Errorf("Restart, whose build a save has taken over: %v", err)
	}
	p.say("five")
	p.await(Rebuilding)
	p.swap("five").answer <- nil
	p.await(Swapped)
}

func TestABuildCanBeCancelled(t *testing.T) {
	t.Parallel()
	change, begun, release := slow(t)
	p := open(t, OnSave, change)
	hold(t, p)
	p.run()
	p.say("two")
	first := p.await(Rebuilding)
	begun()
	first.Cancel()
	if e := p.await(Failed); e.Text != "cancelled; the old program goes on" || e.Activity != first.Activity || !e.Over {
		t.Errorf("it ends with %+v", e)
	}
	first.Cancel() // too late, and harmless

	ctx, cancel := context.WithCancel(t.Context())
	restarted := make(chan error, 1)
	go func() { restarted <- p.Restart(ctx, nil) }()
	p.await(Rebuilding)
	begun()
	cancel()
	if err := <-restarted; !errors.Is(err, context.Canceled) {
		t.Errorf("Restart returns %v", err)
	}
	p.await(Failed)
	release()
	p.say("three")
	p.await(Rebuilding)
	p.swap("three").answer <- nil
	p.await(Swapped)
}

func TestASaveDuringASwapComesAfterIt(t *testing.T) {
	t.Parallel()
	p := open(t, OnSave, nil)
	p.run()
	p.say("two")
	first := p.await(Rebuilding)
	s := p.swap("two")
	p.say("three")
	second := p.await(Rebuilding)
	if second.Activity == first.Activity {
		t.Error("the second build is shown as the first")
	}
	p.say("four") // and this one instead of it
	p.await(Rebuilding)
	s.answer <- nil
	p.await(Swapped)
	p.swap("four").answer <- nil
	if e := p.await(Swapped); e.Activity != second.Activity {
		t.Errorf("the second ends with %+v", e)
	}
}

func TestAFailedSwapLeavesTheOldProgram(t *testing.T) {
	t.Parallel()
	p := open(t, OnSave, nil)
	p.run()
	p.say("two")
	p.await(Rebuilding)
	p.swap("two").answer <- errors.New("no room on the node")
	if e := p.await(Failed); !e.Over || !strings.Contains(e.Text, "no room on the node; the old one goes on") {
		t.Errorf("it ends with %+v", e)
	}
	// What runs is still the first: the same binary is swapped in after all.
	restarted := make(chan error, 1)
	go func() { restarted <- p.Restart(t.Context(), nil) }()
	p.await(Rebuilding)
	p.swap("two").answer <- errors.New("still none")
	p.await(Failed)
	if err := <-restarted; err == nil || err.Error() != "still none" {
		t.Errorf("Restart returns %v", err)
	}
	p.say("one")
	p.await(Rebuilding)
	p.await(Unchanged)
}

func TestRestartSwapsWhatIsUnchangedToo(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{OnSave, OnRestart} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			p := open(t, mode, nil)
			p.run()
			restart := func(spec *Spec, word string) *swapped {
				t.Helper()
				done := make(chan error, 1)
				go func() { done <- p.Restart(t.Context(), spec) }()
				s := p.swap(word)
				s.answer <- nil
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				return s
			}
			restart(nil, "one")
			if mode == OnRestart {
				p.say("two") // nobody looks before the next Restart
				restart(nil, "two")
			}
			// Other arguments, and another program.
			spec := p.spec
			spec.Args = []string{"b", "c"}
			p.write("other/other.go", fmt.Sprintf(program, "other"))
			spec.Build.Program = "./other"
			if s := restart(&spec, "other"); !slices.Equal(s.spec.Args, spec.Args) {
				t.Errorf("the arguments are %q", s.spec.Args)
			}
			if s := restart(nil, "other"); !slices.Equal(s.spec.Args, spec.Args) {
				t.Errorf("the arguments are %q the next time", s.spec.Args)
			}
			if mode != OnSave {
				return
			}
			// And it is the other one that is watched now.
			for len(p.events) > 0 {
				<-p.events
			}
			p.say("nobody cares")
			p.write("other/other.go", fmt.Sprintf(program, "changed"))
			if e := p.await(Rebuilding); e.Title != "Rebuilding ./other" || e.Stage != "other.go saved" {
				t.Errorf("it begins with %+v", e)
			}
			p.swap("changed").answer <- nil
		})
	}
}

func TestAFailedRestartChangesNothing(t *testing.T) {
	t.Parallel()
	p := open(t, OnSave, nil)
	p.run()
	p.write("other/other.go", "package main\n\nfunc main() { broken() }\n")
	spec := p.spec
	spec.Build.Program, spec.Args = "./other", []string{"b"}
	var compile *buildflags.CompileError
	if err := p.Restart(t.Context(), &spec); !errors.As(err, &compile) {
		t.Errorf("Restart returns %v", err)
	}
	spec.Build.Program = "./nothing"
	var config *buildflags.ConfigError
	if err := p.Restart(t.Context(), &spec); !errors.As(err, &config) || config.Attr != "program" {
		t.Errorf("Restart returns %v", err)
	}
	for len(p.events) > 0 {
		<-p.events
	}
	p.say("two")
	if e := p.await(Rebuilding); e.Title != "Rebuilding ." {
		t.Errorf("it begins with %+v", e)
	}
	s := p.swap("two")
	s.answer <- nil
	if !slices.Equal(s.spec.Args, p.spec.Args) {
		t.Errorf("the arguments are %q, want those of before", s.spec.Args)
	}
}

func TestModeOffBuildsNothing(t *testing.T) {
	t.Parallel()
	p := open(t, Off, nil)
	p.run()
	p.say("two")
	done := make(chan error, 1)
	go func() { done <- p.Restart(t.Context(), nil) }()
	if e := p.await(Rebuilding); e.Title != "Restarting" {
		t.Errorf("it begins with %+v", e)
	}
	s := p.swap("one")
	s.answer <- nil
	if e := p.await(Swapped); !strings.HasPrefix(e.Text, "started again in ") || strings.Contains(e.Text, "build") {
		t.Errorf("it ends with %+v", e)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	// Another program can't be had without.
	spec := p.spec
	spec.Build.LDFlags = "-X main.x=y"
	go func() { done <- p.Restart(t.Context(), &spec) }()
	p.swap("two").answer <- nil
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestTheEndAnswersThoseWhoWait(t *testing.T) {
	t.Parallel()
	p := open(t, OnRestart, nil)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	swapping := make(chan struct{})
	running.Go(func() {
		p.Run(ctx, func(ctx context.Context, _ *buildflags.Binary, _ Spec, _ func(string)) error {
			close(swapping)
			<-ctx.Done()
			return ctx.Err()
		})
	})
	done := make(chan error, 1)
	go func() { done <- p.Restart(t.Context(), nil) }()
	<-swapping
	cancel()
	if err := <-done; !errors.Is(err, ErrOver) {
		t.Errorf("Restart returns %v", err)
	}
	running.Wait()
	if err := p.Restart(t.Context(), nil); !errors.Is(err, ErrOver) {
		t.Errorf("a later Restart returns %v", err)
	}
}
