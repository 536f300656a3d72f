package localstore_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/localstore"
)

// guarded is a store with everything counted and logged.
type guarded struct {
	*madeStore
	*localstore.Store
	counter counter
	log     lockedBuffer
	info    *narinfo.Info
}

func newGuarded(t *testing.T, content tree) *guarded {
	g := &guarded{madeStore: newMadeStore(t, "wal")}
	o := g.options()
	o.Trace, o.Logger = g.counter.trace(), logTo(&g.log)
	g.info = g.add("a", content)
	g.Store = g.madeStore.open(o)
	return g
}

func (g *guarded) alarms() int { return strings.Count(g.log.String(), "level=ERROR") }

// requireQuarantined checks that nothing about the path is served.
func (g *guarded) requireQuarantined() {
	g.t.Helper()
	ctx := g.t.Context()
	_, err := g.Info(ctx, g.info.StorePath.HashPart())
	require.ErrorIs(g.t, err, store.ErrNotFound)
	_, err = g.Store.Open(ctx, g.info)
	require.ErrorIs(g.t, err, store.ErrNotFound)
	_, err = g.OpenRange(ctx, g.info, 0, 1)
	require.ErrorIs(g.t, err, store.ErrNotFound)
	_, err = g.Layout(ctx, g.info)
	require.ErrorIs(g.t, err, store.ErrNotFound)
	require.Len(g.t, g.Quarantined(), 1)
	require.Equal(g.t, g.info.StorePath, g.Quarantined()[0].Path)
}

// lookOften looks the path up until its files were looked at several times.
func (g *guarded) lookOften() {
	g.t.Helper()
	looks := g.counter.scanned.Load()
	require.Eventually(g.t, func() bool {
		g.requireQuarantined()
		return g.counter.scanned.Load() >= looks+3
	}, 10*time.Second, 5*time.Millisecond)
}

func (g *guarded) requireServed() {
	g.t.Helper()
	text, err := read(g.t, g.Store, g.info)
	require.NoError(g.t, err)
	require.True(g.t, bytes.Equal(g.dump(g.info.StorePath), text))
}

func (g *guarded) write(name string, at int64, text string) {
	g.t.Helper()
	f, err := os.OpenFile(g.file(g.info.StorePath, name), os.O_WRONLY, 0)
	require.NoError(g.t, err)
	_, err = f.WriteAt([]byte(text), at)
	require.NoError(g.t, err)
	require.NoError(g.t, f.Close())
}

