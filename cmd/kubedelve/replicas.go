package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"

	"github.com/kubedelve/kubedelve/dapserver"
	"github.com/kubedelve/kubedelve/kubelaunch"
)

// allReplicas is how users write that each replica is to be debugged.
const allReplicas = "all"

// parseReplicas reads what users write: a number from 1, or "all". The error goes on
// after the name of the flag or attribute.
func parseReplicas(text string) (int, error) {
	if text == allReplicas {
		return kubelaunch.AllReplicas, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("is %q: write a number from 1, or all", text)
	}
	return n, nil
}

// parentSession is a session whose further replicas are its children, or the calls that
// come while it has one.
type parentSession struct{ *dapSession }

// Children implements [dapserver.Parent].
func (s parentSession) Children(ctx context.Context, opens bool, add func(dapserver.Child)) {
	var lanes sync.WaitGroup
	defer lanes.Wait()
	for lane := 1; opens && lane < s.session.Lanes(); lane++ { // else no call is stopped for nobody
		lanes.Go(func() { s.otherCalls(ctx, lane, add) }) // ends with ctx, or the session
	}
	for i := range s.session.Replicas() {
		if i > 0 {
			child := s.replica(i)
			add(dapserver.Child{ID: strconv.Itoa(i + 1), Name: child.name, Session: child})
		}
	}
}

// replicaSession is one of several replicas by itself. It ends with all.
type replicaSession struct {
	*dapSession
	name string
}

// replica is the session of a replica; 0 is the first.
func (l *launched) replica(i int) replicaSession {
	all := l.session.Replicas()
	return replicaSession{
		&dapSession{launched: l, session: all[i]},
		fmt.Sprintf("%s (replica %d of %d)", all[i].Pod(), i+1, len(all)),
	}
}

// Name implements [dapserver.Session].
func (s replicaSession) Name() string { return s.name }

// Follow implements [dapserver.Session]: what happens to this replica. What happens to
// the sources is told to the first.
func (s replicaSession) Follow(ctx context.Context, tell func(dapserver.Event)) {
	s.session.Follow(ctx, func(e kubelaunch.Event) { tell(ofSession(e).forDAP()) })
}

// Detach implements [dapserver.Session]. It lets the replica go on also if it waits at
// its entry for a debugger that has not come.
func (s replicaSession) Detach(ctx context.Context) error {
	s.session.Expect(false)
	if err := s.session.Resume(ctx); !errors.Is(err, kubelaunch.ErrEnded) {
		return err
	}
	return nil
}

// Close implements [dapserver.Session].
func (replicaSession) Close(context.Context) error { return nil }

// eachReplica does something with all replicas side by side, and tells which failed.
func (l *launched) eachReplica(do func(*kubelaunch.Session) error) error {
	all := l.session.Replicas()
	errs := make([]error, len(all))
	var doing sync.WaitGroup
	for i, s := range all {
		doing.Go(func() { // ends with what is done
			if errs[i] = do(s); errs[i] != nil && len(all) > 1 {
				errs[i] = fmt.Errorf("in pod %s: %w", s.Pod(), errs[i])
			}
		})
	}
	doing.Wait()
	return errors.Join(errs...)
}

// pods are the names of the pods where the replicas run now.
func (l *launched) pods() (names []string) {
	for _, s := range l.session.Replicas() {
		names = append(names, s.Pod())
	}
	return names
}

// leaveOthers lets the further replicas go on, which a client that speaks JSON-RPC
// knows nothing of, and tells so. end waits for what that has begun.
func (d *debuggers) leaveOthers(ctx context.Context, client dapserver.Debugger) (end func()) {
	pods := d.launched.pods()
	if len(pods) == 1 {
		return func() {}
	}
	d.note(fmt.Sprintf("%s has the first of %d pods, %s: JSON-RPC is for one process. The others go on without a debugger; an editor that speaks DAP and opens further sessions (startDebugging) has all",
		client, len(pods), pods[0]))
	ctx, stop := context.WithCancel(ctx)
	var going sync.WaitGroup
	for i := 1; i < len(pods); i++ {
		going.Go(func() { // ends when the replica runs, or with end
			if err := d.launched.replica(i).Detach(ctx); err != nil && ctx.Err() == nil {
				d.log.Warn("letting a replica go on", "pod", pods[i], "error", err)
			}
		})
	}
	return func() { stop(); going.Wait() }
}

// ofReplica is ofSession, and tells several replicas apart.
func ofReplica(s *kubelaunch.Session, e kubelaunch.Event) happening {
	h := ofSession(e)
	if len(s.Replicas()) > 1 {
		h.pod = s.Pod()
	}
	return h
}

// among says of which pod a text is, unless there is one only or the text says so.
func among(pod, text string) string {
	if text == "" || strings.Contains(text, pod) { // as all do if there is none
		return text
	}
	return pod + ": " + text
}

// copyOutput shows what a component writes, until ctx or the session ends.
func copyOutput(ctx context.Context, s *kubelaunch.Session, stdout, stderr io.Writer) {
	_ = s.Output(ctx, func(p kubelaunch.Piece) {
		w := stdout
		if p.FD == 2 {
			w = stderr
		}
		if several, ok := w.(*prefixed); ok {
			several.from(p.Place)
		}
		_, _ = w.Write(p.Data)
	})
}

// prefixed writes whole lines, each with where it was written: several replicas write
// to one terminal. It is for one stream of one replica.
type prefixed struct {
	mu    *sync.Mutex // held while a line is written; shared by all
	w     io.Writer
	place string
	rest  []byte // of a line without its end
}

// longestLine is what is kept of a line until its end comes.
const longestLine = 16 << 10

// from says where what follows was written.
func (p *prefixed) from(place string) {
	if place != p.place {
		p.end()
		p.place = place
	}
}

func (p *prefixed) Write(data []byte) (int, error) {
	p.rest = append(p.rest, data...)
	pod, _, _ := strings.Cut(p.place, ", ")
	for {
		end := bytes.IndexByte(p.rest, '\n') + 1
		if end == 0 && len(p.rest) > longestLine {
			end = len(p.rest)
		}
		if end == 0 {
			return len(data), nil
		}
		line := append([]byte("["+pod+"] "), p.rest[:end]...)
		if line[len(line)-1] != '\n' {
			line = append(line, '\n')
		}
		p.rest = append(p.rest[:0], p.rest[end:]...)
		p.mu.Lock()
		_, err := p.w.Write(line)
		p.mu.Unlock()
		if err != nil {
			return 0, err
		}
	}
}

// end writes a line that has no end.
func (p *prefixed) end() {
	if len(p.rest) > 0 {
		_, _ = p.Write([]byte("\n"))
	}
}
