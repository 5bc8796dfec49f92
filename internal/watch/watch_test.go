package watch

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kubedelve/kubedelve/internal/leakcheck"
)

const patience = 60 * time.Second

func TestMain(m *testing.M) { os.Exit(leakcheck.Main(m, "fsnotify")) }

// watched is a folder of a test's own with a Watcher on it.
type watched struct {
	*Watcher
	t     *testing.T
	dir   string
	told  chan []string
	warns chan string
}

// start makes a folder with main.go and other.go in it, and watches it and what else
// the options say: main.go is in the set, and so are files *.go that are not hidden
// and folders called sub.
func start(t *testing.T, o Options) *watched {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := &watched{t: t, dir: dir, told: make(chan []string, 100), warns: make(chan string, 10)}
	o.Changed = func(paths []string, _ time.Time) { w.told <- paths }
	o.Warn = func(text string) { w.warns <- text }
	w.write("main.go", "package main\n")
	w.write("other.go", "package main\n")
	w.Watcher = New(o)
	t.Cleanup(w.Close)
	w.Watch(w.set(dir))
	return w
}

func (w *watched) set(dir string) Set {
	return Set{
		Files: []string{filepath.Join(dir, "main.go")}, Dirs: []string{dir},
		Match: func(path string, dir bool) bool {
			name := filepath.Base(path)
			return !dir && filepath.Ext(name) == ".go" && name[0] != '.' || dir && name == "sub"
		},
	}
}

func (w *watched) path(name string) string { return filepath.Join(w.dir, filepath.FromSlash(name)) }

func (w *watched) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// write writes a file as a program does that thinks nothing of it.
func (w *watched) write(name, content string) {
	w.t.Helper()
	w.ok(os.MkdirAll(filepath.Dir(w.path(name)), 0o755))
	w.ok(os.WriteFile(w.path(name), []byte(content), 0o644))
}

func (w *watched) rename(from, to string) {
	w.t.Helper()
	w.ok(os.Rename(w.path(from), w.path(to)))
}

func (w *watched) remove(name string) {
	w.t.Helper()
	w.ok(os.RemoveAll(w.path(name)))
}

// changed waits until it is told that the files have changed, in one go.
func (w *watched) changed(names ...string) {
	w.t.Helper()
	var want []string
	for _, name := range names {
		want = append(want, w.path(name))
	}
	select {
	case got := <-w.told:
		if !slices.Equal(got, want) {
			w.t.Errorf("told that %q have changed, want %q", got, want)
		}
	case <-time.After(patience):
		w.t.Fatalf("not told that %q have changed", names)
	}
}

// quiet checks that nothing was told for what was done before: a change that comes
// after it is told, and alone.
func (w *watched) quiet() {
	w.t.Helper()
	w.write("zz_mark.go", time.Now().String())
	w.changed("zz_mark.go")
}

