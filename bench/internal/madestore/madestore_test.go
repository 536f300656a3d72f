package madestore_test

import (
	"bytes"
	"crypto/sha256"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/bench/internal/madestore"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/localstore"
)

func TestMadeStoreIsOne(t *testing.T) {
	m := &madestore.Store{Dir: t.TempDir(), Paths: 1000, Files: 2, FileSize: 3<<20 + 8}
	require.NoError(t, m.Make(t.Context()))
	o, err := localstore.ParseURI(m.URI())
	require.NoError(t, err)
	s, err := localstore.Open(t.Context(), o)
	require.NoError(t, err)
	defer s.Close()

	require.Len(t, m.Real, 2)
	for _, p := range m.Real {
		path, err := narinfo.ParseStorePath(p.Path)
		require.NoError(t, err)
		info, err := store.Lookup(t.Context(), s, path)
		require.NoError(t, err)
		require.Equal(t, p.NarHash, info.NarHash.String())
		require.Equal(t, p.NarSize, info.NarSize)
		r, err := s.Open(t.Context(), info)
		require.NoError(t, err)
		sum := sha256.New()
		n, err := io.Copy(sum, r)
		require.NoError(t, err, "the store proves the hash")
		require.Equal(t, p.NarSize, n)
		require.True(t, bytes.Equal(info.NarHash.Digest(), sum.Sum(nil)))
		require.NoError(t, r.Close())
	}

	path, err := narinfo.ParseStorePath(m.Path(999))
	require.NoError(t, err)
	info, err := store.Lookup(t.Context(), s, path)
	require.NoError(t, err)
	require.Len(t, info.References, 5)
}
