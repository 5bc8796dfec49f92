package main

import (
	"encoding/json"
	"fmt"
	"strings"
)

// editors are those that there is a setup for. What each wants is in docs/editors.md,
// with how it was tried.
func editors() map[string]editorSetup {
	return map[string]editorSetup{
		"vscode": {file: ".vscode/launch.json", text: vscodeSetup, how: "It takes kubedelve's extension."},
		"goland": {file: ".run/kubedelve.run.xml", text: golandSetup, connects: true},
		"nvim":   {text: nvimSetup, how: "It takes nvim-dap."},
		"vim":    {file: ".vimspector.json", text: vimSetup, how: "It takes vimspector."},
		"emacs":  {text: emacsSetup, how: "It takes dape."},
		"helix":  {file: ".helix/languages.toml", text: helixSetup, how: "Begin with :debug-start and the name of a template."},
		"zed":    {file: ".zed/debug.json", text: zedSetup, connects: true},
	}
}

// editorPort is the default of kubedelve debug --listen.
const editorPort = 2345

// launchConfig is what a DAP client sends, in the order that people read it. Members
// are the editor's own, before.
type launchConfig struct {
	Name    string       `json:"name,omitempty"`
	Type    string       `json:"type,omitempty"`
	Request string       `json:"request"`
	Target  launchTarget `json:"target"`
	Program string       `json:"program"`
}

type launchTarget struct {
	Name       string `json:"name"`
	Namespace  string `json:"namespace,omitempty"`
	Context    string `json:"context,omitempty"`
	Kubeconfig string `json:"kubeconfig,omitempty"`
}

func (d debugging) launch(workspace string) launchConfig {
	return launchConfig{Request: "launch", Target: launchTarget{d.target, d.namespace, d.context, d.kubeconfig}, Program: d.below(workspace)}
}

func indented(v any) string {
	text, err := json.MarshalIndent(v, "", "    ")
	if err != nil { // all are strings
		panic(err)
	}
	return string(text) + "\n"
}

func vscodeSetup(found []debugging) string {
	var all []launchConfig
	for _, d := range found {
		c := d.launch("${workspaceFolder}")
		c.Name, c.Type = d.name(), "kubedelve"
		all = append(all, c)
	}
	return indented(map[string]any{"version": "0.2.0", "configurations": all})
}

// golandSetup is a shared run configuration. There is one for all: what is debugged is
// decided where the session is begun.
func golandSetup([]debugging) string {
	return fmt.Sprintf(`<component name="ProjectRunConfigurationManager">
  <configuration default="false" name="kubedelve" type="GoRemoteDebugConfigurationType" factoryName="Go Remote" port="%d">
    <option name="disconnectOption" value="LEAVE" />
    <disconnect value="LEAVE" />
    <method v="2" />
  </configuration>
</component>
`, editorPort)
}

func nvimSetup(found []debugging) string {
	var b strings.Builder
	// nvim-dap complains after four seconds, which a build takes longer than, and leaves after three,
	// whatever is still to be put back.
	fmt.Fprintf(&b, `local dap = require('dap')
dap.adapters.kubedelve = {
  type = 'executable', command = 'kubedelve', args = { 'dap' },
  options = { initialize_timeout_sec = 600, disconnect_timeout_sec = 600 },
}
dap.adapters.kubedelve_session = { type = 'server', host = '127.0.0.1', port = %d }
dap.configurations.go = dap.configurations.go or {}
`, editorPort)
	for _, d := range found {
		c := d.launch("${workspaceFolder}")
		fmt.Fprintf(&b, `table.insert(dap.configurations.go, {
  type = 'kubedelve', request = 'launch', name = %q,
  target = { name = %q`, d.name(), c.Target.Name)
		for _, m := range c.Target.more() {
			fmt.Fprintf(&b, ", %s = %q", m[0], m[1])
		}
		fmt.Fprintf(&b, " },\n  program = %q,\n})\n", c.Program)
	}
	b.WriteString(`-- a session that "kubedelve debug" keeps
table.insert(dap.configurations.go, {
  type = 'kubedelve_session', request = 'attach', mode = 'remote', name = 'kubedelve: connect',
})
`)
	return b.String()
}

// more are the members besides the name that say something.
func (t launchTarget) more() (members [][2]string) {
	for _, m := range [][2]string{{"namespace", t.Namespace}, {"context", t.Context}, {"kubeconfig", t.Kubeconfig}} {
		if m[1] != "" {
			members = append(members, m)
		}
	}
	return members
}

