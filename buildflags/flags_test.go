package buildflags

import (
	"slices"
	"strings"
	"testing"
)

func TestDebugLDFlagsKeepAllButStripping(t *testing.T) {
	tests := []struct {
		name   string
		values []string
		want   []string
	}{
		{"none", nil, []string{"-ldflags=-compressdwarf=false"}},
		{"stripping only", []string{"-s -w"}, []string{"-ldflags=-compressdwarf=false"}},
		{"stamp", []string{"-s -w -X main.v=1"}, []string{"-ldflags=-compressdwarf=false -X main.v=1"}},
		{"behind all=", []string{"all=-s -w -X 'main.v=a b'"}, []string{"-ldflags=all=-compressdwarf=false -X 'main.v=a b'"}},
		{"two dashes and values", []string{"--s=true -w=1 -s=false"}, []string{"-ldflags=-compressdwarf=false"}},
		{"stamp that looks like a flag", []string{"-X -s -s"}, []string{"-ldflags=-compressdwarf=false -X -s"}},
		{"last one counts", []string{"-X a.b=1 -s", "-X a.b=2"}, []string{"-ldflags=-compressdwarf=false -X a.b=1", "-ldflags=-compressdwarf=false -X a.b=2"}},
		{"for another package", []string{"example.com/x=-s"}, []string{"-ldflags=-compressdwarf=false", "-ldflags=example.com/x=-compressdwarf=false"}},
		{"external linker strips", []string{`-linkmode external -extldflags "-static -Wl,-s"`}, []string{`-ldflags=-compressdwarf=false -linkmode external -extldflags -static`}},
		{"external linker, with =", []string{`-s '-extldflags=-static -s'`}, []string{`-ldflags=-compressdwarf=false -extldflags=-static`}},
		{"external linker untouched", []string{`-s '-extldflags=-static  -lm'`}, []string{`-ldflags=-compressdwarf=false '-extldflags=-static  -lm'`}},
		{"compression wanted", []string{"-compressdwarf=true"}, []string{"-ldflags=-compressdwarf=false -compressdwarf=true"}},
		{"value at the end is missing", []string{"-X"}, []string{"-ldflags=-compressdwarf=false -X"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := debugLDFlags(tt.values)
			if err != nil || !slices.Equal(got, tt.want) {
				t.Errorf("debugLDFlags(%q) = %q, %v, want %q", tt.values, got, err, tt.want)
			}
		})
	}
}

func TestDebugLDFlagsRefuseWhatGoCannotRead(t *testing.T) {
	for _, value := range []string{"-X 'a=b", "main -s", "=-s", "'all'=-s"} {
		if got, err := debugLDFlags([]string{value}); err == nil {
			t.Errorf("debugLDFlags(%q) = %q, want an error", value, got)
		}
	}
}

func TestDebugGCFlagsTurnOptimisationOffEverywhere(t *testing.T) {
	tests := []struct {
		name   string
		values []string
		want   []string
	}{
		{"none", nil, []string{"-gcflags=all=-N -l"}},
		{"empty would re-optimise main", []string{""}, []string{"-gcflags=all=-N -l", "-gcflags=-N -l"}},
		{"others stay", []string{"-d=checkptr -l=4"}, []string{"-gcflags=all=-N -l", "-gcflags=-N -l -d=checkptr"}},
		{"pattern", []string{"./...=-e -N"}, []string{"-gcflags=all=-N -l", "-gcflags=./...=-N -l -e"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := debugGCFlags(tt.values)
			if err != nil || !slices.Equal(got, tt.want) {
				t.Errorf("debugGCFlags(%q) = %q, %v, want %q", tt.values, got, err, tt.want)
			}
		})
	}
}

func TestParseFlagsSortsThem(t *testing.T) {
	f, err := parseFlags([]string{"-trimpath", "-mod", "vendor", "-a", "--race", "-ldflags=-s", "-tags=a,b", "-pgo=x", "-gcflags", "-e", "-buildvcs=false", "-v"}, true)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"-mod=vendor", "--race", "-tags=a,b", "-buildvcs=false"}; !slices.Equal(f.keep, want) {
		t.Errorf("kept %q, want %q", f.keep, want)
	}
	if !f.trimpath || !f.tags || !f.needCgo || !slices.Equal(f.ldflags, []string{"-s"}) || !slices.Equal(f.gcflags, []string{"-e"}) {
		t.Errorf("got %+v, want trimpath, tags, needCgo, -ldflags=-s, -gcflags=-e", f)
	}
}

func TestParseFlagsRefusesWhatBuildCannotDo(t *testing.T) {
	tests := []struct {
		flags []string
		want  string // in the error
	}{
		{[]string{"-o=x"}, "build.output"},
		{[]string{"-C", "x"}, "build.dir"},
		{[]string{"-n"}, "-n can't"},
		{[]string{"./cmd/x"}, "not a flag"},
		{[]string{"-tags"}, "no value"},
		{[]string{"-buildmode=c-shared"}, "no program"},
		{[]string{""}, "not a flag"},
	}
	for _, tt := range tests {
		if _, err := parseFlags(tt.flags, true); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("parseFlags(%q) = %v, want an error with %q", tt.flags, err, tt.want)
		}
	}
	if f, err := parseFlags([]string{"-o=x", "-n"}, false); err != nil || len(f.keep) > 0 {
		t.Errorf("from GOFLAGS: %+v, %v, want them left out", f, err)
	}
}

func FuzzQuotedRoundTrip(f *testing.F) {
	for _, s := range []string{"", "a b", `'a b' "c'd"`, `-X 'a=b c'`, "\ta\n", "''"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		elems, err := splitQuoted(s)
		if err != nil {
			return
		}
		joined, err := joinQuoted(elems)
		if err != nil {
			return
		}
		again, err := splitQuoted(joined)
		if err != nil || !slices.Equal(again, elems) {
			t.Errorf("%q was %q, joined %q, then %q, %v", s, elems, joined, again, err)
		}
	})
}
