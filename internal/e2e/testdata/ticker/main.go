// Command ticker is a service of a node for the end-to-end tests. It answers on a local
// port, tells systemd that it is ready, and pings its watchdog. With -ask it is the client.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:7878", "address")
	ask := flag.Bool("ask", false, "ask the one that runs")
	flag.Parse()
	run := serve
	if *ask {
		run = client
	}
	if err := run(*listen); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func client(address string) error {
	c := http.Client{Timeout: time.Minute}
	answer, err := c.Get("http://" + address)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	_, err = io.Copy(os.Stdout, answer.Body)
	return err
}

func serve(address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	go watchdog()
	notify("READY=1")
	go func() {
		_ = http.Serve(listener, http.HandlerFunc(tick)) //nolint:gosec // a test's
	}()
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, syscall.SIGTERM)
	<-ends
	return nil
}

func tick(w http.ResponseWriter, r *http.Request) {
	exe, err := os.Executable()
	var limit syscall.Rlimit
	err = errors.Join(err, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	_, _ = fmt.Fprintf(w, "%s %q files %d extra %q %v\n", exe, os.Args[1:], limit.Cur, os.Getenv("EXTRA"), err) // BREAKPOINT
}

// watchdog pings if systemd wants this process to (sd_watchdog_enabled(3)).
func watchdog() {
	every, err := strconv.Atoi(os.Getenv("WATCHDOG_USEC"))
	if pid := os.Getenv("WATCHDOG_PID"); err != nil || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return
	}
	for range time.Tick(time.Duration(every) * time.Microsecond / 3) {
		notify("WATCHDOG=1")
	}
}

func notify(text string) {
	conn, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		return
	}
	_, _ = io.WriteString(conn, text)
	_ = conn.Close()
}
