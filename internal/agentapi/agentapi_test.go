package agentapi

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/kubedelve/kubedelve/internal/leakcheck"
	"github.com/kubedelve/kubedelve/internal/tunnel"
)

const patience = 30 * time.Second

// checkLeaks fails the test if a goroutine of ours is left when it is over.
func checkLeaks(t testing.TB) {
	t.Helper()
	leakcheck.Goroutines(t, "hashicorp/yamux", "compress/zstd")
}

// handler answers a request to a small agent; its return closes the stream.
type handler func(ctx context.Context, req Request, r *bufio.Reader, w *tunnel.Stream)

// fake is a small agent and a client of it.
func fake(t testing.TB, handle handler) *Client {
	t.Helper()
	return fakeAgent(t, handle)()
}

// fakeAgent starts a small agent, and returns what connects to it.
func fakeAgent(t testing.TB, handle handler) (connect func() *Client) {
	t.Helper()
	checkLeaks(t)
	agentID, clientID, err := tunnel.NewPair()
	if err != nil {
		t.Fatal(err)
	}
	agentPin, err := agentID.Pin()
	if err != nil {
		t.Fatal(err)
	}
	clientPin, err := clientID.Pin()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = tunnel.Listen(ctx, l, agentID, clientPin, log, func(ctx context.Context, s *tunnel.Session) {
			s.Serve(ctx, log, func(ctx context.Context, stream *tunnel.Stream) {
				r := bufio.NewReader(stream)
				var req Request
				if ReadMessage(r, &req) == nil {
					handle(ctx, req, r, stream)
				}
			})
		})
	}()
	t.Cleanup(func() { cancel(); <-done })
	return func() *Client {
		t.Helper()
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		upgraded, err := tunnel.UpgradeStream(conn)
		if err != nil {
			t.Fatal(err)
		}
		session, err := tunnel.Client(t.Context(), upgraded, clientID, agentPin)
		if err != nil {
			t.Fatal(err)
		}
		c := NewClient(session, "test")
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
}

// bounded is a context that outlasts what is well, and ends what hangs.
func bounded(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), patience, errors.New("the test's patience ended"))
	t.Cleanup(cancel)
	return ctx
}

func TestPutSendsTheContent(t *testing.T) {
	content := make([]byte, 5<<20)
	_, _ = rand.Read(content)
	got := make(chan []byte, 1)
	c := fake(t, func(_ context.Context, req Request, r *bufio.Reader, w *tunnel.Stream) {
		if req.Op != OpPut || req.Client != "test" || req.Put == nil || req.Put.Name != "app" {
			t.Errorf("got %+v", req)
		}
		_ = WriteMessage(w, Reply{})
		z, _ := zstd.NewReader(r)
		defer z.Close()
		all, err := io.ReadAll(z)
		if err != nil {
			t.Error(err)
		}
		got <- all
		_ = WriteMessage(w, Reply{})
	})
	sent, err := c.Put(bounded(t), File{Name: "app", Size: int64(len(content))}, bytes.NewReader(content))
	if err != nil || sent < int64(len(content))/2 {
		t.Fatalf("sent %d bytes, %v", sent, err)
	}
	if !bytes.Equal(<-got, content) {
		t.Error("other bytes arrived")
	}
}

func TestPutSendsNothingThatIsThere(t *testing.T) {
	c := fake(t, func(_ context.Context, _ Request, _ *bufio.Reader, w *tunnel.Stream) {
		_ = WriteMessage(w, Reply{Have: true})
	})
	if sent, err := c.Put(bounded(t), File{}, nil); sent != 0 || err != nil {
		t.Errorf("sent %d bytes, %v; want none", sent, err)
	}
}

// endless is content that never ends.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return rand.Read(p) }

func TestPutHearsARefusalWhileItSends(t *testing.T) {
	for _, test := range []struct {
		name string
		stay bool // the agent leaves the stream open, and reads nothing
	}{{"and the stream is closed", false}, {"and the stream stays", true}} {
		t.Run(test.name, func(t *testing.T) {
			c := fake(t, func(ctx context.Context, _ Request, r *bufio.Reader, w *tunnel.Stream) {
				_ = WriteMessage(w, Reply{})
				_, _ = io.CopyN(io.Discard, r, 1<<20)
				_ = WriteMessage(w, Reply{Error: "no space left on device"})
				if test.stay {
					<-ctx.Done()
				}
			})
			_, err := c.Put(bounded(t), File{Name: "app"}, endless{})
			var refused *Error
			if !errors.As(err, &refused) || refused.Text != "no space left on device" || !strings.Contains(err.Error(), "app") {
				t.Errorf("got %v; want what the agent said", err)
			}
		})
	}
}

