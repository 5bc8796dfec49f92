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
const Version = 3

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

	OpEngage  = "engage"
	OpRestore = "restore"
	OpPods    = "pods"
)

// Request opens a stream.
type Request struct {
	Op     string `json:"op"`
	Client string `json:"client,omitempty"` // who asks, for "in use by …"
	// Lane is which of several calls at a time it is about, see [CallFilter.Lanes].
	Lane  int    `json:"lane,omitempty"`
	Put   *File  `json:"put,omitempty"`
	Start *Start `json:"start,omitempty"`
	// Stream (debug) names the stream that begins or goes on.
	Stream *Stream `json:"stream,omitempty"`
	// TakeOver (debug) makes the agent hang up on the client that is connected, if
	// there is one, instead of refusing this one.
	TakeOver bool `json:"takeOver,omitempty"`
	// Pods (pods) are those of [CallFilter.Labels], as NAMESPACE/NAME.
	Pods []string `json:"pods,omitempty"`
	// From (output) is where to begin.
	From *Position `json:"from,omitempty"`
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
	// Grace is how long the component that runs has between SIGTERM and SIGKILL when
	// this one takes its place; 0: Config.Stop.
	Grace Duration `json:"grace,omitempty"`
}

// Stream is a debugger's stream, which goes on in another tunnel when the one before
// was lost (package resumable).
type Stream struct {
	Token    string `json:"token"` // random, the client's choice
	Received int64  `json:"received,omitempty"`
	// Resume says that the stream exists: an agent that does not know it refuses with
	// [CodeGone], instead of beginning one.
	Resume bool `json:"resume,omitempty"`
}

// Started is a component that Delve has loaded.
type Started struct {
	PID int `json:"pid"` // in the agent's PID namespace
	Run int `json:"run"` // its number, see [Position]
	// Call tells users what was called and for whom, if others have started it.
	Call string `json:"call,omitempty"`
	// Limit tells users how long its caller waits; empty: that is not known.
	Limit string `json:"limit,omitempty"`
}

// Position is a place in what components write.
type Position struct {
	// Boot is the agent's process ([Hello.Boot]): another one numbers anew.
	Boot string `json:"boot,omitempty"`
	// Run numbers the starts of components in a boot, from 1.
	Run int `json:"run,omitempty"`
	// Offset counts the bytes since the run's start, of both streams together.
	Offset int64 `json:"offset,omitempty"`
}

// Output is a piece of what a component wrote.
type Output struct {
	At   Position // of the first byte of Data
	Lost int64    // how many bytes before At are not to be had any more
	FD   int      // 1 (stdout) or 2 (stderr); 0: the run has ended, and At is its end
	Data []byte   // the sink must not keep it
}

// Reply answers a request.
type Reply struct {
	Error string `json:"error,omitempty"`
	// Code tells errors apart that a client handles, see the Code constants.
	Code  string `json:"code,omitempty"`
	Hello *Hello `json:"hello,omitempty"`
	// Have (put) is true if the agent has the file already.
	Have    bool        `json:"have,omitempty"`
	Started *Started    `json:"started,omitempty"` // start
	Debug   *DebugState `json:"debug,omitempty"`   // debug
	// Exit (wait) is how the component ended.
	Exit *Exit `json:"exit,omitempty"`
	// Run (wait) is which run's end it is.
	Run int `json:"run,omitempty"`
	// At (output) is the position of the first frame.
	At *Position `json:"at,omitempty"`
	// Node (engage) is what is going to be replaced.
	Node *Node `json:"node,omitempty"`
}

// DebugState is what the agent tells a debugger that connects.
type DebugState struct {
	Boot     string `json:"boot"`
	Run      int    `json:"run"`
	Halted   bool   `json:"halted,omitempty"` // the component was halted before
	Fresh    bool   `json:"fresh,omitempty"`  // no debugger has been connected to the run before
	Received int64  `json:"received,omitempty"`
}

// The codes of errors that a client handles.
const (
	CodeInUse  = "in-use" // debug: another client is connected
	CodeIdle   = "idle"   // nothing has been started
	CodeExited = "exited" // debug: the component has ended
	CodeGone   = "gone"   // debug: the stream that was to go on is over
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
	Started time.Time `json:"started"`
	Boot    string    `json:"boot"`  // random: which agent process this is
	State   string    `json:"state"` // of the current run: one of the State constants
	// Loading says that a start is under way: until it has come about, all else here
	// is about the run before it.
	Loading bool `json:"loading,omitempty"`
	// Run is the number of the last start in this boot, 0 if there was none, and
	// SHA256 its binary's.
	Run    int    `json:"run,omitempty"`
	SHA256 string `json:"sha256,omitempty"`
	// Exit is how the component ended, in StateExited.
	Exit *Exit `json:"exit,omitempty"`
	// Client holds the debugger, also while it is away within its grace period.
	Client string `json:"client,omitempty"`
	Node   *Node  `json:"node,omitempty"` // nil: the agent is not on a node
}

