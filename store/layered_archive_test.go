package store_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// A client may remember the archive of a store that is not the nearest any more.
func TestLayeredFindsAnArchiveByItsCompression(t *testing.T) {
	m, e := one()
	info := e.Info
	l := layered(t, []store.Store{m}, []store.Store{archives{m, "zstd"}, archives{m, "xz"}}, []store.Store{archives{m, ""}})
	for compression, url := range map[string]string{"zstd": "nar/zstd", "xz": "nar/xz", "bzip2": "nar/"} {
		found, err := l.WithArchive(t.Context(), info, compression)
		require.NoError(t, err)
		require.Equal(t, url, found.URL)
	}
	_, err := l.WithArchive(t.Context(), info, "none")
	require.ErrorIs(t, err, store.ErrNotFound)
	other := info.Clone()
	other.NarHash = narinfo.Hash{}
	_, err = l.WithArchive(t.Context(), other, "xz")
	require.ErrorIs(t, err, store.ErrNotFound, "other content")
}
