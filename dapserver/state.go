package dapserver

import (
	"context"
	"encoding/json"
	"sync"
	"time"
)

// phase is how far a client has come. It only grows, but for a launch that
// failed, after which the client may try again, and for breaks of the connection.
type phase int

const (
	phaseNew          phase = iota // nothing has been asked
	phaseInitialized               // launch or attach may come
	phaseStarting                  // launch or attach is under way
	phaseReconnecting              // as phaseRunning, but there is no Delve just now
	phaseRunning                   // Delve takes requests
	phaseEnded                     // terminated has been sent, or the client has asked for the end
	phaseClosing                   // disconnect, or the client is gone
)

// state is all that changes in a session. It is changed by session.update
// only, so every transition is atomic and can be found by one search.
type state struct {
	phase  phase
	client client
	// start is the last launch or attach, from its request on.
	start *start
	// config is the configuration in effect, which a restart can change.
	config *LaunchConfig
	// backend is the connection to Delve. It is replaced by another while the
	// client's session goes on; while it is not there or not yet like the one
	// before, the phase is phaseReconnecting.
	backend *backend
	// run is the run of the backend, or of the last one.
	run Run
	// swaps counts those that have come about, and lastSwap is how long the last took.
	swaps    int
	lastSwap time.Duration
	// giveUp ends the goroutine that keeps the session connected.
	giveUp context.CancelFunc
	// early are the requests for Delve that came before it took any: in
	// phaseStarting, and in phaseReconnecting when parking is set.
	early      []message
	earlyBytes int
	parking    bool
	// breakpoints are all that the client has set, in its own words.
	breakpoints breakpoints
	// program is that of the last run. onProgram, if not nil, is closed when a
	// launch or attach has got one.
	program   program
	onProgram chan struct{}
	// configured is closed when the client has sent configurationDone; nil if
	// neither that nor a wait for it has happened. begun says that a Delve has
	// done it.
	configured chan struct{}
	begun      bool
	// halted is whether the component is stopped, as Delve has told, and shown
	// whether the client has been told so.
	halted, shown bool
	// wish is what the client wants of a component that is not there.
	wish wish
	// leftHalted says that Delve may have halted the component for a request of
	// ours when the connection was lost: it doesn't let it go on for nobody.
	leftHalted bool
	// quiet is a halt under way that the client is not told of, or nil.
	quiet *quietHalt
	// onHalt, if not nil, is closed when the component stops.
	onHalt chan struct{}
	// restart is the restart under way, or nil. restarted says that the next
	// run is what the client has asked for with a restart.
	restart   *restart
	restarted bool
	// activities has what cancels those of the session's activities that can
	// be, by the id of their progress.
	activities map[string]func()
	// reverse has the requests of Delve that the client has not yet answered,
	// by the number under which the client got them, and ours.
	reverse map[int64]reverseRequest
	// working are the requests that are handled in goroutines of their own. The
	// function cancels one.
	working map[worker]context.CancelFunc
	// joined is the way to the process that has the client's session, if that is
	// another one.
	joined *joined
	// ending says that terminate has been asked for.
	ending bool
	// exitTold and endTold say that the client has got exited and terminated.
	exitTold, endTold bool
}

// client is what the client said about itself.
type client struct {
	// name is what others are told; empty if it has said none.
	name string
	// progress, startDebugging and invalidated are what it can do.
	progress, startDebugging, invalidated bool
	// arguments of initialize, for Delve.
	arguments json.RawMessage
}

// message is a message that was read, with its envelope.
type message struct {
	raw []byte
	env envelope
}

// reverseRequest is a request to the client: Delve's, or ours if answer is set.
type reverseRequest struct {
	backend *backend
	seq     int64
	// answer gets the response; it has room for it.
	answer chan message
}

// expect notes that the client has to answer a request.
func (st *state) expect(seq int64, r reverseRequest) {
	if st.reverse == nil {
		st.reverse = map[int64]reverseRequest{}
	}
	st.reverse[seq] = r
}

// start is one launch or attach. Its fields don't change once the start is in
// the state, but for those that say so.
type start struct {
	request  string // "launch" or "attach"
	seq      int64  // of the request
	config   *LaunchConfig
	progress *progress
	cancel   context.CancelFunc
	// done is closed when the goroutine of the start has ended.
	done chan struct{}

	// target is the session, once there is one. Written before done is closed,
	// by the goroutine of the start only.
	target Session
	// owned says that the session ends with the client.
	owned bool
	// member is the child that this is about; nil for all others.
	member *member
	// seat is what the client has to have; nil if nobody else could want it.
	seat *Seat
	// unseat leaves the seat; nil if it was not taken. It and family, the child
	// sessions, are written before done is closed.
	unseat func()
	family *family

	// answered says that the request has its answer; guarded by session.mu.
	answered bool

	// The pumps carry output and the exit status; stopPumps ends them.
	pumps      sync.WaitGroup
	stopPumps  context.CancelFunc
	outputDone chan struct{} // closed when all output has been passed on
	exited     chan struct{} // closed when exitCode is known
	unknown    chan struct{} // closed when it never will be
	exitCode   int

	releaseOnce sync.Once
	releaseErr  error
}

// update changes the state. f must neither block nor send: the locks of the
// links are taken before this one.
func (s *session) update(f func(*state)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.state)
}

// earlyLimit is how many requests, and bytes of them, wait for Delve.
const (
	earlyLimit      = 256
	earlyBytesLimit = 16 << 20
)
