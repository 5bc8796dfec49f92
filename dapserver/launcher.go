package dapserver

import (
	"context"
	"io"
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

// Session is a component that runs under headless Delve. All methods may be
// called concurrently.
type Session interface {
	// Name tells the user what is debugged: "deploy/web (pod web-123, container app)".
	Name() string

	// Dial opens a new connection to Delve, on which DAP is spoken at once.
	// Delve serves one DAP client at a time; this package closes a connection
	// before it dials the next. Close of the connection ends Reads and Writes;
	// the end of ctx, after Dial has returned, must not.
	Dial(ctx context.Context) (io.ReadWriteCloser, error)

	// SubstitutePath is how local paths are written in the binary, the
	// longest first. The user's own rules come before these.
	SubstitutePath() []PathRule

	// Output calls emit for each piece of what the component writes, in order,
	// and returns when the output has ended (nil) or ctx has. emit blocks while
	// the editor does not keep up, and keeps nothing of p. It is called at most
	// once at a time. Between two calls, while no client is there, output is
	// the Session's to keep or drop; it must not make the component wait.
	Output(ctx context.Context, emit func(stream OutputStream, p []byte) error) error

	// Wait returns the exit code of the component after it has ended, or an
	// error if ctx ends first or the code cannot be known.
	Wait(ctx context.Context) (exitCode int, err error)

	// Detach lets go of what this client holds and leaves the component
	// running under Delve.
	Detach(ctx context.Context) error

	// Close ends the component under Delve and puts everything back as it was.
	// It is idempotent.
	Close(ctx context.Context) error
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
