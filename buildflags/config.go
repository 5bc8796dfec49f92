package buildflags

// A Config says what to build, as the `build` object of a launch configuration
// does. The zero value builds the package in the current directory for this
// machine, as `go build` does there.
type Config struct {
	// Dir is where the go command runs. Default: the current directory.
	// If Program is a directory of another module, outside the workspace (go.work)
	// that Dir is in, the go command runs in that directory instead.
	Dir string `json:"dir,omitempty"`

	// Program is the main package: a directory (./cmd/x, cmd/x or absolute), an
	// import path, or one or more .go files separated by spaces. One file stands
	// for the package in its directory if it belongs to that, else for itself.
	// Default: ".".
	Program string `json:"program,omitempty"`

	// Platform is what the program is going to run on, as in "linux/arm64".
	// Default: what GOOS and GOARCH say, that is this machine as a rule.
	Platform Platform `json:"platform,omitzero"`

	// Tags are the build tags, in addition to none: as with `go build -tags`,
	// they take the place of those in GOFLAGS.
	Tags []string `json:"tags,omitempty"`

	// LDFlags is the value of -ldflags, as in "-X main.version=v1 -s -w".
	LDFlags string `json:"ldflags,omitempty"`

	// Flags are further flags of `go build`, each "-name" or "-name=value".
	// -C, -n and -o are refused: Dir and Output say these.
	Flags []string `json:"flags,omitempty"`

	// Env is added to the environment of the go command.
	Env map[string]string `json:"env,omitempty"`

	// CGO is "on", "off" or "auto". Default: "auto", which is what CGO_ENABLED
	// says if it is set, and else on only if a package outside the standard
	// library needs it, so that the binary starts in images without a libc.
	CGO string `json:"cgo,omitempty" enum:"on off auto"`

	// Trimpath builds with -trimpath. The source paths in the binary then need
	// Binary.Sources. Default: false, also if GOFLAGS or Flags have -trimpath.
	Trimpath bool `json:"trimpath,omitempty"`

	// Go is the go command. Default: "go" in PATH, then in the places where Go's
	// installers put it (an editor that was not started from a shell often has a
	// PATH without Go).
	Go string `json:"go,omitempty"`

	// Output is the file, or an existing directory, that the binary is copied to.
	// Default: a file in the user's cache directory, which the next build of the
	// same configuration replaces.
	Output string `json:"output,omitempty"`
}
