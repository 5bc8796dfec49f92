package transcript

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

// told is a message on its way.
type told struct{ from, to, message string }

// write returns the transcript of the messages.
func write(t *testing.T, messages ...told) string {
	t.Helper()
	var file kept
	l := newLog(&file)
	for _, m := range messages {
		if !json.Valid([]byte(m.message)) {
			t.Fatalf("the test's own message is broken: %s", m.message)
		}
		l.Add("c", m.from, m.to, []byte(m.message))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return file.String()
}

func request(command, arguments string) told {
	return told{"editor", "kubedelve", `{"seq":1,"type":"request","command":"` + command + `","arguments":` + arguments + `}`}
}

func response(command, body string) told {
	return told{"kubedelve", "editor", `{"seq":1,"type":"response","request_seq":1,"success":true,"command":"` + command + `","body":` + body + `}`}
}

func event(name, body string) told {
	return told{"kubedelve", "editor", `{"seq":1,"type":"event","event":"` + name + `","body":` + body + `}`}
}

// Secrets have the word hunter in them; what must stay is named.
func TestSecretsAreLeftOut(t *testing.T) {
	for _, test := range []struct {
		name     string
		messages []told
		stays    []string
	}{
		{"launch", []told{request("launch", `{"type":"kubedelve","request":"launch","target":{"name":"deploy/web","namespace":"shop","entrypoint":["hunter2"]},
			"program":"./cmd/web","env":{"TOKEN":"hunter2","N":1,"GONE":null},"args":["--password","hunter2",5],"build":{"flags":["-ldflags=-X main.k=hunter2"],"tags":["dev"]},
			"stopOnEntry":true,"stackTraceDepth":50,"__private":{"deep":["hunter2"]},"substitutePath":[{"from":"/a","to":"/b"}]}`)},
			[]string{`"target":{"name":"deploy/web","namespace":"shop","entrypoint":["(redacted)"]}`, `"env":{"TOKEN":"(redacted)","N":"(redacted)","GONE":null}`,
				`"args":["(redacted)","(redacted)","(redacted)"]`, `"build":{"flags":["(redacted)"],"tags":["dev"]}`, `"stopOnEntry":true,"stackTraceDepth":50`,
				`"__private":{"deep":["(redacted)"]}`, `"substitutePath":[{"from":"/a","to":"/b"}]`}},
		{"attach to Delve", []told{{"kubedelve", "delve", `{"seq":2,"type":"request","command":"attach","arguments":{"mode":"remote","env":{"A":"hunter2"},"x":"hunter2"}}`}},
			[]string{`"mode":"remote"`}},
		{"names in another case, and twice", []told{request("launch", `{"ENV":{"A":"hunter2"},"env":{"A":"hunter2"},"Args":["hunter2"],"args":[]}`)}, nil},
		{"wrong types", []told{request("launch", `{"env":"hunter2","args":"hunter2","target":["hunter2"]}`), request("launch", `"hunter2"`), request("launch", `["hunter2"]`)}, nil},
		{"restart", []told{request("restart", `{"arguments":{"env":{"A":"hunter2"},"program":"./x"}}`)}, []string{`"program":"./x"`}},
		{"runInTerminal", []told{event("x", `{}`), {"kubedelve", "editor", `{"seq":1,"type":"request","command":"runInTerminal","arguments":{"args":["prog","hunter2"],"env":{"A":"hunter2"},"cwd":"/w"}}`}},
			[]string{`"cwd":"/w"`, `"env":{"A":"(redacted)"}`}},
		{"startDebugging", []told{{"kubedelve", "editor", `{"seq":1,"type":"request","command":"startDebugging","arguments":{"request":"attach","configuration":{"name":"pod 2","env":{"A":"hunter2"},"session":"hunter2"}}}`}},
			[]string{`"name":"pod 2"`}},
		{"output", []told{event("output", `{"category":"stdout","output":"hunter2 says\n","data":{"x":"hunter2"}}`)}, []string{`"category":"stdout","output":"(13 bytes)"`}},
		{"memory", []told{response("readMemory", `{"address":"0x1","data":"hunter2="}`), request("writeMemory", `{"memoryReference":"0x1","data":"hunter2="}`)}, []string{`"data":"(8 bytes)"`, `"address":"0x1"`}},
		{"source", []told{response("source", `{"content":"hunter2"}`)}, nil},
		{"variables by name", []told{response("variables", `{"variables":[{"name":"n","value":"3","variablesReference":0},{"name":"dbPassword","value":"\"hunter2\"","variablesReference":0}]}`)},
			[]string{`{"name":"n","value":"3","variablesReference":0}`, `"name":"dbPassword"`}},
		{"below a secret", []told{
			response("variables", `{"variables":[{"name":"token","value":"[]uint8 len: 2","variablesReference":1007}]}`),
			{"editor", "kubedelve", `{"seq":9,"type":"request","command":"variables","arguments":{"variablesReference":1007}}`},
			{"kubedelve", "editor", `{"seq":9,"type":"response","request_seq":9,"success":true,"command":"variables","body":{"variables":[{"name":"[0]","value":"hunter2","variablesReference":1008}]}}`},
			{"editor", "kubedelve", `{"seq":10,"type":"request","command":"variables","arguments":{"variablesReference":1008}}`},
			{"kubedelve", "editor", `{"seq":10,"type":"response","request_seq":10,"success":true,"command":"variables","body":{"variables":[{"name":"x","value":"hunter2"}]}}`},
			event("stopped", `{}`), // the numbers begin anew
			{"editor", "kubedelve", `{"seq":11,"type":"request","command":"variables","arguments":{"variablesReference":1007}}`},
			{"kubedelve", "editor", `{"seq":11,"type":"response","request_seq":11,"success":true,"command":"variables","body":{"variables":[{"name":"x","value":"shown"}]}}`},
		}, []string{`"value":"shown"`, `"name":"[0]"`}},
		{"evaluate", []told{request("evaluate", `{"expression":"cfg.APIKey","frameId":1000}`), response("evaluate", `{"result":"\"hunter2\"","variablesReference":0}`)},
			[]string{`"expression":"cfg.APIKey"`}},
		{"evaluate on the way to Delve", []told{
			{"kubedelve", "delve", `{"seq":77,"type":"request","command":"evaluate","arguments":{"expression":"secret"}}`},
			{"delve", "kubedelve", `{"seq":0,"type":"response","request_seq":77,"success":true,"command":"evaluate","body":{"result":"hunter2"}}`}}, nil},
		{"setVariable", []told{request("setVariable", `{"variablesReference":1,"name":"password","value":"\"hunter2\""}`), response("setVariable", `{"value":"\"hunter2\""}`)}, nil},
		{"setExpression", []told{request("setExpression", `{"expression":"a.token","value":"hunter2"}`), response("setExpression", `{"value":"hunter2"}`)}, nil},
		{"a struct and a map", []told{response("evaluate", `{"result":"main.config {User: \"u\", Password: \"hunter2\", Tokens: map[string]string [\"access_token\": \"hunter \\\"2\", ]}"}`)},
			[]string{`User: \"u\"`}},
		{"an environment", []told{response("evaluate", `{"result":"[]string len: 30, cap: 30, [\"PATH=/bin\",\"SECRET=hunter 2\",\"X=hunter\\\"2\",...+27 more]"}`),
			response("variables", `{"variables":[{"name":"[1]","value":"\"KEY=hunter2\""},{"name":"e","value":"KEY=hunter2"}]}`)},
			[]string{`\"SECRET=(redacted)\"`, `...+27 more`, `\"KEY=(redacted)\"`}},
		{"credentials in any text", []told{
			response("evaluate", `{"result":"Authorization: Bearer hunter2hunter2"}`),
			response("evaluate", `{"result":"eyJhbGciOiJIUzI1NiJ9.hunter2.sig"}`),
			response("evaluate", `{"result":"postgres://user:hunter2@db:5432/x"}`),
			response("exceptionInfo", `{"description":"-----BEGIN RSA PRIVATE KEY-----\nhunter2"}`),
		}, []string{`postgres://(redacted)@db:5432/x`}},
		{"what the environment has, elsewhere", []told{
			request("launch", `{"env":{"A":"hunter2 \"ü\"","SHORT":"1"}}`),
			response("variables", `{"variables":[{"name":"a","value":"\"xhunter2 \"ü\"x\"","variablesReference":0},{"name":"n","value":"1"}]}`),
		}, []string{`{"name":"n","value":"1"}`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := write(t, test.messages...)
			if strings.Contains(text, "hunter") {
				t.Errorf("a secret is in\n%s", text)
			}
			if got := strings.Count(text, "\n"); got != len(test.messages) {
				t.Errorf("%d lines for %d messages", got, len(test.messages))
			}
			for _, want := range test.stays {
				if !strings.Contains(text, want) {
					t.Errorf("no %s in\n%s", want, text)
				}
			}
		})
	}
}

func TestWhatIsNoSecretStays(t *testing.T) {
	for _, m := range []told{
		request("setBreakpoints", `{"source":{"path":"/src/token/main.go"},"breakpoints":[{"line":3,"condition":"x == \"tea\""}]}`),
		response("stackTrace", `{"stackFrames":[{"id":1000,"name":"main.handle","source":{"path":"/x.go"},"line":3,"new":1.50}]}`),
		response("evaluate", `{"result":"main.order {Item: \"tea\", Count: 2}","type":"main.order","variablesReference":1001}`),
		event("stopped", `{"reason":"breakpoint","threadId":1,"allThreadsStopped":true,"e":1e400}`),
		{"editor", "kubedelve", `{"seq":2,"type":"event","event":"x","body":{"<html>":"&ü\u2028"}}`},
	} {
		if got := lines(t, write(t, m)); len(got) != 1 || string(got[0].Message) != m.message {
			t.Errorf("got  %s\nwant %s", got[0].Message, m.message)
		}
	}
}

func TestConcealedValuesAreLeftOut(t *testing.T) {
	var file kept
	l := newLog(&file)
	l.Conceal("hunter2")
	l.Conceal("short")
	l.Add("c", "a", "b", []byte(`{"x":"my hunter2 is short"}`))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(file.Bytes(), []byte(`{"x":"my (redacted) is short"}`)) {
		t.Errorf("got %s", file.Bytes())
	}
}
