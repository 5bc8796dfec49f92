package dapserver

import (
	"context"
	"fmt"
	"sync"

	"github.com/google/go-dap"
)

// progress tells the client how a launch, its end or an activity of the session
// is going: with progress events if the client has said that it takes them, else
// line by line in the console. It is the Reporter of a launch.
type progress struct {
	s       *session
	ctx     context.Context // of the session; the Reporter's methods have none
	id      string
	request int64 // the request that this is about
	title   string
	events  bool
	// cancellable says that cancel with the id does something.
	cancellable bool
	// terse leaves out the stages where there are only lines.
	terse bool

	mu      sync.Mutex // guards all below; held while sending, to keep the order
	stage   string
	percent int
	started bool
	ended   bool
}

func newProgress(ctx context.Context, s *session, what string, request int64, title string) *progress {
	p := &progress{s: s, ctx: ctx, id: fmt.Sprintf("kubedelve-%s-%d", what, request), request: request, title: title}
	s.update(func(st *state) { p.events = st.client.progress })
	return p
}

// newActivity is the progress of an activity of the session.
func newActivity(ctx context.Context, s *session, e Event) *progress {
	p := newProgress(ctx, s, "activity", int64(e.Activity), e.Title)
	p.request, p.cancellable, p.terse = 0, e.Cancel != nil, true
	return p
}

// Stage implements Reporter.
func (p *progress) Stage(title string, percent int) {
	percent = min(percent, 100)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended || p.started && title == p.stage && percent == p.percent {
		return // a stage may be reported for every block that is uploaded
	}
	sameStage := p.started && title == p.stage
	first := !p.started
	p.stage, p.percent, p.started = title, percent, true
	p.s.log.Debug("progress", "stage", title, "percent", percent)
	switch {
	case !p.events && p.terse:
		if first {
			_ = p.s.output(p.ctx, Console, p.title+"\n", nil)
		}
	case !p.events && !sameStage:
		_ = p.s.output(p.ctx, Console, title+"\n", nil)
	case p.events && first:
		p.s.event(p.ctx, "progressStart", dap.ProgressStartEventBody{
			ProgressId: p.id, Title: p.title, RequestId: int(p.request), Cancellable: p.cancellable, Message: title, Percentage: max(percent, 0),
		})
	case p.events:
		p.s.event(p.ctx, "progressUpdate", dap.ProgressUpdateEventBody{
			ProgressId: p.id, Message: title, Percentage: max(percent, 0),
		})
	}
}

// Output implements Reporter.
func (p *progress) Output(stream OutputStream, text string, at *Location) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended {
		_ = p.s.output(p.ctx, stream, text, at)
	}
}

// end takes the progress off the client's screen. Later calls do nothing.
func (p *progress) end(message string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.events && p.started && !p.ended {
		p.s.event(p.ctx, "progressEnd", dap.ProgressEndEventBody{ProgressId: p.id, Message: message})
	}
	p.ended = true
}
