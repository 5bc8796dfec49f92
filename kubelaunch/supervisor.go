package kubelaunch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/kubedelve/kubedelve/internal/agentapi"
)

// supervisor keeps a run of the component under Delve, through all that happens to it.
// It is one goroutine that goes round in a loop:
//
//	reach   get a tunnel to an agent: to the one there is, else to a new one
//	tend    over this tunnel, again and again, do the one thing that is next: start,
//	        swap, let go, or attend, that is, wait for something to happen
//
// and back to reach when the tunnel has ended or the agent is gone. What was done in
// between, sync finds out at the agent: no step has to know how the last one ended.
// The loop ends with its context, or when there is no way on; state.over tells why.
//
// The fields belong to the goroutine.
type supervisor struct {
	session *Session
	site    site

	binary  Binary   // what is started next
	options Options  // ... and how: Args, Env and Dir
	exits   backoff  // when that may be
	start   *attempt // a start whose outcome is not known; nil: none is
	before  runKey   // of the run that the agent had when none was asked for
	renewed bool     // nothing was loaded yet by the agent there is
	old     link     // brings the last output of an agent that is gone, until the next run is there
	calls   bool     // a run is a call that others make
	call    string   // the last one, for the user
	limit   string   // how long its caller waits, if that is known
	outage  *outage  // nil: there is a run and a way to it
	outages int      // so far
}

// attempt is a start that an agent was asked for.
type attempt struct {
	binary  Binary
	options Options
	swap    *swap // who asked for it; nil: the supervisor
}

// supervise returns why the session is over. It begins with a tunnel to an agent that
// has loaded a component, and leaves the last tunnel open.
func (v *supervisor) supervise(ctx context.Context, l link) error {
	defer func() { v.drop() }()
	for {
		err := v.tend(ctx, l)
		var gone *goneError
		switch {
		case ctx.Err() != nil:
			return ErrEnded
		case errors.As(err, &gone):
			v.lose(gone)
			v.drop()
			v.old = l
		case errors.Is(err, errLinkLost):
			v.session.update(func(st *state) { st.client = nil })
			_ = l.client.Close()
			v.interrupted(Event{Kind: KindLost, Text: fmt.Sprintf("lost the connection to %s; connecting again", v.site.place())})
		default:
			return err
		}
		if l, err = v.reach(ctx, gone != nil); err != nil {
			return err
		}
	}
}

// reach gets a tunnel to an agent.
func (v *supervisor) reach(ctx context.Context, renew bool) (l link, err error) {
	for {
		if renew {
			l, err = v.site.renew(ctx, v.stage)
			v.renewed = true
		} else {
			l, err = v.site.connect(ctx, v.stage)
		}
		var gone *goneError
		switch {
		case err == nil:
			return l, nil
		case ctx.Err() != nil:
			return link{}, ErrEnded
		case errors.As(err, &gone):
			v.lose(gone)
			renew = true
		default:
			return link{}, err
		}
	}
}

// lose notes that the agent is gone, and with it the run.
func (v *supervisor) lose(gone *goneError) {
	var over []*Conn
	v.session.update(func(st *state) {
		st.client, st.boot = nil, ""
		over = st.endRun()
	})
	hangUp(over)
	v.interrupted(Event{Kind: KindLost, Text: gone.text + "; starting another"})
}

// endRun notes that the run is not there any more, and returns its connections, which
// can't hear of it from the agent.
func (st *state) endRun() (over []*Conn) {
	if st.run == nil {
		return nil
	}
	for c := range st.conns {
		if c.key == st.run.key {
			over = append(over, c)
		}
	}
	st.run = nil
	return over
}

// errLinkLost ends tend: the tunnel has ended.
var errLinkLost = errors.New("the connection is lost")

