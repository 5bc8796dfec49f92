// Command noisy is a component that writes as much as it is asked to. It serves on
// port 8080:
//
//	/healthz         ok
//	/flood/{mb}      begins to write so many megabytes of numbered lines to stdout and
//	                 stderr in turns, as fast as it can
//	/written         how many bytes it has written
//	/work/{n}        twice n, by a function to stop in
//	/memory          the peak of resident memory of process 1, in kilobytes
package main

import (
	"bufio"
	"fmt"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
)

var written atomic.Int64

func main() {
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	http.HandleFunc("/written", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, written.Load()) })
	http.HandleFunc("/flood/{mb}", func(w http.ResponseWriter, r *http.Request) {
		megabytes, _ := strconv.Atoi(r.PathValue("mb"))
		go flood(int64(megabytes) * 1e6)
		fmt.Fprintln(w, "ok")
	})
	http.HandleFunc("/work/{n}", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.PathValue("n"))
		fmt.Fprintln(w, work(n))
	})
	http.HandleFunc("/memory", func(w http.ResponseWriter, _ *http.Request) {
		status, err := os.ReadFile("/proc/1/status")
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_, after, _ := strings.Cut(string(status), "VmHWM:")
		kilobytes, _, _ := strings.Cut(strings.TrimSpace(after), " ")
		fmt.Fprintln(w, kilobytes)
	})
	log.Fatal(http.ListenAndServe(":8080", nil))
}

func work(n int) int {
	twice := 2 * n
	return twice // BREAKPOINT
}

// flood writes the lines "NUMBER text", counted from 0 in each stream, and "end".
// Every thousandth line has what is no UTF-8 in it.
func flood(size int64) {
	streams := []*bufio.Writer{bufio.NewWriterSize(os.Stdout, 16<<10), bufio.NewWriterSize(os.Stderr, 16<<10)}
	const text = " \x1b[32mGET\x1b[0m /path \"a line of output, ä€\" 200"
	var line []byte
	for n := int64(0); written.Load() < size; n++ {
		line = append(strconv.AppendInt(line[:0], n, 10), text...)
		if n%1000 == 0 {
			line = append(line, "\xff\xe2\x82"...)
		}
		line = append(line, '\n')
		for _, w := range streams {
			w.Write(line)
			written.Add(int64(len(line)))
		}
	}
	for _, w := range streams {
		fmt.Fprintln(w, "end")
		w.Flush()
	}
}
