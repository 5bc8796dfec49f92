package buildflags

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// A ConfigError says which attribute of a Config can't be used and why.
type ConfigError struct {
	Attr    string // the JSON name of the attribute of Config, as in "program"
	Message string // what is wrong, with the value as the user wrote it
	Fix     string // what to do about it, or ""
	Err     error  // the cause, or nil
}

// Error returns one sentence (Message may quote the go command's lines).
func (e *ConfigError) Error() string {
	s := "build." + e.Attr + ": " + e.Message
	if e.Fix != "" {
		s += "; " + e.Fix
	}
	return s
}

func (e *ConfigError) Unwrap() error { return e.Err }

// A Diagnostic is one message of the compiler, the linker or the go command
// about a place in a source file.
type Diagnostic struct {
	File    string `json:"file"`          // absolute
	Line    int    `json:"line"`          // from 1
	Col     int    `json:"col,omitempty"` // from 1, in bytes; 0: unknown
	Message string `json:"message"`       // may have several lines
}

// A CompileError says that the program, or a package it imports, does not compile or link.
type CompileError struct {
	Program     string       // as in Config, or its default
	Diagnostics []Diagnostic // in the compiler's order; none if the linker failed, for instance
	Output      string       // what the go command wrote, without its progress
}

// Error returns a sentence and below it the output, cut after 40 lines.
func (e *CompileError) Error() string {
	count := ""
	if n := len(e.Diagnostics); n > 1 {
		count = fmt.Sprintf(" (%d errors)", n)
	}
	return fmt.Sprintf("%s does not compile%s:\n%s", e.Program, count, firstLines(e.Output, 40))
}

// A GoError says that the go command failed for a reason that is neither the
// source's nor one that this package knows.
type GoError struct {
	Args   []string // the command line
	Dir    string   // where it ran
	Output string   // its standard error
	Err    error    // how it ended
}

// Error names the command and has the output, cut after 40 lines.
func (e *GoError) Error() string {
	verb := "go"
	if len(e.Args) > 1 {
		verb += " " + e.Args[1]
	}
	out := firstLines(e.Output, 40)
	if out == "" {
		return fmt.Sprintf("%s in %s: %v", verb, e.Dir, e.Err)
	}
	if strings.Contains(out, "\n") {
		out = "\n" + out
	}
	return fmt.Sprintf("%s in %s: %s", verb, e.Dir, strings.TrimPrefix(out, "go: "))
}

func (e *GoError) Unwrap() error { return e.Err }

// A BinaryError says that a binary can't be debugged, or not on the platform
// that it is meant for.
type BinaryError struct {
	Path     string
	Info     *Info
	Problems []Problem // at least one
}

// Error returns a sentence that has every problem and its way out.
func (e *BinaryError) Error() string {
	var s []string
	for _, p := range e.Problems {
		s = append(s, p.String())
	}
	return e.Path + " can't be debugged: " + strings.Join(s, "; ")
}

func firstLines(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	if len(lines) > n {
		lines = append(lines[:n:n], fmt.Sprintf("... and %d more lines", len(lines)-n))
	}
	return strings.Join(lines, "\n")
}

// parseDiagnostics finds the messages in what `go build` wrote, which are lines
// "file:line:col: message" or "file:line: message", with indented lines below
// them that go on. (The format of gc, of go vet, and of go list for import
// errors; C compilers' have the same with "error: " before the message.)
// Relative files are relative to dir, where the go command ran.
func parseDiagnostics(dir, output string) []Diagnostic {
	var ds []Diagnostic
	open := false // the last diagnostic may go on
	for line := range strings.Lines(output) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" || line[0] == '#' {
			open = false
			continue
		}
		if line[0] == ' ' || line[0] == '\t' {
			if open {
				d := &ds[len(ds)-1]
				d.Message += "\n" + line
			}
			continue
		}
		d, ok := parseDiagnostic(line)
		if open = ok; !ok {
			continue
		}
		if !filepath.IsAbs(d.File) {
			d.File = filepath.Join(dir, d.File)
		}
		d.File = filepath.Clean(d.File)
		ds = append(ds, d)
	}
	return ds
}

func parseDiagnostic(line string) (Diagnostic, bool) {
	// The volume name keeps the colon of C:\x out of the search.
	vol := filepath.VolumeName(line)
	file, rest, ok := strings.Cut(line[len(vol):], ":")
	if !ok || file == "" || strings.Contains(file, "\x00") {
		return Diagnostic{}, false
	}
	// A prefix such as "go: " or "package x imports y" is no file: files have a suffix.
	if filepath.Ext(file) == "" || strings.HasPrefix(rest, " ") {
		return Diagnostic{}, false
	}
	num, rest, ok := strings.Cut(rest, ":")
	n, err := strconv.Atoi(num)
	if !ok || err != nil || n < 1 {
		return Diagnostic{}, false
	}
	d := Diagnostic{File: vol + file, Line: n}
	if num, after, ok := strings.Cut(rest, ":"); ok {
		if n, err := strconv.Atoi(num); err == nil && n > 0 {
			d.Col, rest = n, after
		}
	}
	d.Message = strings.TrimSpace(rest)
	return d, d.Message != ""
}
