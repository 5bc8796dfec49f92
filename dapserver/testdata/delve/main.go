// Delve is a headless Delve with the component that its arguments name.
package main

import (
	"fmt"
	"io"
	"net"
	"os"

	"github.com/go-delve/delve/pkg/proc"
	"github.com/go-delve/delve/service"
	"github.com/go-delve/delve/service/debugger"
	"github.com/go-delve/delve/service/rpccommon"
)

func main() { os.Exit(run(os.Args[1:])) }

// run is the whole process: it writes Delve's address as the first line of standard
// error, and ends when standard input does.
func run(argv []string) int {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	stdout, stderr := os.NewFile(3, "stdout"), os.NewFile(4, "stderr")
	server := rpccommon.NewServer(&service.Config{
		Listener:    listener,
		ProcessArgs: argv,
		AcceptMulti: true,
		APIVersion:  2,
		Debugger: debugger.Config{
			Backend: "default",
			Stdout:  proc.OutputRedirect{File: stdout},
			Stderr:  proc.OutputRedirect{File: stderr},
		},
	})
	if err := server.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// Only the component is to have them, so that they end with it.
	stdout.Close()
	stderr.Close()
	fmt.Fprintln(os.Stderr, listener.Addr())
	io.Copy(io.Discard, os.Stdin)
	if err := server.Stop(); err != nil {
		return 1
	}
	return 0
}
