package dapserver

import (
	"context"
	"log/slog"
)

// logFrame logs a message at debug level with its direction. Bodies stay out: they
// have the environment of the component in them, what it writes, and its data.
// Config.Message is for whoever wants them.
func logFrame(log *slog.Logger, direction string, msg []byte, env *envelope) {
	if !log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	name := env.command
	if env.kind == "event" {
		name = env.event
	}
	attrs := []any{"dir", direction, "type", env.kind, "name", name, "bytes", len(msg)}
	if env.kind == "response" {
		attrs = append(attrs, "success", env.success)
	}
	log.Debug("frame", attrs...)
}
