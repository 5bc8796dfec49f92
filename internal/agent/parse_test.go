package agent

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/kubedelve/kubedelve/internal/agentapi"
)

func TestParseStat(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want       stat
		ok         bool
	}{
		{"a process", "12 (cat) R 3 12 11 0\n", stat{12, 'R', 3, 11}, true},
		{"a zombie", "12 (cat) Z 1 12 12 0", stat{12, 'Z', 1, 12}, true},
		{"a name with everything", "12 (a) Z 1 (b\n) S 7 1 5", stat{12, 'S', 7, 5}, true},
		{"an empty name", "12 () S 7 6 5", stat{12, 'S', 7, 5}, true},
		{"a kernel thread", "2 (kthreadd) S 0 0 0", stat{2, 'S', 0, 0}, true},
		{"nothing", "", stat{}, false},
		{"no name", "12 S 7 6 5", stat{}, false},
		{"no PID", " (x) S 7 6 5", stat{}, false},
		{"a PID that is none", "x (x) S 7 6 5", stat{}, false},
		{"a negative PID", "-1 (x) S 7 6 5", stat{}, false},
		{"no parent", "12 (x) S", stat{}, false},
		{"no session", "12 (x) S 1 1", stat{}, false},
		{"a session that is none", "12 (x) S 1 1 x", stat{}, false},
		{"a parent that is none", "12 (x) S x 6 5", stat{}, false},
		{"a state that is none", "12 (x) SS 1 6 5", stat{}, false},
		{"parentheses the wrong way round", "12 )x( S 1 6 5", stat{}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got, ok := parseStat([]byte(test.text)); got != test.want || ok != test.ok {
				t.Errorf("got %+v, %v; want %+v, %v", got, ok, test.want, test.ok)
			}
		})
	}
	self, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := parseStat(self); !ok || got.pid != os.Getpid() || got.parent != os.Getppid() || got.zombie() {
		t.Errorf("of this process: %+v, %v", got, ok)
	}
}

func FuzzParseStat(f *testing.F) {
	for _, seed := range []string{"12 (cat) R 3 12 12", "1 (a) b) Z 0 0 0", "", "()", ")(", "9999999999999999999 (x) S 1", "1 (\x00) S 1"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s, ok := parseStat(text)
		if ok && (s.pid <= 0 || s.parent < 0 || s.session < 0) || !ok && s != (stat{}) {
			t.Errorf("parseStat(%q) = %+v, %v", text, s, ok)
		}
	})
}

const tcpTable = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0100007F:0050 0100007F:A001 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100 0 0 10 0
   2: 00000000000000000000000000000000:01BB 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 3
