package layering

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/kubedelve/kubedelve"

// rule bans imports, direct or not, that are not for tests. A pattern is an import
// path, or with /... at its end all below it too; "std" is the standard library.
type rule struct {
	of     string   // the packages that it is about
	ban    []string // what they must not reach
	only   []string // if set: all that they may reach, besides themselves
	except []string // packages that it is not about
	direct bool     // only a package's own imports: what those import, nobody here decides
	reason string
}

var rules = []rule{
	{
		of:     module + "/dapserver",
		ban:    []string{"k8s.io/...", "sigs.k8s.io/...", module + "/kubelaunch", module + "/internal/agent", "github.com/go-delve/..."},
		reason: "it relays DAP to whatever a Launcher brings: a pod, this machine, a test; Delve is at the other end of a connection",
	},
	{
		of:     module + "/buildflags",
		only:   []string{"std", "golang.org/x/..."},
		reason: "it is about Go programs and nothing else, and others may want to use it",
	},
	{
		of:     module + "/kubelaunch",
		ban:    []string{module + "/dapserver", module + "/internal/agent", "github.com/go-delve/...", "github.com/google/go-dap", "k8s.io/cli-runtime/...", "k8s.io/kubectl/..."},
		reason: "it gives back a byte stream and does not know what is spoken on it; clients come from its caller",
	},
	{
		of:     module + "/internal/agent",
		ban:    []string{"k8s.io/...", "sigs.k8s.io/...", module + "/kubelaunch", module + "/dapserver", module + "/buildflags"},
		reason: "it runs inside other people's pods: small, and without a way to talk to the cluster",
	},
	{
		of:     module + "/internal/nodeservice",
		ban:    []string{"k8s.io/...", "sigs.k8s.io/...", "github.com/go-delve/...", module + "/internal/agent", module + "/kubelaunch"},
		reason: "it is about processes and units of the node; its caller brings the agent",
	},
	{
		of:     module + "/internal/oneshot",
		ban:    []string{"k8s.io/...", "sigs.k8s.io/...", "github.com/go-delve/...", module + "/internal/agent", module + "/internal/nodeservice", module + "/kubelaunch"},
		reason: "it is about processes of the node and what they execute, not about who debugs them",
	},
	{
		of:     module + "/cmd/kubedelve-agent",
		ban:    []string{"k8s.io/...", "sigs.k8s.io/...", "github.com/spf13/...", module + "/kubelaunch", module + "/dapserver", module + "/buildflags"},
		reason: "the same for the program",
	},
	{
		of:     module + "/cmd/kubedelve",
		ban:    []string{module + "/internal/agent"},
		reason: "it is for the pod; beside the editor it would be 12 MB that never run",
	},
	{
		of:     module + "/...",
		except: []string{module + "/internal/agent", module + "/internal/terminal", module + "/internal/dapterminal", module + "/internal/bench/..."},
		direct: true,
		ban:    []string{"github.com/go-delve/..."},
		reason: "Delve is the agent's; beside the editor there is its terminal, in one place, and 4 MB in the program",
	},
	{
		of:     module + "/internal/dapterminal",
		ban:    []string{"k8s.io/...", "github.com/go-delve/delve/...", module + "/..."},
		reason: "it debugs whatever a server of the protocol debugs; of Delve it has the line editor, which is a library of its own",
	},
	{
		of:     module + "/internal/tunnel",
		ban:    []string{"k8s.io/...", "github.com/go-delve/...", module + "/..."},
		reason: "it makes any byte stream private to two holders of keys",
	},
	{
		of:     module + "/internal/resumable",
		only:   []string{"std"},
		reason: "it is about byte streams, whoever carries them",
	},
	{
		of:     module + "/internal/agentapi",
		ban:    []string{"k8s.io/...", "github.com/go-delve/...", module + "/kubelaunch", module + "/internal/agent"},
		reason: "both halves share it",
	},
	{
		of:     module + "/internal/debuginfo",
		only:   []string{"std", "golang.org/x/..."},
		reason: "it reads files; who asks for what is in them, and why, is not its business",
	},
	{
		of:     module + "/internal/transcript",
		only:   []string{"std"},
		reason: "it writes down what passes by, whoever says it",
	},
	{
		of:     module + "/internal/watch",
		only:   []string{"std", "github.com/fsnotify/fsnotify", "github.com/fsnotify/fsnotify/internal", "golang.org/x/..."},
		reason: "it tells of files that change, whatever they are for",
	},
	{
		of:     module + "/internal/reload",
		ban:    []string{"k8s.io/...", module + "/kubelaunch", module + "/dapserver"},
		reason: "it knows neither where a program runs nor who debugs it",
	},
	{
		of:     module + "/internal/editor",
		only:   []string{"std", "github.com/google/go-dap"},
		reason: "a test client that shared code with the server would share its mistakes",
	},
	{
		of:     module + "/internal/pty",
		only:   []string{"std", "golang.org/x/..."},
		reason: "it is about terminals, whatever runs on them",
	},
	{
		of:     module + "/internal/testcluster",
		ban:    []string{module + "/kubelaunch", module + "/dapserver", module + "/buildflags", module + "/cmd/..."},
		reason: "the end-to-end tests see kubedelve as its users do: as a program",
	},
	{
		of:     module + "/...",
		except: []string{module + "/cmd/kubedelve"},
		ban:    []string{"github.com/spf13/cobra"},
		reason: "only the command line knows its flags",
	},
	{
		of:     module + "/...",
		except: []string{module + "/internal/leakcheck"},
		ban:    []string{"testing", "testing/...", "net/http/pprof", "expvar"},
		reason: "tests do not belong into programs, and importing the others opens doors",
	},
	{
		of:     module + "/...",
		except: []string{module + "/internal/testcluster", module + "/internal/demo", module + "/internal/bench"},
		ban:    []string{module + "/internal/testcluster", module + "/internal/editor", module + "/internal/demo", module + "/internal/pty"},
		reason: "they are for tests, the demo and the benchmarks",
	},
	{
		of:     module + "/...",
		direct: true,
		ban:    []string{"io/ioutil", "github.com/pkg/errors", "log"},
		reason: "os and io, errors and log/slog do the same",
	},
}

