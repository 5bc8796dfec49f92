package dapserver

import (
	"context"
	"encoding/json"
	"path/filepath"

	"github.com/google/go-dap"
)

// post sends a message that this package makes to the client. Its sequence
// number comes in when it enters the queue.
func (s *session) post(ctx context.Context, env envelope, content any, limit int) error {
	raw, err := json.Marshal(content)
	if err != nil {
		return err
	}
	err = s.editor.send(ctx, raw, &env, sendOptions{limit: limit})
	if err != nil {
		s.log.Debug("dropping a message to the client", "type", env.kind, "command", env.command, "event", env.event, "error", err)
	}
	return err
}

// response is a response of ours.
type response struct {
	Type       string `json:"type"`
	RequestSeq int64  `json:"request_seq"`
	Success    bool   `json:"success"`
	Command    string `json:"command"`
	Message    string `json:"message,omitempty"`
	Body       any    `json:"body,omitempty"`
}

// respond answers a request with success.
func (s *session) respond(ctx context.Context, req *envelope, body any) {
	_ = s.post(ctx, envelope{kind: "response", command: req.command, success: true},
		response{"response", req.seq, true, req.command, "", body}, 0)
}

// fail answers a request with an error.
func (s *session) fail(ctx context.Context, req *envelope, re *requestError) {
	s.log.Debug("request failed", "command", req.command, "seq", req.seq, "id", re.id, "error", re)
	body := dap.ErrorResponseBody{Error: &dap.ErrorMessage{Id: re.id, Format: re.Error(), ShowUser: re.showUser}}
	_ = s.post(ctx, envelope{kind: "response", command: req.command},
		response{"response", req.seq, false, req.command, re.summary, body}, 0)
}

// event sends an event.
func (s *session) event(ctx context.Context, name string, body any) {
	_ = s.eventLimit(ctx, name, body, 0)
}

func (s *session) eventLimit(ctx context.Context, name string, body any, limit int) error {
	return s.post(ctx, envelope{kind: "event", event: name}, struct {
		Type  string `json:"type"`
		Event string `json:"event"`
		Body  any    `json:"body,omitempty"`
	}{"event", name, body}, limit)
}

// output shows text to the user.
func (s *session) output(ctx context.Context, stream OutputStream, text string, at *Location) error {
	body := dap.OutputEventBody{Category: string(stream), Output: text}
	if at != nil {
		body.Source = &dap.Source{Name: filepath.Base(at.Path), Path: at.Path}
		body.Line, body.Column = at.Line, at.Column
	}
	return s.eventLimit(ctx, "output", body, outputLimit)
}

// outputFrom shows what the component has written. It is the one message of which
// there may be megabytes, so its text is copied once on the way into JSON.
func (s *session) outputFrom(ctx context.Context, stream OutputStream, text []byte, from origin) error {
	raw := make([]byte, 0, len(text)+len(text)/8+256)
	raw = append(raw, `{"type":"event","event":"output","body":{"category":"`...)
	raw = append(raw, stream...)
	raw = append(raw, `","output":`...)
	raw = appendText(raw, text)
	if from != (origin{}) {
		data, err := json.Marshal(from)
		if err != nil {
			return err
		}
		raw = append(append(raw, `,"data":`...), data...)
	}
	raw = append(raw, "}}"...)
	return s.editor.send(ctx, raw, &envelope{kind: "event", event: "output"}, sendOptions{limit: outputLimit})
}
