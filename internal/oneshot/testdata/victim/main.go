// Command victim tells all that its caller has given it, and ends as it is asked to.
//
//	victim FILE exit CODE | kill SIGNAL | wait | start CODE
//
// It writes to FILE what it was given, as lines of JSON, and copies standard input to
// standard output. With wait it exits with 7 when it gets SIGTERM, or at the end of input.
// With start it does as runc does: it starts a "victim init", which forks twice, and the
// last of these does what "exit CODE" would; that one's exit code is its own.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

func main() {
	switch {
	case len(os.Args) == 2 && os.Args[1] == "init":
		stages()
	case os.Args[2] == "start":
		os.Exit(start(os.Args[1], os.Args[3]))
	}
	ends := make(chan os.Signal, 1)
	if os.Args[2] == "wait" {
		signal.Notify(ends, syscall.SIGTERM)
	}
	text, err := json.MarshalIndent(given(), "", " ")
	if err == nil {
		err = os.WriteFile(os.Args[1], text, 0o600)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(99)
	}
	_, _ = io.WriteString(os.Stdout, "ready\n")
	if os.Args[2] == "wait" {
		<-ends
		os.Exit(7)
	}
	_, _ = io.Copy(os.Stdout, os.Stdin)
	_, _ = io.WriteString(os.Stderr, "done\n")
	n, _ := strconv.Atoi(os.Args[3])
	if os.Args[2] == "kill" {
		_ = syscall.Kill(os.Getpid(), syscall.Signal(n))
		time.Sleep(time.Minute) // until it comes; the runtime must not think of a deadlock
	}
	os.Exit(n)
}

// start starts an init and waits for all its stages.
func start(report, code string) int {
	init := exec.Command("/proc/self/exe", "init")
	init.Args[0] = os.Args[0]
	init.Env = []string{"_LIBCONTAINER_REPORT=" + report, "_LIBCONTAINER_CODE=" + code}
	if err := init.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 99
	}
	result := 0
	for {
		var status syscall.WaitStatus
		_, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return result
		case status.ExitStatus() != 0:
			result = status.ExitStatus()
		}
	}
}

// stages is the first stage of an init. It does not return.
func stages() {
	path, _ := syscall.BytePtrFromString("/proc/self/exe")
	argv, _ := syscall.SlicePtrFromStrings([]string{os.Args[0], os.Getenv("_LIBCONTAINER_REPORT"), "exit", os.Getenv("_LIBCONTAINER_CODE")})
	env, _ := syscall.SlicePtrFromStrings([]string{"IN=container"})
	fork(path, &argv[0], &env[0])
}

// fork is the two forks, and the last stage's execve. There is no runtime in a child.
//
//go:nosplit
func fork(path *byte, argv, env **byte) {
	for range 2 {
		if pid, _, _ := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD)|syscall.CLONE_PARENT, 0, 0, 0, 0, 0); pid != 0 {
			syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
	syscall.RawSyscall(syscall.SYS_EXECVE, uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(argv)), uintptr(unsafe.Pointer(env)))
	syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 98, 0, 0)
}

func given() map[string]any {
	dir, _ := os.Getwd()
	env := os.Environ()
	slices.Sort(env)
	told := map[string]any{
		"argv": os.Args[:1], "env": env, "dir": dir,
		"pid": os.Getpid(), "parent": os.Getppid(), "group": syscall.Getpgrp(),
		"user": os.Getuid(), "umask": syscall.Umask(0),
	}
	status, _ := os.ReadFile("/proc/self/status")
	for _, line := range strings.Split(string(status), "\n") {
		name, value, _ := strings.Cut(line, ":")
		switch name {
		case "Name", "SigIgn", "CapEff", "NoNewPrivs", "Seccomp", "Groups":
			told[name] = strings.TrimSpace(value)
		}
	}
	// Fields 6 and 7 of proc_pid_stat(5): the session and the controlling terminal.
	stat, _ := os.ReadFile("/proc/self/stat")
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	told["session"], told["terminal"] = fields[3], fields[4]
	limits, _ := os.ReadFile("/proc/self/limits")
	told["limits"] = strings.Split(strings.ReplaceAll(string(limits), "  ", ""), "\n")
	files := map[int]string{}
	for fd := 3; fd < 10; fd++ {
		if target, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err == nil && !strings.Contains(target, "anon_inode") {
			files[fd] = target
			if info, err := os.Stat(target); err == nil && info.Mode().IsRegular() {
				data := make([]byte, 64)
				n, _ := syscall.Read(fd, data)
				files[fd] += ": " + string(data[:n])
			}
		}
	}
	told["files"] = files
	told["listen"] = os.Getenv("LISTEN_PID")
	return told
}
