// Command middle computes prices: GET /price?item=NAME&count=N. It asks the tier
// behind it what one piece costs. GET /exit?code=N ends the program.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Order is what somebody wants to buy.
type Order struct {
	Item  string
	Count int
}

var client = &http.Client{Timeout: 10 * time.Second}

func main() {
	back := os.Getenv("BACK_URL") // of the tier behind, like http://back
	http.HandleFunc("/price", func(w http.ResponseWriter, r *http.Request) {
		count, err := strconv.Atoi(r.FormValue("count"))
		if err != nil {
			count = 1
		}
		order := Order{Item: r.FormValue("item"), Count: count}
		price, err := priceOf(back, order)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		fmt.Fprintf(w, "%d %s cost %d\n", order.Count, order.Item, price)
	})
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	http.HandleFunc("/exit", func(_ http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.FormValue("code"))
		os.Exit(code)
	})
	log.Printf("middle listens on :8080 with arguments %q", os.Args[1:])
	serve(&http.Server{Addr: ":8080"})
}

// serve serves until SIGTERM, and then for as long as requests may still come: a
// pod that is about to go is taken out of its Service at the same time, not before.
func serve(server *http.Server) {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		<-ended
		time.Sleep(3 * time.Second) // kube-proxy hears of it up to seconds later
		server.Shutdown(context.Background())
	}()
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		log.Fatal(err)
	}
	<-drained
}

// priceOf is what an order costs.
func priceOf(back string, order Order) (int, error) {
	resp, err := client.Get(back + "/piece?item=" + order.Item)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	piece, err := strconv.Atoi(strings.TrimSpace(string(body)))
	if err != nil {
		return 0, err
	}
	total := piece * order.Count
	return total, nil // BREAKPOINT
}
