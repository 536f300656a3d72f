package localstore_test

import (
	"bytes"
	"compress/bzip2"
	"encoding/base64"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/localstore"
)

var big = strings.Repeat("0123456789abcdef", 60_000) // 960,000 bytes: several chunks

// trees has every shape that a reader treats differently.
var trees = map[string]tree{
	"file":         {"": "content\n"},
	"empty-file":   {"": ""},
	"big-file":     {"": big},
	"symlink":      {"": "->/elsewhere"},
	"empty-folder": {"./": ""},
	"mixed": {
		"bin/tool": "#!/bin/sh\n", "empty": "", "lib/a": big, "lib/b": "b", "lib/c": big[:300_000], "lib/d/": "",
		"link": "->bin/tool", "z": big[:262_144],
	},
}

func TestArchivesAreTheFiles(t *testing.T) {
	m := newMadeStore(t, "wal")
	s := m.open(nil)
	for name, content := range trees {
		info := m.add(name, content)
		want := m.dump(info.StorePath)
		for _, state := range []string{"unproved", "proved"} {
			for how, copyAll := range readers {
				r, err := s.Open(t.Context(), info)
				require.NoError(t, err, "%s %s %s", name, state, how)
				var got bytes.Buffer
				n, err := copyAll(&got, r)
				require.NoError(t, err, "%s %s %s", name, state, how)
				require.EqualValues(t, len(want), n)
				require.True(t, bytes.Equal(want, got.Bytes()), "%s %s %s", name, state, how)
				require.NoError(t, r.Close())
				require.NoError(t, r.Close())
				_, err = r.Read(make([]byte, 1))
				require.Error(t, err)
			}
		}
	}
}

func TestReaderKeepsTheReaderContract(t *testing.T) {
	m := newMadeStore(t, "wal")
	s := m.open(nil)
	info := m.add("mixed", trees["mixed"])
	want := m.dump(info.StorePath)
	for _, state := range []string{"unproved", "proved"} {
		r, err := s.Open(t.Context(), info)
		require.NoError(t, err, state)
		require.NoError(t, iotest.TestReader(struct{ io.Reader }{r}, want), state)
		require.NoError(t, r.Close())
	}
}

func TestAnyRangeIsThatSliceOfTheArchive(t *testing.T) {
	m := newMadeStore(t, "wal")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	young := m.options()
	localstore.SetAges(young, 1<<40, 1) // 18 minutes: nothing is ever proved
	for name, s := range map[string]*localstore.Store{"proved": m.open(nil), "too young for a proof": m.open(young)} {
		for _, content := range trees {
			info := m.add("x", content)
			want := m.dump(info.StorePath)
			size := int64(len(want))
			ranges := [][2]int64{{0, 0}, {size, 0}, {0, size}, {0, 1}, {size - 1, 1}, {size - 9, 9}, {1, size - 1}}
			for range 20 {
				off := random.Int64N(size)
				ranges = append(ranges, [2]int64{off, random.Int64N(size - off + 1)})
			}
			for _, r := range ranges {
				rc, err := s.OpenRange(t.Context(), info, r[0], r[1])
				require.NoError(t, err, "%s %v", name, r)
				got, err := io.ReadAll(rc)
				require.NoError(t, err, "%s %v", name, r)
				require.True(t, bytes.Equal(want[r[0]:r[0]+r[1]], got), "%s %v", name, r)
				require.NoError(t, rc.Close())
			}
		}
	}
	info := m.add("x", trees["file"])
	for _, r := range [][2]int64{{-1, 1}, {0, -1}, {0, info.NarSize + 1}, {info.NarSize, 1}, {1 << 62, 1 << 62}} {
		_, err := m.open(nil).OpenRange(t.Context(), info, r[0], r[1])
		require.Error(t, err, "%v", r)
	}
	larger := info.Clone()
	larger.NarSize += 8
	_, err := m.open(nil).OpenRange(t.Context(), larger, info.NarSize, 8)
	require.ErrorIs(t, err, store.ErrNotFound, "a range of what a caller believes to be larger")
}