// tend does what is next until the tunnel has ended ([errLinkLost]), the agent is gone
// ([*goneError]), ctx has ended or there is no way on.
func (v *supervisor) tend(ctx context.Context, l link) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	defer func() { cancel(nil); watching.Wait() }()
	watching.Go(func() { // ends with ctx: with the tunnel, the agent, or this function
		select {
		case <-l.client.Done():
			timer := time.NewTimer(newsDelay)
			defer timer.Stop()
			select {
			case <-timer.C:
				cancel(errLinkLost)
			case <-v.site.gone():
				cancel(v.site.why())
			case <-ctx.Done():
			}
		case <-v.site.gone():
			cancel(v.site.why())
		case <-ctx.Done():
		}
	})
	if err := v.sync(ctx, l); err != nil {
		return err
	}
	for {
		var next func(context.Context, link) error
		v.session.look(func(st *state) {
			switch {
			case st.swap != nil && v.calls:
				next = v.takeForNext
			case st.swap != nil:
				next = v.swapIn
			case st.run == nil && v.calls && v.options.OnExit == EndSession && st.last != (runKey{}):
				next = func(context.Context, link) error { return errCallLost }
			case st.run == nil && v.calls:
				next = v.awaitCall
			case st.run == nil:
				next = v.startAgain
			case st.mayGo():
				next = v.letGo
			default:
				next = v.attend
			}
		})
		if err := next(ctx, l); err != nil {
			return err
		}
	}
}

// newsDelay is how long the news of an agent's end may take after that of its tunnel's.
const newsDelay = 50 * time.Millisecond

