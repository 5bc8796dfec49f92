package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kubedelve/kubedelve/dapserver"
)

func TestInitPrintsWhatEachEditorReads(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for editor, want := range map[string][]string{
		"vscode": {`"type": "kubedelve"`, `"program": "${workspaceFolder}/cmd/web"`, `"namespace": "store"`},
		"goland": {`type="GoRemoteDebugConfigurationType"`, `port="2345"`},
		"nvim":   {`target = { name = "deploy/web", namespace = "store" }`, `program = "${workspaceFolder}/cmd/web"`},
		"vim":    {`"program": "${workspaceRoot}/cmd/web"`, `"adapter": "kubedelve"`},
		"emacs":  {`:target (:name "deploy/web" :namespace "store")`, `:program "./cmd/web"`, `command-cwd "` + dir + `"`},
		"helix":  {`args = ["dap", "--ignore-cwd", "--namespace", "store"]`, `args = { target = "deploy/web", program = "./cmd/web" }`},
		"zed":    {`"adapter": "Delve"`, `"port": 2345`, "kubedelve debug deploy/web -n store --program ./cmd/web"},
	} {
		code, stdout, stderr := runIn(t, nil, "init", editor, "deploy/web", "-n", "store", "--program", "./cmd/web")
		if code != exitOK {
			t.Fatalf("%s: exit code %d: %s", editor, code, stderr)
		}
		for _, part := range want {
			if !strings.Contains(stdout, part) {
				t.Errorf("%s: %q is not in\n%s", editor, part, stdout)
			}
		}
		switch file := editors()[editor].file; filepath.Ext(file) {
		case ".json":
			if !json.Valid([]byte(stdout)) {
				t.Errorf("%s: that is no JSON:\n%s", editor, stdout)
			}
		case ".xml":
			decoder := xml.NewDecoder(strings.NewReader(stdout))
			for {
				if _, err := decoder.Token(); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatalf("%s: %v in\n%s", editor, err, stdout)
				}
			}
		}
	}
	if len(editors()) != 7 {
		t.Error("an editor is not in the test")
	}
}

// What is printed for VS Code is a launch configuration as dapserver reads it.
func TestInitWritesALaunchConfiguration(t *testing.T) {
	t.Chdir(t.TempDir())
	code, stdout, stderr := runIn(t, nil, "init", "vscode", "nodes/n1:kubelet", "--context", "c", "--kubeconfig", "/k", "--program", "./cmd/kubelet")
	var file struct{ Configurations []json.RawMessage }
	if err := json.Unmarshal([]byte(stdout), &file); err != nil || code != exitOK || len(file.Configurations) != 1 {
		t.Fatalf("exit code %d, %v: %s%s", code, err, stdout, stderr)
	}
	var cfg dapserver.LaunchConfig
	decoder := json.NewDecoder(bytes.NewReader(file.Configurations[0]))
	if err := decoder.Decode(&cfg); err != nil {
		t.Fatal(err)
	}
	if cfg.Request != "launch" || cfg.Target.Name != "node/n1:kubelet" || cfg.Target.Context != "c" || cfg.Target.Kubeconfig != "/k" || cfg.Target.Namespace != "" || cfg.Program != "${workspaceFolder}/cmd/kubelet" {
		t.Errorf("got %+v", cfg)
	}
}

func TestInitOverwritesNothing(t *testing.T) {
	t.Chdir(t.TempDir())
	args := []string{"init", "vscode", "deploy/web", "--program", ".", "--write"}
	if code, stdout, stderr := runIn(t, nil, args...); code != exitOK || stdout != "" || !strings.Contains(stderr, "launch.json is written") {
		t.Fatalf("exit code %d: %s%s", code, stdout, stderr)
	}
	file := filepath.Join(".vscode", "launch.json")
	if err := os.WriteFile(file, []byte("// mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := runIn(t, nil, args...); code != exitError || !strings.Contains(stderr, "which is not changed") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "// mine" {
		t.Errorf("the file has %q now (%v)", text, err)
	}
	if code, _, stderr := runIn(t, nil, "init", "nvim", "deploy/web", "--program", ".", "--write"); code != exitUsage || !strings.Contains(stderr, "your own configuration") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if code, _, stderr := runIn(t, nil, "init", "notepad"); code != exitUsage || !strings.Contains(stderr, "vscode") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}
