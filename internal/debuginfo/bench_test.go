package debuginfo

import (
	"os"
	"runtime"
	"testing"
)

// BenchmarkIndex opens a program and makes its index: the fixture, or what
// KUBEDELVE_TEST_PROGRAM names. It reports what stays in memory.
func BenchmarkIndex(b *testing.B) {
	bin := os.Getenv("KUBEDELVE_TEST_PROGRAM")
	if bin == "" {
		bin = fixture(b)
	}
	live := func() float64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc) / (1 << 20)
	}
	for b.Loop() {
		b.StopTimer()
		before := live()
		b.StartTimer()
		p, err := Open(bin)
		if err != nil {
			b.Fatal(err)
		}
		sources, err := p.Sources(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		b.ReportMetric(live()-before, "live-MB")
		b.ReportMetric(float64(len(sources)), "files")
		if err := p.Close(); err != nil {
			b.Fatal(err)
		}
		runtime.KeepAlive(p)
		b.StartTimer()
	}
}

// BenchmarkLines asks for the lines of every hundredth file.
func BenchmarkLines(b *testing.B) {
	bin := os.Getenv("KUBEDELVE_TEST_PROGRAM")
	if bin == "" {
		bin = fixture(b)
	}
	p, err := Open(bin)
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	sources, err := p.Sources(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	for n := 0; b.Loop(); n += 100 {
		if _, err := p.Lines(b.Context(), sources[n%len(sources)]); err != nil {
			b.Fatal(err)
		}
	}
}
