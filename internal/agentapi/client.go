package agentapi

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/klauspost/compress/zstd"

	"github.com/kubedelve/kubedelve/internal/tunnel"
)

// Client talks to one agent. Its methods may be called from any goroutine; each
// uses a stream of its own.
type Client struct {
	session *tunnel.Session
	name    string
	lane    int

	mu      sync.Mutex            // guards outputs
	outputs map[chan struct{}]int // the calls of Output: closed at their end; of which run
}

// NewClient takes over an authenticated session. The name tells other clients
// who holds the debugger.
func NewClient(session *tunnel.Session, name string) *Client {
	return &Client{session: session, name: name, outputs: map[chan struct{}]int{}}
}

// Lane returns a client for a lane of the agent from 1, see [CallFilter.Lanes]. It goes by
// this one's connection, and its Close does nothing.
func (c *Client) Lane(lane int) *Client {
	l := NewClient(c.session, c.name)
	l.lane = lane
	return l
}

// Done is closed when the connection to the agent is gone.
func (c *Client) Done() <-chan struct{} { return c.session.Done() }

// Close ends the connection; the agent and the component go on.
func (c *Client) Close() error {
	if c.lane > 0 {
		return nil
	}
	return c.session.Close()
}

// stream is a request's stream, whose reader may hold bytes read ahead.
type stream struct {
	*tunnel.Stream
	r *bufio.Reader
}

func (s *stream) Read(p []byte) (int, error) {
	if s.r.Buffered() == 0 {
		return s.Stream.Read(p)
	}
	return s.r.Read(p)
}

// request opens a stream and reads the first reply. The stream is closed when
// ctx ends, until the returned release is called, which tells whether it was not.
func (c *Client) request(ctx context.Context, req Request) (*stream, *Reply, func() bool, error) {
	req.Client, req.Lane = c.name, c.lane
	conn, err := c.session.Open()
	if err != nil {
		return nil, nil, nil, fmt.Errorf("agent: %s: %w", req.Op, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	s := &stream{Stream: conn, r: bufio.NewReaderSize(conn, 64<<10)}
	fail := func(err error) (*stream, *Reply, func() bool, error) {
		stop()
		_ = conn.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, nil, nil, err
	}
	if err := WriteMessage(conn, req); err != nil {
		return fail(fmt.Errorf("agent: %s: %w", req.Op, err))
	}
	reply, err := s.reply(req.Op)
	if err != nil {
		return fail(err)
	}
	return s, reply, stop, nil
}

func (s *stream) reply(op string) (*Reply, error) {
	var reply Reply
	if err := ReadMessage(s.r, &reply); err != nil {
		return nil, fmt.Errorf("agent: %s: %w", op, err)
	}
	if reply.Error != "" {
		return nil, &Error{Op: op, Code: reply.Code, Text: reply.Error}
	}
	return &reply, nil
}

// call is a request whose only answer is one reply.
func (c *Client) call(ctx context.Context, req Request) (*Reply, error) {
	s, reply, release, err := c.request(ctx, req)
	if err != nil {
		return nil, err
	}
	release()
	_ = s.Close()
	return reply, nil
}

// Hello asks the agent what it is.
func (c *Client) Hello(ctx context.Context) (*Hello, error) {
	reply, err := c.call(ctx, Request{Op: OpHello})
	if err != nil {
		return nil, err
	}
	if reply.Hello == nil || reply.Hello.Version != Version {
		return nil, fmt.Errorf("agent: it speaks another version of the protocol than %d; use the agent image of this kubedelve's version", Version)
	}
	return reply.Hello, nil
}

// Put sends a binary unless the agent has it, and returns the number of bytes
// that went over the wire. The agent has verified length and hash when it
// returns without an error.
func (c *Client) Put(ctx context.Context, file File, content io.Reader) (sent int64, err error) {
	s, reply, release, err := c.request(ctx, Request{Op: OpPut, Put: &file})
	if err != nil {
		return 0, err
	}
	defer func() { release(); _ = s.Close() }()
	if reply.Have {
		return 0, nil
	}
	// The agent may refuse the rest (its disk is full): it is heard while we
	// send, or we would wait for it to read what it will not.
	refused := make(chan error, 1)
	var listening sync.WaitGroup
	listening.Go(func() { // ends with the answer, or with the stream
		_, err := s.reply(OpPut)
		if err != nil {
			_ = s.SetWriteDeadline(time.Unix(0, 1))
		}
		refused <- err
	})
	counter := &countingWriter{w: s.Stream}
	err = compress(counter, content)
	if err == nil {
		// A zstd stream may have several frames: only its end tells the agent that
		// this was the last.
		err = s.CloseWrite()
	}
	var brokenOff *contentError
	if err != nil && (errors.As(err, &brokenOff) || !errors.Is(err, yamux.ErrTimeout)) {
		_ = s.Close() // there will be no answer
	}
	listening.Wait()
	said := <-refused
	var spoken *Error
	switch {
	case ctx.Err() != nil:
		return counter.n, context.Cause(ctx)
	case brokenOff != nil: // the agent has only seen the stream end
	case errors.As(said, &spoken) || err == nil && said != nil:
		err = said // rather than the broken pipe that it left behind
	}
	if err != nil {
		return counter.n, fmt.Errorf("uploading %s: %w", file.Name, err)
	}
	return counter.n, nil
}

// contentError is a failure to read what is to be sent.
type contentError struct{ error }

func (e *contentError) Unwrap() error { return e.error }

type contentReader struct{ io.Reader }

func (r contentReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && err != io.EOF {
		err = &contentError{err}
	}
	return n, err
}

func compress(w io.Writer, content io.Reader) error {
	// Level 1: at the tunnel's 170 MB/s a better ratio costs more time than it
	// saves; two encoders keep both cores of a small machine busy.
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2))
	if err != nil {
		return fmt.Errorf("compressing: %w", err)
	}
	_, err = io.Copy(z, contentReader{content})
	return errors.Join(err, z.Close()) // Close also ends the encoder's goroutines
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// Start loads a binary that the agent has under a Delve of its own, while the
// component that runs goes on; then it ends that one (breakpoints cleared, SIGTERM,
// [Start.Grace], SIGKILL) and returns. The new one is halted at its entry. If it
// can't be loaded, or ctx ends before it is, the old one goes on as if nothing had
// been.
func (c *Client) Start(ctx context.Context, start Start) (Started, error) {
	reply, err := c.call(ctx, Request{Op: OpStart, Start: &start})
	if err != nil {
		return Started{}, err
	}
	if reply.Started == nil {
		return Started{}, errors.New("agent: start: the reply does not say what was started")
	}
	return *reply.Started, nil
}

// Resume lets a halted component go on.
func (c *Client) Resume(ctx context.Context) error {
	_, err := c.call(ctx, Request{Op: OpResume})
	return err
}

// Settle takes the debugger off the component: no breakpoints, running.
func (c *Client) Settle(ctx context.Context) error {
	_, err := c.call(ctx, Request{Op: OpSettle})
	return err
}

// End ends the component and Delve.
func (c *Client) End(ctx context.Context) error {
	_, err := c.call(ctx, Request{Op: OpEnd})
	return err
}

// Wait returns how the component ended, once it has, and once the calls of Output
// of this client have passed on all that it wrote.
func (c *Client) Wait(ctx context.Context) (Exit, error) {
	exit, run, err := c.Exited(ctx)
	if err != nil {
		return Exit{}, err
	}
	for _, output := range c.outputsOf(run) {
		select {
		case <-output:
		case <-ctx.Done():
			return Exit{}, context.Cause(ctx)
		}
	}
	return exit, nil
}

// Exited returns how the component ended that runs now, once it has, and the number of
// its run. Its last output may still be on the way.
func (c *Client) Exited(ctx context.Context) (exit Exit, run int, err error) {
	s, _, release, err := c.request(ctx, Request{Op: OpWait})
	if err != nil {
		return Exit{}, 0, err
	}
	defer func() { release(); _ = s.Close() }()
	reply, err := s.reply(OpWait)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return Exit{}, 0, err
	}
	if reply.Exit == nil {
		return Exit{}, 0, errors.New("agent: wait: no exit status")
	}
	return *reply.Exit, reply.Run, nil
}

