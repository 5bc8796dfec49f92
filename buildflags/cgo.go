package buildflags

import (
	"fmt"
	"strings"
)

// decideCgo returns the value of CGO_ENABLED to build with, and one sentence
// that says why, or "" if there is nothing to say. pkgs are the program and what
// it imports if cgo were on.
//
// The rule for "auto": a program whose only use of cgo is that of net and
// os/user is built without, since it then starts in images that have no libc
// (scratch, distroless/static) or another one (Alpine); Go has both versions of
// these packages. A package of the program's own that uses cgo may be nothing
// without it, so then cgo stays on.
func decideCgo(cfg *Config, g *goCommand, env *goEnv, target Platform, flags *goFlags, pkgs []*goPackage) (enabled, note string, err error) {
	set, host := g.getenv("CGO_ENABLED"), Platform{env.GOHOSTOS, env.GOHOSTARCH}
	cc, ccErr := splitQuoted(env.CC)
	if ccErr == nil && len(cc) > 0 {
		_, ccErr = g.lookPath(cc[0])
	}
	users := cgoUsers(pkgs)
	var why string
	switch {
	case cfg.CGO == "off":
		return "0", "", nil
	case cfg.CGO == "on":
		why = "build.cgo is on"
	case cfg.CGO != "" && cfg.CGO != "auto":
		return "", "", &ConfigError{Attr: "cgo", Message: fmt.Sprintf("%q is none of auto, on and off", cfg.CGO)}
	case set == "0":
		return "0", "cgo is off, as CGO_ENABLED=0 says", nil
	case set == "" && target == host && env.CGO_ENABLED == "0" && ccErr == nil:
		return "0", "cgo is off, as `go env CGO_ENABLED` says", nil
	case set == "1":
		why = "CGO_ENABLED=1 is set"
	case flags.needCgo:
		why = "-race, -msan and -asan need cgo"
	case len(users) == 0:
		if usesCgo(pkgs) {
			note = "cgo is off: only the standard library would use it, and a static binary starts in any image"
		}
		return "0", note, nil
	default:
		why = fmt.Sprintf("%s uses cgo", abridge(users, 3))
	}

	if target != host && g.getenv("CC") == "" {
		return "", "", &ConfigError{Attr: "cgo", Message: fmt.Sprintf("%s, and there is no C compiler for %s on this %s machine", why, target, host),
			Fix: fmt.Sprintf(`set build.cgo to "off", or CC in build.env to a C compiler for %s`, target)}
	}
	if ccErr != nil {
		return "", "", &ConfigError{Attr: "cgo", Message: fmt.Sprintf("%s, and the C compiler %s can't be found", why, env.CC),
			Fix: `install it, set CC in build.env to another, or set build.cgo to "off"`, Err: ccErr}
	}
	return "1", fmt.Sprintf("cgo is on: %s; the binary needs the libc it was linked with", why), nil
}

// cgoUsers returns the import paths of the packages outside the standard library
// that use cgo, and "plugin", which does nothing without it.
func cgoUsers(pkgs []*goPackage) []string {
	var users []string
	for _, p := range pkgs {
		if !p.Standard && len(p.CgoFiles) > 0 || p.ImportPath == "plugin" {
			users = append(users, p.ImportPath)
		}
	}
	return users
}

func usesCgo(pkgs []*goPackage) bool {
	for _, p := range pkgs {
		if len(p.CgoFiles) > 0 && p.ImportPath != "runtime/cgo" {
			return true
		}
	}
	return false
}

// abridge joins the first n names and counts the others.
func abridge(names []string, n int) string {
	if len(names) <= n {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:n], ", "), len(names)-n)
}