// failed tells what becomes of tend when a request has failed: an error if the tunnel
// has ended, of which it may be told a moment later, else nil.
func failed(ctx context.Context, err error) error {
	var said *agentapi.Error
	if !errors.As(err, &said) {
		timer := time.NewTimer(time.Second)
		defer timer.Stop()
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// sync asks the agent what there is, and brings the state up to date with it.
func (v *supervisor) sync(ctx context.Context, l link) error {
	hello, err := l.client.Hello(ctx)
	if err != nil {
		return errors.Join(failed(ctx, err), errLinkLost)
	}
	attempted := v.start
	if !hello.Loading { // else it may still come about
		v.start = nil
	}
	key := runKey{hello.Boot, hello.Run}
	if attempted == nil {
		v.before = key
	}
	var now *run
	var last runKey
	var over []*Conn
	v.session.update(func(st *state) {
		st.client, st.way, st.boot, st.place = l.client, l.way, hello.Boot, v.site.place()
		if st.run != nil && (st.run.key != key || hello.State == agentapi.StateIdle) {
			over = st.endRun()
		}
		now, last = st.run, st.last
	})
	hangUp(over)
	switch {
	case key != last && key != v.before && attempted != nil && attempted.binary.SHA256 == hello.SHA256:
		v.begun(key, *attempted) // its answer was lost
		fallthrough
	case now != nil:
		if hello.State == agentapi.StateExited && hello.Exit != nil {
			return v.exited(ctx, *hello.Exit)
		}
		v.back("connected again to " + v.site.place())
	}
	return nil
}

// load has the agent start a binary.
func (v *supervisor) load(ctx context.Context, l link, a attempt, stage func(string)) error {
	file := agentapi.File{SHA256: a.binary.SHA256, Size: a.binary.Size, Name: v.site.program(a.binary)}
	if err := upload(ctx, l.client, file, a.binary.Path, stage); err != nil {
		return err
	}
	if v.calls {
		stage("waiting for the next call of " + file.Name)
	} else {
		stage("loading " + file.Name + " into Delve")
	}
	v.start = &a
	o := a.options
	started, err := l.client.Start(ctx, agentapi.Start{File: file, Args: o.Args, Env: o.Env, Dir: o.Dir, Grace: agentapi.Duration(v.options.ReloadGrace)})
	if err != nil {
		return err
	}
	v.start, v.call, v.limit = nil, started.Call, started.Limit
	v.site.started(ctx)
	var boot string
	v.session.look(func(st *state) { boot = st.boot })
	v.begun(runKey{boot, started.Run}, a)
	return nil
}

// upload gives an agent a binary unless it has it.
func upload(ctx context.Context, client *agentapi.Client, file agentapi.File, local string, stage func(string)) error {
	stage(fmt.Sprintf("uploading %s (%.1f MB)", file.Name, float64(file.Size)/1e6))
	f, err := os.Open(local)
	if err != nil {
		return fmt.Errorf("uploading the binary: %w", err)
	}
	defer func() { _ = f.Close() }()
	_, err = client.Put(ctx, file, f)
	return err
}

// begun notes that a run was started.
func (v *supervisor) begun(key runKey, a attempt) {
	v.binary = a.binary
	v.options.Args, v.options.Env, v.options.Dir = a.options.Args, a.options.Env, a.options.Dir
	v.session.update(func(st *state) {
		st.begin(key, a.binary, a.swap != nil)
		st.run.call = Call{cmp.Or(v.call, "a call"), v.limit}
		if st.swap == a.swap {
			st.swap = nil
		}
	})
	if a.swap != nil {
		a.swap.answer <- nil
	}
	v.drop()
	if v.renewed {
		v.renewed = false
		v.site.loaded()
	}
	if v.calls {
		v.back("stopped: " + cmp.Or(v.call, "a call"))
		if v.limit != "" {
			v.session.events.Tell(Event{Kind: KindNote, Text: v.limit})
		}
	} else {
		v.back("started again in " + v.site.place())
	}
}

// begin notes a run that was loaded and waits at its entry.
func (st *state) begin(key runKey, binary Binary, reload bool) {
	k := st.know(key)
	st.last = key
	st.run = &run{
		Run: Run{Number: k.number, Place: k.place, Binary: binary, Reload: reload},
		key: key, began: time.Now(), waiting: true,
	}
}

// startAgain starts the component when its pause after the last exit is over.
func (v *supervisor) startAgain(ctx context.Context, l link) error {
	timer := time.NewTimer(time.Until(v.exits.due))
	defer timer.Stop()
	for due := false; !due; {
		swaps := false
		changed := v.session.look(func(st *state) { swaps = st.swap != nil })
		if swaps {
			return nil // it starts something at once
		}
		select {
		case <-timer.C:
			due = true
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	err := v.load(ctx, l, attempt{binary: v.binary, options: v.options}, v.stage)
	if err == nil {
		return nil
	}
	if end := failed(ctx, err); end != nil {
		return end
	}
	pause := v.exits.next(0)
	v.interrupted(Event{Kind: KindNote, Important: true, Text: fmt.Sprintf("the program could not be started: %v; trying again%s", err, in(pause))})
	return v.sync(ctx, l)
}

// swapIn does what Session.Swap asks for.
func (v *supervisor) swapIn(ctx context.Context, l link) error {
	var s *swap
	v.session.update(func(st *state) {
		if s = st.swap; s != nil { // it may have been withdrawn
			s.taken = true
		}
	})
	if s == nil {
		return nil
	}
	err := v.loadUnlessWithdrawn(ctx, l, s)
	if err == nil {
		return nil
	}
	if !closed(s.withdrawn) {
		if end := failed(ctx, err); end != nil {
			// Once more when there is a tunnel again. If its caller withdraws it
			// from here on, it does so alone.
			v.session.update(func(*state) { s.taken = false })
			return end
		}
	}
	// It may have come about all the same; then sync has answered.
	end := v.sync(ctx, l)
	v.session.update(func(st *state) {
		if st.swap == s {
			st.swap = nil
			s.answer <- err
		}
	})
	return end
}

func (v *supervisor) loadUnlessWithdrawn(ctx context.Context, l link, s *swap) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	defer func() { cancel(nil); watching.Wait() }()
	watching.Go(func() { // ends with this function
		select {
		case <-s.withdrawn:
			cancel(context.Canceled)
		case <-ctx.Done():
		}
	})
	return v.load(ctx, l, attempt{s.binary, s.options, s}, s.progress)
}

// letGo lets a run go on that waits at its entry for nobody.
func (v *supervisor) letGo(ctx context.Context, l link) error {
	var r *run
	v.session.update(func(st *state) {
		if st.mayGo() { // nobody has dialled it since
			r = st.run
			r.held = true
		}
	})
	if r == nil {
		return nil
	}
	err := l.client.Resume(ctx)
	end := error(nil)
	if err != nil {
		end = failed(ctx, err)
	}
	v.session.update(func(st *state) {
		r.held = false
		if end == nil {
			r.waiting, st.resume = false, false
		}
	})
	if err != nil && end == nil {
		v.session.events.Tell(Event{Kind: KindNote, Important: true, Text: fmt.Sprintf("the program waits at its entry: %v", err)})
	}
	return end
}

// attend waits until the run has ended or something is wished.
func (v *supervisor) attend(ctx context.Context, l link) error {
	ended := make(chan error, 1)
	waiting, stop := context.WithCancel(ctx)
	var asking sync.WaitGroup
	defer func() { stop(); asking.Wait() }()
	asking.Go(func() { // ends with the run or this function
		_, _, err := l.client.Exited(waiting)
		ended <- err
	})
	for {
		var wished bool
		changed := v.session.look(func(st *state) { wished = st.swap != nil || st.mayGo() })
		if wished {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		case err := <-ended:
			if err != nil {
				if end := failed(ctx, err); end != nil {
					return end
				}
			}
			return v.sync(ctx, l) // it tells how
		}
	}
}

// lastWords is how long the news of an exit waits for the output before it.
const lastWords = 2 * time.Second

// exited notes that the component has ended by itself.
func (v *supervisor) exited(ctx context.Context, exit Exit) error {
	var r *run
	v.session.update(func(st *state) { r, st.run = st.run, nil })
	words, cancel := context.WithTimeout(ctx, lastWords)
	_ = v.session.await(words, func(st *state) bool { return !st.reads(r.key) })
	cancel()
	if v.options.OnExit == EndSession {
		return &ExitError{exit}
	}
	if v.calls {
		v.interrupted(Event{Kind: KindExited, Run: r.Number, Exit: &exit, Text: fmt.Sprintf("%s %s", cmp.Or(v.call, "the call"), howEnded(exit))})
		return nil
	}
	pause := v.exits.next(time.Since(r.began))
	v.interrupted(Event{
		Kind: KindExited, Run: r.Number, Exit: &exit,
		Text: fmt.Sprintf("the program %s; starting it again%s", howEnded(exit), in(pause)),
	})
	return nil
}

// howEnded is an exit in words.
func howEnded(e Exit) string {
	if e.Reason != "" {
		return e.Reason // "ended by signal 9 (killed)"
	}
	return fmt.Sprintf("exited with code %d", e.Code)
}

func in(pause time.Duration) string {
	if pause <= 0 {
		return ""
	}
	return fmt.Sprintf(" in %v", pause)
}

// drop closes the tunnel to an agent that is gone.
func (v *supervisor) drop() {
	if v.old.client != nil {
		_ = v.old.client.Close()
	}
	v.old = link{}
}

// outage is a time without a run or without a way to it, as the user is told of it.
type outage struct {
	activity int
	title    string
	stage    string // told last
	began    time.Time
}

// interrupted tells that there is no run or no way to it.
func (v *supervisor) interrupted(e Event) {
	if v.outage == nil {
		title := "Reconnecting to " + v.session.Target.String()
		switch {
		case v.calls:
			title = "Waiting for a call of " + v.session.Target.String()
		case e.Kind != KindLost:
			title = "Starting " + v.session.Target.String() + " again"
		}
		v.outages++
		v.outage = &outage{activity: v.outages, title: title, began: time.Now()}
	}
	e.Stage = cmp.Or(e.Stage, e.Text)
	v.outage.stage = e.Stage
	e.Activity, e.Title = v.outage.activity, v.outage.title
	v.session.events.Tell(e)
}

// stage tells what is being done during an outage.
func (v *supervisor) stage(text string) {
	if o := v.outage; o != nil && o.stage != text {
		o.stage = text
		v.session.events.Tell(Event{Kind: KindStage, Activity: o.activity, Title: o.title, Stage: text})
	}
}

// back tells that an outage is over.
func (v *supervisor) back(text string) {
	o := v.outage
	if o == nil {
		return
	}
	v.outage = nil
	took := time.Since(o.began)
	text = fmt.Sprintf("%s after %.1f s", text, took.Seconds())
	v.session.events.Tell(Event{Kind: KindBack, Activity: o.activity, Title: o.title, Stage: text, Over: true, Text: text, Took: took})
}

// backoff is how long a component that ends again and again waits for its next start,
// as the kubelet does it, but for its 5 minutes at the most: 0, 1, 2, 4 ... 30 s.
type backoff struct {
	exits int // since it last ran for longer than goodLife
	due   time.Time
}

const (
	goodLife = time.Minute
	maxPause = 30 * time.Second
)

// next returns the pause after a run that lasted so long.
func (b *backoff) next(lived time.Duration) time.Duration {
	if lived >= goodLife {
		b.exits = 0
	}
	pause := time.Duration(0)
	if b.exits > 0 {
		pause = min(time.Second<<min(b.exits-1, 10), maxPause)
	}
	b.exits++
	b.due = time.Now().Add(pause)
	return pause
}
