package main

import (
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kubedelve/kubedelve/internal/transcript"
)

// messages is the log of all messages; nil if nobody wants it.
type messages struct {
	file *transcript.Log
	log  logger
}

// addLogDAP adds --log-dap.
func addLogDAP(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVar(path, "log-dap", "", "a file for all messages of the protocol, with time and direction and without secrets; it is appended to (see docs/troubleshooting.md)")
}

// openMessages opens the file of --log-dap.
func openMessages(path string, log logger) (*messages, error) {
	if path == "" {
		return nil, nil //nolint:nilnil // the methods take it
	}
	file, err := transcript.Open(path)
	if err != nil {
		return nil, fmt.Errorf("--log-dap: %w", err)
	}
	return &messages{file, log}, nil
}

// message is what dapserver calls.
func (m *messages) message() func(client, from, to string, content []byte) {
	if m == nil {
		return nil
	}
	return m.file.Add
}

// conceal leaves out the values of environment variables.
func (m *messages) conceal(env []string) {
	if m == nil {
		return
	}
	for _, e := range env {
		_, value, _ := strings.Cut(e, "=")
		m.file.Conceal(value)
	}
}

// tap listens to both sides of a relay.
func (m *messages) tap(editor, delve io.ReadWriteCloser) (io.ReadWriteCloser, io.ReadWriteCloser) {
	if m == nil {
		return editor, delve
	}
	client := ""
	if c, ok := editor.(interface{ RemoteAddr() net.Addr }); ok {
		client = c.RemoteAddr().String()
	}
	return m.file.Tap(editor, client, "editor", "delve"), m.file.Tap(delve, client, "delve", "editor")
}

// close waits until all is written.
func (m *messages) close() {
	if m == nil {
		return
	}
	if err := m.file.Close(); err != nil {
		m.log.Error("--log-dap", "error", err)
	}
}
