package storetest

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/nar"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// archive returns an entry's bytes, from the fixture or else from the store.
func archive(t *testing.T, f Fixture, e Entry) []byte {
	t.Helper()
	if e.NAR != nil {
		return e.NAR
	}
	r, err := f.Store.Open(t.Context(), info(t, f, e))
	require.NoError(t, err)
	defer r.Close()
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	return b
}

// testOpenRange reads the edges of each NAR and of each of its nodes, and ranges at random.
func testOpenRange(t *testing.T, f Fixture) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, e := range f.Entries {
		i, all := info(t, f, e), archive(t, f, e)
		size := i.NarSize
		ranges := [][2]int64{{0, 0}, {0, 1}, {0, size}, {size - 1, 1}, {size, 0}, {1, size - 1}, {0, size - 1}}
		for range 10 {
			off := rng.Int64N(size)
			ranges = append(ranges, [2]int64{off, rng.Int64N(size - off + 1)}, [2]int64{off, min(size-off, 16)})
		}
		l, err := nar.ReadLayout(bytes.NewReader(all))
		require.NoError(t, err)
		for n := range min(l.Len(), 10) {
			if h := l.Entry(n); h.Type == nar.TypeRegular {
				// The content, and one byte of framing at each end.
				ranges = append(ranges, [2]int64{h.Offset, h.Size}, [2]int64{h.Offset - 1, h.Size + 2})
			}
		}
		for _, r := range ranges {
			rd, err := store.OpenRange(t.Context(), f.Store, i, r[0], r[1])
			require.NoError(t, err, "%q %v", i.StorePath, r)
			got, err := io.ReadAll(rd)
			require.NoError(t, err, "%q %v", i.StorePath, r)
			require.NoError(t, rd.Close())
			require.True(t, bytes.Equal(all[r[0]:r[0]+r[1]], got), "%q %v: %d bytes", i.StorePath, r, len(got))
		}
	}
}

func testOpenRangeOutside(t *testing.T, f Fixture) {
	i := info(t, f, f.Entries[0])
	for _, r := range [][2]int64{
		{-1, 1}, {0, -1}, {0, i.NarSize + 1}, {i.NarSize, 1}, {i.NarSize + 1, 0}, {1, 1<<63 - 1}, {1<<63 - 1, 1<<63 - 1},
	} {
		_, err := store.OpenRange(t.Context(), f.Store, i, r[0], r[1])
		require.Error(t, err, "%v of %d", r, i.NarSize)
		require.NotErrorIs(t, err, store.ErrNotFound)
	}
}

func testLayout(t *testing.T, f Fixture) {
	for _, e := range f.Entries {
		got, err := store.Layout(t.Context(), f.Store, info(t, f, e))
		require.NoError(t, err, "%q", e.Info.StorePath)
		want, err := nar.ReadLayout(bytes.NewReader(archive(t, f, e)))
		require.NoError(t, err)
		require.Equal(t, e.Info.NarSize, got.Size())
		require.Equal(t, want.Size(), got.Size())
		require.Equal(t, want.Len(), got.Len())
		for n := range want.Len() {
			require.Equal(t, want.Entry(n), got.Entry(n), "%q node %d", e.Info.StorePath, n)
		}
	}
}

func testArchive(t *testing.T, f Fixture) {
	o, ok := f.Store.(store.ArchiveOpener)
	if !ok {
		return
	}
	for _, e := range f.Entries {
		i := info(t, f, e)
		file, err := o.OpenArchive(t.Context(), i)
		if i.URL == "" {
			require.ErrorIs(t, err, store.ErrUnsupported, "%q", i.StorePath)
			continue
		}
		require.NoError(t, err, "%q", i.StorePath)
		content, err := io.ReadAll(file)
		require.NoError(t, err, "%q", i.StorePath)
		require.EqualValues(t, file.Size, len(content))
		if i.FileSize != 0 {
			require.Equal(t, i.FileSize, file.Size)
		}
		if !i.FileHash.IsZero() {
			digest := sha256.Sum256(content)
			require.Equal(t, i.FileHash.Digest(), digest[:])
		}
		middle := file.Size / 2
		_, err = file.Seek(middle, io.SeekStart)
		require.NoError(t, err)
		rest, err := io.ReadAll(file)
		require.NoError(t, err)
		require.True(t, bytes.Equal(content[middle:], rest), "%q after a seek", i.StorePath)
		require.NoError(t, file.Close())

		i.StorePath = narinfo.StorePath(f.Store.StoreDir() + "/" + string(absent(f)[0]) + "-gone")
		_, err = o.OpenArchive(t.Context(), i)
		require.ErrorIs(t, err, store.ErrNotFound)
	}
}

func testClosure(t *testing.T, f Fixture) {
	var roots []narinfo.StorePath
	for _, e := range f.Entries {
		roots = append(roots, e.Info.StorePath)
	}
	infos, err := store.Closure(t.Context(), f.Store, roots...)
	require.NoError(t, err)
	require.Len(t, infos, len(f.Entries), "the fixture is closed under references")
	seen := map[narinfo.StorePath]bool{}
	for _, i := range infos {
		require.False(t, seen[i.StorePath], "%q comes twice", i.StorePath)
		seen[i.StorePath] = true
		for _, r := range i.References {
			require.True(t, seen[r], "%q comes before %q, to which it refers", i.StorePath, r)
		}
	}
	slices.Reverse(roots)
	again, err := store.Closure(t.Context(), f.Store, roots...)
	require.NoError(t, err)
	require.Len(t, again, len(infos))
}