func (c *Client) outputsOf(run int) []chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	var of []chan struct{}
	for output, r := range c.outputs {
		if r == run {
			of = append(of, output)
		}
	}
	return of
}

// Output calls sink with what one run of the component writes, beginning at a
// position, and returns nil after it has ended and all has been passed on: the last
// piece has the FD 0. It returns an error when ctx ends or the agent is gone.
//
// To go on with the next run, which Output waits for, ask for {Boot, Run + 1, 0}; to
// go on after an error, for the end of the last piece (At.Offset + len(Data)). No
// byte comes twice, and of those that the agent no longer has (it keeps the last MiB
// of a run) the next piece tells how many they are.
//
// Without a Boot it is the current run, or the first if there is none yet; with the
// Boot of another agent process it is this one's first.
//
// A slow sink slows the component down, as a slow terminal would; one that takes
// nothing for 10 s no longer does, and may miss something.
func (c *Client) Output(ctx context.Context, from Position, sink func(Output) error) error {
	s, reply, release, err := c.request(ctx, Request{Op: OpOutput, From: &from})
	if err != nil {
		return err
	}
	defer func() { release(); _ = s.Close() }()
	if reply.At == nil {
		return errors.New("agent: output: the reply does not tell the position")
	}
	out := Output{At: *reply.At}
	ended := make(chan struct{})
	c.mu.Lock()
	c.outputs[ended] = out.At.Run
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.outputs, ended)
		c.mu.Unlock()
		close(ended)
	}()
	buf := make([]byte, MaxOutput)
	for {
		fd, p, err := ReadFrame(s, buf)
		switch {
		case err != nil && ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return fmt.Errorf("agent: output: %w", err)
		case fd == frameGap:
			lost := int64(binary.BigEndian.Uint64(p)) //nolint:gosec // from AppendGap
			out.Lost += lost
			out.At.Offset += lost
			continue
		}
		out.FD, out.Data = fd, p
		if err := sink(out); err != nil || fd == 0 {
			return err
		}
		out.At.Offset += int64(len(p))
		out.Lost = 0
	}
}

// Engage makes an agent on a node take its service's place, and returns what that is.
// The connection ends soon after; Hello tells over the next one how it went.
func (c *Client) Engage(ctx context.Context) (*Node, error) {
	reply, err := c.call(ctx, Request{Op: OpEngage})
	if err != nil {
		return nil, err
	}
	if reply.Node == nil {
		return nil, errors.New("agent: engage: it says nothing of its service")
	}
	return reply.Node, nil
}

// Pods tells an agent which pods have the labels that its filter asks for.
func (c *Client) Pods(ctx context.Context, pods []string) error {
	_, err := c.call(ctx, Request{Op: OpPods, Pods: pods})
	return err
}

// Restore makes an agent on a node give its service's place back to the original. The
// connection ends soon after.
func (c *Client) Restore(ctx context.Context) error {
	_, err := c.call(ctx, Request{Op: OpRestore})
	return err
}
