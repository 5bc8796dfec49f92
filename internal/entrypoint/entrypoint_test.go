package entrypoint

import (
	"slices"
	"strings"
	"testing"
)

func TestUnwrapFindsTheProgram(t *testing.T) {
	for _, test := range []struct {
		name, command, want string // words with | between; want empty: it can't be told
	}{
		{"a plain program", "/app|--port|80", "/app|--port|80"},
		{"without arguments", "/app", "/app"},
		{"tini", "/sbin/tini|--|/app|-v", "/app|-v"},
		{"tini with options", "tini|-g|-e|143|--|/app", "/app"},
		{"tini without dashes", "tini|/app|--|x", "/app|--|x"},
		{"dumb-init and a shell", "/usr/bin/dumb-init|--|/bin/sh|-c|exec /app --x", "/app|--x"},
		{"go-runner", "/go-runner|--log-file=/var/log/x.log|/usr/local/bin/kube-proxy|--config=/c", "/usr/local/bin/kube-proxy|--config=/c"},
		{"go-runner with a value apart", "/go-runner|--log-file|/x.log|/app", "/app"},
		{"env", "/usr/bin/env|A=1|B=2|/app|-v", "/app|-v"},
		{"env with options", "env|-i|/app", ""},
		{"a shell with a plain script", "/bin/sh|-c|/app  --a b", "/app|--a|b"},
		{"a shell with two commands", "/bin/sh|-c|sleep 1 && /app", ""},
		{"a shell with a variable", "bash|-c|/app $X", ""},
		{"a shell with a script file", "/bin/sh|/entrypoint.sh", ""},
		{"a shell alone", "/bin/sh", ""},
		{"nothing", "", ""},
		{"tini alone", "tini|--", ""},
		{"wrapped too deeply", "tini|tini|tini|tini|tini|/app", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			var command, want []string
			if test.command != "" {
				command = strings.Split(test.command, "|")
			}
			if test.want != "" {
				want = strings.Split(test.want, "|")
			}
			got, ok := Unwrap(command)
			if !slices.Equal(got, want) || ok != (want != nil) {
				t.Errorf("Unwrap(%q) = %q, %v; want %q", command, got, ok, want)
			}
		})
	}
}
