package main

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/kubedelve/kubedelve/buildflags"
	"github.com/kubedelve/kubedelve/dapserver"
	"github.com/kubedelve/kubedelve/internal/reload"
	"github.com/kubedelve/kubedelve/kubelaunch"
)

// happening is something that happens to a session: an event of kubelaunch's, about
// where the program runs, or of reload's, about its sources.
type happening struct {
	event    string // as -o json names it
	activity int    // 0: of none
	title    string // of the activity
	stage    string
	step     bool // the stage is worth a line on a terminal
	over     bool
	cancel   func()
	pod      string // of several replicas: where it happens

	text      string // a line; may be empty
	important bool
	at        *buildflags.Diagnostic
	exit      *kubelaunch.Exit
	took      time.Duration
}

// follow calls tell with what goes on and then with what happens, until ctx or the
// session ends. It calls it from one goroutine at a time.
func (l *launched) follow(ctx context.Context, tell func(happening)) {
	var telling sync.Mutex
	over := make(chan struct{})
	var reloads sync.WaitGroup
	reloads.Go(func() { // ends with the session or ctx
		l.reloads.Follow(ctx, over, func(e reload.Event) {
			telling.Lock()
			defer telling.Unlock()
			tell(ofReload(e))
		})
	})
	l.session.Follow(ctx, func(e kubelaunch.Event) {
		telling.Lock()
		defer telling.Unlock()
		tell(ofReplica(l.session, e))
	})
	close(over)
	reloads.Wait()
}

// Activities are numbered by both sides: one gets the odd numbers, the other one the even.

func ofSession(e kubelaunch.Event) happening {
	h := happening{
		event: string(e.Kind), title: e.Title, stage: e.Stage, over: e.Over, cancel: e.Cancel,
		text: e.Text, important: e.Important, exit: e.Exit, took: e.Took,
		step: e.Kind == kubelaunch.KindStage,
	}
	if e.Activity != 0 {
		h.activity = 2*e.Activity - 1
	}
	if e.Kind == kubelaunch.KindNotServing {
		h.event = string(kubelaunch.KindServing) // whether or not, the text says
	}
	return h
}

func ofReload(e reload.Event) happening {
	return happening{
		event: string(e.Kind), activity: 2 * e.Activity, title: e.Title, stage: e.Stage, over: e.Over, cancel: e.Cancel,
		text: e.Text, important: e.Important, at: e.At, took: e.Took,
	}
}

// forDAP is the happening as dapserver wants it.
func (h happening) forDAP() dapserver.Event {
	e := dapserver.Event{
		Activity: h.activity, Title: h.title, Stage: h.stage, Percent: -1, Over: h.over, Cancel: h.cancel, Stream: dapserver.Console,
	}
	if h.text != "" {
		e.Text = h.text + "\n"
	}
	if h.important {
		e.Stream = dapserver.Important
	}
	if h.event == string(reload.Swapped) {
		e.Swapped = h.took
	}
	if h.at != nil {
		e.At = &dapserver.Location{Path: h.at.File, Line: h.at.Line, Column: h.at.Col}
	}
	return e
}

// happened shows a happening to the user of a terminal.
func (c *console) happened(h happening) {
	h.stage, h.text = among(h.pod, h.stage), among(h.pod, h.text)
	e := event{Event: h.event, Text: h.text, Took: h.took.Seconds()}
	if h.exit != nil {
		e.Code = &h.exit.Code
	}
	if h.at != nil {
		e.File, e.Line, e.Column = h.at.File, h.at.Line, h.at.Col
	}
	switch {
	case h.step:
		c.Stage(h.stage)
		return
	case h.event == string(reload.Rebuilding):
		e.Text = strings.ToLower(h.title[:1]) + h.title[1:]
		if h.stage != "" {
			e.Text += ": " + h.stage
		}
	case h.text == "" && h.stage == "":
		return
	case h.text == "":
		c.Detail(h.stage)
		return
	}
	c.tell(e)
}
