package transcript

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kubedelve/kubedelve/internal/leakcheck"
)

// line is a line of a transcript, as a reader has it.
type line struct {
	Time             string
	Client, From, To string
	Message          json.RawMessage
	Malformed        *int
	Dropped, Bytes   int
}

func lines(t *testing.T, data string) (all []line) {
	t.Helper()
	for text := range strings.Lines(data) {
		var l line
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&l); err != nil {
			t.Fatalf("%v in the line %q", err, text)
		}
		all = append(all, l)
	}
	return all
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestLogIsAppendedAndPrivate(t *testing.T) {
	leakcheck.Goroutines(t)
	path := filepath.Join(t.TempDir(), "dap.log")
	before := time.Now().Add(-time.Microsecond)
	for n := range 2 {
		l, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		message := fmt.Appendf(nil, "{\n \"seq\" : %d, \"type\":\"request\",\t\"command\":\"threads\"}", n)
		l.Add("127.0.0.1:1", "editor", "kubedelve", message)
		clear(message) // it was copied
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l.Add("127.0.0.1:1", "editor", "kubedelve", []byte(`{}`)) // too late
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode is %v, %v", info.Mode(), err)
	}
	all := lines(t, read(t, path))
	if len(all) != 2 {
		t.Fatalf("got %d lines, want 2", len(all))
	}
	for n, l := range all {
		if want := fmt.Sprintf(`{"seq":%d,"type":"request","command":"threads"}`, n); string(l.Message) != want {
			t.Errorf("got %s, want %s", l.Message, want)
		}
		if l.Client != "127.0.0.1:1" || l.From != "editor" || l.To != "kubedelve" {
			t.Errorf("got %+v", l)
		}
		at, err := time.Parse("2006-01-02T15:04:05.000000Z", l.Time)
		if err != nil || at.Before(before) || at.After(time.Now()) {
			t.Errorf("the time is %s, %v", l.Time, err)
		}
	}
	if _, err := Open(filepath.Join(path, "below a file")); err == nil {
		t.Error("no error for a path that can't be")
	}
}

// stuck is a disk that takes nothing until it is let go.
type stuck struct {
	bytes.Buffer
	entered chan struct{}
	free    chan struct{}
}

func (s *stuck) Write(p []byte) (int, error) {
	select {
	case s.entered <- struct{}{}:
	default:
	}
	<-s.free
	return s.Buffer.Write(p)
}

func (*stuck) Close() error { return nil }

func TestASlowDiskLosesNothingSilently(t *testing.T) {
	leakcheck.Goroutines(t)
	disk := &stuck{entered: make(chan struct{}, 1), free: make(chan struct{})}
	l := newLog(disk)
	big := []byte(`{"seq":1,"type":"event","event":"x","body":"` + strings.Repeat("x", 1<<20) + `"}`)
	const added = 100
	for range added { // more than the queue holds, and none of it waits
		l.Add("c", "delve", "kubedelve", big)
	}
	<-disk.entered
	l.mu.Lock()
	queued := l.queued
	l.mu.Unlock()
	if queued > queueLimit {
		t.Errorf("%d bytes wait, over the limit of %d", queued, queueLimit)
	}
	close(disk.free)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	kept, dropped, size := 0, 0, 0
	for _, l := range lines(t, disk.String()) {
		if l.Dropped > 0 {
			dropped += l.Dropped
			size += l.Bytes
			continue
		}
		kept++
	}
	if kept == 0 || dropped == 0 || kept+dropped != added || size != dropped*len(big) {
		t.Errorf("%d are kept, %d of %d bytes counted as dropped; %d were added", kept, dropped, size, added)
	}
}

// full is a disk without room.
type full struct{}

var errFull = errors.New("no space left")

func (full) Write([]byte) (int, error) { return 0, errFull }
func (full) Close() error              { return nil }

func TestAFullDiskIsTold(t *testing.T) {
	leakcheck.Goroutines(t)
	l := newLog(full{})
	for range 3 {
		l.Add("c", "a", "b", []byte(`{}`))
	}
	if err := l.Close(); !errors.Is(err, errFull) {
		t.Errorf("got %v", err)
	}
}

// kept is a file in memory.
type kept struct{ bytes.Buffer }

func (*kept) Close() error { return nil }

