package nodeservice

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/kubedelve/kubedelve/internal/agentapi"
)

// standInPod is the first process of a static pod's container. The kubelet starts it again
// whenever it has ended, also after a reboot, since the manifest is on the disk: then it
// puts the original back, as there is nobody else who could.
func standInPod(ctx context.Context, dir string, s *Service, original []string, agent Agent, log *slog.Logger) (int, error) {
	mark := filepath.Join(dir, heldName)
	if _, err := os.Stat(mark); err == nil {
		log.Warn("the agent was ended: back to the original", "manifest", s.Manifest.Path)
		return 0, s.Manifest.yield(ctx)
	}
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		return 1, err
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	post := &Post{node: agentapi.Node{Service: s.String(), Engaged: true}, leave: stop}
	code, err := agent(running, dir, original, post)
	if errors.Is(err, agentapi.ErrExpired) {
		log.Warn("nobody was connected for the session's time to live: back to the original", "manifest", s.Manifest.Path)
		err = nil
	}
	if ctx.Err() != nil { // the kubelet ends the container, as a rule since the manifest has changed
		return code, err
	}
	if err != nil {
		log.Error("the agent failed: back to the original", "manifest", s.Manifest.Path, "error", err)
	}
	return code, s.Manifest.yield(ctx)
}

// yield puts the original manifest back, and waits for the kubelet to end the container.
func (m *Manifest) yield(ctx context.Context) error {
	if err := m.restore(); err != nil {
		return err
	}
	timer := time.NewTimer(podPatience)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
	return nil
}
