package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "write docs/cli.md anew")

// TestReference checks that docs/cli.md is what --help says.
func TestReference(t *testing.T) {
	t.Setenv(envAgentImage, "kubedelve.dev/agent:VERSION")
	var want bytes.Buffer
	want.WriteString("# The command line\n\n" +
		"kubedelve's own help, written by `make docs`. With `kubectl-delve` in PATH (`make build` makes the link) each\n" +
		"of these is also `kubectl delve ...`.\n\n" +
		"Exit codes of all commands: 0 done, 1 it failed (what failed is on standard error), 2 the command line is wrong. `debug` ends\n" +
		"with 0 after Ctrl-C and if the program ended with 0; `inspect` and `doctor` with 1 if the answer is no.\n\n" +
		"With `-o json` the answer is one JSON value on standard output, also with exit code 1 of `inspect` and `doctor`; `debug` and\n" +
		"`restore` write an object a line. Members may be added in later versions.\n")
	// Every command inherits the same flags: once is enough.
	want.WriteString("\n## Flags of every command\n\n```\n" + trimLines(newRoot("kubedelve").PersistentFlags().FlagUsages()) + "```\n")
	for _, cmd := range newRoot("kubedelve").Commands() {
		if cmd.Hidden || cmd.Name() == "help" || cmd.Name() == "completion" {
			continue
		}
		writeCommand(&want, cmd)
	}
	path := filepath.Join("..", "..", "docs", "cli.md")
	if *update {
		if err := os.WriteFile(path, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%s is not what --help says: run make docs", path)
	}
}

func writeCommand(out *bytes.Buffer, cmd *cobra.Command) {
	_, _ = fmt.Fprintf(out, "\n## kubedelve %s\n\n", cmd.Name())
	text := cmd.Long
	if text == "" {
		text = cmd.Short + "."
	}
	_, _ = fmt.Fprintf(out, "```\n%s\n\nUsage:\n  %s\n", text, cmd.UseLine())
	if cmd.Example != "" {
		_, _ = fmt.Fprintf(out, "\nExamples:\n%s\n", cmd.Example)
	}
	if flags := cmd.LocalFlags().FlagUsages(); flags != "" {
		_, _ = fmt.Fprintf(out, "\nFlags:\n%s", trimLines(flags))
	}
	out.WriteString("```\n")
}

// trimLines takes the spaces off the ends of lines.
func trimLines(text string) string {
	var lines strings.Builder
	for line := range strings.Lines(text) {
		lines.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return lines.String()
}
