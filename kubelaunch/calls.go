package kubelaunch

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/kubedelve/kubedelve/internal/agentapi"
)

// CallFilter says which calls of a program are debugged.
type CallFilter = agentapi.CallFilter

// maxLanes bounds how many calls are debugged at a time: each takes the memory of a Delve.
const maxLanes = 16

// ParseCalls reads a filter as users write it: conditions like "command=create" or
// "pod=default/web-*", with commas between. All must hold; of several commands one.
func ParseCalls(text string) (f CallFilter, err error) {
	for _, condition := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' }) {
		name, value, _ := strings.Cut(strings.TrimSpace(condition), "=")
		if value == "" {
			return f, fmt.Errorf("%q is no condition: write NAME=VALUE", condition)
		}
		if _, err := path.Match(value, ""); err != nil && name != "label" {
			return f, fmt.Errorf("%q: its pattern is not well-formed", condition)
		}
		switch name {
		case "command":
			f.Commands = append(f.Commands, value)
		case "id":
			f.ID = value
		case "namespace":
			f.Namespace = value
		case "pod":
			if namespace, pod, has := strings.Cut(value, "/"); has {
				f.Namespace, value = namespace, pod
			}
			f.Pod = value
		case "container":
			f.Container = value
		case "label":
			f.Labels = strings.TrimPrefix(f.Labels+","+value, ",")
			if _, err := labels.Parse(f.Labels); err != nil {
				return f, fmt.Errorf("%q: %w", condition, err)
			}
		case "arg":
			f.Args = append(f.Args, value)
		case "env":
			f.Env = append(f.Env, value)
		case "max":
			most, err := strconv.Atoi(value)
			if err != nil || most < 1 || most > maxLanes {
				return f, fmt.Errorf("%q: write a number from 1 to %d", condition, maxLanes)
			}
			f.Max = most
		case "every":
			every, err := time.ParseDuration(value)
			if err != nil || every < 0 {
				return f, fmt.Errorf("%q: write a time like every=10s", condition)
			}
			f.Every = agentapi.Duration(every)
		default:
			return f, fmt.Errorf("%q: there are the conditions command, id, namespace, pod, container, label, arg, env, every and max", condition)
		}
	}
	return f, nil
}

// calls is the agent's part of a target whose calls are debugged; nil for others.
func (t Target) calls(filter CallFilter) *agentapi.Calls {
	if !t.IsCalls() {
		return nil
	}
	return &agentapi.Calls{Program: strings.TrimPrefix(t.Service, pathPrefix), Filter: filter}
}

// IsCalls tells whether the session's runs are calls that others make: there may be none
// for any time.
func (s *Session) IsCalls() bool { return s.Target.IsCalls() }

// errWithdrawn says that nobody wants the next call any more.
var errWithdrawn = errors.New("nobody waits for a call any more")

// awaitCall has the agent catch the next call when a debugger is there for it, and waits
// for it: until then no call is stopped.
func (v *supervisor) awaitCall(ctx context.Context, l link) error {
	wanted := func() (is bool, changed <-chan struct{}) {
		changed = v.session.look(func(st *state) { is = (st.expected || st.awaited > 0) && st.swap == nil })
		return is, changed
	}
	timer := time.NewTimer(time.Until(v.exits.due))
	defer timer.Stop()
	for due := false; ; {
		is, changed := wanted()
		if is && due {
			break
		}
		swaps := false
		v.session.look(func(st *state) { swaps = st.swap != nil })
		if swaps {
			return nil
		}
		select {
		case <-timer.C:
			due = true
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	v.interrupted(Event{Kind: KindStage, Stage: "preparing"})
	if lane, ok := v.site.(*laneSite); ok {
		v.binary = lane.newest()
	}
	asking, withdraw := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	watching.Go(func() { // ends with asking
		for {
			is, changed := wanted()
			if !is {
				withdraw(errWithdrawn)
			}
			select {
			case <-changed:
			case <-asking.Done():
				return
			}
		}
	})
	err := v.load(asking, l, attempt{binary: v.binary, options: v.options}, v.stage)
	withdraw(nil)
	watching.Wait()
	if err == nil {
		return nil
	}
	if errors.Is(context.Cause(asking), errWithdrawn) && ctx.Err() == nil {
		return v.sync(ctx, l) // it may have come all the same
	}
	if end := failed(ctx, err); end != nil {
		return end
	}
	pause := v.exits.next(0)
	v.interrupted(Event{Kind: KindNote, Important: true, Text: fmt.Sprintf("a call could not be debugged: %v; waiting for the next%s", err, in(pause))})
	return v.sync(ctx, l)
}

// takeForNext does what Session.Swap asks for: the next call is of the new binary. The
// one that is being debugged stays as it is.
func (v *supervisor) takeForNext(ctx context.Context, l link) error {
	var s *swap
	v.session.update(func(st *state) { s, st.swap = st.swap, nil })
	if s == nil {
		return nil
	}
	file := agentapi.File{SHA256: s.binary.SHA256, Size: s.binary.Size, Name: v.site.program(s.binary)}
	err := upload(ctx, l.client, file, s.binary.Path, s.progress)
	if err == nil {
		v.binary = s.binary
		v.session.update(func(st *state) { st.next = s.binary })
		v.session.tellOthers()
	}
	s.answer <- err
	return nil
}