// Each damage is found whether or not the path was proved before; then nothing is served until it is repaired,
// and each state of the files is hashed once at most.
func TestDamage(t *testing.T) {
	content := tree{"a": "a", "b": big, "c": "c"}
	for _, row := range []struct {
		name           string
		damage, repair func(g *guarded)
		hashes         int64 // of the damaged files: none if a walk gives them away
	}{
		{"one byte", func(g *guarded) {
			g.write("b", 500_000, "X")
		}, func(g *guarded) { g.write("b", 500_000, big[500_000:500_001]) }, 1},
		{"one byte, modification time set back", func(g *guarded) {
			st, err := os.Stat(g.file(g.info.StorePath, "b"))
			require.NoError(g.t, err)
			g.write("b", 500_000, "X")
			require.NoError(g.t, os.Chtimes(g.file(g.info.StorePath, "b"), st.ModTime(), st.ModTime()))
		}, func(g *guarded) { g.write("b", 500_000, big[500_000:500_001]) }, 1},
		{"truncated", func(g *guarded) {
			require.NoError(g.t, os.Truncate(g.file(g.info.StorePath, "b"), 900_000))
		}, func(g *guarded) { g.write("b", 900_000, big[900_000:]) }, 0},
		{"a file deleted", func(g *guarded) {
			require.NoError(g.t, os.Remove(g.file(g.info.StorePath, "c")))
		}, func(g *guarded) { g.writeTree(g.info.StorePath, tree{"c": "c"}) }, 0},
		{"a file replaced", func(g *guarded) {
			file := g.file(g.info.StorePath, "a")
			require.NoError(g.t, os.WriteFile(file+".new", []byte("X"), 0o644))
			require.NoError(g.t, os.Rename(file+".new", file))
		}, func(g *guarded) { g.write("a", 0, "a") }, 1},
		{"a file replaced by a pipe", func(g *guarded) {
			require.NoError(g.t, os.Remove(g.file(g.info.StorePath, "a")))
			require.NoError(g.t, syscall.Mkfifo(g.file(g.info.StorePath, "a"), 0o644))
		}, func(g *guarded) {
			require.NoError(g.t, os.Remove(g.file(g.info.StorePath, "a")))
			g.writeTree(g.info.StorePath, tree{"a": "a"})
		}, 0},
		{"all deleted", func(g *guarded) {
			require.NoError(g.t, os.RemoveAll(g.file(g.info.StorePath, "")))
		}, func(g *guarded) { g.writeTree(g.info.StorePath, content) }, 0},
	} {
		for _, state := range []string{"fresh", "walked", "proved"} {
			t.Run(row.name+"/"+state, func(t *testing.T) {
				t.Parallel() // it is mostly waiting
				g := newGuarded(t, content)
				switch state {
				case "walked":
					r, err := g.Store.Open(t.Context(), g.info)
					require.NoError(t, err)
					require.NoError(t, r.Close())
				case "proved":
					g.requireServed()
				}
				before := g.counter.hashed.Load()
				row.damage(g)
				_, err := read(t, g.Store, g.info)
				require.ErrorIs(t, err, store.ErrCorrupt)
				g.requireQuarantined()
				g.lookOften()
				g.requireQuarantined()
				require.LessOrEqual(t, g.counter.hashed.Load()-before, row.hashes)
				require.Equal(t, 1, g.alarms(), g.log.String())

				hashed := g.counter.hashed.Load()
				row.repair(g)
				require.Eventually(t, func() bool {
					_, err := g.Info(t.Context(), g.info.StorePath.HashPart())
					return err == nil
				}, 5*time.Second, 20*time.Millisecond)
				require.Equal(t, hashed+1, g.counter.hashed.Load(), "one hash finds it right")
				g.requireServed()
				require.Equal(t, hashed+1, g.counter.hashed.Load(), "which is its proof")
				require.Empty(t, g.Quarantined())
				require.Contains(t, g.log.String(), "path served again")
			})
		}
	}
}

