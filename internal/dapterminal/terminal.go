package dapterminal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/go-dap"
)

// Prompt is what lines are asked for with.
const Prompt = "(dap) "

// leaveTime is how long a server has to say farewell, when it is one that others have
// started.
const leaveTime = 5 * time.Second

// completionTime is how long a server has to find what a line may become.
const completionTime = 2 * time.Second

// Lines is where the user types, like a liner.State.
type Lines interface {
	// Prompt returns a line, or io.EOF if there will be none.
	Prompt(prompt string) (string, error)
	// SetCompleter sets what finds the lines that a beginning may be of.
	SetCompleter(func(line string) []string)
}

// Options are what a terminal is about.
type Options struct {
	Adapter *Connector
	// Configuration is the arguments of the request that its member "request" names:
	// "launch" or "attach".
	Configuration map[string]any
	Lines         Lines
	Out           io.Writer
	// Interrupts are the user's Ctrl-C while no line is asked for.
	Interrupts <-chan os.Signal
}

// terminal is one user and one session at a time.
type terminal struct {
	Options
	out   *output
	marks marks
	s     *session       // the current one; changed by the goroutine of Run only
	tells sync.WaitGroup // of tell

	mu      sync.Mutex // guards all below
	cancel  func()     // ends what is being done
	waiting *session   // whose program is waited for
	pausing bool       // it was asked to halt since
}

// Run is a debugger until the user leaves or ctx ends (no error), or the connection does
// (an error). What the session has begun ends with it.
func Run(ctx context.Context, o Options) (err error) {
	if request := o.Configuration["request"]; request != "launch" && request != "attach" {
		return fmt.Errorf("the member \"request\" of the configuration is %v: write \"launch\" or \"attach\"", request)
	}
	t := &terminal{Options: o, out: newOutput(o.Out)}
	var interrupts sync.WaitGroup
	defer interrupts.Wait()
	over, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	interrupts.Go(func() { t.interrupts(over) }) // ends with Run
	defer t.tells.Wait()

	err = t.do(ctx, t.begin)
	if err == nil {
		t.out.say("Type \"help\" for a list of commands. Set breakpoints; \"continue\" lets the program begin.")
		o.Lines.SetCompleter(func(line string) []string {
			ctx, cancel := context.WithTimeout(ctx, completionTime) // no Ctrl-C ends it
			defer cancel()
			return t.complete(ctx, line)
		})
		err = t.prompt(ctx)
	}
	switch {
	case t.s == nil:
		return err
	case errors.Is(err, errLeave), errors.Is(err, context.Canceled):
		return t.do(context.WithoutCancel(ctx), t.leave)
	}
	_ = t.do(context.WithoutCancel(ctx), t.leave) // it is over one way or the other
	return err
}

// begin opens a session, up to its configuration phase.
func (t *terminal) begin(ctx context.Context) error {
	s, err := open(ctx, t.Adapter, t.Configuration, t.out, t.marked)
	if err != nil {
		return err
	}
	t.s = s
	t.tells.Go(func() { t.tell(s) }) // ends with the connection
	return s.ready(ctx)
}

// anew is restart with a new session.
func (t *terminal) anew(ctx context.Context) error {
	farewell, done := t.farewell(ctx)
	defer done()
	_ = t.s.leave(farewell, true) // whatever that says, the next one is new
	_ = t.close(farewell)
	if err := t.begin(ctx); err != nil {
		return err
	}
	if err := t.marks.setAll(ctx, t.s); err != nil {
		return err
	}
	return t.cmdContinue(ctx, "")
}

