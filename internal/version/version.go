// Package version tells which kubedelve this is.
package version

import "runtime/debug"

// set by the release build: -ldflags "-X …/internal/version.release=v1.2.3"
var release string

// String returns the release, or for a build from source the module's version
// or commit, or "devel".
func String() string {
	if release != "" {
		return release
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "devel-" + s.Value[:12]
		}
	}
	return "devel"
}
