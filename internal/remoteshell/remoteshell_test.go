package remoteshell

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// localSSH puts an ssh in PATH that runs the command on this machine, as sshd does: by a
// shell, as one string. And a sudo, for those who are not root.
func localSSH(t *testing.T) Host {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"ssh":  "#!/bin/sh\nfor word; do host=$command command=$word; done\n[ \"$host\" = user@host ] || exit 255\nexec sh -c \"$command\"\n",
		"sudo": "#!/bin/sh\nshift 2\nexec \"$@\"\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	return Host{"user@host"}
}

func TestRunPassesWordsAsTheyAre(t *testing.T) {
	h := localSSH(t)
	words := []string{"a b", "it's", `"quoted" \ back`, "$HOME `id` $(id)", "line\nline", "", "*", "-n", "ä"}
	out, err := h.Run(t.Context(), strings.NewReader("from stdin"), append([]string{"sh", "-c", `for w; do printf '%s\0' "$w"; done; cat`, "sh"}, words...)...)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(out), strings.Join(words, "\x00")+"\x00from stdin"; got != want {
		t.Errorf("the command got %q, not %q", got, want)
	}
}

func TestErrorsTellWhoFailed(t *testing.T) {
	h := localSSH(t)
	for _, tt := range []struct {
		name string
		host Host
		run  []string
		code int
		want string
	}{
		{"the command", h, []string{"sh", "-c", "echo no such thing >&2; exit 3"}, 3, "sh on user@host: no such thing"},
		{"the command, silently", h, []string{"false"}, 1, "false on user@host: exit status 1"},
		{"ssh", Host{"other"}, []string{"true"}, 255, "ssh other: exit status 255"},
	} {
		_, err := tt.host.Run(t.Context(), nil, tt.run...)
		var failed *Error
		if !errors.As(err, &failed) || failed.Code != tt.code || err.Error() != tt.want {
			t.Errorf("%s: %v (%+v); want %q with code %d", tt.name, err, failed, tt.want, tt.code)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("the user is gone")
	cancel(gone)
	if _, err := h.Run(ctx, nil, "true"); !errors.Is(err, gone) {
		t.Errorf("a cancelled command ends with %v", err)
	}
}

func TestOpenJoinsBothDirections(t *testing.T) {
	s, err := localSSH(t).Open("sh", "-c", `while read -r line; do echo "got $line"; done; echo over >&2; exit 4`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(s, "one\n"); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, len("got one\n"))
	if _, err := io.ReadFull(s, answer); err != nil || string(answer) != "got one\n" {
		t.Fatalf("read %q, %v", answer, err)
	}
	closed := make(chan struct{})
	go func() { // ends with the command
		_ = s.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(30 * time.Second):
		t.Fatal("Close does not end the command")
	}
}

func TestAStreamTellsWhyItEnded(t *testing.T) {
	s, err := localSSH(t).Open("sh", "-c", "echo first; echo it broke >&2; exit 4")
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(s)
	if string(out) != "first\n" || err == nil || err.Error() != "sh on user@host: it broke" {
		t.Errorf("read %q, %v", out, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
