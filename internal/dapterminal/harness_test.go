package dapterminal

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kubedelve/kubedelve/internal/leakcheck"
)

// patience is how long a test waits for anything; the machine may be busy.
const patience = 60 * time.Second

// programs are what the tests build.
type programs struct {
	delve, program string
}

// scratch is where they are; empty if there are none.
var scratch string

var build = sync.OnceValues(func() (programs, error) {
	dir, err := os.MkdirTemp("", "dapterminal")
	scratch = dir
	p := programs{filepath.Join(dir, "delve"), filepath.Join(dir, "program")}
	for name, flags := range map[string][]string{"delve": nil, "program": {"-gcflags=all=-N -l"}} {
		if err != nil {
			break
		}
		cmd := exec.Command("go", append(append([]string{"build", "-o", filepath.Join(dir, name)}, flags...), "./testdata/"+name)...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		var out []byte
		if out, err = cmd.CombinedOutput(); err != nil {
			err = fmt.Errorf("%v: %w\n%s", cmd.Args, err, out)
		}
	}
	return p, err
})

func TestMain(m *testing.M) {
	code := m.Run()
	if scratch != "" {
		_ = os.RemoveAll(scratch)
	}
	os.Exit(code)
}

func built(t *testing.T) programs {
	t.Helper()
	p, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// line is where the program's breakpoint is.
func line(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("testdata/program/main.go")
	if err != nil {
		t.Fatal(err)
	}
	before, _, found := strings.Cut(string(text), "// breakpoint")
	if !found {
		t.Fatal("there is no breakpoint in the program")
	}
	return fmt.Sprintf("testdata/program/main.go:%d", strings.Count(before, "\n")+1)
}

// user is somebody at a terminal.
type user struct {
	*testing.T
	lines      chan string // what is typed; closed for the end of input
	interrupts chan os.Signal
	ended      chan error // holds one
	once       sync.Once  // guards the closing of lines

	mu       sync.Mutex // guards all below
	shown    string
	taken    int           // how far sees has got
	printed  int           // how much of that prints has waited for
	changed  chan struct{} // closed and made anew when something is shown
	complete func(string) []string
}

// start begins a terminal.
func start(t *testing.T, adapter string, configuration map[string]any) *user {
	t.Helper()
	leakcheck.Goroutines(t)
	u := &user{T: t, lines: make(chan string), interrupts: make(chan os.Signal), ended: make(chan error, 1), changed: make(chan struct{})}
	connector, err := NewConnector(adapter, u)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		u.ended <- Run(ctx, Options{Adapter: connector, Configuration: configuration, Lines: u, Out: u, Interrupts: u.interrupts})
	}()
	t.Cleanup(func() {
		cancel()
		u.leaves()
		select {
		case err := <-u.ended: // if the test has not taken that
			if t.Failed() {
				t.Logf("the terminal ended with %v after\n%s", err, u.all())
			}
		default:
			if t.Failed() {
				t.Logf("the terminal shows\n%s", u.all())
			}
		}
	})
	return u
}

// Write implements [io.Writer].
func (u *user) Write(b []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.shown += string(b)
	close(u.changed)
	u.changed = make(chan struct{})
	return len(b), nil
}

// Prompt implements [Lines].
func (u *user) Prompt(prompt string) (string, error) {
	_, _ = io.WriteString(u, prompt)
	text, ok := <-u.lines
	if !ok {
		return "", io.EOF
	}
	_, _ = io.WriteString(u, text+"\n")
	return text, nil
}

// SetCompleter implements [Lines].
func (u *user) SetCompleter(f func(string) []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.complete = f
}

func (u *user) all() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.shown
}

// sees waits until the text is shown, after what earlier calls have waited for, and
// returns what is shown up to it.
func (u *user) sees(text string) string {
	u.Helper()
	return u.waits(text, &u.taken)
}

// prints waits for what the program itself prints, after what earlier calls have waited for. That
// comes by another way than what the server tells, and may be shown later than it.
func (u *user) prints(texts ...string) {
	u.Helper()
	for _, text := range texts {
		u.waits(text, &u.printed)
	}
}

// waits waits until the text is shown after a place, which then moves behind it.
func (u *user) waits(text string, taken *int) string {
	u.Helper()
	limit := time.After(patience)
	for {
		u.mu.Lock()
		rest, changed := u.shown[*taken:], u.changed
		i := strings.Index(rest, text)
		if i >= 0 {
			*taken += i + len(text)
		}
		u.mu.Unlock()
		if i >= 0 {
			return rest[:i]
		}
		select {
		case <-changed:
		case <-limit:
			u.Fatalf("%q is not shown, but\n%s", text, rest)
		}
	}
}

// types types a line when one is asked for.
func (u *user) types(text string) {
	u.Helper()
	u.sees(Prompt)
	u.enters(text)
}

// enters types a line at a prompt that was seen.
func (u *user) enters(text string) {
	u.Helper()
	select {
	case u.lines <- text:
	case <-time.After(patience):
		u.Fatal("nobody reads what is typed")
	}
}

// gets types a line, and wants to see something for it.
func (u *user) gets(text string, wants ...string) {
	u.Helper()
	u.types(text)
	for _, want := range wants {
		u.sees(want)
	}
}

// leaves is Ctrl-D; only the first call is.
func (u *user) leaves() { u.once.Do(func() { close(u.lines) }) }

// presses is Ctrl-C.
func (u *user) presses() {
	u.Helper()
	select {
	case u.interrupts <- os.Interrupt:
	case <-time.After(patience):
		u.Fatal("nobody takes the interrupt")
	}
}

// ends waits until the terminal has ended, and returns how.
func (u *user) ends() error {
	u.Helper()
	select {
	case err := <-u.ended:
		return err
	case <-time.After(patience):
		u.Fatalf("the terminal does not end")
		return nil
	}
}
