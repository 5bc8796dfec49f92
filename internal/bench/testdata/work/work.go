// Package work is what the components of the benchmarks do: enough to look at.
package work

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// Order is something with parts.
type Order struct {
	ID    int
	Name  string
	Lines []Line
	Notes map[string]string
	Next  *Order
}

// Line is a part of an order.
type Line struct {
	Item  string
	Count int
	Price float64
}

// Idle starts goroutines that wait for ever.
func Idle(n int) {
	never := make(chan struct{})
	for i := range n {
		go wait(i, never)
	}
}

// Rest does nothing until SIGTERM, and then ends the program.
func Rest() {
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, syscall.SIGTERM)
	<-ends
	os.Exit(0)
}

func wait(i int, never chan struct{}) {
	<-never
	fmt.Println(i)
}

// Deep calls itself until the stack has depth frames, and then works for ever.
func Deep(depth int, order *Order) int {
	if depth > 0 {
		return Deep(depth-1, order) + 1
	}
	return loop(order)
}

// NewOrder makes one with parts to look at.
func NewOrder() *Order {
	o := &Order{ID: 4711, Name: "tea and milk", Notes: map[string]string{"from": "front", "to": "back"}}
	for i := range 20 {
		o.Lines = append(o.Lines, Line{fmt.Sprintf("item %d", i), i, float64(i) * 1.5})
	}
	o.Next = &Order{ID: o.ID + 1, Name: "the next one"}
	return o
}

func loop(order *Order) int {
	total, sum, label, flag := 0, 1, "label", false
	rate, line := 0.5, order.Lines[3]
	for i := 0; ; i++ {
		total += i // breakpoint
		sum ^= total
		total += sum & 0xff
		flag = !flag
		rate *= 1.0001
		line.Count++
		sum += line.Count
		total -= sum & 0xf
		if total < 0 && sum < 0 && flag {
			return len(label) + int(rate)
		}
	}
}
