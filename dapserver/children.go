package dapserver

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/google/go-dap"
)

// Parent is a [Session] of several processes, such as the replicas of a workload.
// The Session itself is the first of them; the editor is asked to open a debug
// session of its own for each of the others (reverse request startDebugging).
type Parent interface {
	Session

	// Children calls add with each further process, those that there are and then
	// those that come, until ctx ends or the session is over. add does not wait for
	// the editor. It is called for one client at a time. If that can't open sessions
	// (opens), those that are added go on without a debugger.
	//
	// The sessions belong to the Parent, whose Close ends them too. A client that
	// leaves one, or an editor that opens none for it, calls its Detach, also
	// without a Dial before; from then on its process runs without a debugger,
	// until the next Dial. Close of a child's session is never called.
	Children(ctx context.Context, opens bool, add func(Child))
}

// Child is one process of a [Parent].
type Child struct {
	// ID tells it apart from the others of the Parent.
	ID string
	// Name tells the user what it is, and is the name of the editor's session:
	// "web-kubedelve-1a2b3c4d-2 (replica 2 of 3)".
	Name    string
	Session Session
	// Gone is closed when there is nothing left to open a session for; nil: it stays for
	// as long as the Parent.
	Gone <-chan struct{}
}

// ChildRef is how an editor's configuration for a child session names it. kubedelve
// writes it into the configuration with which it asks the editor for the session.
type ChildRef struct {
	// ID is the child's.
	ID string `json:"id"`
	// Token is a secret that only the editor and the parent's process know.
	Token string `json:"token"`
	// Socket is where the parent's process can be reached, if the editor starts
	// another process for the child.
	Socket string `json:"socket,omitempty"`
}

// family are the child sessions of one client's session.
type family struct {
	parent *session
	start  *start             // the parent's
	cancel context.CancelFunc // ends what brings new children
	hangUp context.CancelFunc // ends the connections of other processes
	wg     sync.WaitGroup     // counts both

	mu      sync.Mutex // guards all below
	ended   bool       // no member comes any more
	members []*member
	told    bool         // that this client can't open child sessions
	socket  net.Listener // for children in processes of their own; nil: none yet
	noWay   error        // why there is no socket
}

// member is a child that the editor was asked to open a session for.
type member struct {
	family *family
	child  Child
	token  string
	seat   Seat
	// opened is closed when the editor's session has come.
	opened  chan struct{}
	opening sync.Once
}

// raise starts to offer the client a session for each child of the one that it
// has, if that has any. It ends with st.family.end.
func (s *session) raise(ctx context.Context, st *start) {
	parent, ok := st.target.(Parent)
	if !ok {
		return
	}
	f := &family{parent: s, start: st}
	serving, hangUp := context.WithCancel(context.WithoutCancel(ctx))
	ctx, cancel := context.WithCancel(serving)
	f.cancel, f.hangUp = cancel, hangUp
	st.family = f
	f.wg.Go(func() { // ends with the family, or with the parent
		opens := false
		s.update(func(state *state) { opens = state.client.startDebugging })
		parent.Children(ctx, opens, func(child Child) {
			f.wg.Go(func() { f.offer(ctx, serving, opens, child) }) // ends when the editor has a session for it, or has not, or the child is gone
		})
	})
}

// end ends all child sessions, and returns when all have let go of their process.
func (f *family) end(ctx context.Context) {
	if f == nil {
		return
	}
	f.cancel()
	f.mu.Lock()
	f.ended = true
	members, socket := slices.Clone(f.members), f.socket
	f.mu.Unlock()
	var leaving sync.WaitGroup
	for _, m := range members {
		f.parent.srv.forget(m)
		leaving.Go(func() { // ends when the seat is free, or in leavePatience
			if _, err := m.seat.Take(ctx, Debugger{Kind: "kubedelve"}, true, func(Debugger) {}); err != nil {
				f.parent.log.Warn("ending a child session", "child", m.child.Name, "error", err)
			}
		})
	}
	leaving.Wait()
	f.hangUp()
	if socket != nil {
		_ = socket.Close()
		_ = os.RemoveAll(filepath.Dir(socket.Addr().String()))
	}
	f.wg.Wait()
}

func (f *family) over() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ended
}