`

func TestListens(t *testing.T) {
	for _, test := range []struct {
		name  string
		ports []int
		want  bool
	}{
		{"a port", []int{8080}, true},
		{"one of several", []int{1, 8080}, true},
		{"IPv6", []int{443}, true},
		{"connected, not listening", []int{80}, false},
		{"the other side's", []int{0xA001}, false},
		{"another", []int{8081}, false},
		{"none", nil, false},
		{"beyond 16 bits", []int{8080 + 1<<16}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := listens(strings.NewReader(tcpTable), test.ports); got != test.want {
				t.Errorf("listens(%v) = %v; want %v", test.ports, got, test.want)
			}
		})
	}
}

func FuzzListens(f *testing.F) {
	f.Add([]byte(tcpTable), 8080)
	f.Add([]byte("a b:zz c 0A"), 0)
	f.Add([]byte(": : : 0A\n"), 1)
	f.Fuzz(func(t *testing.T, table []byte, port int) {
		if listens(strings.NewReader(string(table)), []int{port}) && (port < 0 || port > 0xffff) {
			t.Errorf("port %d is listened on in %q", port, table)
		}
	})
}

func TestEnvironment(t *testing.T) {
	for _, test := range []struct{ name, base, changes, want string }{ // words with spaces between
		{"nothing", "", "", ""},
		{"no change", "A=1 B=2", "", "A=1 B=2"},
		{"set a new one", "A=1", "B=2", "A=1 B=2"},
		{"replace", "A=1 B=2", "A=3", "B=2 A=3"},
		{"take away", "A=1 B=2", "A", "B=2"},
		{"empty is not away", "A=1", "A=", "A="},
		{"a value with an equals sign", "", "A=b=c", "A=b=c"},
		{"a name that begins another", "AB=1", "A=2", "AB=1 A=2"},
		{"the last counts", "", "A=1 A=2", "A=2"},
		{"set and away", "", "A=1 A", ""},
		{"one that is twice in the base", "A=1 A=2", "A=3", "A=3"},
	} {
		t.Run(test.name, func(t *testing.T) {
			base := strings.Fields(test.base)
			before := slices.Clone(base)
			if got := environment(base, strings.Fields(test.changes)); !slices.Equal(got, strings.Fields(test.want)) {
				t.Errorf("got %q; want %q", got, test.want)
			}
			if !slices.Equal(base, before) {
				t.Errorf("the base was changed to %q", base)
			}
		})
	}
}

func TestPathsOfBinaries(t *testing.T) {
	sum := strings.Repeat("0f", 32)
	for _, test := range []struct {
		name string
		file agentapi.File
		want string // empty: refused
	}{
		{"a binary", agentapi.File{SHA256: sum, Size: 1, Name: "app"}, "/d/bin/" + sum + "/app"},
		{"a name with dots", agentapi.File{SHA256: sum, Size: 1, Name: "..app.."}, "/d/bin/" + sum + "/..app.."},
		{"no name", agentapi.File{SHA256: sum, Size: 1}, ""},
		{"the folder itself", agentapi.File{SHA256: sum, Size: 1, Name: "."}, ""},
		{"the folder above", agentapi.File{SHA256: sum, Size: 1, Name: ".."}, ""},
		{"a path", agentapi.File{SHA256: sum, Size: 1, Name: "a/b"}, ""},
		{"a path upwards", agentapi.File{SHA256: sum, Size: 1, Name: "../../etc/x"}, ""},
		{"an absolute path", agentapi.File{SHA256: sum, Size: 1, Name: "/app"}, ""},
		{"a NUL", agentapi.File{SHA256: sum, Size: 1, Name: "a\x00b"}, ""},
		{"too long a name", agentapi.File{SHA256: sum, Size: 1, Name: strings.Repeat("a", 256)}, ""},
		{"a short hash", agentapi.File{SHA256: "0f", Size: 1, Name: "app"}, ""},
		{"a hash in capitals", agentapi.File{SHA256: strings.ToUpper(sum), Size: 1, Name: "app"}, ""},
		{"a hash that is a path", agentapi.File{SHA256: "../" + sum[3:], Size: 1, Name: "app"}, ""},
		{"a hash and a line", agentapi.File{SHA256: sum + "\n", Size: 1, Name: "app"}, ""},
		{"no size", agentapi.File{SHA256: sum, Name: "app"}, ""},
		{"a negative size", agentapi.File{SHA256: sum, Size: -1, Name: "app"}, ""},
		{"too large", agentapi.File{SHA256: sum, Size: maxBinary + 1, Name: "app"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := layout("/d").path(test.file)
			if got != test.want || (err == nil) != (test.want != "") {
				t.Errorf("got %q, %v; want %q", got, err, test.want)
			}
		})
	}
}

func TestExitOf(t *testing.T) {
	for _, test := range []struct {
		status int
		want   agentapi.Exit
		shell  int
	}{
		{0, agentapi.Exit{}, 0},
		{3, agentapi.Exit{Code: 3}, 3},
		{-15, agentapi.Exit{Code: -1, Signal: 15, Reason: "ended by signal 15 (terminated)"}, 143},
	} {
		got := exitOf(test.status)
		if got != test.want || got.Status() != test.shell {
			t.Errorf("exitOf(%d) = %+v, status %d; want %+v, %d", test.status, got, got.Status(), test.want, test.shell)
		}
	}
}
