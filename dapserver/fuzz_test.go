package dapserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// FuzzSession sends bytes to a whole server, which must come to an end by
// itself and answer in frames, whatever the bytes are.
func FuzzSession(f *testing.F) {
	initialize := frame(`{"seq":1,"type":"request","command":"initialize","arguments":{"adapterID":"go"}}`)
	launch := frame(`{"seq":2,"type":"request","command":"launch","arguments":{"target":"deploy/web"}}`)
	for _, seed := range []string{
		initialize + launch + frame(`{"seq":3,"type":"request","command":"setBreakpoints","arguments":{"source":{"path":"/a"},"breakpoints":[]}}`),
		initialize + frame(`{"seq":2,"type":"request","command":"attach","arguments":null}`) + frame(`{"seq":3,"type":"request","command":"cancel","arguments":{"requestId":2}}`),
		initialize + launch + frame(`{"seq":3,"type":"request","command":"disconnect"}`), initialize + initialize + "Content-Len",
		initialize + frame(`{"seq":2,"type":"response","request_seq":1,"success":true,"command":"x"}`) + frame(`{"seq":3,"type":"event","event":"x"}`),
		launch, frame("nonsense"), "nonsense", "",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		s := newScript(t, func(conn net.Conn) {
			if _, _, r, err := answerHandshake(conn); err == nil {
				readScript(r)
			}
		})
		l := launches(s)
		l.attach = func(context.Context, *LaunchConfig, Reporter) (Session, error) { return nil, errors.New("no session") }
		conn := &recorded{in: bytes.NewReader(in)}
		done := make(chan struct{})
		go func() {
			_ = New(Config{Launcher: l}).ServeConn(context.Background(), conn)
			close(done)
		}()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			panic(fmt.Sprintf("hangs on %q", in)) // with all stacks
		}
		out := newFrameReader(bytes.NewReader(conn.out.Bytes()))
		for n := int64(1); ; n++ {
			msg, err := out.next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("the answer is no sequence of frames: %v in %q", err, conn.out.Bytes())
			}
			if env, err := parseEnvelope(msg); err != nil || env.seq != n {
				t.Fatalf("message %d is %s, %v", n, msg, err)
			}
		}
	})
}

// recorded is a client that has said all it has to say.
type recorded struct {
	in  *bytes.Reader
	mu  sync.Mutex // guards out
	out bytes.Buffer
}

func (r *recorded) Read(p []byte) (int, error) { return r.in.Read(p) }
func (r *recorded) Close() error               { return nil }
func (r *recorded) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out.Write(p)
}
