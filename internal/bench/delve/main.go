// Command delve is a headless Delve on a TCP address, for the benchmarks: what "dlv
// exec --headless --accept-multiclient" is, of the version that the agent has, and
// in one static file that can be the only one in an image.
package main

import (
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-delve/delve/service"
	"github.com/go-delve/delve/service/debugger"
	"github.com/go-delve/delve/service/rpccommon"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "delve:", err)
		os.Exit(1)
	}
}

// run serves debuggers until SIGTERM or SIGINT, and takes the component with it.
func run(args []string) error {
	flags := flag.NewFlagSet("delve", flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:0", "the address for debuggers")
	if err := flags.Parse(args); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, syscall.SIGTERM, syscall.SIGINT)
	server := rpccommon.NewServer(&service.Config{
		Listener:    listener,
		ProcessArgs: flags.Args(),
		AcceptMulti: true,
		APIVersion:  2,
		Debugger: debugger.Config{
			Backend:        "native",
			CheckGoVersion: true,
			ExecuteKind:    debugger.ExecutingExistingFile,
		},
	})
	if err := server.Run(); err != nil {
		return err
	}
	// The same words as dlv's: whoever started this reads them.
	fmt.Printf("API server listening at: %s\n", listener.Addr())
	<-ends
	return server.Stop()
}
