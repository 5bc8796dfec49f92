package buildflags

import (
	"fmt"
	"regexp"
)

// A Platform is an operating system and an architecture as Go names them.
// Its text form, also in JSON, is "linux/amd64"; the zero value's is "".
type Platform struct{ OS, Arch string }

// String returns the text form.
func (p Platform) String() string {
	if p == (Platform{}) {
		return ""
	}
	return p.OS + "/" + p.Arch
}

var platformForm = regexp.MustCompile(`^([a-z0-9]+)/([a-z0-9]+)$`)

// ParsePlatform reads the text form, as in "linux/arm64". A third part, the
// variant that container registries write ("linux/arm64/v8"), is not accepted:
// Go says that with GOARM64, GOAMD64 and so on.
func ParsePlatform(s string) (Platform, error) {
	m := platformForm.FindStringSubmatch(s)
	if m == nil {
		return Platform{}, fmt.Errorf("platform %q is not of the form OS/ARCH, as in linux/amd64", s)
	}
	return Platform{OS: m[1], Arch: m[2]}, nil
}

// MarshalText implements encoding.TextMarshaler.
func (p Platform) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; empty text is the zero value.
func (p *Platform) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*p = Platform{}
		return nil
	}
	q, err := ParsePlatform(string(text))
	if err == nil {
		*p = q
	}
	return err
}