func TestInfo(t *testing.T) {
	m := newMadeStore(t, "wal")
	a := m.add("a", tree{"": "a"})
	b := m.write("b", tree{"": "b"})
	b.References = []narinfo.StorePath{a.StorePath, b.StorePath}
	b.Deriver = "/nix/store/zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz-b.drv"
	sig := base64.StdEncoding.EncodeToString(make([]byte, 64))
	b.Signatures = []signing.Signature{signing.Signature("one-1:" + sig), signing.Signature("two-1:" + sig)}
	b.CA = narinfo.ContentAddress("fixed:r:" + b.NarHash.String())
	m.change(func(w *writer) { w.register(b) })
	s := m.open(nil)

	got, err := s.Info(t.Context(), b.StorePath.HashPart())
	require.NoError(t, err)
	require.Equal(t, b, got)
	_, err = got.MarshalText()
	require.Error(t, err, "a store of files sets no URL")

	for name, hash := range map[string]narinfo.HashPart{
		"between two paths":   "00000000000000000000000000000000",
		"behind the last one": "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz",
		"shares a prefix":     a.StorePath.HashPart()[:31] + "z",
	} {
		_, err := s.Info(t.Context(), hash)
		require.ErrorIs(t, err, store.ErrNotFound, name)
	}
}

func TestMetadataThatCannotBeServedIsNotAbsence(t *testing.T) {
	m := newMadeStore(t, "wal")
	s := m.open(nil)
	for name, change := range map[string]string{
		"no size":      `update ValidPaths set narSize = null`,
		"another hash": `update ValidPaths set hash = 'md5:d41d8cd98f00b204e9800998ecf8427e'`,
		"not a hash":   `update ValidPaths set hash = 'x'`,
		"bad CA":       `update ValidPaths set ca = 'x'`,
	} {
		info := m.add("a", tree{"": "a"})
		m.change(func(w *writer) { w.exec(change) })
		_, err := s.Info(t.Context(), info.StorePath.HashPart())
		require.Error(t, err, name)
		require.NotErrorIs(t, err, store.ErrNotFound, name)
	}
}

func TestDeletedAndRebuiltPathsAreNoticed(t *testing.T) {
	m := newMadeStore(t, "wal")
	s := m.open(nil)
	old := m.add("a", tree{"bin/a": "old"})
	_, err := read(t, s, old)
	require.NoError(t, err)

	m.change(func(w *writer) { w.unregister(old.StorePath) })
	_, err = s.Info(t.Context(), old.StorePath.HashPart())
	require.ErrorIs(t, err, store.ErrNotFound)
	require.NoError(t, os.RemoveAll(m.file(old.StorePath, "")))
	_, err = read(t, s, old)
	require.ErrorIs(t, err, store.ErrNotFound)

	m.writeTree(old.StorePath, tree{"bin/a": "new"})
	rebuilt := m.infoOf(old.StorePath)
	m.change(func(w *writer) { w.register(rebuilt) })
	got, err := s.Info(t.Context(), old.StorePath.HashPart())
	require.NoError(t, err)
	require.Equal(t, rebuilt, got)
	text, err := read(t, s, rebuilt)
	require.NoError(t, err)
	require.Equal(t, m.dump(old.StorePath), text)
	_, err = read(t, s, old)
	require.Error(t, err, "the old content is asked for")
	require.Empty(t, s.Quarantined())
}

func TestLayout(t *testing.T) {
	m := newMadeStore(t, "wal")
	s := m.open(nil)
	info := m.add("mixed", trees["mixed"])
	l, err := s.Layout(t.Context(), info)
	require.NoError(t, err)
	require.Equal(t, info.NarSize, l.Size())
	i, ok := l.Lookup("lib/b")
	require.True(t, ok)
	r, err := s.OpenRange(t.Context(), info, l.Entry(i).Offset, l.Entry(i).Size)
	require.NoError(t, err)
	text, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, "b", string(text))
}

func TestLists(t *testing.T) {
	m := newMadeStore(t, "wal")
	const drv = "/nix/store/zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz-x.drv"
	var all []narinfo.StorePath
	first := m.add("first", tree{"": "x"})
	m.change(func(w *writer) {
		w.exec("begin")
		for i := range 2500 {
			info := *first
			m.n++
			info.StorePath = narinfo.StorePath(strings.Replace(string(m.pathNumber(m.n)), "-x", "-many", 1))
			info.References = []narinfo.StorePath{first.StorePath, info.StorePath}
			if i%2 == 0 {
				info.Deriver = drv
			}
			w.register(&info)
			all = append(all, info.StorePath)
		}
		w.exec("commit")
	})
	s := m.open(nil)
	require.Equal(t, append([]narinfo.StorePath{first.StorePath}, all...), collect(t, s.Paths(t.Context())))
	require.Equal(t, all, collect(t, s.Referrers(t.Context(), first.StorePath)))
	require.Empty(t, collect(t, s.Referrers(t.Context(), all[0])), "itself excepted")
	require.Len(t, collect(t, s.DerivedPaths(t.Context(), drv)), 1250)
	require.Empty(t, collect(t, s.DerivedPaths(t.Context(), all[0])))
	for range s.Paths(t.Context()) {
		break
	}
	require.Empty(t, collect(t, s.Referrers(t.Context(), drv)))
}

