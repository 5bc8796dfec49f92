// Command back knows what one piece of an item costs: GET /piece?item=NAME.
package main

import (
	"fmt"
	"log"
	"net/http"
)

func main() {
	http.HandleFunc("/piece", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, 3+len(r.FormValue("item")))
	})
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	log.Print("back listens on :8080")
	log.Fatal(http.ListenAndServe(":8080", nil))
}
