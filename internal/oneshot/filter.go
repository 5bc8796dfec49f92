package oneshot

import (
	"path"
	"slices"
	"strings"

	"github.com/kubedelve/kubedelve/internal/agentapi"
)

// matches tells whether a filter lets a call through.
func matches(f agentapi.CallFilter, c *Call) bool {
	itself, init := stops(f.Commands, c.Command)
	switch {
	case !itself && !init:
		return false
	case c.isShim() && c.Command == "start" && len(f.Commands) == 0:
		return false // it would start the shim as a debug build that nobody debugs
	case !fits(f.ID, c.ID):
		return false
	}
	for _, pattern := range f.Args {
		if !slices.ContainsFunc(c.Args[1:], func(arg string) bool { return fits(pattern, arg) }) {
			return false
		}
	}
	for _, pattern := range f.Env {
		if !slices.ContainsFunc(c.Env, func(e string) bool { return fits(pattern, e) }) {
			return false
		}
	}
	if f.Namespace == "" && f.Pod == "" && f.Container == "" {
		return true
	}
	w := c.about()
	return fits(f.Namespace, w.namespace) && fits(f.Pod, w.pod) && fits(f.Container, w.container)
}

// stops tells what of a call with a command is to be stopped, if the rest of the filter
// lets it through: itself, and the init that it starts. "init" alone is for that of any
// call; with other commands it is for theirs.
func stops(commands []string, command string) (itself, init bool) {
	init = slices.Contains(commands, initCommand)
	others := slices.DeleteFunc(slices.Clone(commands), func(c string) bool { return c == initCommand })
	itself = !init && len(others) == 0 || slices.Contains(others, command)
	return itself, init && (itself || len(others) == 0) && slices.Contains(starters, command)
}

// fits tells whether a text is as a pattern says, in which * stands for anything, also
// for slashes; the empty pattern is for all.
func fits(pattern, text string) bool {
	const slash = "\x00" // neither arguments nor environments have it
	ok, err := path.Match(strings.ReplaceAll(pattern, "/", slash), strings.ReplaceAll(text, "/", slash))
	return pattern == "" || err == nil && ok
}
