// Command front is the tier that users talk to: GET /buy?item=NAME&count=N.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"time"
)

func main() {
	middle := os.Getenv("MIDDLE_URL")                 // of the tier behind, like http://middle
	client := &http.Client{Timeout: 10 * time.Minute} // as long as somebody sits at a breakpoint
	http.HandleFunc("/buy", func(w http.ResponseWriter, r *http.Request) {
		resp, err := client.Get(middle + "/price?" + r.URL.RawQuery)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		fmt.Fprint(w, "front: ")
		io.Copy(w, resp.Body)
	})
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	log.Print("front listens on :8080")
	log.Fatal(http.ListenAndServe(":8080", nil))
}
