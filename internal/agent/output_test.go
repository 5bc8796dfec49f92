package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kubedelve/kubedelve/internal/agentapi"
)

// follower reads the output of one run through tunnels that are cut, by position.
type follower struct {
	next  agentapi.Position
	data  [3][]byte // by descriptor
	lost  int64
	calls int
}

func (f *follower) follow(t testing.TB, w *tunnels) {
	t.Helper()
	for ended := false; !ended; f.calls++ {
		c, err := w.next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		err = c.Output(t.Context(), f.next, func(o agentapi.Output) error {
			want := f.next
			want.Offset += o.Lost
			if want.Run == 0 {
				want.Boot, want.Run = o.At.Boot, o.At.Run
			}
			if o.At != want {
				return fmt.Errorf("a piece at %+v; want %+v", o.At, want)
			}
			f.data[o.FD] = append(f.data[o.FD], o.Data...)
			f.lost += o.Lost
			f.next = o.At
			f.next.Offset += int64(len(o.Data))
			ended = o.FD == 0
			return nil
		})
		if err != nil && strings.Contains(err.Error(), "a piece at") {
			t.Fatal(err)
		}
	}
}

func TestOutputComesOnceThroughManyTunnels(t *testing.T) {
	r := newRig(t, nil)
	w := r.tunnels("test")
	c, _ := w.next(t.Context())
	const size = 16 << 20
	start(t, c, "out=first", fmt.Sprintf("bytes=%d", size), "err=last", "exit=0")
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		random := rand.New(rand.NewSource(1))
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(random.Intn(20)) * time.Millisecond):
				w.cut()
			}
		}
	}()
	other := r.client("other")
	if err := other.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	var f follower
	f.follow(t, w)
	close(stop)
	<-stopped
	var want bytes.Buffer
	want.WriteString("first\n")
	for i := range size / 16 {
		fmt.Fprintf(&want, "%015d\n", i)
	}
	// While there is no tunnel nobody waits for the client.
	if got := int64(len(f.data[1])+len(f.data[2])) + f.lost; got != int64(want.Len())+int64(len("last\n")) {
		t.Errorf("got %d bytes, and %d lost; together %d are wanted", got-f.lost, f.lost, want.Len()+5)
	}
	if f.lost == 0 && !bytes.Equal(f.data[1], want.Bytes()) {
		t.Error("other bytes came")
	}
	if string(f.data[2]) != "last\n" {
		t.Errorf("stderr: %q", f.data[2])
	}
	t.Logf("%d calls, %d bytes lost", f.calls, f.lost)
	if f.calls < 5 {
		t.Errorf("it took %d calls; want more", f.calls)
	}
}

func TestWhatTheBacklogNoLongerHasIsToldAsLost(t *testing.T) {
	r := newRig(t, nil)
	c := r.client("test")
	const size = 3 << 20
	launch(t, c, "out=first", fmt.Sprintf("bytes=%d", size), "exit=0")
	wait(t, c)
	var pieces []agentapi.Output
	var got bytes.Buffer
	err := c.Output(t.Context(), agentapi.Position{}, func(o agentapi.Output) error {
		got.Write(o.Data)
		o.Data = nil
		pieces = append(pieces, o)
		return nil
	})
	const total = size + int64(len("first\n"))
	if err != nil || pieces[0].Lost != total-int64(got.Len()) || pieces[0].At.Offset != pieces[0].Lost || got.Len() > backlogSize || got.Len() < backlogSize-agentapi.MaxOutput {
		t.Errorf("got %d bytes after %+v, %v; want the last MiB of %d", got.Len(), pieces[0], err, total)
	}
	if !strings.HasSuffix(got.String(), fmt.Sprintf("%015d\n", size/16-1)) {
		t.Error("it is not the last MiB")
	}
	// Of runs before the last ones only that is known.
	for range keepOutputs + 1 {
		launch(t, c, "exit=0")
		wait(t, c)
	}
	err = c.Output(t.Context(), agentapi.Position{Boot: pieces[0].At.Boot, Run: 1, Offset: 6}, func(o agentapi.Output) error {
		if o.FD != 0 || o.Lost != size || o.At.Offset != total {
			t.Errorf("got %+v; want that %d bytes are lost", o, size)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestTheNextRunsOutputIsWaitedFor(t *testing.T) {
	r := newRig(t, nil)
	c := r.client("test")
	next := make(chan agentapi.Position, 1)
	var said []string
	done := make(chan error, 1)
	go func() {
		from := agentapi.Position{}
		for run := 1; run <= 3; run++ {
			err := c.Output(t.Context(), from, func(o agentapi.Output) error {
				if from = o.At; o.FD > 0 {
					said = append(said, fmt.Sprintf("%d: %s", o.At.Run, o.Data))
				}
				return nil
			})
			if err != nil {
				done <- err
				return
			}
			from.Run, from.Offset = from.Run+1, 0
			next <- from
		}
		done <- nil
	}()
	for run := 1; run <= 3; run++ {
		launch(t, c, fmt.Sprintf("out=this is %d", run), "loop")
		r.await("it to be up", func() bool { return strings.HasSuffix(r.logged.String(), fmt.Sprintf("this is %d\n", run)) })
		if run > 1 {
			<-next
		}
	}
	if err := c.End(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if want := []string{"1: this is 1\n", "2: this is 2\n", "3: this is 3\n"}; !slices.Equal(said, want) {
		t.Errorf("got %q; want %q", said, want)
	}
}

// read reads frames until so many bytes of data have come, or the end.
func read(t *testing.T, conn net.Conn, n int) (data []byte, gaps []int64) {
	t.Helper()
	buf := make([]byte, agentapi.MaxOutput)
	for len(data) < n {
		fd, p, err := agentapi.ReadFrame(conn, buf)
		if err != nil {
			t.Fatal(err)
		}
		switch fd {
		case 0:
			return data, gaps
		case 3:
			var gap int64
			for _, b := range p {
				gap = gap<<8 | int64(b)
			}
			gaps = append(gaps, gap)
		default:
			data = append(data, p...)
		}
	}
	return data, gaps
}

func TestTheSlowestClientThatReadsIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutput()
		var serving sync.WaitGroup
		theirs, ours := net.Pipe()
		serving.Go(func() { o.serve(theirs, 0) })
		written := make(chan struct{})
		random := rand.New(rand.NewSource(1))
		content := make([]byte, 4*backlogSize)
		_, _ = random.Read(content)
		go func() {
			defer close(written)
			for left := content; len(left) > 0; {
				n := min(len(left), 1+random.Intn(agentapi.MaxOutput))
				o.spread(1+random.Intn(2), left[:n])
				left = left[n:]
			}
			o.end()
		}()
		began := time.Now()
		var got []byte
		for len(got) < len(content) {
			time.Sleep(sinkPatience - time.Second) // slow, but not gone
			data, gaps := read(t, ours, 1)
			if len(gaps) > 0 {
				t.Fatalf("%d bytes were lost", gaps[0])
			}
			got = append(got, data...)
		}
		if !bytes.Equal(got, content) {
			t.Error("other bytes came")
		}
		if time.Since(began) < 2*sinkPatience {
			t.Errorf("it took no more than %v", time.Since(began))
		}
		read(t, ours, 1) // the end
		<-written
		_ = ours.Close()
		serving.Wait()
	})
}

func TestAClientThatReadsNothingMissesSomething(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutput()
		var serving sync.WaitGroup
		theirs, ours := net.Pipe()
		serving.Go(func() { o.serve(theirs, 0) })
		synctest.Wait()
		began := time.Now()
		const size = 5 * backlogSize / agentapi.MaxOutput
		for i := range size {
			o.spread(1, bytes.Repeat([]byte{byte(i)}, agentapi.MaxOutput))
		}
		o.end()
		if took := time.Since(began); took != sinkPatience {
			t.Errorf("the component was held up for %v; want %v, once", took, sinkPatience)
		}
		data, gaps := read(t, ours, 10*backlogSize)
		if len(gaps) != 1 || int64(len(data))+gaps[0] != 5*backlogSize {
			t.Errorf("got %d bytes and gaps %v; together %d", len(data), gaps, 5*backlogSize)
		}
		if last := data[len(data)-1]; last != size-1 {
			t.Errorf("the last byte is of piece %d", last)
		}
		_ = ours.Close()
		serving.Wait()
	})
}

func TestAClientThatGoesHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutput()
		var serving sync.WaitGroup
		theirs, ours := net.Pipe()
		serving.Go(func() { o.serve(theirs, 0) })
		synctest.Wait()
		time.AfterFunc(time.Second, func() { _ = ours.Close() })
		began := time.Now()
		for range 3 * backlogSize / agentapi.MaxOutput {
			o.spread(1, make([]byte, agentapi.MaxOutput))
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("the component was held up for %v; want until the client was gone", took)
		}
		serving.Wait()
	})
}

// Many turns of stdout and stderr take no more memory than that.
func TestManySmallPiecesOfBothStreams(t *testing.T) {
	o := newOutput()
	for i := range 10 * maxSegments {
		o.spread(1+i%2, []byte{byte(i)})
	}
	o.end()
	if len(o.segments) > maxSegments || cap(o.segments) > 4*maxSegments {
		t.Errorf("%d segments are kept, of %d", len(o.segments), cap(o.segments))
	}
	theirs, ours := net.Pipe()
	served := make(chan struct{})
	go func() { o.serve(theirs, 0); close(served) }()
	data, gaps := read(t, ours, 10*maxSegments)
	if len(data) != maxSegments || len(gaps) != 1 || gaps[0] != 9*maxSegments || data[0] != 9*maxSegments%256 {
		t.Errorf("got %d bytes from %d on, gaps %v", len(data), data[0], gaps)
	}
	_ = ours.Close()
	<-served
}

// BenchmarkOutput is a component that writes as fast as it can, to a client that
// counts: bytes, and what they are.
func BenchmarkOutput(b *testing.B) {
	const size = 500 << 20
	for b.Loop() {
		r := newRig(b, nil)
		c := r.client("test")
		r.logged.discard()
		start(b, c, fmt.Sprintf("bytes=%d", size), "exit=0")
		hash := sha256.New()
		var total int64
		done := make(chan error, 1)
		ctx, cancel := context.WithCancel(b.Context())
		go func() {
			done <- c.Output(ctx, agentapi.Position{}, func(o agentapi.Output) error {
				total += int64(len(o.Data))
				_, err := hash.Write(o.Data)
				return err
			})
		}()
		r.await("the subscription", func() bool { return strings.Contains(r.said.String(), "op=output") })
		began := time.Now()
		if err := c.Resume(b.Context()); err != nil {
			b.Fatal(err)
		}
		if err := <-done; err != nil || total != size {
			b.Fatalf("got %d bytes, %v; want %d", total, err, size)
		}
		took := time.Since(began)
		cancel()
		want := sha256.New()
		for i := range size / 16 {
			_, _ = fmt.Fprintf(want, "%015d\n", i)
		}
		if got := hash.Sum(nil); !bytes.Equal(got, want.Sum(nil)) {
			b.Errorf("other bytes came: %x", got)
		}
		b.ReportMetric(float64(size)/1e6/took.Seconds(), "MB/s")
		b.ReportMetric(float64(peakMemory(b, r.cmd.Process.Pid))/(1<<20), "agent-MiB")
	}
}
