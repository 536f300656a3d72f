package artefact_test

import (
	"io"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/artefact"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

// benchContent is 100 MB: of the file that NIXTRAP_BENCH_FILE names, for figures that mean something, or made up.
func benchContent(b *testing.B) string {
	if file := os.Getenv("NIXTRAP_BENCH_FILE"); file != "" {
		content, err := os.ReadFile(file)
		require.NoError(b, err)
		return string(content)
	}
	return text(1, 100e6)
}

// BenchmarkFirst is a first request: compressing, writing, and reading the growing file.
func BenchmarkFirst(b *testing.B) {
	content := benchContent(b)
	var m storetest.Memory
	info := add(&m, "large", content)
	for name, encoders := range map[string]int{"encoders=1": 1, "encoders=2": 2} {
		b.Run(name, func(b *testing.B) {
			var wire int64
			var first time.Duration
			b.SetBytes(info.NarSize)
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				c, err := artefact.Open(b.TempDir(), &artefact.Options{Encoders: encoders})
				require.NoError(b, err)
				b.StartTimer()
				start := time.Now()
				f, err := c.Open(b.Context(), &m, info)
				require.NoError(b, err)
				first += time.Since(start)
				wire = drain(b, f)
				b.StopTimer()
				require.NoError(b, c.Close())
				b.StartTimer()
			}
			b.ReportMetric(float64(wire), "wire-bytes")
			b.ReportMetric(float64(first.Microseconds())/1000/float64(b.N), "first-ms")
		})
	}
}

// BenchmarkDirect is the same without the disk, frame after frame.
func BenchmarkDirect(b *testing.B) {
	content := benchContent(b)
	var m storetest.Memory
	info := add(&m, "large", content)
	c := open(b, "", nil)
	b.SetBytes(info.NarSize)
	b.ReportAllocs()
	for b.Loop() {
		f, err := c.Open(b.Context(), &m, info)
		require.NoError(b, err)
		drain(b, f)
	}
}

// BenchmarkHit is opening a finished artefact and reading it.
func BenchmarkHit(b *testing.B) {
	for name, size := range map[string]int{"10KB": 10_000, "10MB": 10_000_000} {
		b.Run(name, func(b *testing.B) {
			var m storetest.Memory
			info := add(&m, "path", text(1, size))
			c := open(b, b.TempDir(), nil)
			mustFetch(b, c, &m, info)
			settle(b, c)
			b.SetBytes(info.NarSize)
			b.ReportAllocs()
			for b.Loop() {
				f, err := c.Open(b.Context(), &m, info)
				require.NoError(b, err)
				drain(b, f)
			}
		})
	}
}

// drain reads a file to its end and closes it.
func drain(b *testing.B, f *store.File) int64 {
	n, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{f}, make([]byte, 256<<10))
	require.NoError(b, err)
	require.NoError(b, f.Close())
	return n
}
