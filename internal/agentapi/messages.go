package agentapi

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/kubedelve/kubedelve/internal/tunnel"
)

// Version is the protocol's; it changes when an agent and a client of different
// versions would misunderstand each other.
const Version = 1

// The operations, see the package comment.
const (
	OpHello  = "hello"
	OpPut    = "put"
	OpStart  = "start"
	OpDebug  = "debug"
	OpOutput = "output"
	OpResume = "resume"
	OpSettle = "settle"
	OpWait   = "wait"
	OpEnd    = "end"
)

// Request opens a stream.
type Request struct {
	Op     string `json:"op"`
	Client string `json:"client,omitempty"` // who asks, for "in use by …"
	Put    *File  `json:"put,omitempty"`
	Start  *Start `json:"start,omitempty"`
}

// File names a binary by its content.
type File struct {
	SHA256 string `json:"sha256"` // hexadecimal
	Size   int64  `json:"size"`   // bytes
	Name   string `json:"name"`   // base name, what ps shows
}

// Start says how the component is run.
type Start struct {
	File File     `json:"file"`
	Args []string `json:"args"`          // without the program's name; null: those of the original program
	Env  []string `json:"env,omitempty"` // NAME=VALUE sets, NAME takes away; on top of the container's
	Dir  string   `json:"dir,omitempty"` // working directory; empty: the container's
}

// Reply answers a request.
type Reply struct {
	Error string `json:"error,omitempty"`
	// Code tells errors apart that a client handles, see the Code constants.
	Code  string `json:"code,omitempty"`
	Hello *Hello `json:"hello,omitempty"`
	// Have (put) is true if the agent has the file already.
	Have bool `json:"have,omitempty"`
	// PID (start) is the component's, in the agent's PID namespace.
	PID int `json:"pid,omitempty"`
	// Exit (wait) is how the component ended.
	Exit *Exit `json:"exit,omitempty"`
	// Run (output, wait) numbers the starts: which one's output or end it is.
	Run int `json:"run,omitempty"`
}

// The codes of errors that a client handles.
const (
	CodeInUse = "in-use" // debug: another client is connected
	CodeIdle  = "idle"   // nothing has been started
)

// Hello is what the agent says of itself.
type Hello struct {
	Version int       `json:"version"` // the protocol's
	Agent   string    `json:"agent"`   // the program's
	Delve   string    `json:"delve"`
	OS      string    `json:"os"`
	Arch    string    `json:"arch"`
	Session string    `json:"session"`
	UID     int       `json:"uid"`
	State   string    `json:"state"` // one of the State constants
	Client  string    `json:"client,omitempty"`
	Started time.Time `json:"started"`
}

// The states of the component.
const (
	StateIdle    = "idle"    // nothing started yet
	StateLoading = "loading" // Delve is reading it
	StateRunning = "running" // under Delve, halted or not
	StateExited  = "exited"
)

// Exit is how a component ended.
type Exit struct {
	Code   int    `json:"code"`             // its exit status; -1 if a signal ended it, or it is not known
	Signal int    `json:"signal,omitempty"` // the signal that ended it
	Reason string `json:"reason,omitempty"` // in words, if the status does not tell
}

// Status is the exit status that a shell would tell: 128 and the signal.
func (e Exit) Status() int {
	switch {
	case e.Signal > 0:
		return 128 + e.Signal
	case e.Code < 0:
		return 1
	}
	return e.Code
}

func (e Exit) String() string {
	if e.Reason != "" {
		return e.Reason
	}
	return fmt.Sprintf("exit code %d", e.Code)
}

// Error is a request that the agent refused.
type Error struct {
	Op   string
	Code string
	Text string
}

func (e *Error) Error() string { return fmt.Sprintf("agent: %s: %s", e.Op, e.Text) }

// Config is the agent's configuration: a JSON file that only its container sees,
// since it holds the agent's key.
type Config struct {
	Session   string          `json:"session"`
	Listen    string          `json:"listen,omitempty"` // TCP address of the tunnel's port; empty: none
	Identity  tunnel.Identity `json:"identity"`
	ClientPin string          `json:"clientPin"`
	// Ports are the TCP ports that the component serves; the pod is ready once
	// one of them is listened on. None: ready when the component was started.
	Ports []int `json:"ports,omitempty"`
	// Grace is how long a component may stay halted without a client before it
	// is resumed without breakpoints.
	Grace Duration `json:"grace"`
	TTL   Duration `json:"ttl"`
	// Stop is how long the component has between SIGTERM and SIGKILL.
	Stop Duration `json:"stop"`
	// Drain is how long a component still serves when the container is being
	// stopped: requests are on their way to it until all nodes have heard of it.
	Drain Duration `json:"drain,omitempty"`
	// Temporary makes the agent remove its folder when it ends.
	Temporary bool `json:"temporary,omitempty"`
}

// Duration is a time.Duration written as a string ("1m30s") in JSON.
type Duration time.Duration

// MarshalText implements [encoding.TextMarshaler].
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// maxLine bounds a request or reply: arguments and environment of a component
// are at most 2 MiB on Linux (execve(2), MAX_ARG_STRLEN and the stack's quarter).
const maxLine = 4 << 20

// ReadMessage reads one line of JSON into v.
func ReadMessage(r *bufio.Reader, v any) error {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxLine {
			return errors.New("agent protocol: a line is longer than 4 MiB")
		}
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			if errors.Is(err, io.EOF) && len(line) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	if err := json.Unmarshal(line, v); err != nil {
		return fmt.Errorf("agent protocol: %w", err)
	}
	return nil
}

// WriteMessage writes v as one line of JSON.
func WriteMessage(w io.Writer, v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("agent protocol: %w", err)
	}
	_, err = w.Write(append(line, '\n'))
	return err
}

// MaxOutput is the largest output frame, in bytes.
const MaxOutput = 64 << 10

// A frame of output is one byte 1 (stdout) or 2 (stderr), the length (uint32, big
// endian) and the bytes. The byte 0, with length 0, is the end.
const frameHead = 5

// AppendFrame appends a frame of output to b. It has MaxOutput bytes at most.
func AppendFrame(b []byte, fd int, p []byte) []byte {
	b = append(b, byte(fd))                              //nolint:gosec // 0, 1 or 2
	b = binary.BigEndian.AppendUint32(b, uint32(len(p))) //nolint:gosec // at most MaxOutput
	return append(b, p...)
}

// ReadFrame reads a frame into buf, which has MaxOutput bytes. fd is 0 at the end.
func ReadFrame(r io.Reader, buf []byte) (fd int, p []byte, err error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	fd, n := int(head[0]), binary.BigEndian.Uint32(head[1:])
	if fd > 2 || n > MaxOutput || fd == 0 && n > 0 {
		return 0, nil, fmt.Errorf("agent protocol: an output frame of %d bytes for descriptor %d", n, fd)
	}
	if _, err := io.ReadFull(r, buf[:n]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return fd, buf[:n], nil
}
