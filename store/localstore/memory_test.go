package localstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/localstore"
)

// mixed are trees in which files that are kept in memory and files that are not stand in each order.
var mixed = map[string]tree{
	"small":           {"a": "x", "b/c": strings.Repeat("y", 50_000), "b/d": "->c", "e/": ""},
	"large":           {"": strings.Repeat("large", 100_000)},
	"large first":     {"a": strings.Repeat("large", 100_000), "b": "small", "c": "small"},
	"large last":      {"a": "small", "z": strings.Repeat("large", 100_001)},
	"large in a row":  {"a": strings.Repeat("l", 300_000), "b": strings.Repeat("m", 300_001), "c": "x"},
	"large in middle": {"a": "small", "b": strings.Repeat("large", 100_003), "c": strings.Repeat("s", 70_000)},
	"one small file":  {"": "#!/bin/sh\n"},
}

// remembering is a store with a memory cache, and a channel that tells of each path that was read into it.
func remembering(m *madeStore, budget int64, o *localstore.Options) (*localstore.Store, chan narinfo.StorePath) {
	told := make(chan narinfo.StorePath, 1000)
	o.MemoryCache = budget
	o.Trace = &localstore.Trace{Remembered: func(path narinfo.StorePath, _ int64) { told <- path }}
	return m.open(o), told
}

// readIntoMemory reads a path until it is in memory.
func readIntoMemory(t *testing.T, s *localstore.Store, told chan narinfo.StorePath, info *narinfo.Info) {
	t.Helper()
	for range 2 { // the first may be the one that proves it
		_, err := read(t, s, info)
		require.NoError(t, err)
	}
	select {
	case path := <-told:
		require.Equal(t, info.StorePath, path)
	case <-time.After(10 * time.Second):
		t.Fatalf("%s is not read into memory", info.StorePath)
	}
}

func TestWhatIsInMemoryIsTheArchive(t *testing.T) {
	for name, content := range mixed {
		t.Run(name, func(t *testing.T) {
			m := newMadeStore(t, "wal")
			info := m.add("a", content)
			s, told := remembering(m, 64<<20, m.options())
			want := m.dump(info.StorePath)
			readIntoMemory(t, s, told, info)
			got, err := read(t, s, info)
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, got))
			for range 300 {
				offset := rand.Int64N(info.NarSize)
				length := min(rand.Int64N(info.NarSize-offset+1), 1<<rand.IntN(20))
				r, err := s.OpenRange(t.Context(), info, offset, length)
				require.NoError(t, err)
				var b bytes.Buffer
				_, err = r.(io.WriterTo).WriteTo(&b)
				require.NoError(t, err)
				require.NoError(t, r.Close())
				require.True(t, bytes.Equal(want[offset:][:length], b.Bytes()), "%d bytes from %d", length, offset)
			}
		})
	}
}

func TestDamageOfFilesInMemoryIsNoticed(t *testing.T) {
	damages := map[string]func(g *guarded){
		"changed": func(g *guarded) { g.write("small", 0, "Y") },
		"deleted": func(g *guarded) { require.NoError(g.t, os.Remove(g.file(g.info.StorePath, "small"))) },
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			g := &guarded{madeStore: newMadeStore(t, "wal")}
			g.info = g.add("a", tree{"small": "x", "large": strings.Repeat("large", 100_000)})
			o := g.options()
			o.Logger = logTo(&g.log)
			var told chan narinfo.StorePath
			g.Store, told = remembering(g.madeStore, 1<<20, o)
			readIntoMemory(t, g.Store, told, g.info)
			want := g.dump(g.info.StorePath)
			damage(g)
			require.Eventually(t, func() bool {
				got, err := read(t, g.Store, g.info)
				if err == nil {
					require.True(t, bytes.Equal(want, got), "what comes to its end is right")
				}
				return errors.Is(err, store.ErrNotFound)
			}, 10*time.Second, 10*time.Millisecond)
			g.requireQuarantined()
			require.Positive(t, g.alarms())
		})
	}
}

func TestMemoryIsBoundedAndGoesToWhatIsReadAgain(t *testing.T) {
	const budget = 2 << 20
	m := newMadeStore(t, "wal")
	var infos []*narinfo.Info
	for i := range 12 {
		infos = append(infos, m.add(fmt.Sprint("p", i), tree{"a": strings.Repeat(fmt.Sprint(i), 100_000), "b": big[:200_000]}))
	}
	s, told := remembering(m, budget, m.options())
	for round := range 3 {
		for _, info := range infos {
			_, err := read(t, s, info)
			require.NoError(t, err)
			require.LessOrEqual(t, s.MemoryUsed(), int64(budget), "round %d", round)
		}
	}
	require.Eventually(t, func() bool { return s.MemoryUsed() > budget/2 }, 10*time.Second, time.Millisecond)
	require.Less(t, len(told), len(infos), "a round does not replace each path before its next use")

	var g errgroup.Group
	for n := range 8 {
		g.Go(func() error {
			for k := range 40 {
				got, err := read(t, s, infos[(n*5+k*7)%len(infos)])
				if err != nil {
					return err
				}
				if used := s.MemoryUsed(); used > budget || len(got) == 0 {
					return fmt.Errorf("%d bytes are in use", used)
				}
			}
			return nil
		})
	}
	require.NoError(t, g.Wait())

	r, err := s.Open(t.Context(), infos[0])
	require.NoError(t, err)
	require.NoError(t, s.Close())
	got, err := io.ReadAll(r)
	require.NoError(t, err, "readers that are open stay usable")
	require.True(t, bytes.Equal(m.dump(infos[0].StorePath), got))
	require.NoError(t, r.Close())
	require.Zero(t, s.MemoryUsed())
}

func BenchmarkOpenFromMemory(b *testing.B) {
	m := newMadeStore(b, "wal")
	small := tree{}
	for i := range 4000 {
		small[fmt.Sprintf("share/%02d/%03d", i%40, i)] = strings.Repeat("x", 100+i)
	}
	info := m.add("small", small)
	o := m.options()
	s, told := remembering(m, 64<<20, o)
	for len(told) == 0 {
		_, err := read(b, s, info)
		require.NoError(b, err)
	}
	b.SetBytes(info.NarSize)
	b.ReportAllocs()
	for b.Loop() {
		r, err := s.Open(b.Context(), info)
		require.NoError(b, err)
		_, err = r.(io.WriterTo).WriteTo(io.Discard)
		require.NoError(b, err)
		require.NoError(b, r.Close())
	}
}
