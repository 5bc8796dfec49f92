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
		answers string // Delve's
		late    string // asked afterwards
		want    string // what the client reads, in all
	}{
		{"while it waits", `{"method":"x","id":1}{"method":"y","id":2}`, `{"id":1,"result":0}`, "",
			`{"id":1,"result":0}{"error":"gone","id":2,"result":null}` + "\n"},
		{"while it is idle", `{"method":"x","id":1}`, `{"id":1,"result":0}`, `{"method":"y","id":2}`,
			`{"id":1,"result":0}{"error":"gone","id":2,"result":null}` + "\n"},
		{"in the middle of a request", `{"method":"x",`, "", `"id":1}`,
			`{"error":"gone","id":1,"result":null}` + "\n"},
		{"in the middle of an answer", `{"method":"x","id":1}`, `{"id":1,"res`, "", `{"id":1,"res`},
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
			asked := make([]byte, len(test.asks))
			if _, err := io.ReadFull(iotest.OneByteReader(delve), asked); err != nil || string(asked) != test.asks {
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
