// Command helper is a container beside a tier: it answers GET /healthz on its own
// port, and GET /sockets with what listens in the pod's network namespace, which
// the containers of a pod share.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
)

func main() {
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	http.HandleFunc("/sockets", func(w http.ResponseWriter, _ *http.Request) {
		for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6", "/proc/net/udp", "/proc/net/udp6"} {
			text, err := os.ReadFile(table)
			if err != nil {
				continue // no IPv6
			}
			fmt.Fprintf(w, "%s\n%s", table, text)
		}
	})
	log.Print("helper listens on :8090")
	log.Fatal(http.ListenAndServe(":8090", nil))
}