func TestTapChangesNothingAndFindsMessages(t *testing.T) {
	leakcheck.Goroutines(t)
	frame := func(s string) string { return fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(s), s) }
	large := `{"seq":2,"type":"event","event":"y","body":"` + strings.Repeat("y", 100_000) + `"}`
	for _, test := range []struct {
		name, in string
		want     []string // messages, or how many bytes are malformed
	}{
		{"none", "", nil},
		{"two", frame(`{"seq":1}`) + frame(large), []string{`{"seq":1}`, large}},
		{"other fields and newlines", "X: y\ncontent-length:2\n\n{}", []string{`{}`}},
		{"empty", frame("") + frame("{}"), []string{"0", "{}"}},
		{"not JSON", frame("\x00\xff}") + frame("{}"), []string{"3", "{}"}},
		{"no header", "GET / HTTP/1.1\r\n\r\nmore", []string{"22"}},
		{"no end of the header", strings.Repeat("x", 20_000), []string{"20000"}},
		{"ends in a header", frame("{}") + "Content-", []string{"{}", "8"}},
		{"ends in a message", "Content-Length: 10\r\n\r\n{}", []string{"2"}},
		{"a length that can't be", "Content-Length: 99999999999\r\n\r\n{}", []string{"33"}},
	} {
		for _, piece := range []int{1, 7, 1 << 20} {
			t.Run(fmt.Sprintf("%s, %d at a time", test.name, piece), func(t *testing.T) {
				var file kept
				l := newLog(&file)
				client, server := net.Pipe()
				go func() { // ends when all is written
					for p := []byte(test.in); len(p) > 0; p = p[min(piece, len(p)):] {
						client.Write(p[:min(piece, len(p))])
					}
					client.Close()
				}()
				got, err := io.ReadAll(l.Tap(server, "c", "editor", "delve"))
				if err != nil || string(got) != test.in {
					t.Errorf("%d bytes came through, %v; want the %d that were sent", len(got), err, len(test.in))
				}
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
				var found []string
				for _, l := range lines(t, file.String()) {
					if l.From != "editor" || l.To != "delve" || l.Client != "c" {
						t.Errorf("got %+v", l)
					}
					if l.Malformed != nil {
						found = append(found, fmt.Sprint(*l.Malformed))
					} else {
						found = append(found, string(l.Message))
					}
				}
				if fmt.Sprint(found) != fmt.Sprint(test.want) {
					t.Errorf("got %.200q, want %.200q", found, test.want)
				}
			})
		}
	}
}

func TestTapPassesHalfClosesOn(t *testing.T) {
	leakcheck.Goroutines(t)
	l := newLog(&kept{})
	defer l.Close()
	var without io.ReadWriteCloser = struct{ io.ReadWriteCloser }{}
	if _, ok := l.Tap(without, "", "", "").(closeWriter); ok {
		t.Error("a connection without CloseWrite has got one")
	}
	with := &halfClosed{}
	tapped, ok := l.Tap(with, "", "", "").(closeWriter)
	if !ok {
		t.Fatal("CloseWrite is lost")
	}
	if err := tapped.CloseWrite(); err != nil || !with.closed {
		t.Errorf("CloseWrite: %v, passed on: %v", err, with.closed)
	}
}

type halfClosed struct {
	io.ReadWriteCloser
	closed bool
}

func (h *halfClosed) CloseWrite() error { h.closed = true; return nil }

func FuzzTree(f *testing.F) {
	for _, seed := range []string{
		`{"a":[1,-2.5e10,"x\"\\",null,true,{}],"A":{}}`, ` [ ] `, `"\u0041"`, `0`, `{"type":"event","event":"output","body":{"output":"x"}}`,
		`{"type":"request","command":"launch","arguments":{"env":{"A":"secret"},"args":["x",1]}}`,
		`{"type":"response","command":"variables","body":{"variables":[{"name":"password","value":"x","variablesReference":7}]}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		root, ok := parse(in)
		if ok != json.Valid(in) {
			t.Fatalf("valid: %v", !ok)
		}
		if !ok {
			return
		}
		var want bytes.Buffer
		if err := json.Compact(&want, in); err != nil {
			t.Fatal(err)
		}
		if got := root.append(nil); !bytes.Equal(got, want.Bytes()) {
			t.Errorf("got %s, want %s", got, want.Bytes())
		}
		e := entry{message: in, client: "c", from: "a", to: "b"}
		out := e.appendLine(nil, newRedactor())
		if bytes.Count(out, []byte("\n")) != 1 || !json.Valid(out) {
			t.Errorf("not one line of JSON: %q", out)
		}
	})
}

func FuzzSplitter(f *testing.F) {
	f.Add([]byte("Content-Length: 2\r\n\r\n{}Content-Length: 3\n\n{}"), 1)
	f.Fuzz(func(t *testing.T, in []byte, piece int) {
		piece = max(1, piece%100)
		total := 0
		s := splitter{found: func(e entry) { total += len(e.message) + e.malformed + e.droppedBytes }}
		for p := in; len(p) > 0; p = p[min(piece, len(p)):] {
			s.write(p[:min(piece, len(p))])
		}
		s.end()
		if total > len(in) {
			t.Errorf("%d bytes out of %d", total, len(in))
		}
	})
}

func BenchmarkOutput(b *testing.B) {
	text, _ := json.Marshal(strings.Repeat("a line of output, as they are\n", 1000))
	message := fmt.Appendf(nil, `{"seq":1,"type":"event","event":"output","body":{"category":"stdout","output":%s}}`, text)
	b.SetBytes(int64(len(message)))
	r := newRedactor()
	w := bufio.NewWriter(io.Discard)
	var line []byte
	for b.Loop() {
		e := entry{message: message, client: "c", from: "kubedelve", to: "editor"}
		line = e.appendLine(line[:0], r)
		w.Write(line)
	}
}
