package dapserver

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"testing"
	"time"
)

// BenchmarkOutput is the component's output on its way to an editor that reads it.
func BenchmarkOutput(b *testing.B) {
	var text bytes.Buffer
	for n := 0; text.Len() < 32<<10; n++ {
		fmt.Fprintf(&text, "%08d a line of output, as long as lines are\n", n)
	}
	piece := text.Bytes()[:32<<10]
	s := newScript(b, nil)
	server, c := tcpPair(b)
	go func() {
		if _, _, r, err := answerHandshake(server); err == nil {
			readScript(r)
		}
	}()
	begin, done := make(chan struct{}), make(chan struct{})
	s.out = func(ctx context.Context, emit func(Piece) error) error {
		<-begin
		defer close(done)
		for b.Loop() {
			if err := emit(Piece{Stream: Stdout, Data: piece}); err != nil {
				return err
			}
		}
		return nil
	}
	e := connect(b, Config{Launcher: launches(dialled{s, c})})
	e.conn.SetDeadline(time.Now().Add(10 * time.Minute))
	e.request("initialize", `{"adapterID":"x"}`)
	e.raw()
	e.request("launch", `{}`)
	e.any()
	e.any()
	b.SetBytes(int64(len(piece)))
	b.ReportAllocs()
	go io.Copy(io.Discard, e.r) // ends with the connection
	close(begin)
	<-done
	e.conn.Close()
	e.ended()
}
