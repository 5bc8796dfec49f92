package dapserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-dap"
)

func TestFrameReaderIsTolerant(t *testing.T) {
	for _, test := range []struct{ name, in string }{
		{"plain", "Content-Length: 2\r\n\r\n{}"},
		{"other fields", "Content-Type: application/json; charset=utf-8\r\nContent-Length: 2\r\nX: y:z\r\n\r\n{}"},
		{"lower case", "content-length:2\r\n\r\n{}"},
		{"spaces", "Content-Length:  \t2 \r\n\r\n{}"},
		{"bare newlines", "Content-Length: 2\n\n{}"},
		{"twice the same", "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newFrameReader(iotest.OneByteReader(strings.NewReader(test.in + test.in)))
			for range 2 {
				if got, err := r.next(); err != nil || string(got) != "{}" {
					t.Fatalf("got %q, %v", got, err)
				}
			}
			if _, err := r.next(); !errors.Is(err, io.EOF) {
				t.Errorf("got %v at the end, want EOF", err)
			}
		})
	}
}

func TestFrameReaderAllocatesWhatArrives(t *testing.T) {
	in := "Content-Length: 60000000\r\n\r\n{"
	got := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := newFrameReader(strings.NewReader(in)).next(); !errors.Is(err, io.ErrUnexpectedEOF) {
				b.Fatal(err)
			}
		}
	})
	if got.AllocedBytesPerOp() > 200_000 {
		t.Errorf("%d bytes allocated for a header and one byte", got.AllocedBytesPerOp())
	}
}

func FuzzFrameReader(f *testing.F) {
	for _, seed := range []string{
		"Content-Length: 2\r\n\r\n{}", "content-length:2\nX: y\n\n{}Content-Length: 0\r\n\r\n", "Content-Length: 9\r\n\r\n{}",
		"Content-Length: 18446744073709551616\r\n\r\n", "Content-Length: 67108865\r\n\r\n", ": \r\n\r\n", "\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "Content-Len",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r := newFrameReader(bytes.NewReader(in))
		total := 0
		for {
			msg, err := r.next()
			if err != nil {
				var framing *framingError
				if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.As(err, &framing) {
					t.Errorf("unexpected kind of error %v", err)
				}
				break
			}
			// A frame that was read is one that we write.
			again, err := newFrameReader(bytes.NewReader(append(appendHeader(nil, len(msg)), msg...))).next()
			if err != nil || !bytes.Equal(again, msg) {
				t.Errorf("%q becomes %q, %v", msg, again, err)
			}
			if total += len(msg); total > len(in) {
				t.Errorf("%d bytes out of %d", total, len(in))
			}
		}
	})
}

// What is relayed must mean to Delve, which uses go-dap, what we took it for,
// and must be the same but for the numbers.
func FuzzEnvelope(f *testing.F) {
	for _, seed := range []string{
		`{"seq":1,"type":"request","command":"threads"}`,
		`{"type":"response","request_seq":7,"seq":1,"success":true,"command":"threads","body":{"threads":[]}}`,
		` { "event" : "stopped" , "body":{"a":[1,{"b":"}\\\""}]},"type":"event" } `,
		`{"SEQ":1,"ſeq":2,"type":"request","command":"x"}`, `{"\u0073eq":3,"type":"request","command":"\u0078"}`,
		`{"seq":1,"type":"request","command":"a","command":"b","Type":null}`, `{"seq":-1,"type":"event","event":"x"}`,
		`{"seq":1e2,"type":"request","command":"x"}`, `{"seq":1,"type":"request","command":"scopes","arguments":{"frameId":"x"},"arguments":{"frameId":1}}`,
		`{"seq":1,"type":"request","command":"scopes","arguments":{"frameId":1}}`, `{"seq":1,"type":"request","command":"threads","arguments":null}`, `{"seq":1,"type":"request","command":"x","arguments":{"seq":5}}`, `{}`, `{"a":`, `[`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		env, err := parseEnvelope(msg)
		if err != nil || !json.Valid(msg) {
			return
		}
		framed := appendMessage(nil, msg, &env, 1234567, 7654321)
		out, err := newFrameReader(bytes.NewReader(framed)).next()
		if err != nil || !json.Valid(out) {
			t.Fatalf("%s becomes %s, %v", msg, out, err)
		}
		var got struct {
			Seq        int    `json:"seq"`
			Type       string `json:"type"`
			Command    string `json:"command"`
			Event      string `json:"event"`
			RequestSeq int    `json:"request_seq"`
		}
		if err := json.Unmarshal(out, &got); err != nil {
			return // an unusable member which Delve refuses
		}
		if got.Seq != 1234567 || got.Type != env.kind || got.Command != env.command || got.Event != env.event {
			t.Errorf("%s became %s, read as %+v; the envelope is %+v", msg, out, got, env)
		}
		if env.kind == "response" && got.RequestSeq != 7654321 {
			t.Errorf("%s became %s: request_seq %d", msg, out, got.RequestSeq)
		}
		// Put back, the numbers make it the same bytes again.
		if env.seqAt != (span{}) {
			again, err := parseEnvelope(out)
			if err != nil {
				t.Fatalf("%s: %v", out, err)
			}
			out = splice(out, again.requestSeqAt, again.seqAt, env.requestSeqAt.in(msg), env.seqAt.in(msg))
			if !bytes.Equal(out, msg) {
				t.Errorf("%s came back as %s", msg, out)
			}
		}
		if env.kind == "request" {
			// What checks requests must refuse what Delve fails on, and no more.
			var unknown *dap.DecodeProtocolMessageFieldError
			_, delve := dap.DecodeProtocolMessage(msg)
			for range 2 { // the first may be another way
				if ours := decodable(msg, env.command); (ours == nil) != (delve == nil || errors.As(delve, &unknown)) {
					t.Errorf("%s: got %v, Delve gets %v", msg, ours, delve)
				}
			}
		}
	})
}

