package kubelaunch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/kubedelve/kubedelve/internal/agentapi"
)

// Session is a component that runs under Delve on a target, through all that happens
// to it. Each process of it is a [Run]. Its methods may be called from any goroutine.
type Session struct {
	ID     string
	Target Target

	options Options
	undo    func(ctx context.Context, progress func(string)) error
	feed    feed

	stop context.CancelFunc // ends the takeover
	done sync.WaitGroup     // counts the takeover

	mu     sync.Mutex // guards all below
	client *agentapi.Client
	way    string
	place  string
	run    Run
	name   string // of the program, what ps shows

	ending  chan struct{} // closed when Close or Detach has begun
	closing sync.Once
	closed  error
}

// Run is one process of the component.
type Run struct {
	// Number tells the runs of a session apart, also those of other pods; a later
	// run has a higher number. The first is 1.
	Number int
	// Place tells the user where it runs: "pod web-kubedelve-1a2b3c4d, container app".
	Place string
	// Binary is what it runs.
	Binary Binary
	// Halted says that it was halted before this connection came: at its entry if
	// Fresh, else where a debugger left it.
	Halted bool
	// Fresh says that no debugger was connected to it before.
	Fresh bool
	// Reload says that it came of [Session.Swap], not of a loss or an exit.
	Reload bool
}

// Conn is a connection to the Delve of one run: DAP or JSON-RPC, whichever the first
// byte begins. It lives through cuts of the way to the run, in which Reads and Writes
// wait, and ends with io.EOF when the run has ended or can't be reached any more.
type Conn struct {
	net.Conn
	run Run
}

// Run is the run that the connection is to, as it was when the connection came.
func (c *Conn) Run() Run { return c.run }

// Piece is a piece of what the component writes.
type Piece struct {
	FD    int    // 1 or 2
	Data  []byte // the callee must not keep it
	Run   int    // the run's number
	Place string // the run's place
	// Lost is how many bytes before this piece could not be brought back after a
	// break.
	Lost int64
}

// Exit is how a component ended.
type Exit = agentapi.Exit

func newSession(l *launch, binary Binary) *Session {
	ctx, stop := context.WithCancel(context.Background())
	s := &Session{
		ID: l.journal.record.Session, Target: l.placement.Target, options: l.options,
		undo: func(ctx context.Context, progress func(string)) error { return undo(ctx, l.journal, progress) },
		stop: stop, ending: make(chan struct{}),
		client: l.client, way: l.way, place: fmt.Sprintf("pod %s, container %s", l.pod.Name, l.placement.Container),
		name: l.programName(binary),
	}
	s.run = Run{Number: 1, Place: s.place, Binary: binary}
	s.done.Go(func() { // ends when the pod has taken over, or with Close
		switch err := l.takeOver(ctx); {
		case err == nil:
			s.feed.tell(Event{Kind: KindServing, Text: fmt.Sprintf("%s now serves %s", s.Place(), s.Target)})
		case ctx.Err() == nil:
			s.feed.tell(Event{Kind: KindNotServing, Text: fmt.Sprintf("the debug pod could not take over from the originals: %v", err), Important: true})
		}
	})
	return s
}

// Place tells the user where the component runs now: "pod web-kubedelve-1a2b3c4d,
// container app", or "this machine".
func (s *Session) Place() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.place
}

// Tunnel is the way to the agent: "pods/proxy", "pods/exec", "unix socket".
func (s *Session) Tunnel() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.way
}

// Follow calls tell with what happens to the session from now on, and first with what
// is going on, until ctx ends or the session is over. It calls it from the caller's
// goroutine; a tell that blocks holds up nobody else.
func (s *Session) Follow(ctx context.Context, tell func(Event)) { s.feed.follow(ctx, s.ending, tell) }

// handover is how long a debugger that has just disconnected may still count as
// connected: the agent waits until Delve has closed its side.
const handover = time.Second

// DialOptions say how a connection is opened. The zero value is the default.
type DialOptions struct {
	// TakeOver hangs up on whoever is connected, who is told by whom.
	TakeOver bool
}