func TestLogs(t *testing.T) {
	m := newMadeStore(t, "wal")
	s := m.open(nil)
	packed, err := os.ReadFile("testdata/log.bz2")
	require.NoError(t, err)
	plain, err := io.ReadAll(bzip2.NewReader(bytes.NewReader(packed)))
	require.NoError(t, err)
	const hash = "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz" // and one more digit
	for i, file := range []string{
		"zz/" + hash[2:] + "0-a.drv", "zz/" + hash[2:] + "1-a.drv.bz2", hash + "2-a.drv", hash + "3-a.drv.bz2",
	} {
		name := filepath.Join(m.root, "nix/var/log/nix/drvs", file)
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		text := plain
		if strings.HasSuffix(file, ".bz2") {
			text = packed
		}
		require.NoError(t, os.WriteFile(name, text, 0o644))
		drv := narinfo.StorePath("/nix/store/" + hash + string(rune('0'+i)) + "-a.drv")
		r, err := s.OpenLog(t.Context(), drv)
		require.NoError(t, err, file)
		got, err := io.ReadAll(r)
		require.NoError(t, err, file)
		require.Equal(t, string(plain), string(got), file)
		require.NoError(t, r.Close())
	}
	for _, drv := range []narinfo.StorePath{
		"/nix/store/" + hash + "9-a.drv", "/nix/store/" + hash + "0-a", "/x/store/" + hash + "0-a.drv",
	} {
		_, err := s.OpenLog(t.Context(), drv)
		require.ErrorIs(t, err, store.ErrNotFound, drv)
	}
}

func TestDebugInfo(t *testing.T) {
	m := newMadeStore(t, "wal")
	s := m.open(nil)
	const id = "aabbccddeeff00112233445566778899aabbccdd"
	member := "lib/debug/.build-id/aa/" + id[2:] + ".debug"
	_, _, err := s.DebugInfo(t.Context(), id)
	require.ErrorIs(t, err, store.ErrNotFound)

	m.add("other", tree{"lib/debug/.build-id/bb/cc.debug": "x", "lib/debug/.build-id/aa/b.txt": "x"})
	a := m.add("a-debug", tree{member: "a"})
	path, got, err := s.DebugInfo(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, a.StorePath, path)
	require.Equal(t, member, got)

	b := m.add("b-debug", tree{member: "b"})
	m.change(func(w *writer) { w.unregister(b.StorePath) })
	path, _, err = s.DebugInfo(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, a.StorePath, path)
	m.change(func(w *writer) { w.unregister(a.StorePath) })
	for _, absent := range []string{id, strings.ToUpper(id), "xx", "", "..", id + id + id + id} {
		_, _, err = s.DebugInfo(t.Context(), absent)
		require.ErrorIs(t, err, store.ErrNotFound, absent)
	}
}

func TestCloseEndsQueries(t *testing.T) {
	m := newMadeStore(t, "wal")
	info := m.add("a", tree{"": big})
	s, err := localstore.Open(t.Context(), m.options())
	require.NoError(t, err)
	r, err := s.Open(t.Context(), info)
	require.NoError(t, err)
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	_, err = s.Info(t.Context(), info.StorePath.HashPart())
	require.Error(t, err)
	require.NotErrorIs(t, err, store.ErrNotFound)
	text, err := io.ReadAll(r)
	require.NoError(t, err, "open readers stay usable")
	require.Equal(t, m.dump(info.StorePath), text)
	require.NoError(t, r.Close())
}

func TestNoStore(t *testing.T) {
	_, err := localstore.Open(t.Context(), &localstore.Options{Root: t.TempDir()})
	require.ErrorIs(t, err, localstore.ErrNoStore)
	require.ErrorContains(t, err, "install Nix")
	_, err = localstore.Open(t.Context(), &localstore.Options{NoDatabase: true, DaemonSocket: "/nonexistent/socket"})
	require.ErrorIs(t, err, localstore.ErrNoStore)
	require.ErrorContains(t, err, "nix-daemon")
	m := newMadeStore(t, "wal")
	require.NoError(t, os.Remove(filepath.Join(m.root, "nix/store")))
	_, err = localstore.Open(t.Context(), m.options())
	require.ErrorIs(t, err, localstore.ErrNoStore)
}
