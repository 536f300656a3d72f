package localstore_test

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/localstore"
)

func BenchmarkInfo(b *testing.B) {
	m := newMadeStore(b, "wal")
	first := m.add("first", tree{"": "x"})
	var info narinfo.Info
	m.change(func(w *writer) {
		w.exec("begin")
		for range 2000 {
			info = *first
			m.n++
			info.StorePath = m.pathNumber(m.n)
			info.References = []narinfo.StorePath{first.StorePath, info.StorePath}
			w.register(&info)
		}
		w.exec("commit")
	})
	bench := func(b *testing.B) {
		s := m.open(nil)
		b.ReportAllocs()
		for b.Loop() {
			_, err := s.Info(b.Context(), info.StorePath.HashPart())
			require.NoError(b, err)
		}
	}
	b.Run("immutable", bench)
	w := m.writer()
	w.exec("update ValidPaths set registrationTime = 2")
	b.Run("wal", bench)
	w.exec("pragma wal_checkpoint(truncate)")
	w.kill()
	b.Run("wal left by Nix 2.34", bench)
}

func BenchmarkOpen(b *testing.B) {
	m := newMadeStore(b, "wal")
	small := tree{}
	for i := range 4000 {
		small[fmt.Sprintf("share/%02d/%03d", i%40, i)] = strings.Repeat("x", 100+i)
	}
	paths := map[string]*narinfo.Info{
		"4000 small files": m.add("small", small),
		"one big file":     m.add("big", tree{"": strings.Repeat(big, 100)}),
		"one small file":   m.add("tiny", tree{"bin/x": "#!/bin/sh\n"}),
	}
	for name, info := range paths {
		for state, age := range map[string]int64{"proved": 1, "hashed": 1 << 50} {
			b.Run(name+"/"+state, func(b *testing.B) {
				o := m.options()
				setProofAge(o, age)
				s := m.open(o)
				_, err := read(b, s, info)
				require.NoError(b, err)
				b.SetBytes(info.NarSize)
				b.ReportAllocs()
				for b.Loop() {
					r, err := s.Open(b.Context(), info)
					require.NoError(b, err)
					_, err = r.(io.WriterTo).WriteTo(io.Discard)
					require.NoError(b, err)
					require.NoError(b, r.Close())
				}
			})
		}
	}
}

func BenchmarkOpenRange(b *testing.B) {
	m := newMadeStore(b, "wal")
	info := m.add("big", tree{"a": big, "b": strings.Repeat(big, 20), "c": big})
	s := m.open(nil)
	const length = 64 << 10
	b.SetBytes(length)
	b.ReportAllocs()
	for b.Loop() {
		r, err := s.OpenRange(b.Context(), info, info.NarSize/2, length)
		require.NoError(b, err)
		_, err = io.Copy(io.Discard, r)
		require.NoError(b, err)
		require.NoError(b, r.Close())
	}
}

func setProofAge(o *localstore.Options, age int64) { localstore.SetAges(o, time.Duration(age), 1) }