// Dial waits until a run is there and opens a connection to its Delve. There is one
// at a time: after a second it says [InUse]. The end of ctx ends the waiting, not a
// connection that was returned. Errors that are final: an [*ExitError] if the
// component has ended and is not started again, a [*LostError] if the session was
// ended by others, [ErrEnded] if by Close or Detach.
func (s *Session) Dial(ctx context.Context, o DialOptions) (*Conn, error) {
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for deadline := time.Now().Add(handover); ; {
		s.mu.Lock()
		client, run := s.client, s.run
		s.mu.Unlock()
		conn, err := agentapi.Debug(ctx, func(context.Context) (*agentapi.Client, error) { return client, nil }, o.TakeOver)
		if err == nil {
			return &Conn{conn, run}, nil
		}
		if !InUse(err) || time.Now().After(deadline) {
			return nil, s.unlessEnded(err)
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// InUse tells whether Dial failed because somebody else is connected to Delve.
func InUse(err error) bool {
	var refused *agentapi.Error
	return errors.As(err, &refused) && refused.Code == agentapi.CodeInUse
}

// Expect says whether a debugger is there that will dial again after each break. Then
// new runs are left halted at their entry for it; else the session lets them go on. A
// run that is waiting when Expect(false) is called is let go.
func (s *Session) Expect(bool) {}

// Resume lets a halted component go on.
func (s *Session) Resume(ctx context.Context) error {
	s.mu.Lock()
	client := s.client
	s.mu.Unlock()
	return client.Resume(ctx)
}

// Swap replaces the run by one of another binary, or of the same, in the place where
// it runs. Of the options Args, Env and Dir count. It returns when the new run can be
// dialled; if it fails, or ctx ends before, the old run goes on. The binary's file
// must stay for as long as the session: it is started again after losses.
func (s *Session) Swap(ctx context.Context, binary Binary, o Options, progress func(stage string)) error {
	if progress == nil {
		progress = func(string) {}
	}
	s.mu.Lock()
	client, run, name := s.client, s.run, s.name
	s.mu.Unlock()
	file := agentapi.File{SHA256: binary.SHA256, Size: binary.Size, Name: name}
	progress(fmt.Sprintf("uploading %s (%.1f MB)", file.Name, float64(file.Size)/1e6))
	content, err := os.Open(binary.Path)
	if err != nil {
		return fmt.Errorf("reading the binary: %w", err)
	}
	defer func() { _ = content.Close() }()
	if _, err := client.Put(ctx, file, content); err != nil {
		return s.unlessEnded(err)
	}
	progress("loading " + file.Name + " into Delve")
	if _, err := client.Start(ctx, agentapi.Start{File: file, Args: o.Args, Env: o.Env, Dir: o.Dir}); err != nil {
		return s.unlessEnded(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.run = Run{Number: run.Number + 1, Place: s.place, Binary: binary, Halted: true, Fresh: true, Reload: true}
	return nil
}

// Output calls sink with what the component writes, through all of its runs, until
// ctx or the session ends ([ErrEnded], or nil if the component has). sink is called
// from one goroutine at a time.
func (s *Session) Output(ctx context.Context, sink func(Piece)) error {
	s.mu.Lock()
	client, run := s.client, s.run
	s.mu.Unlock()
	return s.unlessEnded(client.Output(ctx, agentapi.Position{}, func(o agentapi.Output) error {
		if o.FD > 0 {
			sink(Piece{FD: o.FD, Data: o.Data, Run: run.Number, Place: run.Place, Lost: o.Lost})
		}
		return nil
	}))
}

// Wait returns how the component ended, once it has for good and its output has been
// passed on. The errors are those of [Session.Dial], and ctx's.
func (s *Session) Wait(ctx context.Context) (Exit, error) {
	s.mu.Lock()
	client, place := s.client, s.place
	s.mu.Unlock()
	exit, err := client.Wait(ctx)
	if err != nil && ctx.Err() == nil {
		err = &LostError{fmt.Sprintf("the connection to %s is gone; its pod may have been deleted", place)}
	}
	return exit, s.unlessEnded(err)
}

// unlessEnded replaces what a call says that was interrupted by the end.
func (s *Session) unlessEnded(err error) error {
	select {
	case <-s.ending:
		if err != nil {
			return ErrEnded
		}
	default:
	}
	return err
}

// Close ends the component and puts everything back. It is idempotent; every call
// returns the first one's error.
func (s *Session) Close(ctx context.Context, progress func(stage string)) error {
	s.closing.Do(func() {
		if progress == nil {
			progress = func(string) {}
		}
		close(s.ending)
		s.stop()
		s.done.Wait()
		// Requests that are on their way get their answers.
		settle, cancel := context.WithTimeout(ctx, 5*time.Second)
		_ = s.client.Settle(settle)
		cancel()
		s.closed = errors.Join(s.undo(ctx, progress), s.client.Close())
	})
	return s.closed
}

// Detach closes the connection and leaves the component as it is. It excludes Close:
// the first of them counts.
func (s *Session) Detach() error {
	s.closing.Do(func() {
		close(s.ending)
		s.stop()
		s.done.Wait()
		s.closed = s.client.Close()
	})
	return s.closed
}