// leave ends the session. A program that it was attached to goes on without
// breakpoints.
func (t *terminal) leave(ctx context.Context) error {
	ctx, done := t.farewell(ctx)
	defer done()
	p, _ := t.s.now()
	if !t.s.launches() && (p == configuring || p == halted || p == running) {
		for _, m := range t.marks.list() {
			_ = t.marks.remove(ctx, t.s, m.id)
		}
		if p == configuring { // for which it may have been halted
			_ = t.s.configured(ctx, func(begin func() error) error { return begin() })
			p, _ = t.s.now()
		}
		if p == halted {
			t.s.mu.Lock()
			thread := t.s.thread
			t.s.mu.Unlock()
			_ = t.s.call(ctx, "continue", map[string]any{"threadId": thread}, nil)
		}
	}
	err := t.s.leave(ctx, false)
	if errors.Is(err, errGone) { // some say nothing more
		err = nil
	}
	return errors.Join(err, t.close(ctx))
}

// farewell bounds what is said to a server at the end. One that was started here may take
// as long as it likes, since it may have things to put back, until the user's Ctrl-C.
func (t *terminal) farewell(ctx context.Context) (context.Context, context.CancelFunc) {
	if t.Adapter.address != "" {
		return context.WithTimeout(ctx, leaveTime)
	}
	return context.WithCancel(ctx)
}

// close waits until the server has nothing more to say, and closes the connection.
func (t *terminal) close(ctx context.Context) error {
	select {
	case <-t.s.stopped:
	case <-ctx.Done():
	}
	err := t.s.conn.Close()
	if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed) { // no other session came after it
		return nil
	}
	return err
}

// typed is a line, or why there is none.
type typed struct {
	line string
	err  error
}

// next waits for a line. It fails when the connection ends though the program has not, or ctx does.
func (t *terminal) next(ctx context.Context, lines <-chan typed) (typed, error) {
	gone := t.s.stopped
	for {
		select {
		case in := <-lines:
			return in, nil
		case <-gone:
			if p, _ := t.s.now(); p != ended {
				return typed{}, t.s.reason()
			}
			gone = nil // there may be another session yet
		case <-ctx.Done():
			return typed{}, context.Canceled
		}
	}
}

// prompt takes lines until the user leaves, ctx ends or the connection does.
func (t *terminal) prompt(ctx context.Context) error {
	ask, lines := make(chan struct{}), make(chan typed)
	defer close(ask)
	done := make(chan struct{})
	defer close(done)
	go func() { // ends with prompt, when the user has typed what it was asked for
		for range ask {
			line, err := t.Lines.Prompt(Prompt)
			select {
			case lines <- typed{line, err}:
			case <-done:
				return
			}
		}
	}()
	last := ""
	for {
		ask <- struct{}{}
		in, err := t.next(ctx, lines)
		if err != nil {
			return err
		}
		if errors.Is(in.err, io.EOF) {
			return errLeave
		}
		if in.err != nil {
			return fmt.Errorf("asking for a line: %w", in.err)
		}
		if strings.TrimSpace(in.line) == "" {
			in.line = last
		}
		if last = in.line; last == "" {
			continue
		}
		err = t.do(ctx, func(ctx context.Context) error { return t.execute(ctx, last) })
		switch {
		case errors.Is(err, errLeave):
			return err
		case ctx.Err() != nil:
			return context.Canceled
		case errors.Is(err, context.Canceled):
			t.out.say("interrupted")
		case err != nil:
			t.out.say("Command failed: %v", err)
		}
	}
}

// do does something that Ctrl-C ends.
func (t *terminal) do(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t.mu.Lock()
	t.cancel = cancel
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		t.cancel = nil
		t.mu.Unlock()
	}()
	return f(ctx)
}

// interrupts takes Ctrl-C: it halts the program that is being waited for, and a second
// one, or one at any other time, ends what is being done.
func (t *terminal) interrupts(over context.Context) {
	var pauses sync.WaitGroup
	defer pauses.Wait()
	for {
		select {
		case <-t.Interrupts:
		case <-over.Done():
			return
		}
		t.mu.Lock()
		cancel, waiting, first := t.cancel, t.waiting, !t.pausing
		t.pausing = t.pausing || waiting != nil
		t.mu.Unlock()
		switch {
		case waiting != nil && first:
			pauses.Go(func() { // ends with the answer, the connection or Run
				if err := waiting.pause(over); err != nil && over.Err() == nil {
					t.out.say("The program can't be halted: %v", err)
				}
			})
		case cancel != nil:
			cancel()
		}
	}
}