// pkg is what the go command says of a package.
type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
	Standard   bool
	Error      *struct{ Err string }
}

// list asks for all packages of this module and those they reach, without tests.
func list(t *testing.T) map[string]pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Imports,Deps,Standard,Error", "./...")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	packages := map[string]pkg{}
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		packages[p.ImportPath] = p
	}
}

func matches(pattern string, p pkg) bool {
	if pattern == "std" {
		return p.Standard
	}
	if prefix, ok := strings.CutSuffix(pattern, "/..."); ok {
		return p.ImportPath == prefix || strings.HasPrefix(p.ImportPath, prefix+"/")
	}
	return p.ImportPath == pattern
}

func matchesAny(patterns []string, p pkg) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return matches(pattern, p) })
}

// violations are the packages that p must not reach.
func (r rule) violations(p pkg, packages map[string]pkg) []string {
	reached := p.Deps
	if r.direct {
		reached = p.Imports
	}
	var bad []string
	for _, path := range reached {
		dep := packages[path]
		if path == "unsafe" || path == "C" {
			continue
		}
		if matchesAny(r.ban, dep) && dep.ImportPath != p.ImportPath || len(r.only) > 0 && !matchesAny(r.only, dep) {
			bad = append(bad, path)
		}
	}
	return bad
}

func TestImports(t *testing.T) {
	packages := list(t)
	for _, r := range rules {
		found := false
		for _, p := range packages {
			if !matches(r.of, p) || matchesAny(r.except, p) {
				continue
			}
			found = true
			for _, bad := range r.violations(p, packages) {
				t.Errorf("%s must not reach %s: %s\n\tby way of %s", p.ImportPath, bad, r.reason,
					strings.Join(route(p.ImportPath, bad, packages), " -> "))
			}
		}
		if !found {
			t.Errorf("a rule is about %s, which is not there", r.of)
		}
	}
}

// TestOnePlaceKnowsAll checks that nothing but the command joins the two halves.
func TestOnePlaceKnowsAll(t *testing.T) {
	for path, p := range list(t) {
		if strings.HasPrefix(path, module+"/cmd/") {
			continue
		}
		if slices.Contains(p.Deps, module+"/dapserver") && slices.Contains(p.Deps, module+"/kubelaunch") {
			t.Errorf("%s reaches dapserver and kubelaunch, which only cmd/kubedelve does", path)
		}
	}
}

// route is a shortest chain of imports from one package to another.
func route(from, to string, packages map[string]pkg) []string {
	before := map[string]string{from: ""}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		if queue[0] == to {
			break
		}
		for _, next := range packages[queue[0]].Imports {
			if _, seen := before[next]; !seen {
				before[next] = queue[0]
				queue = append(queue, next)
			}
		}
	}
	var chain []string
	for at := to; at != ""; at = before[at] {
		chain = append(chain, at)
	}
	slices.Reverse(chain)
	return chain
}

// TestSelf checks the check: a table that finds nothing would look the same.
func TestSelf(t *testing.T) {
	packages := map[string]pkg{
		"a":        {ImportPath: "a", Imports: []string{"b", "fmt"}, Deps: []string{"b", "fmt", "k8s.io/x/y"}},
		"b":        {ImportPath: "b", Imports: []string{"k8s.io/x/y"}, Deps: []string{"k8s.io/x/y"}},
		"fmt":      {ImportPath: "fmt", Standard: true},
		"k8s.io/x": {ImportPath: "k8s.io/x"}, "k8s.io/x/y": {ImportPath: "k8s.io/x/y"},
	}
	for _, test := range []struct {
		name string
		rule rule
		want []string
	}{
		{"banned by pattern, indirectly", rule{ban: []string{"k8s.io/..."}}, []string{"k8s.io/x/y"}},
		{"a path is no prefix", rule{ban: []string{"k8s.io/x"}}, nil},
		{"only", rule{only: []string{"std"}}, []string{"b", "k8s.io/x/y"}},
		{"direct imports", rule{direct: true, ban: []string{"k8s.io/..."}}, nil},
	} {
		if got := test.rule.violations(packages["a"], packages); !slices.Equal(got, test.want) {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
	if got := route("a", "k8s.io/x/y", packages); !slices.Equal(got, []string{"a", "b", "k8s.io/x/y"}) {
		t.Errorf("got the route %q", got)
	}
}
