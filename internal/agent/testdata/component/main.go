// Command component is what the agent's tests debug. Its arguments are steps, done
// in order.
package main

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	for _, step := range os.Args[1:] {
		name, value, _ := strings.Cut(step, "=")
		do(name, value)
	}
}

func do(name, value string) {
	switch name {
	case "out":
		fmt.Println(value)
	case "err":
		fmt.Fprintln(os.Stderr, value)
	case "exit":
		code, _ := strconv.Atoi(value)
		os.Exit(code)
	case "kill": // ends itself by a signal
		sig, _ := strconv.Atoi(value)
		_ = syscall.Kill(os.Getpid(), syscall.Signal(sig))
		select {}
	case "handle": // on SIGTERM: says so and exits with the code
		terms := make(chan os.Signal, 1)
		signal.Notify(terms, syscall.SIGTERM)
		go func() {
			<-terms
			fmt.Println("handler ran")
			code, _ := strconv.Atoi(value)
			os.Exit(code)
		}()
	case "stubborn": // on SIGTERM: says so
		terms := make(chan os.Signal, 1)
		signal.Notify(terms, syscall.SIGTERM)
		go func() {
			for range terms {
				fmt.Println("no, thanks")
			}
		}()
	case "usr1": // says so on SIGUSR1
		came := make(chan os.Signal, 1)
		signal.Notify(came, syscall.SIGUSR1)
		go func() {
			for range came {
				fmt.Println("usr1 came")
			}
		}()
	case "loop": // counts for ever
		for i := 0; ; i++ {
			count(i)
			time.Sleep(5 * time.Millisecond)
		}
	case "wait":
		select {}
	case "bytes": // writes so many, in numbered lines
		n, _ := strconv.Atoi(value)
		w := bufio.NewWriterSize(os.Stdout, 32<<10)
		for i := 0; i < n/16; i++ {
			fmt.Fprintf(w, "%015d\n", i)
		}
		_ = w.Flush()
	case "listen":
		l, err := net.Listen("tcp", value)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println("listening on", l.Addr())
		go func() {
			_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { count(-1); fmt.Fprintln(w, "ok") }))
		}()
	case "daemon": // a grandchild that outlives its parent and holds the output
		child := exec.Command(os.Args[0], "orphan="+value)
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		if err := child.Run(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	case "orphan":
		child := exec.Command("sleep", value)
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		if err := child.Start(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return
		}
		fmt.Println("daemon", child.Process.Pid)
	case "fds": // what it has open
		names, _ := filepath.Glob("/proc/self/fd/*")
		for _, name := range names {
			if target, err := os.Readlink(name); err == nil {
				fmt.Println("fd", filepath.Base(name), target)
			}
		}
	case "size": // of arguments and environment
		n := 0
		for _, s := range append(os.Args, os.Environ()...) {
			n += len(s)
		}
		fmt.Println("size", n)
	case "env":
		fmt.Println(value+":", os.Getenv(value))
	case "dir":
		dir, _ := os.Getwd()
		fmt.Println("dir", dir)
	}
}

//go:noinline
func count(i int) {
	last = i // breakpoint
	last++
}

var last int