// Each editor's way of saving, as its events or its documentation tell.
func TestEveryEditorsSaveIsOneChange(t *testing.T) {
	t.Parallel()
	inPlace := func(w *watched, name, content string) {
		f, err := os.OpenFile(w.path(name), os.O_WRONLY|os.O_TRUNC, 0)
		w.ok(err)
		for part := range strings.SplitAfterSeq(content, " ") {
			_, err := f.WriteString(part)
			w.ok(err)
		}
		w.ok(f.Sync())
		w.ok(f.Close())
	}
	run := func(w *watched, name string, args ...string) {
		w.t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = w.dir
		if out, err := cmd.CombinedOutput(); err != nil {
			w.t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	for _, save := range []struct {
		name string
		do   func(w *watched, content string)
	}{
		{"in place", func(w *watched, content string) { inPlace(w, "main.go", content) }},
		{"VS Code, atomic", func(w *watched, content string) {
			w.write("main.go.vsctmp", content)
			w.rename("main.go.vsctmp", "main.go")
		}},
		{"vim", func(w *watched, content string) { // backupcopy=no
			w.write(".main.go.swp", "b0VIM")
			w.write("4913", "")
			w.remove("4913")
			w.rename("main.go", "main.go~")
			w.write("main.go", content)
			w.ok(os.Chmod(w.path("main.go"), 0o644))
			w.remove("main.go~")
			w.remove(".main.go.swp")
		}},
		{"vim, backupcopy", func(w *watched, content string) {
			w.write("main.go~", "package main\n")
			inPlace(w, "main.go", content)
			w.remove("main.go~")
		}},
		{"Emacs", func(w *watched, content string) {
			w.ok(os.Symlink("user@host.1234:1700000000", w.path(".#main.go")))
			w.write("#main.go#", content)
			w.rename("main.go", "main.go~")
			w.write("main.go", content)
			w.remove(".#main.go")
			w.remove("#main.go#")
		}},
		{"JetBrains, safe write", func(w *watched, content string) {
			w.write("main.go___jb_tmp___", content)
			w.rename("main.go", "main.go___jb_old___")
			w.rename("main.go___jb_tmp___", "main.go")
			w.remove("main.go___jb_old___")
		}},
		{"remove and write", func(w *watched, content string) {
			w.remove("main.go")
			w.write("main.go", content)
		}},
		{"gofmt", func(w *watched, content string) {
			w.write(".unformatted", strings.Replace(content, " ", "  ", 1))
			w.rename(".unformatted", "main.go")
			run(w, "gofmt", "-w", "main.go")
		}},
		{"sed", func(w *watched, _ string) {
			run(w, "sed", "-i", "s/package main/package main \\/\\/ x/", "main.go")
		}},
	} {
		t.Run(save.name, func(t *testing.T) {
			t.Parallel()
			// Long enough for a machine that is busy with other tests.
			w := start(t, Options{Quiet: 150 * time.Millisecond})
			save.do(w, "package main // changed\n")
			w.changed("main.go")
			save.do(w, "package main // changed again\n")
			w.changed("main.go")
			w.quiet()
		})
	}
}

func TestASaveWithoutAChangeIsNone(t *testing.T) {
	t.Parallel()
	w := start(t, Options{})
	w.write("main.go", "package main\n")
	w.rename("main.go", "main.go~")
	w.write("main.go", "package main\n")
	w.ok(os.Chtimes(w.path("main.go"), time.Now(), time.Now()))
	w.ok(os.Chmod(w.path("main.go"), 0o600))
	w.quiet()
	w.write("main.go", "package main // 1\n")
	w.changed("main.go")
	w.write("main.go", "package main // 1\n")
	w.quiet()
}

func TestABurstCountsOnce(t *testing.T) {
	t.Parallel()
	w := start(t, Options{Quiet: 200 * time.Millisecond})
	w.write("sub/a.go", "package sub\n")
	for i := range 20 {
		w.write("main.go", fmt.Sprintf("package main // %d\n", i))
		w.write("other.go", fmt.Sprintf("package main // %d\n", i))
		w.write("third.go", fmt.Sprintf("package main // %d\n", i))
	}
	w.changed("main.go", "other.go", "sub/a.go", "third.go")
	w.quiet()
}

func TestWhatDoesNotBelongIsNoChange(t *testing.T) {
	t.Parallel()
	w := start(t, Options{})
	for _, name := range []string{"README.md", ".hidden.go", "pkg/x.go", "main", "go.work.sum"} {
		w.write(name, "x")
	}
	w.quiet()
}

func TestFilesAppearAndVanish(t *testing.T) {
	t.Parallel()
	w := start(t, Options{})
	w.write("new.go", "package main\n")
	w.changed("new.go")
	w.write("new.go", "package main // 1\n")
	w.changed("new.go")
	w.remove("new.go")
	w.changed("new.go")
	w.rename("other.go", "renamed.go")
	w.changed("other.go", "renamed.go")
	w.remove("main.go")
	w.changed("main.go")
	w.write("main.go", "package main\n")
	w.changed("main.go")
	w.ok(os.Mkdir(w.path("sub"), 0o755))
	w.write("sub/sub/deep.go", "package sub\n")
	w.changed("sub/sub/deep.go")
	w.write("sub/sub/deep.go", "package sub // 1\n")
	w.changed("sub/sub/deep.go")
	w.remove("sub")
	w.changed("sub/sub/deep.go")
	w.write("sub/x.go", "package sub\n")
	w.changed("sub/x.go")
	w.quiet()
}

// A folder that is removed, as another branch does, is watched again when it is back.
func TestFoldersDisappearAndComeBack(t *testing.T) {
	t.Parallel()
	w := start(t, Options{})
	w.write("pkg/lib.go", "package lib\n")
	set := w.set(w.dir)
	set.Dirs = append(set.Dirs, w.path("pkg"), w.path("later/pkg"))
	w.Watch(set)
	for i := range 3 {
		w.remove("pkg")
		w.changed("pkg/lib.go")
		w.write("pkg/lib.go", "package lib\n")
		w.changed("pkg/lib.go")
		w.write("pkg/lib.go", fmt.Sprintf("package lib // %d\n", i))
		w.changed("pkg/lib.go")
	}
	// At once, and with other contents.
	w.rename("pkg", "old")
	w.write("pkg/lib.go", "package lib // new\n")
	w.changed("pkg/lib.go")
	w.write("pkg/lib.go", "package lib // newer\n")
	w.changed("pkg/lib.go")
	w.write("old/lib.go", "package lib // nobody cares\n")
	// One that was never there.
	w.write("later/pkg/l.go", "package l\n")
	w.changed("later/pkg/l.go")
	w.write("later/pkg/l.go", "package l // 1\n")
	w.changed("later/pkg/l.go")
	w.quiet()
}

// The parent of all that is watched is replaced: no event tells.
func TestAReplacedWorkspaceIsNoticed(t *testing.T) {
	t.Parallel()
	w := start(t, Options{})
	w.write("work/main.go", "package main\n")
	w.write("next/main.go", "package main // next\n")
	w.ok(os.MkdirAll(w.path("real"), 0o755))
	w.rename("work", "real/a")
	w.rename("next", "real/b")
	w.ok(os.Symlink("real/a", w.path("work")))
	w.Watch(w.set(w.path("work")))

	w.write("real/a/main.go", "package main // 1\n") // by its other name
	w.changed("work/main.go")
	w.write("work/new.go", "package main\n")
	w.changed("work/new.go")
	w.ok(os.Symlink("real/b", w.path("work.new")))
	w.rename("work.new", "work")
	w.changed("work/main.go", "work/new.go")
	w.write("real/b/main.go", "package main // 2\n")
	w.changed("work/main.go")
	w.write("real/a/main.go", "package main // nobody cares\n")
	w.write("real/b/mark.go", "package main\n")
	w.changed("work/mark.go")
}

// A file that is a link to one elsewhere has what that has.
func TestLinkedFilesAreFollowed(t *testing.T) {
	t.Parallel()
	w := start(t, Options{})
	w.write("elsewhere/real.go", "package main\n")
	w.ok(os.Symlink("elsewhere/real.go", w.path("link.go")))
	w.changed("link.go")
	w.write("elsewhere/real.go", "package main // 1\n")
	w.changed("link.go")
	w.write("elsewhere/tmp", "package main // 2\n")
	w.rename("elsewhere/tmp", "elsewhere/real.go")
	w.changed("link.go")
	w.write("elsewhere/other.go", "package main\n")
	w.quiet()
}

// What happens while the set is replaced, or before the first is told, is told.
func TestNothingIsMissedWhenTheSetChanges(t *testing.T) {
	t.Parallel()
	w := start(t, Options{Quiet: 300 * time.Millisecond})
	w.write("main.go", "package main // 1\n")
	w.Watch(w.set(w.dir)) // before it was told
	w.changed("main.go")
	w.write("pkg/lib.go", "package lib\n")
	set := w.set(w.dir)
	set.Dirs = append(set.Dirs, w.path("pkg"))
	w.Watch(set) // a new folder: what is in it is what there is
	w.write("pkg/lib.go", "package lib // 1\n")
	w.changed("pkg/lib.go")
	w.Watch(Set{Files: []string{w.path("main.go")}})
	w.write("pkg/lib.go", "package lib // nobody cares\n")
	w.write("other.go", "package main // nobody cares\n")
	w.write("main.go", "package main // 2\n")
	w.changed("main.go")
}

// What is being saved is noticed at once by who asks.
func TestCheckFindsWhatIsNotToldYet(t *testing.T) {
	t.Parallel()
	w := start(t, Options{Quiet: 300 * time.Millisecond})
	if w.Check() {
		t.Error("something has changed before anything was done")
	}
	w.write("main.go", "")
	if !w.Check() {
		t.Error("a file that was emptied has not changed")
	}
	w.write("main.go", "package main // 1\n")
	w.changed("main.go")
	if w.Check() {
		t.Error("what was told is found again")
	}
}

// More events than the kernel keeps, while nobody takes them: all is compared.
func TestLostEventsAreMadeUpFor(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("about inotify's queue")
	}
	t.Parallel()
	data, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
	if err != nil {
		t.Fatal(err)
	}
	var queue int
	if _, err := fmt.Sscan(string(data), &queue); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	told, release := make(chan []string), make(chan struct{})
	w := New(Options{Changed: func(paths []string, _ time.Time) {
		told <- paths
		<-release
	}})
	defer w.Close()
	write("main.go", "1")
	w.Watch(Set{Files: []string{filepath.Join(dir, "main.go")}})
	write("main.go", "2")
	<-told // and now it takes no events
	for range queue/2 + 10000 {
		for _, name := range []string{"a", "b"} { // the same event twice would be one
			write(name, "")
		}
	}
	write("main.go", "3")
	close(release)
	select {
	case got := <-told:
		if want := []string{filepath.Join(dir, "main.go")}; !slices.Equal(got, want) {
			t.Errorf("told of %q, want %q", got, want)
		}
	case <-time.After(patience):
		t.Fatal("the last change was not told")
	}
}

func TestPollingFindsTheSame(t *testing.T) {
	t.Parallel()
	w := start(t, Options{Poll: 20 * time.Millisecond})
	w.write("main.go", "package main // 1\n")
	w.changed("main.go")
	w.write("main.go", "package main // 2\n") // the same size
	w.changed("main.go")
	w.write("sub/x.go", "package sub\n")
	w.changed("sub/x.go")
	w.remove("sub")
	w.changed("sub/x.go")
	w.write("main.go", "package main // 2\n")
	w.quiet()
}

// Without a descriptor left, there is no inotify instance: it polls, and says why.
func TestWithoutInotifyItPollsAndSaysWhy(t *testing.T) { // not parallel: the limit is the process's
	if runtime.GOOS != "linux" {
		t.Skip("about inotify's limits")
	}
	dir := t.TempDir()
	warned := ""
	told := make(chan []string, 10)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := limit
	none.Cur = 0
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	w := New(Options{Changed: func(paths []string, _ time.Time) { told <- paths }, Warn: func(text string) { warned = text }})
	err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	defer w.Close()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(warned, "too many open files") || !strings.Contains(warned, "looked for every 500ms") {
		t.Errorf("it says %q", warned)
	}
	main := filepath.Join(dir, "main.go")
	w.Watch(Set{Files: []string{main}})
	if err := os.WriteFile(main, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-told:
		if !slices.Equal(got, []string{main}) {
			t.Errorf("told of %q", got)
		}
	case <-time.After(patience):
		t.Fatal("a change was not told")
	}
}

func TestCloseLeavesNothing(t *testing.T) { // not parallel: it counts descriptors
	if runtime.GOOS != "linux" {
		t.Skip("looks at descriptors in /proc")
	}
	before := descriptors(t)
	for range 20 {
		w := start(t, Options{})
		w.write("main.go", "package main // 1\n")
		w.changed("main.go")
		w.Close()
		w.Close()
		w.write("main.go", "package main // 2\n")
		select {
		case got := <-w.told:
			t.Errorf("told of %q after Close", got)
		default:
		}
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors are open, %d were before", after, before)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	open := 0
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name())); err == nil && strings.Contains(to, "inotify") {
			open++
		} else if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	return open
}
