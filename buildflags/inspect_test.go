package buildflags

import "testing"

func TestGoVersionsThatDelveKnows(t *testing.T) {
	tests := []struct {
		version string
		want    string // ID of the problem
	}{
		{"go1.24.9", ProblemGoTooOld},
		{"go1.25", ""},
		{"go1.25rc1", ""},
		{"go1.26.8", ""},
		{"go1.27.1 X:nodwarf5", ""},
		{"go1.28rc1", ProblemGoTooNew},
		{"devel go1.29-abcdef", ""},
		{"", ""},
	}
	for _, tt := range tests {
		t.Run(tt.version, func(t *testing.T) {
			p, ok := checkGoVersion(tt.version)
			if p.ID != tt.want || ok != (tt.want == "") {
				t.Errorf("checkGoVersion(%q) = %+v, %t, want ID %q", tt.version, p, ok, tt.want)
			}
		})
	}
}
