package dapserver

import (
	"context"
	"encoding/json"
	"sync"
)

// phase is how far a client has come. It only grows, but for a launch that
// failed, after which the client may try again.
type phase int

const (
	phaseNew         phase = iota // nothing has been asked
	phaseInitialized              // launch or attach may come
	phaseStarting                 // launch or attach is under way
	phaseRunning                  // Delve takes requests
	phaseEnded                    // terminated has been sent
	phaseClosing                  // disconnect, or the client is gone
)

// state is all that changes in a session. It is changed by session.update
// only, so every transition is atomic and can be found by one search.
type state struct {
	phase  phase
	client client
	// start is the last launch or attach, from its request on.
	start *start
	// backend is the connection to Delve. It can be replaced by another while
	// the client's session goes on.
	backend *backend
	// early are the requests for Delve that came before it took any.
	early      []message
	earlyBytes int
	// breakpoints are all that the client has set, in its own words.
	breakpoints breakpoints
	// program is that of the last run. onProgram, if not nil, is closed when a
	// launch or attach has got one.
	program   program
	onProgram chan struct{}
	// halted is whether the component is stopped, as the client was told.
	halted bool
	// onHalt, if not nil, is closed when the component stops.
	onHalt chan struct{}
	// reverse has the requests of Delve that the client has not yet answered,
	// by the number under which the client got them, and ours.
	reverse map[int64]reverseRequest
	// working are the requests that are handled in goroutines of their own, by
	// the client's number. The function cancels one.
	working map[int64]context.CancelFunc
	// joined is the way to the process that has the client's session, if that is
	// another one.
	joined *joined
	// exitTold and endTold say that the client has got exited and terminated.
	exitTold, endTold bool
}

// client is what the client said about itself.
type client struct {
	// name is what others are told; empty if it has said none.
	name string
	// progress and startDebugging are what it can do.
	progress, startDebugging bool
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
	exitCode   int
	ended      chan struct{} // closed when terminated has been sent

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
