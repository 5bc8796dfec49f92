package buildflags

import (
	"fmt"
	"slices"
	"strings"
)

// goFlags are flags of `go build`, sorted by what is done with them.
type goFlags struct {
	keep    []string // passed on as they are, also to `go list`
	ldflags []string // the values of -ldflags, in order
	gcflags []string // the values of -gcflags, in order

	trimpath bool // -trimpath was among them
	tags     bool // -tags was among them
	needCgo  bool // -race, -msan or -asan was among them
}

// boolFlags are the flags of `go build` that take no value of their own; all
// others take the next argument if they have no "=". (cmd/go: AddBuildFlags.)
var boolFlags = []string{
	"a", "n", "x", "v", "i", "json", "race", "msan", "asan", "cover", "work", "trimpath",
	"modcacherw", "linkshared", "buildvcs",
}

// parseFlags sorts flags. Those that would keep Build from working are an error
// if they come from the configuration, which is what refuse says, and left out
// if they come from GOFLAGS, where they are meant for other occasions.
func parseFlags(flags []string, refuse bool) (*goFlags, error) {
	f := &goFlags{}
	for i := 0; i < len(flags); i++ {
		arg := flags[i]
		if len(arg) < 2 || arg[0] != '-' {
			return nil, fmt.Errorf("%q is not a flag of go build", arg)
		}
		name, value, hasValue := strings.Cut(strings.TrimPrefix(arg[1:], "-"), "=")
		if !hasValue && !slices.Contains(boolFlags, name) {
			if i++; i == len(flags) {
				return nil, fmt.Errorf("%s has no value", arg)
			}
			value = flags[i] //nolint:gosec // it was just compared with the length
			arg += "=" + value
		}
		on := value != "false" && value != "0"
		switch name {
		case "C", "o", "n":
			if refuse && (name != "n" || on) {
				return nil, fmt.Errorf("-%s can't be used; set build.dir for -C and build.output for -o", name)
			}
			continue
		case "buildmode":
			if !slices.Contains([]string{"default", "exe", "pie"}, value) {
				return nil, fmt.Errorf("-buildmode=%s makes no program that can be started", value)
			}
		case "a", "v", "json", "pgo":
			continue
		case "trimpath":
			f.trimpath = on
			continue
		case "ldflags":
			f.ldflags = append(f.ldflags, value)
			continue
		case "gcflags":
			f.gcflags = append(f.gcflags, value)
			continue
		case "tags":
			f.tags = true
		case "race", "msan", "asan":
			f.needCgo = f.needCgo || on
		}
		f.keep = append(f.keep, arg)
	}
	return f, nil
}

// debugLDFlags returns the -ldflags arguments that do what values would, but
// leave symbols and DWARF in, uncompressed. For each package the last value
// whose pattern matches it counts, so every value is rewritten.
func debugLDFlags(values []string) ([]string, error) {
	const keepPlain = "-compressdwarf=false"
	var args []string
	if len(values) == 0 || !matchesMain(values[0]) {
		args = append(args, "-ldflags="+keepPlain)
	}
	for _, value := range values {
		pattern, flags, err := splitPerPackage(value)
		if err != nil {
			return nil, err
		}
		// First, so that the user's own wins, and since a value must not begin with a quote.
		arg, err := joinPerPackage(pattern, append([]string{keepPlain}, dropStripping(flags)...))
		if err != nil {
			return nil, err
		}
		args = append(args, "-ldflags="+arg)
	}
	return args, nil
}

// debugGCFlags returns the -gcflags arguments that do what values would, but
// turn optimisation and inlining off in every package.
func debugGCFlags(values []string) ([]string, error) {
	args := []string{"-gcflags=all=-N -l"}
	for _, value := range values {
		pattern, flags, err := splitPerPackage(value)
		if err != nil {
			return nil, err
		}
		flags = slices.DeleteFunc(flags, func(s string) bool {
			name, _, _ := strings.Cut(strings.TrimLeft(s, "-"), "=")
			return name == "N" || name == "l"
		})
		arg, err := joinPerPackage(pattern, append([]string{"-N", "-l"}, flags...))
		if err != nil {
			return nil, err
		}
		args = append(args, "-gcflags="+arg)
	}
	return args, nil
}

