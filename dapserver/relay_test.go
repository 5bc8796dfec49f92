package dapserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// tcpPair are the two ends of a TCP connection.
func tcpPair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	dialled, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialled.Close(); accepted.Close() })
	dialled.SetDeadline(deadline())
	accepted.SetDeadline(deadline())
	return dialled.(*net.TCPConn), accepted.(*net.TCPConn)
}

func TestRelayChangesNothing(t *testing.T) {
	checkLeaks(t)
	editor, a := tcpPair(t)
	delve, b := tcpPair(t)
	done := make(chan error, 1)
	go func() { done <- Relay(context.Background(), a, b) }()

	random := rand.New(rand.NewPCG(1, 2))
	streams := [2][]byte{make([]byte, 3<<20), make([]byte, 2<<20)}
	for _, s := range streams {
		for i := range s {
			s[i] = byte(random.Uint32())
		}
	}
	var got [2][]byte
	var wg sync.WaitGroup
	wg.Go(func() { editor.Write(streams[0]); editor.CloseWrite() })
	wg.Go(func() { got[0], _ = io.ReadAll(delve) })
	wg.Wait()
	if !bytes.Equal(got[0], streams[0]) {
		t.Error("the bytes to Delve are not those of the editor")
	}
	// The editor has ended its stream; Delve's still gets through.
	wg.Go(func() { delve.Write(streams[1]); delve.CloseWrite() })
	wg.Go(func() { got[1], _ = io.ReadAll(editor) })
	wg.Wait()
	if !bytes.Equal(got[1], streams[1]) {
		t.Error("the bytes to the editor are not those of Delve")
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// wire is a connection that remembers what went over it.
type wire struct {
	halfCloser
	mu            sync.Mutex // guards all below
	read, written bytes.Buffer
}

// halfCloser has no more methods, so that all bytes go through Read and Write.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.halfCloser.Read(p)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.read.Write(p[:n])
	return n, err
}

func (w *wire) Write(p []byte) (int, error) {
	n, err := w.halfCloser.Write(p)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.written.Write(p[:n])
	return n, err
}

// A real Delve gets every byte of the editor's and the editor every one of Delve's,
// with the numbers that they gave; also what makes Delve hang up.
func TestRelayWithDelve(t *testing.T) {
	checkLeaks(t)
	d := startDelve(t)
	conn, err := net.Dial("tcp", d.last().addr)
	if err != nil {
		t.Fatal(err)
	}
	delve := &wire{halfCloser: conn.(*net.TCPConn)}
	client, served := tcpPair(t)
	editor := &wire{halfCloser: client}
	done := make(chan error, 1)
	go func() { done <- Relay(context.Background(), served, delve) }()

	r := newFrameReader(editor)
	seq := 4711
	// ask sends a request as nobody else writes it, and returns its answer.
	ask := func(command, arguments string) envelope {
		t.Helper()
		seq += 7
		content := fmt.Sprintf(`{ "arguments" : %s, "command":%q,"new":[1.50],"type":"request","seq":%d}`, arguments, command, seq)
		if _, err := io.WriteString(editor, frame(content)); err != nil {
			t.Fatal(err)
		}
		for {
			msg, err := r.next()
			if err != nil {
				t.Fatalf("%s: %v", command, err)
			}
			env, err := parseEnvelope(msg)
			if err != nil {
				t.Fatal(err)
			}
			if env.kind == "response" {
				if env.requestSeq != int64(seq) || !env.success || env.command != command {
					t.Fatalf("the answer to %s, number %d, is %s", command, seq, msg)
				}
				return env
			}
		}
	}
	ask("initialize", `{"adapterID":"x","pathFormat":"path","linesStartAt1":true,"columnsStartAt1":true}`)
	ask("attach", `{"mode":"remote","stopOnEntry":true}`)
	ask("setBreakpoints", fmt.Sprintf(`{"source":{"path":%q},"breakpoints":[{"line":%d}]}`, fixtureSource(t), fixtureLine(t, "work")))
	ask("configurationDone", `{}`)
	ask("threads", `{}`)
	ask("evaluate", `{"expression":"\"`+strings.Repeat("x", 1<<20)+`\""}`)
	// What is no DAP reaches Delve, too, which hangs up; so does the relay.
	if _, err := io.WriteString(editor, "GET / HTTP/1.1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, editor); err != nil {
		t.Errorf("the end of Delve's stream comes as %v", err)
	}
	editor.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if !bytes.Equal(editor.written.Bytes(), delve.written.Bytes()) || !bytes.Equal(editor.read.Bytes(), delve.read.Bytes()) {
		t.Errorf("the editor wrote %d bytes and Delve got %d; Delve wrote %d and the editor got %d, and they are not the same",
			editor.written.Len(), delve.written.Len(), delve.read.Len(), editor.read.Len())
	}
}

// Each end is passed on while the other side still has something to say, and before
// it says it: here that is what it waits for.
func TestRelayPassesEndsOnAtOnce(t *testing.T) {
	for name, swap := range map[string]bool{"editor first": false, "Delve first": true} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			first, a := tcpPair(t)
			second, b := tcpPair(t)
			editor, delve := a, b
			if swap {
				editor, delve = b, a
			}
			done := make(chan error, 1)
			go func() { done <- Relay(context.Background(), editor, delve) }()
			io.WriteString(first, "last words")
			first.CloseWrite()
			if got, err := io.ReadAll(second); err != nil || string(got) != "last words" {
				t.Fatalf("got %q, %v", got, err)
			}
			select {
			case err := <-done:
				t.Fatalf("Relay has returned while one side is open: %v", err)
			default:
			}
			io.WriteString(second, "a late answer")
			second.CloseWrite()
			if got, err := io.ReadAll(first); err != nil || string(got) != "a late answer" {
				t.Errorf("got %q, %v", got, err)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRelayEnds(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(editor, delve net.Conn, cancel func())
		want error
	}{
		{"editor closes", func(editor, _ net.Conn, _ func()) { editor.Close() }, nil},
		{"Delve closes", func(_, delve net.Conn, _ func()) { delve.Close() }, nil},
		{"cancelled", func(_, _ net.Conn, cancel func()) { cancel() }, context.Canceled},
	} {
		for _, half := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, half close %v", test.name, half), func(t *testing.T) {
				checkLeaks(t)
				var editor, a, delve, b net.Conn
				if half {
					editor, a = tcpPair(t)
					delve, b = tcpPair(t)
				} else {
					editor, a = net.Pipe()
					delve, b = net.Pipe()
				}
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				done := make(chan error, 1)
				go func() { done <- Relay(ctx, a, b) }()
				go editor.Write([]byte("x"))
				if _, err := io.ReadFull(delve, make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
				test.end(editor, delve, cancel)
				// The other side hears of it, and ends as well.
				for _, c := range []net.Conn{editor, delve} {
					c.SetReadDeadline(deadline())
					_, _ = c.Read(make([]byte, 1))
					c.Close()
				}
				select {
				case err := <-done:
					if !errors.Is(err, test.want) {
						t.Errorf("got %v, want %v", err, test.want)
					}
				case <-time.After(patience):
					t.Fatal("Relay does not return")
				}
			})
		}
	}
}