// What changes under a reader never yields a completed wrong archive.
func TestChangesDuringATransfer(t *testing.T) {
	content := tree{"a": big, "b": big, "c": "c"}
	file := func(g *guarded, name string) string { return g.file(g.info.StorePath, name) }
	for _, row := range []struct {
		name   string
		change func(g *guarded)
		harm   bool // the files are wrong afterwards
	}{
		{"a byte already read", func(g *guarded) { g.write("a", 10, "X") }, true},
		{"a byte to come", func(g *guarded) { g.write("b", 900_000, "X") }, true},
		{"a byte of the last file", func(g *guarded) { g.write("c", 0, "X") }, true},
		{"truncated", func(g *guarded) { require.NoError(t, os.Truncate(file(g, "b"), 100)) }, true},
		{"deleted", func(g *guarded) { require.NoError(t, os.RemoveAll(file(g, ""))) }, true},
		{"touched", func(g *guarded) { require.NoError(t, os.Chtimes(file(g, "b"), time.Now(), time.Now())) }, false},
		{"linked", func(g *guarded) { require.NoError(t, os.Link(file(g, "b"), filepath.Join(g.root, "link"))) }, false},
		{"replaced by the same", func(g *guarded) {
			require.NoError(t, os.WriteFile(file(g, "b.new"), []byte(big), 0o644))
			require.NoError(t, os.Rename(file(g, "b.new"), file(g, "b")))
		}, false},
		{"deleted and restored", func(g *guarded) {
			require.NoError(t, os.RemoveAll(file(g, "")))
			g.writeTree(g.info.StorePath, content)
		}, false},
	} {
		for _, state := range []string{"unproved", "proved"} {
			t.Run(row.name+"/"+state, func(t *testing.T) {
				g := newGuarded(t, content)
				if state == "proved" {
					g.requireServed()
				}
				want := g.dump(g.info.StorePath)
				r, err := g.Store.Open(t.Context(), g.info)
				require.NoError(t, err)
				head := make([]byte, 300_000)
				_, err = io.ReadFull(r, head)
				require.NoError(t, err)
				row.change(g)
				rest, err := io.ReadAll(r)
				require.NoError(t, r.Close())
				got := append(head, rest...)
				if err == nil {
					require.True(t, bytes.Equal(want, got), "completed and wrong")
				} else {
					require.ErrorIs(t, err, store.ErrCorrupt)
					require.Less(t, len(got), len(want))
				}
				if !row.harm {
					require.Eventually(t, func() bool {
						_, err := g.Info(t.Context(), g.info.StorePath.HashPart())
						return err == nil
					}, 5*time.Second, 20*time.Millisecond)
					g.requireServed()
					return
				}
				if _, err = read(t, g.Store, g.info); err != nil {
					require.True(t, isCorruptOrAbsent(err), "%v", err)
				}
				require.Error(t, err)
				g.requireQuarantined()
				require.Equal(t, 1, g.alarms(), g.log.String())
			})
		}
	}
}

// A hard link made or broken anywhere changes a file's change time: `nix store optimise` does nothing else.
func TestLinksAreNoAlarm(t *testing.T) {
	g := newGuarded(t, tree{"a": big, "b": big})
	g.requireServed()
	link := filepath.Join(g.root, "link")
	for range 3 {
		require.NoError(t, os.Link(g.file(g.info.StorePath, "a"), link))
		g.requireServed()
		require.NoError(t, os.Remove(link))
		g.requireServed()
	}
	require.Zero(t, g.alarms(), g.log.String())
	require.Zero(t, g.counter.wrong.Load())
	require.EqualValues(t, 7, g.counter.hashed.Load(), "once, and once for each change")
}

func TestPathThatNixDeletesUnderAReaderIsNoAlarm(t *testing.T) {
	g := newGuarded(t, tree{"a": big, "b": big})
	r, err := g.Store.Open(t.Context(), g.info)
	require.NoError(t, err)
	defer r.Close()
	g.change(func(w *writer) { w.unregister(g.info.StorePath) })
	require.NoError(t, os.RemoveAll(g.file(g.info.StorePath, "")))
	_, err = io.ReadAll(r)
	require.ErrorIs(t, err, store.ErrCorrupt)
	require.Zero(t, g.alarms(), g.log.String())
	require.Empty(t, g.Quarantined())
}

func TestYoungFilesYieldNoProof(t *testing.T) {
	m := newMadeStore(t, "wal")
	var c counter
	o := m.options()
	o.Trace = c.trace()
	localstore.SetAges(o, time.Hour, 1)
	s := m.open(o)
	info := m.add("a", tree{"": "a"})
	for i := range 3 {
		_, err := read(t, s, info)
		require.NoError(t, err)
		require.EqualValues(t, i+1, c.hashed.Load())
	}
}

func TestFirstReadersOfARangeShareOneHash(t *testing.T) {
	g := newGuarded(t, tree{"": strings.Repeat(big, 20)})
	done := make(chan error)
	for range 8 {
		go func() {
			r, err := g.OpenRange(t.Context(), g.info, 1000, 10)
			if err == nil {
				err = r.Close()
			}
			done <- err
		}()
	}
	for range 8 {
		require.NoError(t, <-done)
	}
	require.EqualValues(t, 1, g.counter.hashed.Load())
}

func isCorruptOrAbsent(err error) bool {
	return errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrNotFound)
}
