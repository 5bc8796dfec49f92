package dapserver

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-dap"
)

func TestLogHasFramesAndNoSecrets(t *testing.T) {
	checkLeaks(t)
	s := newScript(t, func(conn net.Conn) {
		if _, _, r, err := answerHandshake(conn); err == nil {
			readScript(r)
		}
	})
	s.out = func(_ context.Context, emit func(Piece) error) error {
		return emit(Piece{Stream: Stdout, Data: []byte("token=s3cret")})
	}
	var log lockedBuffer
	e := connect(t, Config{Launcher: launches(s), Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	e.initialize()
	e.request("launch", `{"target":"local","env":{"TOKEN":"s3cret"}}`)
	want[*dap.InitializedEvent](e)
	want[*dap.LaunchResponse](e)
	e.request("evaluate", `{"expression":"s3cret"}`)
	e.conn.Close()
	e.ended()
	text := log.String()
	for _, want := range []string{`dir="from editor" type=request name=launch`, `dir="to delve" type=request name=evaluate`, `dir="from delve" type=event name=initialized`, `dir="to editor"`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in the log", want)
		}
	}
	if strings.Contains(text, "s3cret") {
		t.Errorf("the log has a secret:\n%s", text)
	}
}

// Config.Message gets what is on the wires, in the order in which it is there.
func TestMessageGetsAll(t *testing.T) {
	checkLeaks(t)
	s := newScript(t, func(conn net.Conn) {
		_, _, r, err := answerHandshake(conn)
		for err == nil {
			var env envelope
			if _, env, err = readScript(r); err == nil {
				io.WriteString(conn, frame(fmt.Sprintf(`{"seq":7,"type":"response","request_seq":%d,"success":true,"command":%q}`, env.seq, env.command)))
			}
		}
	})
	var mu sync.Mutex
	got := map[string][]string{}
	e := connect(t, Config{Launcher: launches(s), Message: func(client, from, to string, content []byte) {
		mu.Lock()
		defer mu.Unlock()
		if client == "" {
			t.Error("the client has no name")
		}
		got[from+" "+to] = append(got[from+" "+to], string(content))
	}})
	e.request("initialize", `{"adapterID":"x"}`)
	var read []string
	next := func() { read = append(read, string(e.raw())) }
	next()
	e.request("launch", `{"env":{"A":"B"}}`)
	next()
	next()
	e.request("threads", "")
	next()
	e.write(frame("nonsense"))
	next()
	e.conn.Close()
	e.ended()
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(got["kubedelve editor"][:len(read)], read) {
		t.Errorf("to the editor were recorded\n%s\nand came\n%s", got["kubedelve editor"], read)
	}
	for way, want := range map[string][]string{
		"editor kubedelve": {`{"seq":1001,"type":"request","command":"initialize","arguments":{"adapterID":"x"}}`,
			`{"seq":1002,"type":"request","command":"launch","arguments":{"env":{"A":"B"}}}`, `{"seq":1003,"type":"request","command":"threads"}`, "nonsense"},
		"kubedelve delve": {`"seq":1,`, `"seq":2,`, `{"seq":3,"type":"request","command":"threads"}`},
		"delve kubedelve": {`"request_seq":1,`, `"initialized"`, `"request_seq":2,`, `{"seq":7,"type":"response","request_seq":3,"success":true,"command":"threads"}`},
	} {
		for i, w := range want {
			if i >= len(got[way]) || !strings.Contains(got[way][i], w) {
				t.Errorf("%s: message %d of %q is not %s", way, i, got[way], w)
				break
			}
		}
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
