// Command probe is the workload of the cluster's own test: a web server, and a
// client that uses cluster DNS and a Service.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

func main() {
	begin := time.Now()
	if len(os.Args) == 3 && os.Args[1] == "get" {
		// The Service exists a moment before it works.
		var err error
		for tick := time.Tick(100 * time.Millisecond); time.Since(begin) < time.Minute; <-tick {
			if err = get(os.Args[2]); err == nil {
				return
			}
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, "uid %d", os.Getuid()) })
	if err := http.ListenAndServe(":8080", nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// get looks a name up and fetches from there. The message of a container that ends
// is what it wrote to its termination log.
func get(host string) error {
	addrs, err := net.LookupHost(host)
	if err != nil {
		return err
	}
	client := &http.Client{Timeout: 5 * time.Second}
	resp, err := client.Get("http://" + host + "/")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	return os.WriteFile("/dev/termination-log", fmt.Appendf(nil, "%s: %s", addrs[0], body), 0)
}
