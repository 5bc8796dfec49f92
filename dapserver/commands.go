package dapserver

import (
	"slices"
	"strings"

	"github.com/google/go-dap"
)

// dlvCommand is a command of Delve's for the debug console, typed behind "dlv".
// (Delve 1.27, service/dap/command.go.)
type dlvCommand struct {
	name, alias string
	help        string
	// next offers what can follow the words that have been typed behind the name.
	next func(words []string) []dlvWord
}

// dlvWord is a word of a command.
type dlvWord struct {
	text, help string
	kind       dap.CompletionItemType
}

// dlvParameter is a parameter of "dlv config".
type dlvParameter struct {
	name, help string
	values     []string
}

var onOff = []string{"true", "false"}

func dlvParameters() []dlvParameter {
	return []dlvParameter{
		{"followExec", "debug child processes too", onOff},
		{"followExecRegex", "those whose command line matches", nil},
		{"goroutineFilters", "which goroutines are shown, as in: -w user", nil},
		{"hideSystemGoroutines", "do not show those of the runtime", onOff},
		{"maxArrayValues", "how many elements of an array, slice or map are read", nil},
		{"maxStringLen", "how many bytes of a string are read", nil},
		{"showGlobalVariables", "show the variables of the package", onOff},
		{"showPprofLabels", "show goroutines with these labels", []string{"-clear"}},
		{"showRawStrings", "show strings as raw literals", onOff},
		{"showRegisters", "show the processor's registers", onOff},
		{"stackTraceDepth", "how many frames a stack trace has at most", nil},
		{"substitutePath", "how local paths are called in the binary", []string{"-clear"}},
	}
}

func dlvCommands() []dlvCommand {
	return []dlvCommand{
		{"help", "h", "Prints the help message.", func(words []string) []dlvWord {
			if len(words) > 0 {
				return nil
			}
			return commandNames()
		}},
		{"config", "", "Changes configuration parameters.", configWords},
		{"sources", "s", "Print list of source files.", nil},
		{"types", "", "Print list of types.", nil},
		{"target", "", "Manages child process debugging.", func(words []string) []dlvWord {
			switch {
			case len(words) == 0:
				return keywords("follow-exec", "debug child processes too", "list", "list the processes", "switch", "switch to a process")
			case len(words) == 1 && words[0] == "follow-exec":
				return keywords("-off", "", "-on", "")
			}
			return nil
		}},
		{"examinemem", "x", "Examine raw memory at the given address.", func(words []string) []dlvWord {
			if len(words) > 0 && words[len(words)-1] == "-fmt" {
				return keywords("bin", "binary", "dec", "decimal", "hex", "hexadecimal", "oct", "octal", "raw", "")
			}
			if len(words) > 0 && slices.Contains([]string{"-count", "-len", "-size"}, words[len(words)-1]) {
				return nil
			}
			return keywords("-count", "how many", "-fmt", "in which format", "-size", "of how many bytes each", "-x", "at the value of an expression")
		}},
	}
}

// keywords makes words of pairs of a text and a help.
func keywords(pairs ...string) []dlvWord {
	var words []dlvWord
	for pair := range slices.Chunk(pairs, 2) {
		words = append(words, dlvWord{pair[0], pair[1], "keyword"})
	}
	return words
}

func configWords(words []string) []dlvWord {
	var all []dlvWord
	switch {
	case len(words) == 0:
		all = keywords("-list", "show the parameters")
		fallthrough
	case len(words) == 1 && words[0] == "-list":
		for _, p := range dlvParameters() {
			all = append(all, dlvWord{p.name, p.help, "property"})
		}
	case len(words) == 1:
		for _, p := range dlvParameters() {
			for _, value := range p.values {
				if p.name == words[0] {
					all = append(all, dlvWord{value, "", "value"})
				}
			}
		}
	}
	return all
}

func commandNames() []dlvWord {
	var words []dlvWord
	for _, c := range dlvCommands() {
		words = append(words, dlvWord{c.name, c.help, "keyword"})
	}
	return words
}

// commandWords are what can follow the words behind "dlv".
func commandWords(words []string) []dlvWord {
	if len(words) == 0 {
		return commandNames()
	}
	for _, c := range dlvCommands() {
		if isCommand(words[0], c.name) && c.next != nil {
			return c.next(words[1:])
		}
	}
	return nil
}

// isCommand says whether a word is a command's name or alias.
func isCommand(word, name string) bool {
	return slices.ContainsFunc(dlvCommands(), func(c dlvCommand) bool {
		return c.name == name && (word == name || c.alias != "" && word == c.alias)
	})
}

// matchesWord says whether a name is one that the user may have begun to type.
func matchesWord(name, word string) bool {
	return len(name) >= len(word) && strings.EqualFold(name[:len(word)], word)
}
