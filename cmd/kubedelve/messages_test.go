package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func frame(content string) string {
	return fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(content), content)
}

// messageLog reads the file of --log-dap.
func messageLog(t *testing.T, path string) (ways, contents []string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for text := range strings.Lines(string(data)) {
		var line struct {
			Client, From, To string
			Message          json.RawMessage
			Malformed        int
		}
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatalf("%v in %q", err, text)
		}
		if line.Client != "stdio" {
			t.Errorf("the client is %q", line.Client)
		}
		ways = append(ways, line.From+">"+line.To)
		if line.Message == nil {
			line.Message = fmt.Appendf(nil, "%d", line.Malformed)
		}
		contents = append(contents, string(line.Message))
	}
	return ways, contents
}

func TestLogFilesHaveEverythingButSecrets(t *testing.T) {
	dir := t.TempDir()
	dapLog, log := filepath.Join(dir, "dap"), filepath.Join(dir, "log")
	in := frame(`{"seq":1,"type":"request","command":"initialize","arguments":{"adapterID":"x"}}`) +
		frame(`{"seq":2,"type":"request","command":"launch","arguments":{"target":"nowhere/x","env":{"TOKEN":"hunter2"},"args":["hunter2"]}}`) +
		frame(`{"seq":3,"type":"request","command":"disconnect"}`)
	code, stdout, stderr := runIn(t, strings.NewReader(in), "dap", "--log-dap", dapLog, "--log", log, "--log-level", "debug")
	if code != exitOK || stderr != "" {
		t.Errorf("got exit code %d and %q", code, stderr)
	}
	ways, contents := messageLog(t, dapLog)
	all := strings.Join(contents, "\n")
	if strings.Contains(all, "hunter2") || !strings.Contains(all, `"env":{"TOKEN":"(redacted)"},"args":["(redacted)"]`) {
		t.Errorf("the launch is logged as\n%s", all)
	}
	if from, to := strings.Count(strings.Join(ways, " "), "editor>kubedelve"), strings.Count(strings.Join(ways, " "), "kubedelve>editor"); from != 3 || to != strings.Count(stdout, "Content-Length") {
		t.Errorf("%d messages from the editor and %d to it are logged, want 3 and %d", from, to, strings.Count(stdout, "Content-Length"))
	}
	for path, want := range map[string]string{log: "frame", dapLog: `"command":"disconnect"`} {
		data, err := os.ReadFile(path)
		info, statErr := os.Stat(path)
		if err != nil || statErr != nil || info.Mode().Perm() != 0o600 || !strings.Contains(string(data), want) || strings.Contains(string(data), "hunter2") {
			t.Errorf("%s (%v, %v, %v) has no %q, or has a secret:\n%s", path, info.Mode(), err, statErr, want, data)
		}
	}
	for _, flag := range []string{"--log", "--log-dap"} {
		if code, _, stderr := runIn(t, strings.NewReader(in), "dap", flag, filepath.Join(log, "x")); code != exitError || !strings.Contains(stderr, flag+":") {
			t.Errorf("a %s that cannot be written: code %d, %q", flag, code, stderr)
		}
	}
}

// The log changes no byte of what is passed through, whatever it is.
func TestLogOfAPlainRelay(t *testing.T) {
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = backend.Close() }()
	sent := frame(`{ "seq" : 5, "type":"request","command":"attach","arguments":{"env":{"A":"hunter2"}}}`) + frame("not JSON") + "no DAP \x00\xff"
	answer := frame(`{"seq":9,"type":"event","event":"output","body":{"output":"hunter2"}}`)
	got := make(chan string, 1)
	go func() { // ends with the relay
		conn, err := backend.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = io.WriteString(conn, answer)
		data, _ := io.ReadAll(conn)
		got <- string(data)
	}()
	path := filepath.Join(t.TempDir(), "dap")
	code, stdout, stderr := runIn(t, strings.NewReader(sent), "dap", "--backend", "tcp:"+backend.Addr().String(), "--log-dap", path)
	if data := <-got; code != exitOK || stdout != answer || data != sent {
		t.Errorf("exit code %d (%s); the editor got %q, Delve %q", code, stderr, stdout, data)
	}
	ways, contents := messageLog(t, path)
	var editor, delve []string
	for i := range ways {
		if ways[i] == "editor>delve" {
			editor = append(editor, contents[i])
		} else if ways[i] == "delve>editor" {
			delve = append(delve, contents[i])
		}
	}
	if want := []string{`{"seq":5,"type":"request","command":"attach","arguments":{"env":{"A":"(redacted)"}}}`, "8", "9"}; fmt.Sprint(editor) != fmt.Sprint(want) {
		t.Errorf("from the editor is logged %q, want %q", editor, want)
	}
	if want := []string{`{"seq":9,"type":"event","event":"output","body":{"output":"(7 bytes)"}}`}; fmt.Sprint(delve) != fmt.Sprint(want) {
		t.Errorf("from Delve is logged %q, want %q", delve, want)
	}
}
