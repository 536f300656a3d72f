package narinfo_test

import (
	"bytes"
	"strings"
	"testing"

	other "github.com/nix-community/go-nix/pkg/narinfo"
	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/narinfo"
)

func FuzzParse(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte(minimal))
	f.Add([]byte(manyReferences(20)))
	f.Add([]byte(strings.ReplaceAll(full, "\n", "\r\n")))
	f.Fuzz(func(t *testing.T, text []byte) {
		info, err := narinfo.Parse(text)
		if err != nil {
			require.Nil(t, info)
			return
		}
		out, err := info.MarshalText()
		require.NoError(t, err, "what was read can be written")
		again, err := narinfo.Parse(out)
		require.NoError(t, err)
		require.Equal(t, info, again)
		require.Equal(t, info, info.Clone())
		requireOtherAgrees(t, out, info)
	})
}

// requireOtherAgrees compares with go-nix's parser. Known differences, all of them its own narrowness: it refuses unknown
// fields, values with ": " in them, SHA-512's and BLAKE3's longer names, lines over 1 MiB and signatures that aren't
// 64 bytes of base 64; it knows /nix/store alone; and it takes an absent Compression for the word bzip2.
func requireOtherAgrees(t *testing.T, text []byte, info *narinfo.Info) {
	t.Helper()
	o, err := other.Parse(bytes.NewReader(text))
	if err != nil {
		return
	}
	require.Equal(t, string(info.StorePath), o.StorePath)
	require.Equal(t, info.URL, o.URL)
	require.Equal(t, info.NarHash.Digest(), o.NarHash.Digest())
	require.EqualValues(t, info.NarSize, o.NarSize)
	require.EqualValues(t, info.FileSize, o.FileSize)
	require.Equal(t, info.Deriver.Base(), o.Deriver)
	require.Equal(t, info.System, o.System)
	require.Equal(t, string(info.CA), o.CA)
	require.Len(t, o.References, len(info.References))
	for i, r := range info.References {
		require.Equal(t, r.Base(), o.References[i])
	}
	require.Len(t, o.Signatures, len(info.Signatures))
	if o.Compression != "bzip2" {
		require.Equal(t, info.Compression, o.Compression)
	}
	if info.StorePath.Dir() == narinfo.DefaultStoreDir {
		require.Equal(t, string(info.Fingerprint()), o.Fingerprint())
	}
}
