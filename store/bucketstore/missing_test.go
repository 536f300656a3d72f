package bucketstore_test

import (
	"fmt"
	"iter"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/catalogtest"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/bucketstore"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
)

// newInbox returns an inbox of an empty bucket.
func newInbox(t testing.TB, o *bucketstore.InboxOptions) (*bucketstore.Inbox, *catalog.Catalog) {
	t.Helper()
	c := catalogtest.SQLite(filepath.Join(t.TempDir(), "catalog.sqlite")).Open(t, nil)
	s, err := bucketstore.Create(t.TempDir(), narinfo.CacheInfo{}, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return bucketstore.NewInbox(s, c, o), c
}

// found are paths, each of which refers to the three before it.
func found(n int) iter.Seq2[catalog.Found, error] {
	return func(yield func(catalog.Found, error) bool) {
		for i := range n {
			var refs []narinfo.StorePath
			for j := max(0, i-3); j < i; j++ {
				refs = append(refs, catalogtest.Path(j))
			}
			if !yield(catalog.Found{Info: catalogtest.Info(catalogtest.Path(i), fmt.Sprint(i), refs...)}, nil) {
				return
			}
		}
	}
}

func TestMissingPathsAreToldAtOnceAndTheOthersKept(t *testing.T) {
	inbox, c := newInbox(t, &bucketstore.InboxOptions{Lease: 3 * time.Hour})
	require.NoError(t, c.Rebuild(t.Context(), found(3)))
	hash := func(n int) narinfo.HashPart { return catalogtest.Path(n).HashPart() }
	before := time.Now()
	missing, err := inbox.Missing(t.Context(), []narinfo.HashPart{hash(9), hash(2), hash(7), hash(2)})
	require.NoError(t, err)
	require.Equal(t, []narinfo.HashPart{hash(9), hash(7)}, missing)
	p, err := c.Path(t.Context(), "", hash(2))
	require.NoError(t, err)
	require.False(t, p.LeasedUntil.Before(before.Add(3*time.Hour-time.Minute)), "a lease on what is there")
	missing, err = inbox.Missing(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, missing)
}

func BenchmarkMissing(b *testing.B) {
	inbox, c := newInbox(b, nil)
	require.NoError(b, c.Rebuild(b.Context(), found(20_000)))
	for name, first := range map[string]int{"present": 0, "half": 15_000, "absent": 20_000} {
		hashes := make([]narinfo.HashPart, 10_000)
		for i := range hashes {
			n := first + i
			if first == 0 {
				n = i * 2 // all over the table
			}
			hashes[i] = catalogtest.Path(n).HashPart()
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, err := inbox.Missing(b.Context(), hashes)
				require.NoError(b, err)
			}
		})
	}
}