// Node is what an agent on a node, outside of pods, says of its service.
type Node struct {
	Service string `json:"service,omitempty"` // for users: "process 83 (/usr/bin/kubelet)"
	Host    string `json:"host,omitempty"`    // the node's own name for itself
	Engaged bool   `json:"engaged,omitempty"` // the agent has the service's place
	Problem string `json:"problem,omitempty"` // why the last try to take it failed
}

// ErrExpired says that nobody was connected for a session's time to live.
var ErrExpired = errors.New("nobody was connected for the session's time to live")

// The states of the component.
const (
	StateIdle    = "idle"    // nothing started yet, or ended on request
	StateRunning = "running" // under Delve, halted or not
	StateExited  = "exited"
)

// Exit is how a component ended.
type Exit struct {
	Code   int    `json:"code"`             // its exit status; -1 if a signal ended it, or it is not known
	Signal int    `json:"signal,omitempty"` // the signal that ended it
	Reason string `json:"reason,omitempty"` // in words, if the status does not tell
	// Replaced says that the agent has ended it: for a later start, or on request.
	Replaced bool `json:"replaced,omitempty"`
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
	// Service is the one to be replaced, for an agent on a node.
	Service string `json:"service,omitempty"`
	// Args are added to the original's arguments.
	Args []string `json:"args,omitempty"`
	// Leader says that the component may lead others, by a Lease that the client renews
	// while it is halted. With no client for Grace another one may lead: it must not go on.
	Leader bool `json:"leader,omitempty"`
	// Record is what a client needs to restore a session that nothing else tells of. The
	// agent only keeps it.
	Record json.RawMessage `json:"record,omitempty"`
	// Calls is the program whose calls are to be debugged, for an agent on a node;
	// nil: it is a service.
	Calls *Calls `json:"calls,omitempty"`
	// Temporary makes the agent remove its folder when it ends.
	Temporary bool `json:"temporary,omitempty"`
}

// Calls says which calls of a program, that others start, are to be debugged.
type Calls struct {
	// Program is its name, "runc", or the absolute path of its file.
	Program string     `json:"program"`
	Filter  CallFilter `json:"filter"`
}

// CallFilter says which calls are to be debugged: those that all of it holds for.
// Patterns are those of path.Match, but * stands for slashes, too; empty is for all.
type CallFilter struct {
	// Commands are the commands of which it has to be one: "create" (runc), "ADD" (CNI).
	Commands []string `json:"commands,omitempty"`
	// ID is the pattern of the container's.
	ID string `json:"id,omitempty"`
	// Namespace, Pod and Container are patterns of names.
	Namespace string `json:"namespace,omitempty"`
	Pod       string `json:"pod,omitempty"`
	Container string `json:"container,omitempty"`
	// Labels is a selector of pods. The agent can't read labels: if it is not empty, the
	// client tells which pods those are (pods).
	Labels string `json:"labels,omitempty"`
	// Args and Env are patterns that each fit at least one of the call's arguments, or
	// of its variables (NAME=VALUE).
	Args []string `json:"args,omitempty"`
	Env  []string `json:"env,omitempty"`
	// Every is the time that has to be between the beginnings of two debugged calls.
	Every Duration `json:"every,omitempty"`
	// Max is how many may be debugged at a time; 0: one.
	Max int `json:"max,omitempty"`
}

// Lanes is how many calls may be debugged at a time. Each has a lane: from 0, all but the
// first as if they had an agent of their own. A lane has one call after the other.
func (f CallFilter) Lanes() int { return max(1, f.Max) }

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
// endian) and the bytes. The byte 0, with length 0, is the end; the byte 3 comes
// before a gap, with its size in bytes (uint64, big endian) as the content.
const (
	frameHead = 5
	frameGap  = 3
)

// AppendFrame appends a frame of output to b. It has MaxOutput bytes at most.
func AppendFrame(b []byte, fd int, p []byte) []byte {
	b = append(b, byte(fd))                              //nolint:gosec // 0 to 3
	b = binary.BigEndian.AppendUint32(b, uint32(len(p))) //nolint:gosec // at most MaxOutput
	return append(b, p...)
}

// AppendGap appends the frame of a gap to b.
func AppendGap(b []byte, lost int64) []byte {
	return AppendFrame(b, frameGap, binary.BigEndian.AppendUint64(nil, uint64(lost))) //nolint:gosec // not negative
}

// ReadFrame reads a frame into buf, which has MaxOutput bytes. fd is 0 at the end.
func ReadFrame(r io.Reader, buf []byte) (fd int, p []byte, err error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	fd, n := int(head[0]), binary.BigEndian.Uint32(head[1:])
	if fd > frameGap || n > MaxOutput || fd == 0 && n > 0 || fd == frameGap && n != 8 {
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
