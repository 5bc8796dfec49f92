package dapterminal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/google/go-dap"
)

// phase is how far a session is.
type phase int

const (
	starting    phase = iota // the server makes the program ready
	configuring              // the program has not begun, and breakpoints are taken
	running
	halted
	ended // the program is gone
)

var errEnded = errors.New("the program has ended: restart or exit")

// session is one connection to a server, from initialize to disconnect.
type session struct {
	*client
	config map[string]any // of the request launch or attach
	out    *output

	launched  chan struct{} // closed when the request launch or attach is answered
	launchErr error         // to be read after that

	mu           sync.Mutex       // guards all below
	changed      chan struct{}    // closed and made anew when anything of it changes
	capabilities dap.Capabilities // of the server
	phase        phase
	stop         dap.StoppedEventBody // the last one
	news         int                  // how often the program was halted, or ended
	untold       bool                 // the user has not been told of the last time
	thread       int                  // that the commands are about
	frames       []dap.StackFrame     // of that thread; nil if nobody has asked yet
	frame        int                  // of frames
	leaving      bool                 // disconnect was sent
	restarting   bool                 // it was halted when it was asked to restart
	marked       func(dap.Breakpoint) // told of breakpoints that have changed; must not wait
}

// launches says that the session is to end the program that it has begun.
func (s *session) launches() bool { return s.config["request"] == "launch" }

// open connects, and sends the request launch or attach.
func open(ctx context.Context, c *Connector, config map[string]any, out *output, marked func(dap.Breakpoint)) (_ *session, err error) {
	conn, err := c.Connect(ctx)
	if err != nil {
		return nil, err
	}
	s := &session{config: config, out: out, launched: make(chan struct{}), changed: make(chan struct{}), marked: marked}
	s.client = newClient(conn, s.take, func(command string, err error) {
		out.say("%s failed: %v", command, err)
		if command == "restart" { // Delve agrees first
			s.change(s.stays)
		}
	})
	defer func() {
		if err != nil {
			_ = s.conn.Close()
		}
	}()
	var can dap.Capabilities
	err = s.call(ctx, "initialize", dap.InitializeRequestArguments{
		ClientID: "kubedelve", ClientName: "kubedelve attach --dap", AdapterID: "go", PathFormat: "path",
		LinesStartAt1: true, ColumnsStartAt1: true, SupportsVariableType: true, SupportsProgressReporting: true,
	}, &can)
	if err != nil {
		return nil, err
	}
	s.change(func() { s.capabilities = can })
	launch, err := s.send(fmt.Sprint(config["request"]), config)
	if err != nil {
		return nil, err
	}
	go func() { // ends with the answer, or with the connection
		defer close(s.launched)
		s.launchErr = launch.await(context.WithoutCancel(ctx), nil)
	}()
	return s, nil
}

// ready waits for the configuration phase.
func (s *session) ready(ctx context.Context) error {
	launched := s.launched
	for {
		p, changed := s.now()
		if p != starting {
			return nil
		}
		select {
		case <-changed:
		case <-launched: // before the configuration, or only after it
			if s.launchErr != nil {
				return s.launchErr
			}
			launched = nil
		case <-s.stopped:
			<-s.launched // its answer may be the last thing that came
			if s.launchErr != nil {
				return s.launchErr
			}
			return s.reason()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// now returns the phase, and what is closed when something changes.
func (s *session) now() (phase, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.phase, s.changed
}

// change changes the state and wakes those who wait for that.
func (s *session) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

// can returns what the server can do.
func (s *session) can() dap.Capabilities {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.capabilities
}

// take takes in an event.
func (s *session) take(name string, raw json.RawMessage) {
	switch name {
	case "initialized":
		s.change(func() {
			if s.phase != ended { // anew when the server has restarted the program
				s.phase, s.untold, s.restarting = configuring, false, false
			}
		})
	case "stopped":
		var body dap.StoppedEventBody
		if json.Unmarshal(raw, &body) == nil {
			s.change(func() { s.halt(body) })
		}
	case "continued":
		s.change(func() { s.resume() })
	case "terminated":
		s.change(func() {
			if s.phase != ended {
				s.phase, s.untold, s.restarting = ended, true, false
				s.news++
			}
		})
	case "capabilities":
		s.change(func() {
			var body struct{ Capabilities json.RawMessage }
			_ = json.Unmarshal(raw, &body)
			_ = json.Unmarshal(body.Capabilities, &s.capabilities) // only what is in it changes
		})
	case "breakpoint":
		var body dap.BreakpointEventBody
		if json.Unmarshal(raw, &body) == nil && body.Reason != "removed" {
			s.marked(body.Breakpoint)
		}
	default:
		s.out.event(name, raw)
	}
}

// halt is called by change.
func (s *session) halt(stop dap.StoppedEventBody) {
	if s.phase == ended {
		return
	}
	s.phase, s.stop, s.untold, s.restarting = halted, stop, true, false
	s.news++
	s.frames, s.frame = nil, 0
	if stop.ThreadId != 0 {
		s.thread = stop.ThreadId
	}
}

// resume is called by change.
func (s *session) resume() {
	if s.phase == halted {
		s.phase, s.untold, s.frames = running, false, nil
	}
}

// restarts is called by change.
func (s *session) restarts() {
	s.restarting = s.phase == halted
	s.resume()
}

// stays is called by change: the server has not restarted the program.
func (s *session) stays() {
	if s.restarting && s.phase == running {
		s.phase = halted
	}
	s.restarting = false
}

// configured ends the configuration phase: the program begins. What lets it begin is done
// within a call of within.
func (s *session) configured(ctx context.Context, within func(begin func() error) error) error {
	filters := []string{}
	for _, f := range s.can().ExceptionBreakpointFilters {
		if f.Default {
			filters = append(filters, f.Filter)
		}
	}
	if len(filters) > 0 {
		if err := s.call(ctx, "setExceptionBreakpoints", dap.SetExceptionBreakpointsArguments{Filters: filters}, nil); err != nil {
			return err
		}
	}
	s.change(func() {
		if s.phase == configuring {
			s.phase = running
		}
	})
	if s.can().SupportsConfigurationDoneRequest {
		if err := s.callWithin(ctx, "configurationDone", struct{}{}, within); err != nil {
			if ctx.Err() == nil {
				s.change(func() { s.fails(configuring) })
			}
			return err
		}
	}
	select {
	case <-s.launched:
		if s.launchErr != nil {
			s.change(func() { s.fails(ended) })
		}
		return s.launchErr
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// fails is called by change: a program that was to run does not.
func (s *session) fails(to phase) {
	if s.phase == running {
		s.phase = to
	}
}

// pause halts the program.
func (s *session) pause(ctx context.Context) error {
	s.mu.Lock()
	thread := s.thread
	s.mu.Unlock()
	if thread == 0 { // it was never halted
		all, err := s.threads(ctx)
		if err != nil {
			return err
		}
		if len(all) > 0 {
			thread = all[0].Id
		}
	}
	return s.call(ctx, "pause", dap.PauseArguments{ThreadId: thread}, nil)
}

// leave ends the session: the program, if it began that, or else only its own part.
func (s *session) leave(ctx context.Context, restart bool) error {
	s.change(func() { s.leaving = true })
	return s.call(ctx, "disconnect", dap.DisconnectArguments{Restart: restart, TerminateDebuggee: s.launches()}, nil)
}

// left tells whether the user wants the end of the session.
func (s *session) left() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leaving
}