// childOf returns the child that a configuration is for; nil if it is for none. If
// joining is true, the child is not this process's.
func (s *session) childOf(cfg *LaunchConfig) (child *member, joining bool, err error) {
	if cfg.Child != nil {
		child = s.srv.member(cfg.Child)
	}
	switch {
	case s.relayed && child == nil, cfg.Child != nil && child == nil && cfg.Child.Socket == "":
		return nil, false, errNoParent
	case cfg.Child != nil && child == nil:
		return nil, true, nil
	}
	return child, false, nil
}

// offer asks the editor to open a session for a child. If it does not, the child's
// process goes on without a debugger. It returns when the child is gone, if it ever is.
func (f *family) offer(ctx, serving context.Context, opens bool, child Child) {
	if !opens {
		f.tellOnce(ctx, child)
		f.letGo(ctx, child)
		return
	}
	m := f.add(serving, child)
	if m == nil {
		return
	}
	defer f.awaitGone(ctx, m)
	err := f.ask(ctx, m)
	if err == nil || ctx.Err() != nil {
		return
	}
	release, taken := m.seat.Take(ctx, Debugger{Kind: "kubedelve"}, false, func(Debugger) {})
	if taken != nil {
		return // it has come after all
	}
	defer release()
	_ = f.parent.output(ctx, Important, fmt.Sprintf("kubedelve: no debug session for %s: %v. It goes on without a debugger.\n", child.Name, err), nil)
	f.letGo(ctx, child)
}

// awaitGone forgets a child when there is nothing left of it.
func (f *family) awaitGone(ctx context.Context, m *member) {
	if m.child.Gone == nil {
		return
	}
	select {
	case <-m.child.Gone:
	case <-ctx.Done():
		return
	}
	f.parent.srv.forget(m)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.members = slices.DeleteFunc(f.members, func(other *member) bool { return other == m })
}

// tellOnce says that this client gets the first process only.
func (f *family) tellOnce(ctx context.Context, child Child) {
	f.mu.Lock()
	told := f.told
	f.told = true
	f.mu.Unlock()
	if told {
		return
	}
	_ = f.parent.output(ctx, Important, fmt.Sprintf(
		"kubedelve: %s has more processes, like %s, but this editor can't open further debug sessions (DAP: startDebugging). You debug the first one; the others go on without a debugger.\n",
		f.start.target.Name(), child.Name), nil)
}

// letGo leaves the child's process to itself.
func (f *family) letGo(ctx context.Context, child Child) {
	letting, cancel := context.WithTimeout(ctx, f.parent.srv.cfg.CloseTimeout)
	defer cancel()
	if err := child.Session.Detach(letting); err != nil && ctx.Err() == nil {
		_ = f.parent.output(ctx, Important, fmt.Sprintf("kubedelve: %s may be halted: %v\n", child.Name, err), nil)
	}
}

