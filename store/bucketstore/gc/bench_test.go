package gc_test

import (
	"context"
	"iter"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/catalogtest"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
	"github.com/voidnxlab/nixtrap/store/bucketstore/gc"
)

const (
	many       = 200_000
	references = 10
)

// manyPaths yields a bucket of many paths, each with ten references to earlier ones.
func manyPaths() iter.Seq2[catalog.Found, error] {
	return func(yield func(catalog.Found, error) bool) {
		rng := rand.New(rand.NewPCG(1, 2))
		paths := make([]narinfo.StorePath, 0, many)
		for n := range many {
			var refs []narinfo.StorePath
			for range min(n, references) {
				refs = append(refs, paths[rng.IntN(n)])
			}
			slices.Sort(refs)
			i := catalogtest.Info(catalogtest.Path(n), strconv.Itoa(n), slices.Compact(refs)...)
			i.FileSize = 1000
			paths = append(paths, i.StorePath)
			if !yield(catalog.Found{Info: i, FileSize: 1000, Modified: time.UnixMilli(int64(n))}, nil) {
				return
			}
		}
	}
}

// big is a catalog of many paths in SQLite; it takes a while to make.
func big(b *testing.B) *catalog.Catalog {
	c := catalogtest.SQLite(b.TempDir()+"/catalog.db").Open(b, nil)
	require.NoError(b, c.Rebuild(b.Context(), manyPaths()))
	b.ResetTimer()
	return c
}

// BenchmarkMark is a dry run: reading the graph, and deciding about each path.
func BenchmarkMark(b *testing.B) {
	c := big(b)
	b.ReportAllocs()
	for b.Loop() {
		r, err := gc.Collect(context.Background(), c, catalogtest.NewBucket(), gc.Options{DryRun: true, MaxSize: many / 2 * 1000})
		require.NoError(b, err)
		require.Equal(b, many, r.Kept+r.Deleted)
	}
}

// BenchmarkMissing asks for 10,000 paths, half of which are there.
func BenchmarkMissing(b *testing.B) {
	c := big(b)
	var hashes []narinfo.HashPart
	for n := range 10_000 {
		hashes = append(hashes, catalogtest.Path(n*many/5000).HashPart())
	}
	for b.Loop() {
		missing, err := c.Missing(context.Background(), "", hashes)
		require.NoError(b, err)
		require.Len(b, missing, 5000)
	}
}
