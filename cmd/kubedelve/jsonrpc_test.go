package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/kubedelve/kubedelve/buildflags"
)

// ids are the ids that the standard library finds in a stream of objects.
func ids(t testing.TB, stream []byte) []string {
	t.Helper()
	var all []string
	for decoder := json.NewDecoder(bytes.NewReader(stream)); ; {
		var members map[string]json.RawMessage
		if err := decoder.Decode(&members); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		id := string(members["id"])
		if id == "" || id[0] == '{' || id[0] == '[' {
			id = "null"
		}
		all = append(all, id)
	}
}

// followed are the ids that an rpcStream finds if it gets n bytes at a time.
func followed(stream []byte, n int) (all []string, between bool) {
	var s rpcStream
	for part := range slices.Chunk(stream, n) {
		s.feed(part, func(id string) { all = append(all, id) })
	}
	return all, s.between()
}

var rpcStreams = []string{
	`{"method":"RPCServer.State","params":[{"NonBlocking":true}],"id":7}` + "\n" + `{"id":8,"result":{"a":[1,{"id":9}]},"error":null}`,
	`{"id":"a\"b}","result":"}{\\\"","error":null}{"id":null}{}{"result":{"id":1}}`,
	` {"error" : "id", "x\"id":3, "id" : 12 , "result" : [ "\\", "]" ]} {"id":{"x":1}} {"id":-1.5e3}`,
}

func TestAJSONRPCStreamIsFollowed(t *testing.T) {
	for _, stream := range rpcStreams {
		want := ids(t, []byte(stream))
		for _, n := range []int{1, 2, 3, 7, len(stream)} {
			if got, between := followed([]byte(stream), n); !slices.Equal(got, want) || !between {
				t.Errorf("%d bytes at a time: got %q (between: %v), want %q in %s", n, got, between, want, stream)
			}
		}
		if _, between := followed([]byte(stream[:len(stream)-1]), 5); between {
			t.Errorf("the last object of %s counts as ended without its last byte", stream)
		}
	}
}

