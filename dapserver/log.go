package dapserver

import (
	"bytes"
	"context"
	"log/slog"
	"strconv"
)

// logBody is how much of a message's body goes into the log.
const logBody = 512

// secretive are the messages whose bodies stay out of the log: a launch
// configuration has the environment of the component in it, and output events
// whatever the component writes.
var secretive = map[string]bool{"launch": true, "attach": true, "restart": true, "output": true}

// logFrame logs a message at debug level with its direction.
func logFrame(log *slog.Logger, direction string, msg []byte, env *envelope) {
	if !log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	name := env.command
	if env.kind == "event" {
		name = env.event
	}
	body := env.body.in(msg)
	var text string
	switch {
	case secretive[name] && len(body) > 0:
		text = "(" + strconv.Itoa(len(body)) + " bytes)"
	case len(body) > logBody:
		text = string(bytes.ToValidUTF8(body[:logBody], nil)) + "..."
	default:
		text = string(body)
	}
	attrs := []any{"dir", direction, "type", env.kind, "name", name, "bytes", len(msg), "body", text}
	if env.kind == "response" {
		attrs = append(attrs, "success", env.success)
	}
	log.Debug("frame", attrs...)
}
