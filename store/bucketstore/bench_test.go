package bucketstore_test

import (
	"io"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/store/storetest"
)

// text is n bytes that compress about as well as programs do.
func text(n int) string {
	rng := rand.New(rand.NewPCG(3, 4))
	b := make([]byte, 0, n)
	for len(b) < n {
		if start := rng.IntN(len(b) + 1); len(b)-start > 32 && rng.IntN(3) > 0 {
			b = append(b, b[start:start+rng.IntN(32)]...)
			continue
		}
		b = append(b, byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32()))
	}
	return string(b[:n])
}

func BenchmarkOpen(b *testing.B) {
	m := &storetest.Memory{}
	m.Add("path", storetest.Files{"file": text(8 << 20)})
	for _, compression := range compressions {
		b.Run(compression, func(b *testing.B) {
			s := open(b, bucket(b, compression, m.Entries(), nil))
			info, err := s.Info(b.Context(), m.Entries()[0].Info.StorePath.HashPart())
			require.NoError(b, err)
			b.SetBytes(info.NarSize)
			b.ReportAllocs()
			for b.Loop() {
				r, err := s.Open(b.Context(), info)
				require.NoError(b, err)
				_, err = io.Copy(io.Discard, r)
				require.NoError(b, err)
				require.NoError(b, r.Close())
			}
		})
	}
}

func BenchmarkInfo(b *testing.B) {
	entries := sample().Entries()
	s := open(b, bucket(b, "zstd", entries, nil))
	b.ReportAllocs()
	for b.Loop() {
		_, err := s.Info(b.Context(), entries[0].Info.StorePath.HashPart())
		require.NoError(b, err)
	}
}
