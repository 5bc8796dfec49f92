package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/kubedelve/kubedelve/buildflags"
)

func TestProgramsAreKeptByContent(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var p programs
	add := func(path, sha256 string) { p.add(&buildflags.Binary{Path: path, SHA256: sha256}) }
	add(self, "a")
	first := p.of("a")
	if first == nil || first.BuildInfo().GoVersion == "" {
		t.Fatalf("got %v", first)
	}
	add(self, "a")
	if p.of("a") != first {
		t.Error("the same binary was opened twice")
	}
	add(filepath.Join(t.TempDir(), "none"), "none")
	if got := p.of("none"); got != nil {
		t.Errorf("got %v of a file that is not there", got)
	}
	for _, next := range []string{"b", "c", "d"} {
		add(self, next)
	}
	if p.of("a") != nil || p.of("b") == nil || p.of("d") == nil {
		t.Error("not the last three are kept")
	}
	if _, err := first.Sources(t.Context()); err == nil {
		t.Error("what is not kept has not been closed")
	}
	if err := p.close(); err != nil {
		t.Error(err)
	}
	add(self, "e")
	if p.of("d") != nil || p.of("e") != nil {
		t.Error("a program is known after close")
	}
}
