package transcript

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// redacted is what stands in the place of a text that may be a secret.
const redacted = "(redacted)"

// redactor takes out of messages what may be a secret. It belongs to one goroutine.
type redactor struct {
	values   []string // to be concealed, the longest first
	replacer *strings.Replacer
	// secretive are requests whose answers are to have no values.
	secretive map[asked]bool
	// references are those of variables that are secrets, by client.
	references map[string]map[string]bool
}

// asked is a request on its way between two peers.
type asked struct{ client, by, of, seq string }

func newRedactor() *redactor {
	return &redactor{replacer: strings.NewReplacer(), secretive: map[asked]bool{}, references: map[string]map[string]bool{}}
}

const (
	// shortest is the length of a value that is worth to be looked for in all texts.
	// "true" or "8080" would be found everywhere.
	shortest = 6
	// most bounds what is remembered, of each kind.
	most = 1000
)

// conceal leaves the value out from here on.
func (r *redactor) conceal(value string) {
	if len(value) < shortest || len(r.values) >= most || slices.Contains(r.values, value) {
		return
	}
	r.values = append(r.values, value)
	slices.SortFunc(r.values, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	var pairs []string
	for _, v := range r.values {
		pairs = append(pairs, v, redacted)
	}
	r.replacer = strings.NewReplacer(pairs...)
}

// message takes out of a message what may be a secret.
func (r *redactor) message(e *entry, m *node) {
	what := cmp.Or(m.get("command").text(), m.get("event").text())
	arguments := func(do func(*node)) { m.all("arguments", do) }
	body := func(do func(*node)) { m.all("body", do) }
	switch m.get("type").text() + " " + what {
	case "request launch", "request attach", "request restart":
		arguments(r.configuration)
	case "request runInTerminal":
		arguments(func(n *node) {
			n.all("env", r.environment)
			n.all("args", hideAll)
		})
	case "request startDebugging":
		arguments(func(n *node) { n.all("configuration", r.configuration) })
	case "event output":
		body(func(n *node) {
			n.all("output", hideLength)
			n.all("data", hideAll)
		})
	case "event stopped", "event continued":
		delete(r.references, e.client) // they are Delve's until then
	case "request writeMemory":
		arguments(func(n *node) { n.all("data", hideLength) })
	case "response readMemory":
		body(func(n *node) { n.all("data", hideLength) })
	case "response source":
		body(func(n *node) { n.all("content", hideLength) })
	}
	r.follow(e, m)
	m.each(func(n *node) bool {
		r.named(e, n)
		if n.kind == '"' {
			text := n.text()
			if clean := r.scrub(text); clean != text {
				n.set(clean)
			}
		}
		return true
	})
}

// follow remembers requests that ask for a secret, and takes the values out of their
// answers.
func (r *redactor) follow(e *entry, m *node) {
	arguments := m.get("arguments")
	switch m.get("type").text() {
	case "request":
		reference := number(arguments.get("variablesReference"))
		if secretName(arguments.get("expression").text()) || secretName(arguments.get("name").text()) || r.references[e.client][reference] {
			if len(r.secretive) >= most {
				clear(r.secretive)
			}
			r.secretive[asked{e.client, e.from, e.to, number(m.get("seq"))}] = true
			arguments.all("value", hide)
		}
	case "response":
		request := asked{e.client, e.to, e.from, number(m.get("request_seq"))}
		if !r.secretive[request] {
			return
		}
		delete(r.secretive, request)
		m.get("body").each(func(n *node) bool {
			r.hideValue(e, n)
			return true
		})
	}
}

// named takes the value away from what has a name that tells of a secret.
func (r *redactor) named(e *entry, n *node) {
	if secretName(n.get("name").text()) {
		r.hideValue(e, n)
	}
}

// hideValue takes the value of a variable or result away, and remembers that all
// below it is secret.
func (r *redactor) hideValue(e *entry, n *node) {
	n.all("value", hide)
	n.all("result", hide)
	if reference := number(n.get("variablesReference")); reference != "" && reference != "0" {
		if r.references[e.client] == nil || len(r.references[e.client]) >= most {
			r.references[e.client] = map[string]bool{}
		}
		r.references[e.client][reference] = true
	}
}

// number is the text of a number; empty if there is none.
func number(n *node) string {
	if n == nil || n.kind != 0 {
		return ""
	}
	return string(n.raw)
}

// harmless are the attributes of configurations whose text is shown. The others may
// be another program's, and are not.
var harmless = map[string]bool{
	"name": true, "type": true, "request": true, "mode": true, "program": true, "cwd": true, "noDebug": true,
	"target": true, "namespace": true, "container": true, "context": true, "kubeconfig": true,
	"agentImage": true, "agentImagePullPolicy": true, "grace": true, "ttl": true,
	"build": true, "tags": true, "platform": true, "cgo": true,
	"hotReload": true, "reloadGrace": true, "stopOnEntry": true, "backend": true,
	"substitutePath": true, "from": true, "to": true,
	"arguments": true, // of restart, which has a configuration there
}

// configuration takes the values out of a launch configuration, but for those that
// are known to be harmless. Numbers, true and false are harmless outside of env and
// args.
func (r *redactor) configuration(n *node) {
	n.all("env", r.environment)
	n.all("args", hideAll)
	for _, m := range n.members {
		switch name := m.name(); {
		case strings.EqualFold(name, "env") || strings.EqualFold(name, "args"):
		case !harmless[name]:
			m.value.each(func(n *node) bool {
				if n.kind == '"' {
					n.set(redacted)
				}
				return true
			})
		case m.value.kind == '{':
			r.configuration(m.value)
		case m.value.kind == '[':
			for _, item := range m.value.items {
				r.configuration(item)
			}
		}
	}
}

// environment takes the values of variables away, and conceals them in what comes.
func (r *redactor) environment(n *node) {
	n.each(func(n *node) bool {
		r.conceal(n.text())
		return true
	})
	hideAll(n)
}

// hide replaces a text.
func hide(n *node) {
	if n.text() != "" {
		n.set(redacted)
	}
}

// hideAll replaces all texts and numbers in a value, which may be of any kind.
func hideAll(n *node) {
	n.each(func(n *node) bool {
		if n.kind == '"' || n.kind == 0 && string(n.raw) != "null" {
			n.set(redacted)
		}
		return true
	})
}

// hideLength replaces a text by its length.
func hideLength(n *node) {
	if n.kind == '"' {
		n.set(fmt.Sprintf("(%d bytes)", len(n.text())))
	}
}

// words are what names of secrets have in them, in lower case.
var words = []string{
	"password", "passwd", "passphrase", "secret", "token", "apikey", "api_key", "privatekey", "private_key",
	"accesskey", "access_key", "credential", "authorization", "cookie",
}

// patterns are texts that are secrets, or say that they are.
var patterns = []pattern{
	// What Delve shows of an environment: "NAME=value".
	{[]string{"="}, regexp.MustCompile(`"([A-Za-z_][A-Za-z0-9_]*)=(?:[^"\\]|\\.)*"`), `"$1=` + redacted + `"`},
	{[]string{"="}, regexp.MustCompile(`^([A-Z_][A-Z0-9_]*)=.*`), `$1=` + redacted},
	// ... and of structs and maps: Password: "value", "password": "value".
	{words, regexp.MustCompile(`((?i:` + strings.Join(words, "|") + `)\w*"?: )"(?:[^"\\]|\\.)*"`), `$1"` + redacted + `"`},
	{[]string{"eyj"}, regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?`), redacted}, // JSON web tokens
	{[]string{"bearer ", "basic "}, regexp.MustCompile(`(?i)\b(bearer|basic) +[A-Za-z0-9._~+/=-]{8,}`), `$1 ` + redacted},
	{[]string{"private key"}, regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY.*`), redacted},
	{[]string{"://"}, regexp.MustCompile(`://[^/\s:@"]+:[^/\s@"]+@`), `://` + redacted + `@`},
	{[]string{"akia", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "xox"},
		regexp.MustCompile(`\b(?:AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{20,}|xox[abprs]-[A-Za-z0-9-]{10,})`), redacted},
}

// pattern is a kind of text to be replaced.
type pattern struct {
	// hints are what such a text has at least one of, in lower case: most texts have
	// none, and to look for these takes a fraction of what an expression does.
	hints   []string
	find    *regexp.Regexp
	replace string
}

func containsAny(text string, words []string) bool {
	return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(text, w) })
}

// secretName says whether a variable or expression is called like a secret.
func secretName(name string) bool {
	return name != "" && containsAny(strings.ToLower(name), words)
}

// scrub takes out of a text what looks like a secret, and what is known to be one.
func (r *redactor) scrub(text string) string {
	if len(text) < shortest {
		return text
	}
	text = r.replacer.Replace(text)
	lower := strings.ToLower(text)
	for _, p := range patterns {
		if containsAny(lower, p.hints) {
			text = p.find.ReplaceAllString(text, p.replace)
		}
	}
	return text
}
