package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

// event is one line of -o json.
type event struct {
	Event   string  `json:"event"`             // see docs/cli.md
	Seconds float64 `json:"seconds"`           // since the command began
	Text    string  `json:"text,omitempty"`    // in words
	Session string  `json:"session,omitempty"` // ready: the session's id
	Listen  string  `json:"listen,omitempty"`  // ready: the local address
	Place   string  `json:"place,omitempty"`   // ready
	Tunnel  string  `json:"tunnel,omitempty"`  // ready
	Code    *int    `json:"code,omitempty"`    // exited: the component's exit code
	File    string  `json:"file,omitempty"`    // build-error: the source file
	Line    int     `json:"line,omitempty"`    // build-error: from 1
	Column  int     `json:"column,omitempty"`  // build-error: from 1
	Took    float64 `json:"took,omitempty"`    // swapped, back: in seconds
}

// console tells the user of a terminal, or a program that asked for JSON, what is
// going on. Its methods may be called from any goroutine.
type console struct {
	began time.Time
	json  *json.Encoder // nil: text

	mu    sync.Mutex // guards out and json
	out   io.Writer
	color bool
	quiet time.Time // of the last detail that was shown
}

// detailInterval is how often details are shown: often enough to see that it goes on.
const detailInterval = 2 * time.Second

// newConsole writes text to stderr or, for the format json, one object a line to
// stdout.
func newConsole(format string, stdout, stderr io.Writer) *console {
	c := &console{began: time.Now(), out: stderr}
	if format == formatJSON {
		c.json = json.NewEncoder(stdout)
	}
	if f, ok := stderr.(*os.File); ok {
		c.color = term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == ""
	}
	return c
}

// The output formats.
const (
	formatText = ""
	formatJSON = "json"
)

func (c *console) tell(e event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.Seconds = time.Since(c.began).Seconds()
	if c.json != nil {
		_ = c.json.Encode(e)
		return
	}
	stamp := fmt.Sprintf("%6.1fs", e.Seconds)
	if c.color {
		stamp = "\x1b[2m" + stamp + "\x1b[0m"
	}
	_, _ = fmt.Fprintf(c.out, "%s  %s\n", stamp, e.Text)
}

// Stage tells that something has begun.
func (c *console) Stage(title string) { c.tell(event{Event: "stage", Text: title}) }

// Detail tells how far it is, if it was not told just now.
func (c *console) Detail(text string) {
	c.mu.Lock()
	recent := time.Since(c.quiet) < detailInterval
	if !recent {
		c.quiet = time.Now()
	}
	c.mu.Unlock()
	if !recent && time.Since(c.began) > detailInterval {
		c.tell(event{Event: "detail", Text: text})
	}
}

// Note tells something that was found out or done.
func (c *console) Note(text string) { c.tell(event{Event: "note", Text: text}) }
