package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// samples are the times of one kind of request on one way.
type samples []time.Duration

// percentile returns the time that p percent of the requests did not exceed.
func (s samples) percentile(p float64) time.Duration {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	return sorted[min(len(sorted)-1, int(float64(len(sorted))*p/100))]
}

// row is one kind of request on all ways.
type row struct {
	name string
	ways []samples // in the table's order
}

// find returns the row of the name, which it adds if there is none.
func find(rows *[]row, name string, ways int) *row {
	for i := range *rows {
		if (*rows)[i].name == name {
			return &(*rows)[i]
		}
	}
	*rows = append(*rows, row{name, make([]samples, ways)})
	return &(*rows)[len(*rows)-1]
}

// print prints p50 and p99 for each way, with ratios to the way of the index base.
func print(w io.Writer, ways []string, base int, rows []row) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	heads := "\t"
	for i, way := range ways {
		heads += way + " p50\tp99\t"
		if i != base {
			heads += "ratio p50\tp99\t"
		}
	}
	_, _ = fmt.Fprintln(t, heads)
	for _, r := range rows {
		line := r.name + "\t"
		for i, s := range r.ways {
			line += ms(s.percentile(50)) + "\t" + ms(s.percentile(99)) + "\t"
			if i != base {
				line += fmt.Sprintf("%.2f\t%.2f\t", ratio(s, r.ways[base], 50), ratio(s, r.ways[base], 99))
			}
		}
		_, _ = fmt.Fprintln(t, line)
	}
	return t.Flush()
}

func ratio(s, base samples, p float64) float64 {
	return float64(s.percentile(p)) / float64(base.percentile(p))
}

func ms(d time.Duration) string { return fmt.Sprintf("%.3f", float64(d)/1e6) }