// linkerValueFlags are the flags of `go tool link` that take the next argument,
// if they have no "=": what follows them is not a flag.
var linkerValueFlags = []string{
	"B", "D", "E", "H", "I", "L", "R", "T", "X", "benchmark", "benchmarkprofile", "buildid",
	"buildmode", "capturehostobjs", "cpuprofile", "debugtextsize", "debugtramp", "extar", "extld", "extldflags", "fipso", "funcalign", "importcfg",
	"installsuffix", "k", "libgcc", "linkmode", "macos", "macsdk", "memprofile", "memprofilerate", "o",
	"pluginpath", "r", "randlayout", "strictdups", "tmpdir",
}

// dropStripping leaves -s and -w out of the linker's flags, and out of
// -extldflags what makes a C linker strip.
func dropStripping(flags []string) []string {
	var kept []string
	for i := 0; i < len(flags); i++ {
		arg := flags[i]
		if !strings.HasPrefix(arg, "-") {
			kept = append(kept, arg)
			continue
		}
		name, value, hasValue := strings.Cut(strings.TrimPrefix(arg[1:], "-"), "=")
		if name == "s" || name == "w" {
			continue
		}
		if !hasValue && slices.Contains(linkerValueFlags, name) && i+1 < len(flags) {
			i++
			value = flags[i]
			kept = append(kept, arg)
			arg = ""
		}
		if name == "extldflags" {
			value = dropExternalStripping(value)
		}
		switch {
		case arg == "":
			kept = append(kept, value)
		case hasValue:
			kept = append(kept, "-"+name+"="+value)
		default:
			kept = append(kept, arg)
		}
	}
	return kept
}

func dropExternalStripping(extldflags string) string {
	flags, err := splitQuoted(extldflags)
	if err != nil {
		return extldflags // the linker is going to say what is wrong with it
	}
	strips := []string{"-s", "-S", "-Wl,-s", "-Wl,-S", "-Wl,--strip-all", "-Wl,--strip-debug"}
	kept := slices.DeleteFunc(slices.Clone(flags), func(s string) bool { return slices.Contains(strips, s) })
	if len(kept) == len(flags) {
		return extldflags
	}
	s, err := joinQuoted(kept)
	if err != nil {
		return extldflags
	}
	return s
}

// matchesMain reports whether a -ldflags or -gcflags value surely applies to the
// package named on the command line.
func matchesMain(value string) bool {
	pattern, _, err := splitPerPackage(value)
	return err == nil && (pattern == "" || pattern == "all")
}

// splitPerPackage splits "pattern=flags" or "flags" as cmd/go's PerPackageFlag does.
func splitPerPackage(value string) (pattern string, flags []string, err error) {
	value = strings.TrimSpace(value)
	if value != "" && value[0] != '-' {
		var ok bool
		pattern, value, ok = strings.Cut(value, "=")
		pattern = strings.TrimSpace(pattern)
		if !ok || pattern == "" || strings.ContainsAny(pattern, `'"`) {
			return "", nil, fmt.Errorf("%q is neither flags nor of the form pattern=flags", pattern)
		}
	}
	flags, err = splitQuoted(value)
	return pattern, flags, err
}

func joinPerPackage(pattern string, flags []string) (string, error) {
	s, err := joinQuoted(flags)
	if err != nil || pattern == "" {
		return s, err
	}
	return pattern + "=" + s, nil
}

// splitQuoted splits at spaces; an element may be inside ” or "" as a whole,
// and there is no other quoting. (cmd/internal/quoted: GOFLAGS, -ldflags, CC.)
func splitQuoted(s string) ([]string, error) {
	const spaces = " \t\n\r"
	var f []string
	for {
		s = strings.TrimLeft(s, spaces)
		if s == "" {
			return f, nil
		}
		if q := s[0]; q == '\'' || q == '"' {
			i := strings.IndexByte(s[1:], q)
			if i < 0 {
				return nil, fmt.Errorf("unterminated %c in %q", q, s)
			}
			f = append(f, s[1:1+i])
			s = s[i+2:]
			continue
		}
		i := strings.IndexAny(s, spaces)
		if i < 0 {
			i = len(s)
		}
		f = append(f, s[:i])
		s = s[i:]
	}
}

// joinQuoted is the reverse of splitQuoted; an element that has both quotes can't be written.
func joinQuoted(elems []string) (string, error) {
	out := make([]string, len(elems))
	for i, e := range elems {
		quote := ""
		switch {
		case e != "" && !strings.ContainsAny(e, " \t\n\r'\""):
		case !strings.Contains(e, "'"):
			quote = "'"
		case !strings.Contains(e, `"`):
			quote = `"`
		default:
			return "", fmt.Errorf("%q has both kinds of quotes, which Go can't read", e)
		}
		out[i] = quote + e + quote
	}
	return strings.Join(out, " "), nil
}
