package dapserver

import (
	"bytes"
	"context"
	"log/slog"
	"net"
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
	e.request("evaluate", `{"expression":"`+strings.Repeat("y", 2000)+`"}`)
	e.conn.Close()
	e.ended()
	text := log.String()
	for _, want := range []string{`dir="from editor" type=request name=launch`, `dir="to delve" type=request name=evaluate`, `dir="from delve" type=event name=initialized`, `dir="to editor"`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in the log", want)
		}
	}
	if strings.Contains(text, "s3cret") || strings.Contains(text, strings.Repeat("y", logBody)) {
		t.Errorf("the log has a secret or a whole body:\n%s", text)
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
