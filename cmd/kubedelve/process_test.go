package main

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// envProgram makes this test binary be kubedelve.
const envProgram = "KUBEDELVE_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(envProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// patience is how long a test waits for anything.
const patience = 60 * time.Second

// program is kubedelve as a process, with pipes as an editor makes them.
type program struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdin  *os.File
	stdout *os.File
	stderr said
}

// said is what a process has written so far.
type said struct {
	mu   sync.Mutex // guards all below
	data []byte
	more chan struct{} // closed when there is more
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.data = append(s.data, p...)
	if s.more != nil {
		close(s.more)
		s.more = nil
	}
	return len(p), nil
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.data)
}

// await returns what follows the words in their line, when that is complete.
func (s *said) await(t *testing.T, words string) string {
	t.Helper()
	limit := time.After(patience)
	for {
		s.mu.Lock()
		if s.more == nil {
			s.more = make(chan struct{})
		}
		text, more := string(s.data), s.more
		s.mu.Unlock()
		_, after, found := strings.Cut(text, words)
		if line, _, complete := strings.Cut(after, "\n"); found && complete {
			return line
		}
		select {
		case <-more:
		case <-limit:
			t.Fatalf("%q is not among what it says: %s", words, text)
		}
	}
}

func beginProgram(t *testing.T, args ...string) *program {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &program{t: t, cmd: exec.Command(exe, args...)}
	theirStdin, stdin, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, theirStdout, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdin, p.stdout = stdin, stdout
	p.cmd.Env = append(os.Environ(), envProgram+"=1", "KUBECONFIG="+filepath.Join(t.TempDir(), "none"), "HOME="+t.TempDir())
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = theirStdin, theirStdout, &p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirStdin.Close()
	theirStdout.Close()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		stdin.Close()
		stdout.Close()
	})
	for _, f := range []*os.File{stdin, stdout} {
		if err := f.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// ended waits for the process to end by itself with the code.
func (p *program) ended(code int) {
	p.t.Helper()
	done := make(chan error, 1)
	go func() { done <- p.cmd.Wait() }() // ends with the process
	select {
	case err := <-done:
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			p.t.Fatal(err)
		}
	case <-time.After(patience):
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // with all stacks
		<-done
		p.t.Fatalf("kubedelve does not end:\n%s", &p.stderr)
	}
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		p.t.Errorf("kubedelve ended with %v, want exit code %d: %s", p.cmd.ProcessState, code, &p.stderr)
	}
}

// read reads so many bytes of what the program writes.
func (p *program) read(n int) string {
	p.t.Helper()
	return readFull(p.t, p.stdout, n)
}

func readFull(t *testing.T, r io.Reader, n int) string {
	t.Helper()
	data := make([]byte, n)
	if got, err := io.ReadFull(r, data); err != nil {
		t.Fatalf("got %q, %v; %d bytes should come", data[:got], err, n)
	}
	return string(data)
}

func (p *program) write(data string) {
	p.t.Helper()
	if _, err := io.WriteString(p.stdin, data); err != nil {
		p.t.Fatal(err)
	}
}

// wantEOF checks that nothing but the end comes.
func wantEOF(t *testing.T, who string, r io.Reader) {
	t.Helper()
	if data, err := io.ReadAll(r); err != nil || len(data) > 0 {
		t.Errorf("%s gets %.200q, %v; want the end and nothing before", who, data, err)
	}
}

// peer is what the program relays to: a Delve that the test plays.
func peer(t *testing.T, network string) (address string, accept func() halfCloser) {
	t.Helper()
	at := "127.0.0.1:0"
	if network == "unix" {
		dir, err := os.MkdirTemp("", "dap") // a socket's path must be short
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		at = filepath.Join(dir, "s")
	}
	l, err := net.Listen(network, at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return network + ":" + l.Addr().String(), func() halfCloser {
		t.Helper()
		if d, ok := l.(interface{ SetDeadline(time.Time) error }); ok {
			d.SetDeadline(time.Now().Add(patience))
		}
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(patience))
		half, ok := conn.(halfCloser)
		if !ok {
			t.Fatalf("a %T cannot be half closed", conn)
		}
		return half
	}
}

type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// All bytes pass both ways, also those that are no DAP, with and without the log.
func TestRelayOnStdioChangesNoByte(t *testing.T) {
	for name, args := range map[string][]string{"plain": nil, "logged": {"--log-dap", filepath.Join(t.TempDir(), "log")}} {
		for _, network := range []string{"tcp", "unix"} {
			t.Run(name+" "+network, func(t *testing.T) {
				address, accept := peer(t, network)
				p := beginProgram(t, append([]string{"dap", "--backend", address}, args...)...)
				delve := accept()
				random := rand.NewChaCha8([32]byte{1})
				noise := make([]byte, 5<<20)
				_, _ = random.Read(noise)
				large := frame(`{"seq":7,"x":"` + strings.Repeat("y", 70<<20) + `"}`) // more than any DAP peer takes
				for _, sent := range []string{
					frame(`{"seq":4711, "type":"request","command":"threads" , "new":1.0}`), frame("not JSON"),
					"CONTENT-length: 2\nX: y\n\n{}", large, string(noise),
				} {
					for _, way := range []struct {
						to   io.Writer
						from io.Reader
						name string
					}{{p.stdin, delve, "from the editor"}, {delve, p.stdout, "from Delve"}} {
						var writing sync.WaitGroup
						writing.Go(func() { io.WriteString(way.to, sent) })
						if got := readFull(t, way.from, len(sent)); got != sent {
							t.Fatalf("%s: what came through is not what was sent: %.100q became %.100q", way.name, sent, got)
						}
						writing.Wait()
					}
				}
				p.stdin.Close()
				wantEOF(t, "Delve", delve)
				delve.Close()
				wantEOF(t, "the editor", p.stdout)
				p.ended(exitOK)
			})
		}
	}
}