// vimSetup: an adapter has fifteen seconds to answer there, if nothing else is said, which
// a build takes longer than, and five to leave, which putting back takes longer than: then it
// is killed. And who is not told which exceptions to halt at asks each time.
func vimSetup(found []debugging) string {
	const patience = 600_000                                                                                    // milliseconds
	kinds := map[string]any{"exception": map[string]string{"unrecovered-panic": "", "runtime-fatal-throw": ""}} // as the adapter has it
	configurations := map[string]any{
		"kubedelve: connect": map[string]any{
			"adapter": "kubedelve-session", "filetypes": []string{"go"}, "breakpoints": kinds,
			"configuration": map[string]string{"request": "attach", "mode": "remote"},
		},
	}
	for _, d := range found {
		configurations[d.name()] = map[string]any{
			"adapter": "kubedelve", "filetypes": []string{"go"}, "breakpoints": kinds, "configuration": d.launch("${workspaceRoot}"),
		}
	}
	return indented(map[string]any{
		"adapters": map[string]any{
			"kubedelve":         map[string]any{"name": "kubedelve", "command": []string{"kubedelve", "dap"}, "async_timeout": patience, "sync_timeout": patience},
			"kubedelve-session": map[string]any{"name": "kubedelve-session", "host": "127.0.0.1", "port": editorPort, "async_timeout": patience, "sync_timeout": patience},
		},
		"configurations": configurations,
	})
}

// emacsSetup: it is the user's own configuration, for whatever folder Emacs is in, and
// what dape takes for the project's may be one above the module's.
func emacsSetup(found []debugging) string {
	var b strings.Builder
	// An adapter has ten seconds to answer there, which a build takes longer than.
	b.WriteString("(with-eval-after-load 'dape\n  (setq dape-request-timeout 600)\n")
	for i, d := range found {
		name := "kubedelve"
		if i > 0 || len(found) > 1 {
			name += "-" + strings.NewReplacer("/", "-", ":", "-").Replace(d.target)
		}
		c := d.launch(".")
		fmt.Fprintf(&b, `  (add-to-list 'dape-configs
               '(%s
                 modes (go-mode go-ts-mode)
                 command "kubedelve"
                 command-args ("dap")
                 command-cwd %q
                 :request "launch"
                 :type "go"
                 :target (:name %q`, name, absolute("."), c.Target.Name)
		for _, m := range c.Target.more() {
			fmt.Fprintf(&b, " :%s %q", m[0], m[1])
		}
		fmt.Fprintf(&b, ")\n                 :program %q))\n", d.program)
	}
	fmt.Fprintf(&b, `  ;; a session that "kubedelve debug" keeps
  (add-to-list 'dape-configs
               '(kubedelve-session
                 modes (go-mode go-ts-mode)
                 host "127.0.0.1"
                 port %d
                 :request "attach"
                 :type "go"
                 :mode "remote")))
`, editorPort)
	return b.String()
}

// helixSetup: attributes are strings there, not objects, so what the target has beside
// its name is in the adapter's command line.
func helixSetup(found []debugging) string {
	var b strings.Builder
	args := []string{"dap", "--ignore-cwd"} // Helix sends its own, whatever a template says
	for _, m := range found[0].launch(".").Target.more() {
		args = append(args, "--"+m[0], m[1])
	}
	quoted := make([]string, len(args))
	for i, a := range args {
		quoted[i] = fmt.Sprintf("%q", a)
	}
	fmt.Fprintf(&b, `[[language]]
name = "go"

[language.debugger]
name = "kubedelve"
transport = "stdio"
command = "kubedelve"
args = [%s]
`, strings.Join(quoted, ", "))
	for _, d := range found {
		fmt.Fprintf(&b, `
[[language.debugger.templates]]
name = %q
request = "launch"
completion = []
args = { target = %q, program = %q }
`, d.target, d.target, d.program)
	}
	b.WriteString(`
# a session that "kubedelve debug" keeps: :debug-remote 127.0.0.1:2345 connect
[[language.debugger.templates]]
name = "connect"
request = "attach"
completion = []
args = { mode = "remote" }
`)
	return b.String()
}

func zedSetup(found []debugging) string {
	var all []any
	for _, d := range found {
		all = append(all, struct {
			Label   string         `json:"label"`
			Adapter string         `json:"adapter"`
			Request string         `json:"request"`
			Mode    string         `json:"mode"`
			TCP     map[string]any `json:"tcp_connection"`
		}{d.command(), "Delve", "attach", "remote", map[string]any{"host": "127.0.0.1", "port": editorPort}})
	}
	return indented(all)
}
