package dapterminal

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/google/go-dap"
)

// output is what the user reads.
type output struct {
	mu     sync.Mutex // guards all below
	w      io.Writer
	titles map[string]string // of what is in progress
}

func newOutput(w io.Writer) *output { return &output{w: w, titles: map[string]string{}} }

// say writes a line, or several.
func (o *output) say(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	o.write(text)
}

// write writes as it is, which the program's own output need not end lines in.
func (o *output) write(text string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, _ = io.WriteString(o.w, text)
}

// event shows an event that changes nothing. Others may be anybody's, and are not shown.
func (o *output) event(name string, raw json.RawMessage) {
	var body struct {
		dap.OutputEventBody
		ExitCode   int    `json:"exitCode"`
		ProgressID string `json:"progressId"`
		Title      string `json:"title"`
		Message    string `json:"message"`
	}
	if len(raw) > 0 && json.Unmarshal(raw, &body) != nil {
		return
	}
	switch name {
	case "output":
		if body.Category != "telemetry" {
			o.write(body.Output)
		}
	case "exited":
		o.say("The program has exited with code %d.", body.ExitCode)
	case "progressStart":
		o.mu.Lock()
		o.titles[body.ProgressID] = body.Title
		o.mu.Unlock()
		o.progress(body.Title, body.Message)
	case "progressUpdate":
		o.mu.Lock()
		title := o.titles[body.ProgressID]
		o.mu.Unlock()
		if body.Message != "" {
			o.progress(title, body.Message)
		}
	case "progressEnd":
		o.mu.Lock()
		delete(o.titles, body.ProgressID)
		o.mu.Unlock()
	}
}

func (o *output) progress(title, message string) {
	if message != "" {
		title += ": " + message
	}
	o.say("... %s", title)
}

// expand puts values into a text of the protocol: "{name}".
func expand(format string, values map[string]string) string {
	for name, value := range values {
		format = strings.ReplaceAll(format, "{"+name+"}", value)
	}
	return format
}

// short is a path as people write it in this folder.
func short(path string) string {
	dir, err := os.Getwd()
	if err != nil {
		return path
	}
	rel, err := filepath.Rel(dir, path)
	if err != nil || strings.HasPrefix(rel, "..") {
		return path
	}
	return "." + string(filepath.Separator) + rel
}

// place is where a frame is.
func place(f dap.StackFrame) string {
	if f.Source == nil || f.Source.Path == "" && f.Source.Name == "" {
		return f.Name
	}
	path := f.Source.Path
	if path == "" {
		path = f.Source.Name
	}
	return fmt.Sprintf("%s %s:%d", f.Name, short(path), f.Line)
}