// Each side hears of the other's end while it can still speak itself.
func TestRelayOnStdioPassesEndsOn(t *testing.T) {
	t.Run("the editor ends first", func(t *testing.T) {
		address, accept := peer(t, "tcp")
		p := beginProgram(t, "dap", "--backend", address)
		delve := accept()
		p.write("last words")
		p.stdin.Close()
		if data, err := io.ReadAll(delve); err != nil || string(data) != "last words" {
			t.Fatalf("Delve got %q, %v", data, err)
		}
		io.WriteString(delve, "an answer")
		if got := p.read(9); got != "an answer" {
			t.Errorf("the editor got %q", got)
		}
		delve.CloseWrite()
		wantEOF(t, "the editor", p.stdout)
		p.ended(exitOK)
	})
	t.Run("Delve ends first", func(t *testing.T) {
		address, accept := peer(t, "tcp")
		p := beginProgram(t, "dap", "--backend", address)
		delve := accept()
		io.WriteString(delve, "last words")
		delve.CloseWrite()
		if data, err := io.ReadAll(p.stdout); err != nil || string(data) != "last words" {
			t.Fatalf("the editor got %q, %v", data, err)
		}
		p.write("an answer")
		if got := readFull(t, delve, 9); got != "an answer" {
			t.Errorf("Delve got %q", got)
		}
		p.stdin.Close()
		wantEOF(t, "Delve", delve)
		p.ended(exitOK)
	})
	t.Run("Delve vanishes", func(t *testing.T) {
		address, accept := peer(t, "tcp")
		p := beginProgram(t, "dap", "--backend", address)
		delve := accept()
		p.write("x")
		readFull(t, delve, 1)
		delve.Close()
		wantEOF(t, "the editor", p.stdout)
		p.stdin.Close()
		p.ended(exitOK)
	})
	t.Run("the editor vanishes", func(t *testing.T) {
		address, accept := peer(t, "tcp")
		p := beginProgram(t, "dap", "--backend", address)
		delve := accept()
		p.stdin.Close()
		p.stdout.Close()
		wantEOF(t, "Delve", delve)
		for { // Delve still speaks; sooner or later there is nobody to speak to
			if _, err := io.WriteString(delve, "anybody there?"); err != nil {
				break
			}
		}
		p.ended(exitError)
	})
}

func TestRelayOnStdioIsInterrupted(t *testing.T) {
	address, accept := peer(t, "tcp")
	p := beginProgram(t, "dap", "--backend", address)
	delve := accept()
	p.write("x")
	readFull(t, delve, 1) // the relay is there
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	wantEOF(t, "Delve", delve)
	wantEOF(t, "the editor", p.stdout)
	p.ended(exitError)
	if got := p.stderr.String(); got != "interrupted\n" {
		t.Errorf("it says %q", got)
	}
}

func TestRelayToNobody(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	missing := filepath.Join(t.TempDir(), "socket")
	for address, want := range map[string]string{
		"tcp:" + l.Addr().String(): "error: --backend tcp:" + l.Addr().String() + ": dial tcp " + l.Addr().String() + ": connect: connection refused; is dlv running there?\n",
		"unix:" + missing:          "error: --backend unix:" + missing + ": dial unix " + missing + ": connect: no such file or directory; is dlv running there?\n",
	} {
		p := beginProgram(t, "dap", "--backend", address)
		wantEOF(t, "the editor", p.stdout)
		p.ended(exitError)
		if got := p.stderr.String(); got != want {
			t.Errorf("it says %q, want %q", got, want)
		}
	}
}

// With --listen each connection has one of its own, and one that fails does not end
// the others.
func TestRelayOfSeveral(t *testing.T) {
	address, accept := peer(t, "tcp")
	p := beginProgram(t, "dap", "--backend", address, "--listen", "127.0.0.1:0")
	listening := p.stderr.await(t, "listening on ")
	var editors, delves []halfCloser
	for range 3 {
		conn, err := net.Dial("tcp", listening)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		editors, delves = append(editors, conn.(*net.TCPConn)), append(delves, accept())
	}
	for i := range editors {
		io.WriteString(editors[i], "request")
		io.WriteString(delves[i], "answer!")
	}
	delves[0].Close()
	wantAll(t, editors[0], "answer!")
	for i := range editors[1:] {
		if got := readFull(t, delves[i+1], 7) + readFull(t, editors[i+1], 7); got != "requestanswer!" {
			t.Errorf("connection %d: got %q", i+1, got)
		}
	}
	editors[1].CloseWrite()
	wantEOF(t, "Delve", delves[1])
	io.WriteString(delves[1], "goodbye")
	delves[1].Close()
	wantAll(t, editors[1], "goodbye")
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	wantEOF(t, "the last editor", editors[2])
	wantEOF(t, "the last Delve", delves[2])
	p.ended(exitOK)
}

func wantAll(t *testing.T, r io.Reader, want string) {
	t.Helper()
	if data, err := io.ReadAll(r); err != nil || string(data) != want {
		t.Errorf("got %q, %v; want %q and the end", data, err, want)
	}
}

// An editor that is gone must not end the process by a signal: the session would be
// left as it is.
func TestAnEditorThatIsGoneEndsTheAdapterInOrder(t *testing.T) {
	p := beginProgram(t, "dap")
	p.stdout.Close()
	p.write(frame(`{"seq":1,"type":"request","command":"initialize","arguments":{"adapterID":"x"}}`))
	p.ended(exitOK)
}