func TestPutEndsWithItsContext(t *testing.T) {
	reading := make(chan struct{})
	c := fake(t, func(ctx context.Context, _ Request, r *bufio.Reader, w *tunnel.Stream) {
		_ = WriteMessage(w, Reply{})
		_, _ = io.CopyN(io.Discard, r, 1<<20)
		close(reading)
		<-ctx.Done() // reads no more
	})
	ctx, cancel := context.WithCancelCause(bounded(t))
	stop := errors.New("stop")
	go func() { <-reading; cancel(stop) }()
	if _, err := c.Put(ctx, File{Name: "app"}, endless{}); !errors.Is(err, stop) {
		t.Errorf("got %v; want the context's cause", err)
	}
}

func TestPutTellsThatTheContentBroke(t *testing.T) {
	c := fake(t, func(ctx context.Context, _ Request, r *bufio.Reader, w *tunnel.Stream) {
		_ = WriteMessage(w, Reply{})
		_, _ = io.Copy(io.Discard, r)
		_ = WriteMessage(w, Reply{Error: "cut short"})
	})
	broken := errors.New("the disk is gone")
	_, err := c.Put(bounded(t), File{Name: "app"}, io.MultiReader(strings.NewReader("x"), iotestErr{broken}))
	if !errors.Is(err, broken) {
		t.Errorf("got %v; want %v", err, broken)
	}
}

type iotestErr struct{ err error }

func (r iotestErr) Read([]byte) (int, error) { return 0, r.err }

func TestRequestsEndWithTheirContextOrTheAgent(t *testing.T) {
	requests := map[string]func(context.Context, *Client) error{
		"hello":  func(ctx context.Context, c *Client) error { _, err := c.Hello(ctx); return err },
		"start":  func(ctx context.Context, c *Client) error { _, err := c.Start(ctx, Start{}); return err },
		"debug":  func(ctx context.Context, c *Client) error { _, err := debug(ctx, c); return err },
		"resume": func(ctx context.Context, c *Client) error { return c.Resume(ctx) },
		"settle": func(ctx context.Context, c *Client) error { return c.Settle(ctx) },
		"end":    func(ctx context.Context, c *Client) error { return c.End(ctx) },
		"wait":   func(ctx context.Context, c *Client) error { _, err := c.Wait(ctx); return err },
		"output": func(ctx context.Context, c *Client) error {
			return c.Output(ctx, Position{}, func(Output) error { return nil })
		},
		"put": func(ctx context.Context, c *Client) error { _, err := c.Put(ctx, File{}, endless{}); return err },
	}
	for name, request := range requests {
		t.Run(name, func(t *testing.T) {
			came := make(chan struct{}, 1)
			c := fake(t, func(ctx context.Context, req Request, r *bufio.Reader, _ *tunnel.Stream) {
				if req.Op != name {
					t.Errorf("got request %q", req.Op)
				}
				say := func() {
					select {
					case came <- struct{}{}:
					case <-ctx.Done(): // debug makes further requests, to take the first one back
					}
				}
				say()
				_, _ = io.Copy(io.Discard, r) // until the client closes
				say()
			})
			ctx, cancel := context.WithCancelCause(bounded(t))
			stop := errors.New("stop")
			go func() { <-came; cancel(stop) }()
			if err := request(ctx, c); !errors.Is(err, stop) {
				t.Errorf("got %v; want the context's cause", err)
			}
			<-came // the agent saw the stream close
			go func() { <-came; _ = c.Close() }()
			if err := request(bounded(t), c); err == nil {
				t.Error("no error though the connection is gone")
			}
		})
	}
}

func TestAnswersThatAreNoneAreErrors(t *testing.T) {
	for _, test := range []struct{ name, answer string }{
		{"nothing", ""},
		{"half a line", `{"hello":`},
		{"no JSON", "HTTP/1.1 400 Bad Request\r\n\r\n"},
		{"another version", `{"hello":{"version":99}}` + "\n"},
		{"no hello", "{}\n"},
		{"an endless line", strings.Repeat("x", maxLine+2)},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := fake(t, func(_ context.Context, _ Request, _ *bufio.Reader, w *tunnel.Stream) {
				_, _ = io.WriteString(w, test.answer)
			})
			if h, err := c.Hello(bounded(t)); err == nil {
				t.Errorf("got %+v", h)
			}
		})
	}
}

// debug connects by one client, for as long as it lives.
func debug(ctx context.Context, c *Client) (*DebugConn, error) {
	return Debug(ctx, func(context.Context) (*Client, error) {
		select {
		case <-c.Done():
			return nil, io.ErrClosedPipe
		default:
			return c, nil
		}
	}, false)
}

