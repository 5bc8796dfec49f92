// Delve is what "dlv dap --listen ADDRESS" is: a server of the protocol for one client.
package main

import (
	"fmt"
	"net"
	"os"

	"github.com/go-delve/delve/service"
	"github.com/go-delve/delve/service/dap"
	"github.com/go-delve/delve/service/debugger"
)

func main() {
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	gone := make(chan struct{})
	server := dap.NewServer(&service.Config{
		Listener: listener, DisconnectChan: gone, Debugger: debugger.Config{Backend: "default", Foreground: true},
	})
	server.Run()
	<-gone
	server.Stop()
}
