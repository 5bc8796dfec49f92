package agentapi

import (
	"bufio"
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
	Code   int    `json:"code"`             // its exit status; -1 if a signal ended it
	Reason string `json:"reason,omitempty"` // in words, if the status does not tell
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
