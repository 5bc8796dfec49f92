package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-dap"
)

// askEvery is how often the editor asks for threads in the flood.
const askEvery = 50 * time.Millisecond

// output runs a component that floods both its streams, under the whole of
// kubedelve on this machine, and checks what arrives.
func (b *bench) output(ctx context.Context) (err error) {
	for name, pkg := range map[string]string{"kubedelve": "./cmd/kubedelve", "kubedelve-agent": "./cmd/kubedelve-agent"} {
		if err := b.goBuild(ctx, name, pkg, "-ldflags=-s -w"); err != nil {
			return err
		}
	}
	adapter, err := beginAdapter(ctx, b.path("kubedelve"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, adapter.end()) }()
	f, err := adapter.flood(b.megabytes)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(b.out, "\nOutput on this machine, %d MB on two streams, each complete and in order:\n", b.megabytes)
	_, _ = fmt.Fprintf(b.out, "  %.0f MB/s; %d events; threads asked %d times meanwhile: p50 %s ms, p99 %s ms, worst %s ms\n", float64(f.bytes)/1e6/f.took.Seconds(), f.events,
		len(f.answers), ms(f.answers.percentile(50)), ms(f.answers.percentile(99)), ms(f.answers.percentile(100)))
	_, _ = fmt.Fprintf(b.out, "  peak memory and processor time: %s; the editor: %.1f s\n", strings.Join(f.usage, "; "), ownTime().Seconds())
	return nil
}

// ownTime is the processor time of this process.
func ownTime() time.Duration {
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// adapter is a "kubedelve dap" on pipes.
type adapter struct {
	*client
	cmd *exec.Cmd
}

// pipes are a process's standard input and output as a connection.
type pipes struct{ in, out *os.File }

func (p pipes) Read(b []byte) (int, error)  { return p.out.Read(b) }
func (p pipes) Write(b []byte) (int, error) { return p.in.Write(b) }
func (p pipes) Close() error                { return errors.Join(p.in.Close(), p.out.Close()) }
func (p pipes) SetDeadline(t time.Time) error {
	return errors.Join(p.in.SetDeadline(t), p.out.SetDeadline(t))
}

func beginAdapter(ctx context.Context, kubedelve string) (*adapter, error) {
	theirIn, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	out, theirOut, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, theirIn.Close(), in.Close())
	}
	cmd := exec.Command(kubedelve, "dap")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirIn, theirOut, os.Stderr
	cmd.Dir = root()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for this program
	err = cmd.Start()
	err = errors.Join(err, theirIn.Close(), theirOut.Close())
	a := &adapter{newClient(pipes{in, out}), cmd}
	if err != nil {
		return nil, errors.Join(err, a.conn.Close())
	}
	context.AfterFunc(ctx, func() { _ = a.conn.Close() })
	return a, nil
}

// end hangs up, and waits until the adapter has ended its session.
func (a *adapter) end() error {
	_ = a.conn.Close()
	if err := a.cmd.Wait(); err != nil {
		return fmt.Errorf("kubedelve dap: %w", err)
	}
	return nil
}

// flooded is what came of a flood.
type flooded struct {
	bytes, events int
	took          time.Duration // from the first byte to the last
	answers       samples       // to threads
	usage         []string
}

// flood launches the component and reads its output to the end.
func (a *adapter) flood(megabytes int) (*flooded, error) {
	if err := a.call("initialize", dap.InitializeRequestArguments{ClientID: "bench", AdapterID: "kubedelve", PathFormat: "path", LinesStartAt1: true, ColumnsStartAt1: true}, nil); err != nil {
		return nil, err
	}
	launch := map[string]any{"target": "local", "program": "./internal/bench/testdata/flood", "args": []string{strconv.Itoa(megabytes)}}
	if err := a.call("launch", launch, nil); err != nil {
		return nil, err
	}
	if err := a.send("configurationDone", struct{}{}); err != nil {
		return nil, err
	}
	f := &flooded{}
	streams := map[string]*lines{"stdout": {}, "stderr": {}}
	var began, asked time.Time
	asking := 0 // the number of the request that is not answered
	for !streams["stdout"].ended || !streams["stderr"].ended {
		if f.bytes > 0 && asking == 0 && time.Since(asked) > askEvery {
			asked = time.Now()
			if err := a.send("threads", struct{}{}); err != nil {
				return nil, err
			}
			asking = a.seq
		}
		_ = a.conn.SetDeadline(time.Now().Add(patience))
		raw, err := a.next()
		if err != nil {
			return nil, fmt.Errorf("in the flood, after %d bytes: %w", f.bytes, err)
		}
		if category, text, ok := outputOf(raw); ok {
			if f.bytes == 0 {
				began = time.Now()
			}
			f.events++
			n, err := streams[category].add(text)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", category, err)
			}
			f.bytes += n
			continue
		}
		var m struct {
			RequestSeq int `json:"request_seq"`
		}
		if err := json.Unmarshal(raw, &m); err != nil {
			return nil, err
		}
		if asking != 0 && m.RequestSeq == asking {
			f.answers = append(f.answers, time.Since(asked))
			asking = 0
		}
	}
	f.took = time.Since(began)
	f.usage = usageOf(a.cmd.Process.Pid)
	return f, nil
}