// splice replaces two spans of b, either of which may be the first.
func splice(b []byte, p, q span, newP, newQ []byte) []byte {
	if p.from > q.from {
		p, q, newP, newQ = q, p, newQ, newP
	}
	return bytes.Join([][]byte{b[:p.from], newP, b[p.to:q.from], newQ, b[q.to:]}, nil)
}

func FuzzLaunchConfig(f *testing.F) {
	for _, seed := range []string{
		`{"target":"deploy/web","program":".","args":["a"],"env":{"A":"b","C":null},"cwd":"/","build":{},"stopOnEntry":true,"substitutePath":[{"from":"","to":""}],"x":1}`,
		`{"target":{"name":"pod/x","namespace":"n","context":"c","kubeconfig":"k","container":"c","pod":"p","agentImage":"i"}}`,
		`{"target":{"nam":"x"}}`, `{"env":{"":""}}`, `{"args":[1]}`, `null`, ``, `[]`, `{"substitutePath":[null]}`, `{"build":" {"}`, `{"target":""}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, arguments string) {
		for _, request := range []string{"launch", "attach"} {
			cfg, err := decodeLaunchConfig(request, json.RawMessage(arguments))
			if err != nil {
				if cfg != nil || err.Error() == "" {
					t.Errorf("got %+v with error %v", cfg, err)
				}
				continue
			}
			args, err := cfg.backendArguments([]PathRule{{"/a", "b"}}, false)
			if err != nil || !json.Valid(args) {
				t.Errorf("arguments for Delve %s, %v", args, err)
			}
			for name := range cfg.Delve {
				if name == "target" || name == "env" || name == "build" {
					t.Errorf("%q goes to Delve", name)
				}
			}
		}
	})
}

func BenchmarkEnvelope(b *testing.B) {
	for _, size := range []struct {
		name string
		body string
	}{
		{"small", `{"threads":[{"id":1,"name":"main"}]}`},
		{"100KB", `{"variables":[` + strings.TrimSuffix(strings.Repeat(`{"name":"x","value":"1","type":"int","variablesReference":0},`, 1700), ",") + `]}`},
		{"1MB string", `{"output":"` + strings.Repeat("x", 1<<20) + `"}`},
	} {
		msg := []byte(`{"seq":12,"type":"response","request_seq":34,"success":true,"command":"threads","body":` + size.body + `}`)
		b.Run(size.name, func(b *testing.B) {
			b.SetBytes(int64(len(msg)))
			b.ReportAllocs()
			var buf []byte
			for b.Loop() {
				env, err := parseEnvelope(msg)
				if err != nil {
					b.Fatal(err)
				}
				buf = appendMessage(buf[:0], msg, &env, 100, 200)
			}
		})
		b.Run(size.name+" by go-dap", func(b *testing.B) {
			b.SetBytes(int64(len(msg)))
			b.ReportAllocs()
			for b.Loop() {
				m, err := dap.DecodeProtocolMessage(msg)
				if err != nil {
					b.Skip(err)
				}
				if _, err := json.Marshal(m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A package that needs a cluster library would drag it into every editor.
func TestImportsNothingOfKubernetes(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !strings.HasSuffix(file.Name(), ".go") {
			continue
		}
		b, err := os.ReadFile(file.Name())
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte("\t\"k8s.io"+"/")) {
			t.Errorf("%s imports k8s.io", file.Name())
		}
	}
}