func TestWaitComesAfterTheOutput(t *testing.T) {
	passedOn := make(chan struct{})
	c := fake(t, func(_ context.Context, req Request, _ *bufio.Reader, w *tunnel.Stream) {
		_ = WriteMessage(w, Reply{Run: 7, At: &Position{Run: 7}})
		if req.Op == OpWait {
			_ = WriteMessage(w, Reply{Run: 7, Exit: &Exit{Code: 3}})
			return
		}
		_, _ = w.Write(AppendFrame(AppendFrame(nil, 1, []byte("last words")), 0, nil))
	})
	slow, began := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- c.Output(bounded(t), Position{}, func(o Output) error {
			if o.FD == 0 {
				return nil
			}
			if o.FD != 1 || string(o.Data) != "last words" {
				t.Errorf("got %+v", o)
			}
			close(began)
			<-slow
			close(passedOn)
			return nil
		})
	}()
	<-began
	time.AfterFunc(50*time.Millisecond, func() { close(slow) })
	exit, err := c.Wait(bounded(t))
	if err != nil || exit.Code != 3 {
		t.Errorf("got %+v, %v; want code 3", exit, err)
	}
	select {
	case <-passedOn:
	default:
		t.Error("Wait came before the output")
	}
	if err := <-done; err != nil {
		t.Errorf("Output: %v", err)
	}
}

func TestOutputTellsPositions(t *testing.T) {
	c := fake(t, func(_ context.Context, req Request, _ *bufio.Reader, w *tunnel.Stream) {
		_ = WriteMessage(w, Reply{At: req.From})
		b := AppendFrame(nil, 1, []byte("one"))
		b = AppendGap(AppendFrame(b, 2, []byte("two")), 1<<40)
		_, _ = w.Write(AppendFrame(AppendFrame(b, 1, []byte("three")), 0, nil))
	})
	var got []string
	err := c.Output(bounded(t), Position{"b", 3, 10}, func(o Output) error {
		got = append(got, fmt.Sprintf("%s.%d+%d-%d %d%s", o.At.Boot, o.At.Run, o.At.Offset, o.Lost, o.FD, o.Data))
		return nil
	})
	want := []string{"b.3+10-0 1one", "b.3+13-0 2two", "b.3+1099511627792-1099511627776 1three", "b.3+1099511627797-0 0"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	enough := errors.New("enough")
	if err := c.Output(bounded(t), Position{}, func(Output) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("got %v; want the sink's error", err)
	}
}

func TestBrokenOutputIsAnError(t *testing.T) {
	for _, test := range []struct {
		name string
		sent []byte
	}{
		{"it ends without an end", AppendFrame(nil, 1, []byte("x"))},
		{"half a frame", AppendFrame(nil, 1, []byte("xyz"))[:6]},
		{"another descriptor", AppendFrame(nil, 4, []byte("x"))},
		{"half a gap", AppendFrame(nil, 3, []byte("x"))},
		{"too long a frame", []byte{1, 0xff, 0xff, 0xff, 0xff}},
		{"an end that is none", AppendFrame(nil, 0, []byte("x"))},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := fake(t, func(_ context.Context, _ Request, _ *bufio.Reader, w *tunnel.Stream) {
				_ = WriteMessage(w, Reply{At: &Position{}})
				_, _ = w.Write(test.sent)
			})
			if err := c.Output(bounded(t), Position{}, func(Output) error { return nil }); err == nil {
				t.Error("no error")
			}
		})
	}
}

func FuzzReadMessage(f *testing.F) {
	for _, seed := range []string{
		"", "\n", "{}\n", `{"op":"hello"}` + "\n", `{"op":"put","put":{"sha256":"0","size":1,"name":"x"}}` + "\n",
		`{"op":"start","start":{"args":null,"env":["A"]}}` + "\n", `{"op":1}` + "\n", "null\n", "[]\n", `{"op":"hello"}`, "\xff\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		var req Request
		if ReadMessage(bufio.NewReaderSize(bytes.NewReader(line), 16), &req) != nil {
			return
		}
		// What was understood is written so that it is understood the same.
		var out bytes.Buffer
		if err := WriteMessage(&out, req); err != nil {
			t.Fatal(err)
		}
		var again Request
		if err := ReadMessage(bufio.NewReader(&out), &again); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if a, b := must(json.Marshal(req)), must(json.Marshal(again)); !bytes.Equal(a, b) {
			t.Errorf("%s became %s", a, b)
		}
		if out.Len() != 0 {
			t.Errorf("%q was written as more than a line", line)
		}
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func FuzzReadFrame(f *testing.F) {
	f.Add(AppendFrame(nil, 1, []byte("x")))
	f.Add(AppendFrame(nil, 0, nil))
	f.Add([]byte{2, 0, 1, 0, 1})
	f.Fuzz(func(t *testing.T, sent []byte) {
		fd, p, err := ReadFrame(bytes.NewReader(sent), make([]byte, MaxOutput))
		if err == nil && !bytes.HasPrefix(sent, AppendFrame(nil, fd, p)) {
			t.Errorf("%q was read as %d, %q", sent, fd, p)
		}
	})
}

func TestConfigSurvivesJSON(t *testing.T) {
	want := Config{Session: "s", Listen: ":1", ClientPin: "p", Ports: []int{1}, Grace: Duration(90 * time.Second), TTL: Duration(time.Hour), Stop: Duration(1500 * time.Millisecond)}
	var got Config
	if err := json.Unmarshal(must(json.Marshal(want)), &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	if err := json.Unmarshal([]byte(`{"grace":"soon"}`), &got); err == nil {
		t.Error("a duration that is none: no error")
	}
}