func TestServeRefusesTheNetwork(t *testing.T) {
	listener, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Skip(err)
	}
	if err := New(Config{Launcher: launches(nil)}).Serve(context.Background(), listener); err == nil {
		t.Error("serves on all addresses")
	}
}

func TestServeServesManyAndStops(t *testing.T) {
	checkLeaks(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- New(Config{Launcher: launches(nil)}).Serve(ctx, listener) }()
	var conns []net.Conn
	for range 3 {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(deadline())
		io.WriteString(conn, frame(`{"seq":1,"type":"request","command":"initialize","arguments":{"adapterID":"x"}}`))
		if _, err := newFrameReader(conn).next(); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	stop()
	for _, conn := range conns {
		if _, err := io.ReadAll(conn); err != nil {
			t.Error(err)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// BenchmarkRoundTrip is one request and its answer: straight to a peer that
// answers at once, through Relay, and through a session.
func BenchmarkRoundTrip(b *testing.B) {
	echo := func(conn net.Conn, r *frameReader) {
		for {
			_, env, err := readScript(r)
			if err != nil {
				return
			}
			io.WriteString(conn, frame(fmt.Sprintf(`{"seq":1,"type":"response","request_seq":%d,"success":true,"command":%q,"body":{"threads":[{"id":1,"name":"main"}]}}`, env.seq, env.command)))
		}
	}
	request := []byte(frame(`{"seq":5,"type":"request","command":"threads"}`))
	run := func(b *testing.B, conn net.Conn, r *frameReader) {
		conn.SetDeadline(time.Now().Add(10 * time.Minute))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := conn.Write(request); err != nil {
				b.Fatal(err)
			}
			if _, err := r.next(); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("direct", func(b *testing.B) {
		client, server := tcpPair(b)
		go echo(server, newFrameReader(server))
		run(b, client, newFrameReader(client))
	})
	b.Run("relay", func(b *testing.B) {
		client, a := tcpPair(b)
		server, c := tcpPair(b)
		go Relay(context.Background(), a, c)
		go echo(server, newFrameReader(server))
		run(b, client, newFrameReader(client))
	})
	b.Run("session", func(b *testing.B) {
		s := newScript(b, nil)
		server, c := tcpPair(b)
		go func() {
			if _, _, r, err := answerHandshake(server); err == nil {
				echo(server, r)
			}
		}()
		e := connect(b, Config{Launcher: launches(dialled{s, c})})
		e.request("initialize", `{"adapterID":"x"}`)
		e.raw()
		e.request("launch", `{}`)
		e.any()
		e.any()
		run(b, e.conn, &frameReader{e.r})
		e.conn.Close()
		e.ended()
	})
}

// dialled is a session whose connection exists already.
type dialled struct {
	*script
	conn *net.TCPConn
}

func (d dialled) Dial(context.Context) (Connection, error) { return tcpConnection{d.conn}, nil }

// tcpConnection is a connection that has all that TCP has.
type tcpConnection struct{ *net.TCPConn }

func (tcpConnection) Run() Run { return Run{} }
