package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/kubedelve/kubedelve/testdata/cluster/internal/node"
)

// The program starts itself for what runs inside a node; in a test it is this binary.
func TestMain(m *testing.M) {
	node.Main()
	os.Exit(m.Run())
}

func TestExitCodes(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	tests := []struct {
		name string
		args []string
		code int
		says string // on stderr
	}{
		{"no command", nil, 2, "which command?"},
		{"unknown command", []string{"fly"}, 2, `unknown command "fly"`},
		{"unknown flag", []string{"up", "--speed"}, 2, "--speed"},
		{"unknown flavour", []string{"up", "--flavour", "sweet"}, 2, "kubeadm or plain"},
		{"too many arguments", []string{"status", "x"}, 2, "unknown command"},
		{"name and all", []string{"down", "--name", "x", "--all"}, 2, "name"},
		{"load without a reference", []string{"load", "x"}, 2, "ref"},
		{"bad name", []string{"status", "--name", "A_B"}, 1, "not usable"},
		{"no such cluster", []string{"kubeconfig", "--name", "none"}, 1, "no running cluster none"},
		{"help", []string{"up", "--help"}, 0, ""},
		{"empty status", []string{"status"}, 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), tt.args, strings.NewReader(""), &stdout, &stderr)
			if code != tt.code || !strings.Contains(stderr.String(), tt.says) {
				t.Errorf("exit code %d, stderr %q; want %d and %q", code, stderr.String(), tt.code, tt.says)
			}
		})
	}
}

func TestEmptyStatusIsAnEmptyList(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"status", "-o", "json"}, strings.NewReader(""), &stdout, &stderr); code != 0 {
		t.Fatal(stderr.String())
	}
	if got := strings.TrimSpace(stdout.String()); got != "[]" {
		t.Errorf("got %q", got)
	}
}