func FuzzJSONRPCStream(f *testing.F) {
	for _, stream := range rpcStreams {
		f.Add([]byte(stream), 3)
	}
	f.Fuzz(func(t *testing.T, stream []byte, n int) {
		got, between := followed(stream, max(1, n))
		var want []string
		for decoder := json.NewDecoder(bytes.NewReader(stream)); ; {
			var value json.RawMessage
			err := decoder.Decode(&value)
			if err == io.EOF {
				break
			}
			// Only objects are of the protocol, and no id is as long as this or twice there.
			if err != nil || value[0] != '{' || bytes.Count(bytes.ToLower(value), []byte(`d`)) > 1 || bytes.Contains(value, []byte(`\`)) || len(value) > longestID {
				return
			}
			want = append(want, ids(t, value)...)
		}
		if !slices.Equal(got, want) || !between {
			t.Errorf("got %q (between: %v), want %q in %q", got, between, want, stream)
		}
	})
}

// A client that is displaced gets an answer to all that it has asked and to what it
// asks next, and then the end.
func TestADisplacedJSONRPCClientIsToldWhy(t *testing.T) {
	for _, test := range []struct {
		name    string
		asks    string // before it is displaced
		reads   string // what Delve gets of that, beside ends of lines
		answers string // Delve's
		late    string // asked afterwards
		want    string // what the client reads, in all
	}{
		{"while it waits", `{"method":"x","id":1}{"method":"y","id":2}`, `{"method":"x","id":1}{"method":"y","id":2}`, `{"id":1,"result":0}`, "",
			`{"id":1,"result":0}{"error":"gone","id":2,"result":null}` + "\n"},
		{"while it is idle", `{"method":"x","id":1}`, `{"method":"x","id":1}`, `{"id":1,"result":0}`, `{"method":"y","id":2}`,
			`{"id":1,"result":0}{"error":"gone","id":2,"result":null}` + "\n"},
		{"in the middle of a request", `{"method":"x",`, "", "", `"id":1}`,
			`{"error":"gone","id":1,"result":null}` + "\n"},
		{"in the middle of an answer", `{"method":"x","id":1}`, `{"method":"x","id":1}`, `{"id":1,"res`, "", `{"id":1,"res`},
	} {
		t.Run(test.name, func(t *testing.T) {
			client, server := tcpPipe(t)
			ours, delve := net.Pipe()
			defer delve.Close()
			ctx, cancel := context.WithCancel(t.Context())
			r, released, ended := newRPCRelay(server), make(chan struct{}), make(chan error, 1)
			go func() { ended <- r.run(ctx, ours, func() { close(released) }) }()

			if _, err := io.WriteString(client, test.asks); err != nil {
				t.Fatal(err)
			}
			asked := make([]byte, len(test.reads)+strings.Count(test.reads, "}"))
			if _, err := io.ReadFull(iotest.OneByteReader(delve), asked); err != nil || strings.ReplaceAll(string(asked), "\n", "") != test.reads {
				t.Fatalf("Delve reads %q, %v", asked, err)
			}
			if _, err := io.WriteString(delve, test.answers); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(test.answers))
			if _, err := io.ReadFull(client, got); err != nil {
				t.Fatal(err)
			}
			r.displace("gone")
			cancel()
			<-released // at once, whatever the client does
			if _, err := io.WriteString(client, test.late); err != nil && test.late != "" {
				t.Fatal(err)
			}
			rest, err := io.ReadAll(client)
			if err != nil || string(got)+string(rest) != test.want {
				t.Errorf("the client reads %q, %v, want %q", string(got)+string(rest), err, test.want)
			}
			client.Close()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}

// A folder that has two names, through a symbolic link, has both in requests.
func TestRequestsNameFilesAsTheBinaryDoes(t *testing.T) {
	rules := []buildflags.PathRule{{Local: "/link", Remote: "/link"}, {Local: "/real/dir", Remote: "/link"}}
	for _, test := range []struct{ name, request, want string }{
		{"a breakpoint", `{"method":"RPCServer.CreateBreakpoint","params":[{"Breakpoint":{"file":"/real/dir/a.go","line":7}}],"id":1}`,
			`{"id":1,"method":"RPCServer.CreateBreakpoint","params":[{"Breakpoint":{"file":"/link/a.go","line":7}}]}`},
		{"otherwise spelled, with a large number", `{"method":"RPCServer.AmendBreakpoint","params":[{"breakpoint":{"File":"/real/dir/x/a.go","addr":18446744073709551615}}],"id":"x"}`,
			`{"id":"x","method":"RPCServer.AmendBreakpoint","params":[{"breakpoint":{"File":"/link/x/a.go","addr":18446744073709551615}}]}`},
		{"a location", `{"method":"RPCServer.FindLocation","params":[{"Loc":"/real/dir/a.go:7"}]}`,
			`{"method":"RPCServer.FindLocation","params":[{"Loc":"/link/a.go:7"}]}`},
		{"its name in the binary", `{"method":"RPCServer.FindLocation", "params":[{"Loc":"/link/a.go:7"}]}`, ""},
		{"a function", `{"method":"RPCServer.FindLocation","params":[{"Loc":"main.main"}]}`, ""},
		{"another folder", `{"method":"RPCServer.FindLocation","params":[{"Loc":"/real/dirt/a.go:7"}]}`, ""},
		{"no file", `{"method":"RPCServer.CreateBreakpoint","params":[{"Breakpoint":null}, 3]}`, ""},
		{"something else", `{"method":"RPCServer.Eval","params":[{"Expr":"/real/dir"}]}`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			q, err := readRequest(json.NewDecoder(strings.NewReader(test.request)))
			if err == nil {
				err = q.rename(rules)
			}
			want := test.want
			if want == "" {
				want = test.request
			}
			if err != nil || string(q.message) != want+"\n" {
				t.Errorf("got %v, %s, want %s", err, q.message, want)
			}
		})
	}
}

// tcpPipe is a connection over the loopback.
func tcpPipe(t *testing.T) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

func BenchmarkJSONRPCStream(b *testing.B) {
	var answer strings.Builder
	answer.WriteString(`{"id":1,"result":{"Variables":[`)
	for range 1000 {
		answer.WriteString(`{"name":"someVariable","addr":824633720832,"type":"string","value":"a value of some length","children":[],"kind":24},`)
	}
	answer.WriteString(`null]},"error":null}`)
	data := []byte(answer.String())
	b.SetBytes(int64(len(data)))
	var s rpcStream
	for b.Loop() {
		s.feed(data, func(string) {})
	}
}
