package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
)

// maxMessage is the longest termination message that the kubelet passes on
// (Kubernetes API, Container.terminationMessagePath).
const maxMessage = 4096

// ReportCommand writes the command line of a process, as a JSON array of strings,
// to a container's termination message: the one thing that a container without
// any rights can tell the API.
func ReportCommand(pid int, message string) error {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return fmt.Errorf("reading the command line: %w", err)
	}
	if len(raw) == 0 {
		return fmt.Errorf("process %d has no command line", pid)
	}
	var words []string
	for _, word := range bytes.Split(bytes.TrimSuffix(raw, []byte{0}), []byte{0}) {
		words = append(words, string(word))
	}
	text, err := json.Marshal(words)
	if err != nil {
		return fmt.Errorf("encoding the command line: %w", err)
	}
	if len(text) > maxMessage {
		return fmt.Errorf("the command line takes %d bytes, and the kubelet passes on %d", len(text), maxMessage)
	}
	if err := os.WriteFile(message, text, 0o600); err != nil {
		return fmt.Errorf("writing the termination message: %w", err)
	}
	return nil
}
