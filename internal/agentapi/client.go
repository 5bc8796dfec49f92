package agentapi

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/klauspost/compress/zstd"

	"github.com/kubedelve/kubedelve/internal/tunnel"
)

// Client talks to one agent. Its methods may be called from any goroutine; each
// uses a stream of its own.
type Client struct {
	session *tunnel.Session
	name    string
}

// NewClient takes over an authenticated session. The name tells other clients
// who holds the debugger.
func NewClient(session *tunnel.Session, name string) *Client {
	return &Client{session: session, name: name}
}

// Done is closed when the connection to the agent is gone.
func (c *Client) Done() <-chan struct{} { return c.session.Done() }

// Close ends the connection; the agent and the component go on.
func (c *Client) Close() error { return c.session.Close() }

// stream is a request's stream, whose reader may hold bytes read ahead.
type stream struct {
	*tunnel.Stream
	r *bufio.Reader
}

func (s *stream) Read(p []byte) (int, error) { return s.r.Read(p) }

// request opens a stream and reads the first reply. The stream is closed when
// ctx ends, until the returned release is called.
func (c *Client) request(ctx context.Context, req Request) (*stream, *Reply, func(), error) {
	req.Client = c.name
	conn, err := c.session.Open()
	if err != nil {
		return nil, nil, nil, fmt.Errorf("agent: %s: %w", req.Op, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	s := &stream{Stream: conn, r: bufio.NewReaderSize(conn, 64<<10)}
	fail := func(err error) (*stream, *Reply, func(), error) {
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
	return s, reply, func() { stop() }, nil
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
	return reply, s.Close()
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
	counter := &countingWriter{w: s.Stream}
	// Level 1: at the tunnel's 170 MB/s a better ratio costs more time than it
	// saves; two encoders keep both cores of a small machine busy.
	z, err := zstd.NewWriter(counter, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2))
	if err != nil {
		return 0, fmt.Errorf("compressing %s: %w", file.Name, err)
	}
	if _, err := io.Copy(z, content); err != nil {
		return counter.n, c.putError(ctx, s, file, err)
	}
	// A zstd stream may have several frames: only its end tells the agent that
	// this was the last.
	if err := errors.Join(z.Close(), s.CloseWrite()); err != nil {
		return counter.n, c.putError(ctx, s, file, err)
	}
	if _, err := s.reply(OpPut); err != nil {
		return counter.n, err
	}
	return counter.n, nil
}

// putError prefers what the agent said to the broken pipe that it left behind.
func (c *Client) putError(ctx context.Context, s *stream, file File, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if _, said := s.reply(OpPut); said != nil {
		err = said
	}
	return fmt.Errorf("uploading %s: %w", file.Name, err)
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

// Start runs a binary that the agent has under Delve, in place of the one that
// runs, and returns its PID once Delve has loaded it. It is halted at its entry.
func (c *Client) Start(ctx context.Context, start Start) (pid int, err error) {
	reply, err := c.call(ctx, Request{Op: OpStart, Start: &start})
	if err != nil {
		return 0, err
	}
	return reply.PID, nil
}

// Debug connects to Delve: DAP or JSON-RPC, whichever the first byte begins. An
// [*Error] with [CodeInUse] tells that another client is connected.
func (c *Client) Debug(ctx context.Context) (net.Conn, error) {
	s, _, release, err := c.request(ctx, Request{Op: OpDebug})
	if err != nil {
		return nil, err
	}
	release() // the connection outlives ctx
	return s, nil
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

// Wait returns how the component ended, once it has.
func (c *Client) Wait(ctx context.Context) (Exit, error) {
	s, _, release, err := c.request(ctx, Request{Op: OpWait})
	if err != nil {
		return Exit{}, err
	}
	defer func() { release(); _ = s.Close() }()
	reply, err := s.reply(OpWait)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return Exit{}, err
	}
	if reply.Exit == nil {
		return Exit{}, fmt.Errorf("agent: wait: no exit status")
	}
	return *reply.Exit, nil
}

// Output calls sink with what the component writes, from the last 64 KiB on,
// until ctx ends or the agent is gone; fd is 1 or 2. A slow sink slows the
// component down, as a slow terminal would.
func (c *Client) Output(ctx context.Context, sink func(fd int, p []byte)) error {
	s, _, release, err := c.request(ctx, Request{Op: OpOutput})
	if err != nil {
		return err
	}
	defer func() { release(); _ = s.Close() }()
	var head [5]byte
	buf := make([]byte, MaxOutput)
	for {
		if _, err := io.ReadFull(s, head[:]); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("agent: output: %w", err)
		}
		n := binary.BigEndian.Uint32(head[1:])
		if n > MaxOutput {
			return fmt.Errorf("agent: output: a frame of %d bytes", n)
		}
		if _, err := io.ReadFull(s, buf[:n]); err != nil {
			return fmt.Errorf("agent: output: %w", err)
		}
		sink(int(head[0]), buf[:n])
	}
}

// MaxOutput is the largest output frame, in bytes.
const MaxOutput = 64 << 10
