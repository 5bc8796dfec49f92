package dapserver

import (
	"context"
	"fmt"
	"io"
	"time"
)

// Launcher puts components under Delve. It is implemented by the program that
// knows clusters; this package only asks.
//
// The text of an error is shown to the user as it is: it names the attribute
// of the launch configuration that is at fault and says what to do.
//
// The ctx of both methods ends soon after they return: a Session must not
// depend on it.
type Launcher interface {
	// Launch builds the component, swaps it in and starts headless Delve.
	// The session belongs to the client: when the client disconnects or
	// vanishes, Session.Close is called. When ctx ends (the user stopped the
	// launch), Launch undoes what it did before it returns.
	Launch(ctx context.Context, cfg *LaunchConfig, report Reporter) (Session, error)

	// Attach finds a session that runs already. When the client disconnects,
	// Session.Detach is called, and the session lives on; it is closed only if
	// the client asked for that (terminateDebuggee).
	Attach(ctx context.Context, cfg *LaunchConfig, report Reporter) (Session, error)
}

// Session is a component that is debugged, through all that happens to it: it is
// rebuilt and swapped, it exits and is started again, its pod is deleted and comes
// back elsewhere, the way to it is cut. Each process of the component under a Delve
// of its own is a [Run]. All methods may be called concurrently.
type Session interface {
	// Name tells the user what is debugged: "deploy/web". It stays the same.
	Name() string

	// Dial waits until a run of the component is under Delve, and opens a new
	// connection to it, on which DAP is spoken at once. Delve serves one DAP client
	// at a time; this package closes a connection before it dials the next.
	//
	// The connection survives what the run survives, so that a cut of the way
	// to it only makes its Reads and Writes wait. It ends when its run has ended or
	// can't be reached again; then this package dials once more, and gets the next
	// run. From the first Dial to Detach or Close new runs are left halted at
	// their entry, for this package to let them go on.
	//
	// The error is an [*ExitError] when the component has ended for good, else it
	// tells the user why there is no way to it. Close of the connection ends
	// Reads and Writes; the end of ctx, after Dial has returned, must not.
	Dial(ctx context.Context) (Connection, error)

	// Output calls emit for each piece of what the component writes, in order and
	// through all runs, and returns when the session is over (nil) or ctx is. emit
	// blocks while the editor does not keep up, and keeps nothing of the piece's
	// data. It is called at most once at a time. Between two calls, while no client
	// is there, output is the Session's to keep or drop; it must not make the
	// component wait.
	Output(ctx context.Context, emit func(Piece) error) error

	// Wait returns the exit code of the component after it has ended for good, or
	// an error if ctx ends first or the code cannot be known.
	Wait(ctx context.Context) (exitCode int, err error)

	// Follow calls tell with what happens to the session from now on, and first
	// with what is going on, until ctx ends or the session is over. tell must not
	// block for long; it is called from one goroutine at a time.
	Follow(ctx context.Context, tell func(Event))

	// Restart swaps in a new run: built from the sources as they are now, unless
	// the launch configuration says hotReload "off". cfg is what the client has
	// sent along, nil if nothing; what it changes is heeded (arguments,
	// environment, build) or refused. It returns when the new run is there to be
	// dialled, or with an error that tells why the old one goes on.
	Restart(ctx context.Context, cfg *LaunchConfig) error

	// Detach lets go of what this client holds and leaves the component
	// running under Delve.
	Detach(ctx context.Context) error

	// Close ends the component under Delve (SIGTERM, its grace period, SIGKILL) and
	// puts everything back as it was. It is idempotent.
	Close(ctx context.Context) error
}

// Connection is a way to the Delve of one run.
type Connection interface {
	io.ReadWriteCloser
	Run() Run
}

// Run is one process of the component.
type Run struct {
	// Number tells runs of a session apart; a later one has a higher number.
	Number int
	// Place is where it runs: "pod web-123, container app".
	Place string
	// Binary names what it runs by content: two runs of the same have equal addresses.
	Binary string
	// Halted says that the component was halted before this connection came: at
	// its entry if Fresh, else where a debugger left it.
	Halted bool
	// Fresh says that no debugger has been connected to the run before.
	Fresh bool
	// Reload says that the run came of a swap (a save or Restart), not of a loss.
	Reload bool
	// Program answers requests about the binary without asking Delve; nil if the
	// file is not on this machine.
	Program Program
	// SubstitutePath is how local paths are written in the binary, the
	// longest first. The user's own rules come before these.
	SubstitutePath []PathRule
}

// ExitError is the end of a component that is not started again.
type ExitError struct{ Code int }

func (e *ExitError) Error() string {
	return fmt.Sprintf("the component has ended with exit code %d", e.Code)
}

// Piece is a piece of what a component writes.
type Piece struct {
	Stream OutputStream // Stdout or Stderr, or Console for what the session has to say
	Data   []byte
	Run    int    // the run's number
	Place  string // the run's place
}

// Event is something that happens to a session.
type Event struct {
	// Activity numbers what goes on for a while, like a rebuild or a reconnect; the
	// client shows it as a progress from the first event with the number to the one
	// with Over. 0 is for an event that is none.
	Activity int
	Title    string // of the activity, the same in all its events: "Rebuilding ./cmd/web"
	Stage    string // what is being done now
	Percent  int    // of the stage; negative: unknown
	Over     bool   // the activity has ended
	Cancel   func() // if set, takes the activity back; it may be called at any time

	// Swapped, if not 0, says that a swap has come about and how long it took.
	Swapped time.Duration

	// Text, if not empty, is shown to the user: usually lines with their newline.
	// With a location the editor makes a link of it.
	Text   string
	Stream OutputStream
	At     *Location
}

// OutputStream says where a piece of output came from. Its values are the
// categories of DAP's output event.
type OutputStream string

const (
	// Stdout is the component's.
	Stdout OutputStream = "stdout"
	// Stderr is the component's.
	Stderr OutputStream = "stderr"
	// Console is for what kubedelve itself has to say.
	Console OutputStream = "console"
	// Important is for what the user must not overlook; editors highlight it.
	Important OutputStream = "important"
)

// Reporter takes what a Launcher has to tell the user while it works. It may
// be called from several goroutines until Launch or Attach returns.
type Reporter interface {
	// Stage says what is being done now ("building ./cmd/web"), and how much of
	// it is done in percent; a negative percentage means that it is unknown.
	Stage(title string, percent int)

	// Output shows text, usually lines with their newline. With a location the
	// editor makes a link of it: one message of a compiler per call.
	Output(stream OutputStream, text string, at *Location)
}

// Location is a place in a local source file.
type Location struct {
	// Path is absolute.
	Path string
	// Line and Column count from 1; 0 means unknown.
	Line, Column int
}
