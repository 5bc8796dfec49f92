// Flood is a component that writes numbered lines to stdout and stderr in turns, as
// fast as it can, so many megabytes as its argument says, and then waits.
package main

import (
	"bufio"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: flood MEGABYTES")
		os.Exit(2)
	}
	megabytes, err := strconv.Atoi(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, syscall.SIGTERM, os.Interrupt)
	flood(megabytes * 1e6)
	<-ends
}

// flood writes the lines "NUMBER text", counted from 0 in each stream.
func flood(size int) {
	streams := []*bufio.Writer{bufio.NewWriterSize(os.Stdout, 16<<10), bufio.NewWriterSize(os.Stderr, 16<<10)}
	const text = " \x1b[32mGET\x1b[0m /path?query=value \"a line of output, ä€\" 200 in 4711 us\n"
	var line []byte
	for n, written := 0, 0; written < size; n++ {
		line = append(strconv.AppendInt(line[:0], int64(n), 10), text...)
		for _, w := range streams {
			w.Write(line)
		}
		written += len(streams) * len(line)
	}
	for _, w := range streams {
		fmt.Fprintln(w, "end")
		w.Flush()
	}
}
