package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	err := command(ctx, args, stdout, stderr)
	if err == nil {
		return 0
	}
	if errors.Is(err, flag.ErrHelp) {
		return 2
	}
	_, _ = fmt.Fprintf(stderr, "bench: %v\n", err)
	return 1
}

func command(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	switch { // processes of a run
	case len(args) == 2 && (args[0] == "proxy" || args[0] == "kubedelve"):
		return between(ctx, args[0], args[1], stdout)
	case len(args) == 4 && (args[0] == "port-forward" || args[0] == "SPDY"):
		return forward(ctx, args[0], args[1], args[2], args[3], stdout)
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	b := &bench{out: stdout}
	flags.IntVar(&b.runs, "runs", 3, "how often Delve and all else are begun anew")
	flags.IntVar(&b.rounds, "rounds", 300, "how often each request is made on each way in a run, at least")
	flags.DurationVar(&b.atLeast, "time", time.Second, "for how long, at least")
	flags.BoolVar(&b.large, "large", false, "also with a component of the size of a Kubernetes controller (its first build takes a minute)")
	flags.IntVar(&b.megabytes, "output", 500, "how many megabytes of output a component writes")
	flags.StringVar(&b.parts, "parts", "requests,output,pods", "what to measure")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var err error
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "kubedelve-bench"); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(b.dir) }()
	return b.run(ctx)
}

// bench is one run.
type bench struct {
	out     io.Writer
	dir     string // for what is built
	self    string // this program
	runs    int
	rounds  int
	atLeast time.Duration
	large   bool
	parts   string

	megabytes int
}

func (b *bench) run(ctx context.Context) error {
	if err := b.goBuild(ctx, "delve", "./internal/bench/delve"); err != nil {
		return err
	}
	if strings.Contains(b.parts, "requests") {
		for _, component := range b.components() {
			if err := b.relays(ctx, component); err != nil {
				return err
			}
		}
	}
	if strings.Contains(b.parts, "output") {
		if err := b.output(ctx); err != nil {
			return err
		}
	}
	if strings.Contains(b.parts, "pods") {
		return b.cluster(ctx)
	}
	return nil
}

func (b *bench) components() []string {
	if b.large {
		return []string{"small", "large"}
	}
	return []string{"small"}
}

// buildComponent builds one as kubedelve does.
func (b *bench) buildComponent(ctx context.Context, component string) error {
	return b.goBuild(ctx, component, "./internal/bench/testdata/"+component, "-gcflags=all=-N -l", "-ldflags=-compressdwarf=false")
}

// root is the repository that this was compiled from.
func root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

func (b *bench) goBuild(ctx context.Context, name, pkg string, flags ...string) error {
	args := append([]string{"build", "-o", b.path(name)}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, pkg)...) //nolint:gosec // our own programs
	cmd.Dir = root()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", pkg, err, out)
	}
	return nil
}

// marked is the place in the components' common source with the comment.
func marked() (path string, line int, err error) {
	path = filepath.Join(root(), "internal", "bench", "testdata", "work", "work.go")
	source, err := os.ReadFile(path)
	if err != nil {
		return "", 0, err
	}
	before, _, found := bytes.Cut(source, []byte("// breakpoint\n"))
	if !found {
		return "", 0, fmt.Errorf("%s has no line with the comment breakpoint", path)
	}
	return path, bytes.Count(before, []byte("\n")) + 1, nil
}

// relays compares the ways to a Delve on this machine.
func (b *bench) relays(ctx context.Context, component string) error {
	if err := b.buildComponent(ctx, component); err != nil {
		return err
	}
	info, err := os.Stat(b.path(component))
	if err != nil {
		return err
	}
	var rows []row
	for range b.runs { // no two Delves are equally fast
		if err := b.relay(ctx, component, &rows); err != nil {
			return err
		}
	}
	_, _ = fmt.Fprintf(b.out, "\nRequests on this machine, component %s (%.0f MB), in ms, %d runs; ratios to the plain proxy:\n", component, float64(info.Size())/1e6, b.runs)
	return print(b.out, relayWays, 1, rows)
}

var relayWays = []string{"direct", "proxy", "kubedelve"}

// relay is one run: a Delve of its own for each way.
func (b *bench) relay(ctx context.Context, component string, rows *[]row) (err error) {
	path, line, err := marked()
	if err != nil {
		return err
	}
	var ways []*way
	for _, name := range relayWays {
		delve, err := begin("API server listening at: ", b.path("delve"), b.path(component))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, delve.end()) }()
		address := delve.address
		if name != "direct" {
			p, err := begin("", b.self, name, address)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, p.end()) }()
			address = p.address
		}
		w, err := open(ctx, name, address, path, line)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, w.close()) }()
		ways = append(ways, w)
	}
	return compare(ctx, ways, b.rounds, b.atLeast, rows)
}
