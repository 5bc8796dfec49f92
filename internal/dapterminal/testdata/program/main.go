// Program is what the tests debug.
package main

import (
	"fmt"
	"os"
	"time"
)

type order struct {
	Item  string
	Count int
}

func price(o order) int {
	total := 6 * o.Count
	fmt.Print() // breakpoint
	return total
}

func main() {
	if len(os.Args) > 1 { // for ever
		for n := 1; ; n++ {
			price(order{Item: "milk", Count: n})
			time.Sleep(time.Millisecond)
		}
	}
	for n := 1; n <= 3; n++ {
		fmt.Println("the price is", price(order{Item: "tea", Count: n}))
	}
	os.Exit(3)
}
