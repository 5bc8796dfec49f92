// Package entrypoint reads container command lines: which words of one are the
// program itself and its arguments, and which belong to what starts it.
package entrypoint

import (
	"path"
	"slices"
	"strings"
)

// Unwrap returns the program and its arguments out of a container's command line,
// without the init or shell that starts it; ok is false if that can't be told,
// since a shell has more to do than to start one program.
//
// Known are tini and dumb-init (with their options), Kubernetes' go-runner, env
// with assignments, and a shell's -c with plain words, also after exec.
func Unwrap(command []string) (program []string, ok bool) {
	for range 4 { // deeper than any image nests them
		if len(command) == 0 {
			return nil, false
		}
		var inner []string
		switch name := path.Base(command[0]); {
		case slices.Contains([]string{"tini", "tini-static", "docker-init", "dumb-init", "catatonit"}, name):
			inner = afterOptions(command[1:], "-p", "-e", "-r", "--rewrite")
		case name == "go-runner":
			inner = afterOptions(command[1:], "--log-file", "--redirect-stdout", "--redirect-stderr")
		case name == "env":
			inner = afterAssignments(command[1:])
		case slices.Contains([]string{"sh", "bash", "ash", "dash"}, name):
			if inner = fromShell(command[1:]); inner == nil {
				return nil, false
			}
		default:
			return command, true
		}
		if len(inner) == 0 {
			return nil, false
		}
		command = inner
	}
	return nil, false
}

// afterOptions skips options; those in withValue take the next word, unless they
// have theirs behind an equals sign.
func afterOptions(words []string, withValue ...string) []string {
	for i := 0; i < len(words); i++ {
		switch word := words[i]; {
		case word == "--":
			return words[i+1:]
		case !strings.HasPrefix(word, "-"):
			return words[i:]
		case slices.Contains(withValue, word):
			i++
		}
	}
	return nil
}

func afterAssignments(words []string) []string {
	for i, word := range words {
		if strings.HasPrefix(word, "-") {
			return nil // env's options change more than the environment
		}
		if !strings.Contains(word, "=") {
			return words[i:]
		}
	}
	return nil
}

// fromShell reads "-c SCRIPT" where the script is no more than words.
func fromShell(words []string) []string {
	if len(words) != 2 || !slices.Contains([]string{"-c", "-ec", "-xc", "-exc", "-lc"}, words[0]) {
		return nil
	}
	if strings.ContainsAny(words[1], "|&;<>()$`\\\"'*?[]#~=%{}!\n") {
		return nil
	}
	script := strings.Fields(words[1])
	if len(script) > 0 && script[0] == "exec" {
		script = script[1:]
	}
	return script
}