// outputOf finds the text of an output event of the component's, as it is in JSON:
// to decode it would take longer than all that is measured.
func outputOf(raw []byte) (category string, text []byte, ok bool) {
	_, body, isOutput := bytes.Cut(raw[:min(len(raw), 200)], []byte(`"event":"output","body":{"category":"`))
	name, _, found := bytes.Cut(body, []byte(`"`))
	if !isOutput || !found || string(name) != "stdout" && string(name) != "stderr" {
		return "", nil, false
	}
	_, text, found = bytes.Cut(raw, []byte(`"output":"`))
	for end := 0; found; end++ {
		next := bytes.IndexByte(text[end:], '"')
		if next < 0 {
			return "", nil, false
		}
		if end += next; end == 0 || text[end-1] != '\\' {
			return string(name), text[:end], true
		}
	}
	return "", nil, false
}

// lines checks what flood writes to one stream.
type lines struct {
	rest  []byte // of a line
	next  int
	ended bool
}

// lineText is what follows the number of a line, in the program and in JSON.
const (
	lineText = " \x1b[32mGET\x1b[0m /path?query=value \"a line of output, ä€\" 200 in 4711 us\n"
	lineJSON = ` \u001b[32mGET\u001b[0m /path?query=value \"a line of output, ä€\" 200 in 4711 us`
)

// add takes the next piece of the stream, and returns how many bytes the component
// has written for the lines that are complete.
func (l *lines) add(text []byte) (written int, err error) {
	if len(l.rest) > 0 {
		text = append(l.rest, text...)
	}
	for {
		line, rest, found := bytes.Cut(text, []byte(`\n`))
		switch number, isLine := bytes.CutSuffix(line, []byte(lineJSON)); {
		case !found:
			l.rest = append([]byte(nil), text...)
			return written, nil
		case l.ended:
			return written, fmt.Errorf("%.100q after the end", line)
		case isLine && string(number) == strconv.Itoa(l.next):
			l.next++
			written += len(number) + len(lineText)
		case string(line) == "end":
			l.ended = true
		default:
			return written, fmt.Errorf("line %d is %.100q", l.next, line)
		}
		text = rest
	}
}

// usageOf lists what a process and all below it have used: the peak of resident
// memory and processor time, until now.
func usageOf(pid int) []string {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	kB := 0
	for line := range bytes.Lines(status) {
		if value, ok := bytes.CutPrefix(line, []byte("VmHWM:")); ok {
			_, _ = fmt.Sscan(string(value), &kB)
		}
	}
	args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	words := strings.SplitN(string(args), "\x00", 3)
	name := filepath.Base(words[0])
	if len(words) > 1 {
		name += " " + words[1]
	}
	// utime and stime are the 12th and 13th after the name in parentheses (proc(5)),
	// in hundredths of a second.
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, after, _ := bytes.Cut(stat, []byte(") "))
	ticks := 0
	if fields := strings.Fields(string(after)); len(fields) > 12 {
		user, _ := strconv.Atoi(fields[11])
		system, _ := strconv.Atoi(fields[12])
		ticks = user + system
	}
	all := []string{fmt.Sprintf("%s: %.0f MB, %.1f s", name, float64(kB)/1024, float64(ticks)/100)}
	children, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, path := range children {
		list, _ := os.ReadFile(path)
		for child := range strings.FieldsSeq(string(list)) {
			if n, err := strconv.Atoi(child); err == nil {
				all = append(all, usageOf(n)...)
			}
		}
	}
	return all
}