// goOn lets the program go on: Ctrl-C is for it from then on. (The user may know of it
// before the call is over.)
func (t *terminal) goOn(send func() error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := send(); err != nil {
		return err
	}
	t.waits()
	return nil
}

// waits is called with the lock held.
func (t *terminal) waits() {
	if t.waiting != t.s {
		t.waiting, t.pausing = t.s, false
	}
}

// rests says that nobody waits for the program any more.
func (t *terminal) rests() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting = nil
}

// settle waits until the program is halted, and the user was told of it, or is gone, or
// is to be configured.
func (t *terminal) settle(ctx context.Context) error {
	t.mu.Lock()
	t.waits()
	t.mu.Unlock()
	defer t.rests()
	for {
		t.s.mu.Lock()
		done, changed := t.s.phase != running && !t.s.untold, t.s.changed
		t.s.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-t.s.stopped:
			if p, _ := t.s.now(); p == ended {
				return nil
			}
			return t.s.reason()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// tell tells the user of each time that the program of a session is halted, and that it
// is gone.
func (t *terminal) tell(s *session) {
	ctx := context.Background() // all calls end with the connection
	for {
		s.mu.Lock()
		p, untold, stop, news, changed := s.phase, s.untold, s.stop, s.news, s.changed
		s.mu.Unlock()
		if untold {
			if p == ended && !s.left() {
				t.out.say("The program has ended: \"restart\" begins anew, \"exit\" leaves.")
			}
			if p == halted {
				if err := t.tellStop(ctx, s, stop); err != nil {
					t.out.say("The program is halted (%s); where, is not known: %v", stop.Reason, err)
				}
			}
			s.change(func() { s.untold = s.untold && s.news != news }) // there may be more by now
			continue
		}
		select {
		case <-changed:
		case <-s.stopped:
			s.mu.Lock()
			told := !s.untold // both may have come at once
			s.mu.Unlock()
			if told {
				return
			}
		}
	}
}

// tellStop says where the program is halted, and why.
func (t *terminal) tellStop(ctx context.Context, s *session, stop dap.StoppedEventBody) error {
	f, err := s.current(ctx)
	if err != nil {
		return err
	}
	why := stop.Reason
	if ids := t.marks.hit(stop.HitBreakpointIds); len(ids) > 0 {
		why = "Breakpoint " + strings.Join(ids, ", ")
	}
	t.out.say("> [%s] %s", why, place(f))
	if stop.Text != "" {
		t.out.say("%s", stop.Text)
	}
	if f.Source != nil {
		text, err := s.listing(ctx, *f.Source, f.Line, f.Line)
		if err != nil {
			text = fmt.Sprintf("(%v)\n", err)
		}
		t.out.write(text)
	}
	return nil
}

// marked is told of breakpoints that the server has moved.
func (t *terminal) marked(now dap.Breakpoint) {
	if m, tell := t.marks.update(now); tell {
		t.tellMark(m)
	}
}

// complete finds the lines that one may become: names of commands, files and what the
// server finds of expressions.
func (t *terminal) complete(ctx context.Context, line string) (lines []string) {
	name, args, more := strings.Cut(line, " ")
	if !more {
		for _, c := range commands() {
			if strings.HasPrefix(c.names[0], line) {
				lines = append(lines, c.names[0])
			}
		}
		return lines
	}
	c, err := find(name)
	if err != nil {
		return nil
	}
	switch c.names[0] {
	case "break", "list":
		files, _ := filepath.Glob(args + "*")
		for _, file := range files {
			lines = append(lines, name+" "+file)
		}
	case "print", "whatis", "set", "repl", "call":
		for _, text := range t.s.completions(ctx, args) {
			lines = append(lines, name+" "+text)
		}
	case "help":
		for _, c := range commands() {
			if strings.HasPrefix(c.names[0], args) {
				lines = append(lines, name+" "+c.names[0])
			}
		}
	}
	return lines
}
