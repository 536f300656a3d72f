package nar_test

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/nar"
)

// wideArchive has a directory of n files, every third a directory of its own, below a long path.
func wideArchive(t testing.TB, n int) []byte {
	t.Helper()
	var b bytes.Buffer
	w := nar.NewWriter(&b)
	add := func(path string, typ nar.Type) { require.NoError(t, w.WriteHeader(&nar.Header{Path: path, Type: typ})) }
	long := strings.Repeat("long", 50)
	add("", nar.TypeDirectory)
	add(long, nar.TypeDirectory)
	for i := range n {
		path := fmt.Sprintf("%s/%06d", long, i)
		if i%3 > 0 {
			add(path, nar.TypeRegular)
			continue
		}
		add(path, nar.TypeDirectory)
		add(path+"/within", nar.TypeRegular)
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

func TestLookupFindsEachNodeAndNothingElse(t *testing.T) {
	l, err := nar.ReadLayout(bytes.NewReader(wideArchive(t, 100)))
	require.NoError(t, err)
	for i := range l.Len() {
		path := l.Entry(i).Path
		found, ok := l.Lookup(path)
		require.True(t, ok, path)
		require.Equal(t, i, found, path)
		for _, other := range []string{path + "0", path + "/", path + "/x", "/" + path, path + "/."} {
			if other != "/" && path == "" {
				continue
			}
			_, ok := l.Lookup(other)
			require.False(t, ok, other)
		}
	}
}

func TestMemSizeIsWhatALayoutKeeps(t *testing.T) {
	archive := wideArchive(t, 50_000)
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	l, err := nar.ReadLayout(bytes.NewReader(archive))
	require.NoError(t, err)
	kept := heap() - before
	runtime.KeepAlive(archive)
	require.LessOrEqual(t, kept, l.MemSize()+l.MemSize()/10)
	require.Less(t, l.MemSize(), int64(l.Len()*100))
}

func BenchmarkLookup(b *testing.B) {
	l, err := nar.ReadLayout(bytes.NewReader(wideArchive(b, 50_000)))
	require.NoError(b, err)
	path := l.Entry(l.Len() / 2).Path
	b.ReportAllocs()
	for b.Loop() {
		_, ok := l.Lookup(path)
		require.True(b, ok)
	}
}
