package dapserver

import "strings"

// pathRules turn local paths into those in the binary, and back, exactly as Delve
// does with its substitutePath (pkg/locspec.SubstitutePath): what is offered here
// is then set there.
type pathRules []PathRule

// toBinary returns what a local path is called in the binary.
func (rules pathRules) toBinary(path string) string {
	return rules.substitute(path, func(r PathRule) (string, string) { return r.From, r.To })
}

// toLocal returns the local path of what is called path in the binary.
func (rules pathRules) toLocal(path string) string {
	return rules.substitute(path, func(r PathRule) (string, string) { return r.To, r.From })
}

// substitute applies the first rule that matches. An empty from matches whatever
// is not absolute; every other one matches itself and what is below it.
func (rules pathRules) substitute(path string, direction func(PathRule) (from, to string)) string {
	fold := isWindowsPath(path)
	for _, r := range rules {
		fold = fold || isWindowsPath(r.From) || isWindowsPath(r.To)
	}
	for _, r := range rules {
		from, to := direction(r)
		if path == from {
			return to
		}
		rest := path
		if from == "" {
			if strings.HasPrefix(path, "/") || isWindowsPath(path) {
				continue
			}
		} else {
			where := path
			if fold {
				where, from = strings.ToLower(path), strings.ToLower(from)
			}
			var ok bool
			if rest, ok = strings.CutPrefix(where, from); !ok {
				continue
			}
			if fold {
				path = where // and stays so for the next rule: Delve does that too
			}
			if !endsInSeparator(from) && !beginsWithSeparator(rest) {
				continue
			}
		}
		if to == "" {
			if beginsWithSeparator(rest) {
				rest = rest[1:]
			}
			return rest
		}
		return joinPath(to, rest)
	}
	return path
}

// joinPath puts rest below dir, with the separators that dir has.
func joinPath(dir, rest string) string {
	separator := "/"
	switch slash, backslash := strings.Contains(dir, "/"), strings.Contains(dir, `\`); {
	case slash && !backslash:
		rest = strings.ReplaceAll(rest, `\`, "/")
	case backslash && !slash:
		separator = `\`
		rest = strings.ReplaceAll(rest, "/", `\`)
	}
	switch ends, begins := endsInSeparator(dir), beginsWithSeparator(rest); {
	case ends && begins:
		return dir[:len(dir)-1] + rest
	case ends || begins:
		return dir + rest
	}
	return dir + separator + rest
}

func isWindowsPath(path string) bool {
	return strings.HasPrefix(path, `\\`) ||
		len(path) > 2 && path[1] == ':' && (path[2] == '/' || path[2] == '\\')
}

func endsInSeparator(path string) bool {
	return strings.HasSuffix(path, "/") || strings.HasSuffix(path, `\`)
}

func beginsWithSeparator(path string) bool {
	return strings.HasPrefix(path, "/") || strings.HasPrefix(path, `\`)
}