// add makes the child one that clients may attach to, unless the family has ended.
// serving is for the connections of other processes.
func (f *family) add(serving context.Context, child Child) *member {
	m := &member{family: f, child: child, token: rand.Text(), opened: make(chan struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return nil
	}
	if f.socket == nil && f.noWay == nil {
		if f.socket, f.noWay = listenPrivate(); f.noWay != nil {
			// Clients that come to this process need none.
			f.parent.log.Warn("an editor that starts a process for each session can't open child sessions", "error", f.noWay)
		} else {
			f.wg.Go(func() { f.serve(serving, f.socket) }) // ends with the socket
		}
	}
	f.members = append(f.members, m)
	f.parent.srv.know(m)
	return m
}

// ask sends startDebugging and waits until the session has come.
func (f *family) ask(ctx context.Context, m *member) error {
	ref := ChildRef{ID: m.child.ID, Token: m.token}
	f.mu.Lock()
	if f.socket != nil {
		ref.Socket = f.socket.Addr().String()
	}
	f.mu.Unlock()
	configuration := map[string]any{"name": m.child.Name, "request": "attach", "child": ref}
	if f.start.request == "attach" {
		configuration["mode"] = f.start.config.Mode
	}
	for _, name := range []string{"type", "host", "port", "debugAdapter"} {
		if value, ok := f.start.config.Delve[name]; ok {
			configuration[name] = value // for editors that look there for the way to this process
		}
	}
	ctx, cancel := context.WithTimeout(ctx, f.parent.srv.cfg.HandshakeTimeout)
	defer cancel()
	answer, forget, err := f.parent.askEditor(ctx, "startDebugging", map[string]any{"request": "attach", "configuration": configuration})
	if err != nil {
		return err
	}
	for {
		select {
		case <-m.opened:
			return nil // the answer may come later, and is not missed
		case said := <-answer:
			answer = nil // it may come before its session, or after
			if !said.env.success {
				return refusedByEditor(said)
			}
		case <-ctx.Done():
			forget()
			return fmt.Errorf("the editor has not opened one for %s", f.parent.srv.cfg.HandshakeTimeout)
		}
	}
}

func refusedByEditor(m message) error {
	var said dap.ErrorResponse
	_ = json.Unmarshal(m.raw, &said) // what can't be read stays empty
	text := said.Message
	if e := said.Body.Error; e != nil && e.Format != "" {
		text = e.Format
	}
	if text == "" {
		return errors.New("the editor has opened none")
	}
	return fmt.Errorf("the editor has opened none: %s", text)
}

// askEditor sends a request to the client. The answer comes on the channel; forget
// takes the request back.
func (s *session) askEditor(ctx context.Context, command string, arguments any) (answer chan message, forget func(), err error) {
	raw, err := json.Marshal(struct {
		Type      string `json:"type"`
		Command   string `json:"command"`
		Arguments any    `json:"arguments"`
	}{"request", command, arguments})
	if err != nil {
		return nil, nil, err
	}
	answer = make(chan message, 1)
	number := int64(0)
	env := envelope{kind: "request", command: command}
	err = s.editor.send(ctx, raw, &env, sendOptions{assigned: func(seq int64) {
		number = seq
		s.update(func(st *state) { st.expect(seq, reverseRequest{answer: answer}) })
	}})
	return answer, func() { s.update(func(st *state) { delete(st.reverse, number) }) }, err
}

// listenPrivate listens on a socket that only this user can reach.
func listenPrivate() (l net.Listener, err error) {
	// The path of a socket has room for about a hundred bytes (unix(7)).
	for _, base := range []string{os.TempDir(), "/tmp"} {
		removeStale(base)
		if l, err = listenBelow(base); err == nil {
			return l, nil
		}
	}
	return nil, err
}

// staleAfter is how old a socket is at least that nobody is about to listen at.
const staleAfter = time.Minute

// removeStale takes away the sockets below a folder that processes have left that were killed.
func removeStale(base string) {
	paths, _ := filepath.Glob(filepath.Join(base, privatePrefix+"*", privateName))
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil || time.Since(info.ModTime()) < staleAfter {
			continue
		}
		conn, err := net.Dial("unix", path)
		switch {
		case err == nil:
			_ = conn.Close()
		case errors.Is(err, syscall.ECONNREFUSED):
			_ = os.RemoveAll(filepath.Dir(path))
		}
	}
}

// A private socket's folder begins with the one, and the socket has the other name.
const (
	privatePrefix = "kubedelve-"
	privateName   = "dap"
)

func listenBelow(base string) (net.Listener, error) {
	dir, err := os.MkdirTemp(base, privatePrefix) // with mode 0700
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, privateName)
	l, err := net.Listen("unix", path)
	if err == nil {
		if err = os.Chmod(path, 0o600); err == nil {
			return l, nil
		}
		_ = l.Close()
	}
	_ = os.RemoveAll(dir)
	return nil, err
}

// serve takes the connections of other processes that the editor has started.
func (f *family) serve(ctx context.Context, l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return // the family has ended
		}
		f.wg.Go(func() { // ends with the connection, or with the family
			s := newSession(f.parent.srv, conn)
			s.relayed = true
			if err := s.serve(ctx); err != nil && ctx.Err() == nil {
				s.log.Warn("child session", "error", err)
			}
		})
	}
}

// know, member and forget keep the children that clients of this server can attach
// to, by token.
func (srv *Server) know(m *member) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	srv.members[m.token] = m
}

func (srv *Server) member(ref *ChildRef) *member {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	return srv.members[ref.Token]
}

func (srv *Server) forget(m *member) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	delete(srv.members, m.token)
}

// config is that of a child session: the parent's, as far as it is about Delve,
// and what the editor has added.
func (m *member) config(own *LaunchConfig) *LaunchConfig {
	cfg, parent := *own, m.family.start.config
	cfg.Delve = maps.Clone(parent.Delve)
	if cfg.Delve == nil {
		cfg.Delve = map[string]json.RawMessage{}
	}
	maps.Copy(cfg.Delve, own.Delve)
	if _, said := own.Delve["stopOnEntry"]; !said {
		cfg.StopOnEntry = parent.StopOnEntry
	}
	cfg.SubstitutePath = slices.Concat(own.SubstitutePath, parent.SubstitutePath)
	return &cfg
}
