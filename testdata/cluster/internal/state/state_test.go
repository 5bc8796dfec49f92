package state

import (
	"errors"
	"os"
	"strings"
	"testing"
)

func TestCheckName(t *testing.T) {
	for _, name := range []string{"dev", "a", "test-1", strings.Repeat("x", 30)} {
		if err := CheckName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", "-a", "a-", "A", "a.b", "a/b", "..", "a b", strings.Repeat("x", 31)} {
		if CheckName(name) == nil {
			t.Errorf("%q is accepted", name)
		}
	}
}

func TestCreateTakesTheLowestFreeIndex(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	all := func(int) bool { return true }
	create := func(name string, usable func(int) bool) int {
		t.Helper()
		rec, err := s.Create(t.Context(), Record{Name: name}, usable)
		if err != nil {
			t.Fatal(err)
		}
		return rec.Index
	}
	if i := create("a", all); i != 0 {
		t.Errorf("the first cluster has index %d", i)
	}
	if rec, err := s.Load("a"); err != nil || len(rec.Link) == 0 || len(rec.Link) > 15 { // the kernel's limit
		t.Errorf("the link name is %q, %v", rec.Link, err)
	}
	if i := create("b", func(i int) bool { return i != 1 }); i != 2 {
		t.Errorf("with 1 in use by others, the second cluster has index %d", i)
	}
	if err := os.RemoveAll(s.Path("a")); err != nil {
		t.Fatal(err)
	}
	if i := create("c", all); i != 0 {
		t.Errorf("the freed index 0 is not used again, but %d", i)
	}
	if _, err := s.Create(t.Context(), Record{Name: "d"}, func(int) bool { return false }); err == nil {
		t.Error("a cluster without a free range is accepted")
	}
}

func TestLoad(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	if _, err := s.Load("none"); !errors.Is(err, ErrNotExist) {
		t.Errorf("loading a cluster that is not there gave %v", err)
	}
	want := Record{Name: "a", Index: 3, Flavour: "plain", Phase: Running, Init: Process{PID: 7, Start: 8}}
	if err := os.Mkdir(s.Path("a"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Load("a"); err != nil || got.Index != -1 || got.Phase != Creating {
		t.Errorf("a folder without a record gave %+v, %v", got, err)
	}
	if err := s.Save(want); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Load("a"); err != nil || got != want {
		t.Errorf("loaded %+v, %v; saved %+v", got, err, want)
	}
}

func TestStartTime(t *testing.T) {
	line := "12 (a) b (c)) S 1 12 12 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 99 1"
	if got, err := startTime([]byte(line)); err != nil || got != 4711 {
		t.Errorf("got %d, %v", got, err)
	}
	for _, bad := range []string{"", "12 (a) S 1", "12 a S"} {
		if _, err := startTime([]byte(bad)); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestProcessIsNotALaterOneWithItsPID(t *testing.T) {
	self, err := Identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if !self.Alive() {
		t.Error("this process is said not to be alive")
	}
	self.Start++
	if self.Alive() {
		t.Error("a process with another start time is said to be this one")
	}
	if (Process{}).Alive() {
		t.Error("no process is said to be alive")
	}
}
