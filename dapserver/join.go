package dapserver

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"sync"
	"time"
)

// An editor that speaks to its adapters on standard input and output starts a
// process for each session, also for a child session. That process joins its
// client to the one that has the child: from the attach on it only passes messages
// on, both ways, with the numbers that each side expects.

// joined is the way to the process that has the client's child session.
type joined struct {
	link *link
	done chan struct{} // closed when the reader has ended

	mu sync.Mutex // guards all below; nothing is sent with it held
	// over says that the way has ended, and the client is served here again.
	over bool
	// pending are the requests that have no answer yet, by the client's number.
	pending map[int64]string
	// reverse are the other side's numbers of its requests, by those that the
	// client got.
	reverse map[int64]int64
	// parting says that the client has asked to disconnect; giveUp then bounds
	// the wait for the answer.
	parting bool
	giveUp  *time.Timer
}

// join passes the client on to the process that has the child session; m is its
// attach request.
func (s *session) join(ctx context.Context, m message, ref *ChildRef) {
	conn, err := net.DialTimeout("unix", ref.Socket, time.Second)
	if err != nil {
		s.log.Info("joining a child session", "socket", ref.Socket, "error", err)
		s.fail(ctx, &m.env, errNoParent)
		return
	}
	j := &joined{
		link: newLink("parent", conn, s.srv.cfg.StallTimeout, s.log), done: make(chan struct{}),
		pending: map[int64]string{}, reverse: map[int64]int64{},
	}
	var arguments json.RawMessage
	s.update(func(st *state) { arguments, st.joined = st.client.arguments, j })
	introduction, err := json.Marshal(map[string]any{"type": "request", "command": "initialize", "arguments": arguments})
	if err == nil {
		// The answer is dropped: the client has had one. Nobody asks for the number.
		err = j.link.send(ctx, introduction, &envelope{kind: "request", command: "initialize"}, sendOptions{seq: m.env.seq})
	}
	if err != nil {
		j.link.fail(err)
	}
	go s.readParent(ctx, j) // ends with the connection
	s.toParent(ctx, j, m)
}

// errNoParent refuses a child session that nobody has.
var errNoParent = newError(idFailedToAttach, "the debug session that this one is a part of has ended; start that one again")

// toParent passes on a message of the client's. It returns false if there is
// nobody any more to pass it on to.
func (s *session) toParent(ctx context.Context, j *joined, m message) bool {
	o := sendOptions{seq: m.env.seq, requestSeq: m.env.requestSeq}
	j.mu.Lock()
	if j.over {
		j.mu.Unlock()
		return false
	}
	switch m.env.kind {
	case "request":
		j.pending[m.env.seq] = m.env.command
		if m.env.command == "disconnect" && !j.parting {
			j.parting = true
			j.giveUp = time.AfterFunc(s.srv.cfg.CloseTimeout, func() { j.link.fail(errStalled) })
		}
	case "response":
		o.requestSeq = j.reverse[m.env.requestSeq]
		delete(j.reverse, m.env.requestSeq)
	}
	j.mu.Unlock()
	if err := j.link.send(ctx, m.raw, &m.env, o); err != nil {
		s.log.Debug("passing a message on", "command", m.env.command, "error", err)
		j.link.fail(err) // parted answers
	}
	return true
}

// readParent is the goroutine that reads from the process that was joined.
func (s *session) readParent(ctx context.Context, j *joined) {
	defer close(j.done)
	introduced := false
	for {
		raw, err := j.link.next()
		if err != nil {
			s.parted(ctx, j, err)
			return
		}
		env, err := parseEnvelope(raw)
		if err != nil {
			s.parted(ctx, j, err)
			return
		}
		logFrame(s.log, "from parent", raw, &env)
		if !introduced && env.kind == "response" && env.command == "initialize" {
			introduced = true
			continue
		}
		o := sendOptions{requestSeq: env.requestSeq}
		switch {
		case env.kind == "response":
			j.mu.Lock()
			delete(j.pending, env.requestSeq)
			j.mu.Unlock()
		case env.event == "terminated":
			s.update(func(st *state) { st.endTold = true })
		case env.kind == "request":
			o.assigned = func(seq int64) {
				j.mu.Lock()
				j.reverse[seq] = env.seq
				j.mu.Unlock()
			}
		}
		_ = s.editor.send(ctx, raw, &env, o) // if the client is gone, serve ends
	}
}

// parted ends the child session when the way to its process has ended. What has no
// answer gets one; and a client that was not leaving hears that it is over, and
// may say its disconnect here.
func (s *session) parted(ctx context.Context, j *joined, cause error) {
	j.link.fail(cause)
	s.log.Debug("the child session has ended", "cause", cause)
	told := false
	s.update(func(st *state) { told, st.phase = st.endTold, max(st.phase, phaseEnded) })
	j.mu.Lock()
	j.over = true
	pending, parting := j.pending, j.parting
	if j.giveUp != nil {
		j.giveUp.Stop()
	}
	j.mu.Unlock()
	for seq, command := range pending {
		if command == "disconnect" {
			s.respond(ctx, &envelope{seq: seq, command: command}, nil)
		} else {
			s.fail(ctx, &envelope{seq: seq, command: command}, errNoParent)
		}
	}
	if !told && !parting {
		_ = s.output(ctx, Important, "kubedelve: the process of the main debug session is gone\n", nil)
	}
	s.tellEnd(ctx)
	if parting {
		s.editor.drain(2 * time.Second)
		s.editor.fail(fmt.Errorf("the client has left: %w", net.ErrClosed))
	}
}

// part hangs up on the process that was joined, if one was.
func (s *session) part() {
	var j *joined
	s.update(func(st *state) { j = st.joined })
	if j != nil {
		j.link.close()
		<-j.done
	}
}
