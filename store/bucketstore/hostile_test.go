package bucketstore_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/archivetest"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/bucketstore"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

var compressions = []string{"none", "zstd", "xz", "gzip"}

// readAll reads a NAR through Open and returns what came before the end or the error.
func readAll(t *testing.T, s store.Store, info *narinfo.Info) ([]byte, error) {
	t.Helper()
	r, err := s.Open(t.Context(), info)
	if err != nil {
		return nil, err
	}
	defer func() { require.NoError(t, r.Close()) }()
	b, err := io.ReadAll(r)
	if err != nil {
		again, err2 := r.Read(make([]byte, 10))
		require.Zero(t, again)
		require.Equal(t, err, err2, "the error stays")
	}
	return b, err
}

// What a directory holds never comes out as a whole NAR, or as a proved file, unless it is what the narinfo promises.
func TestLyingCaches(t *testing.T) {
	for name, edit := range map[string]func(*narinfo.Info, *[]byte){
		"a byte changed":         func(_ *narinfo.Info, b *[]byte) { (*b)[len(*b)/2] ^= 1 },
		"the first byte changed": func(_ *narinfo.Info, b *[]byte) { (*b)[0] ^= 1 },
		"cut in half":            func(_ *narinfo.Info, b *[]byte) { *b = (*b)[:len(*b)/2] },
		"cut by a byte":          func(_ *narinfo.Info, b *[]byte) { *b = (*b)[:len(*b)-1] },
		"empty":                  func(_ *narinfo.Info, b *[]byte) { *b = nil },
		"garbage after":          func(_ *narinfo.Info, b *[]byte) { *b = append(*b, "garbage"...) },
		"a zero byte after":      func(_ *narinfo.Info, b *[]byte) { *b = append(*b, 0) },
		"NarSize too small":      func(i *narinfo.Info, _ *[]byte) { i.NarSize-- },
		"NarSize too large":      func(i *narinfo.Info, _ *[]byte) { i.NarSize++ },
		"NarSize enormous":       func(i *narinfo.Info, _ *[]byte) { i.NarSize = 1<<63 - 1 },
		"another NarHash": func(i *narinfo.Info, _ *[]byte) {
			i.NarHash, _ = narinfo.ParseHash("sha256:" + strings.Repeat("0", 52))
		},
	} {
		for _, compression := range compressions {
			for _, withFileHash := range []bool{true, false} {
				t.Run(name+" "+compression, func(t *testing.T) {
					dir := bucket(t, compression, sample().Entries(), func(i *narinfo.Info, b *[]byte) {
						edit(i, b)
						if !withFileHash {
							i.FileHash, i.FileSize = narinfo.Hash{}, 0
						}
					})
					requireNothingWhole(t, dir, !withFileHash || !strings.Contains(name, "Nar"))
				})
			}
		}
	}
}

// requireNothingWhole opens every path in every way, each in a store that has not seen the path yet: each finds the
// damage, and the path is in quarantine then. archives says whether the stored files are bad as such.
func requireNothingWhole(t *testing.T, dir string, archives bool) {
	t.Helper()
	ways := map[string]func(*bucketstore.Store, *narinfo.Info) error{
		"Open": func(s *bucketstore.Store, info *narinfo.Info) error {
			b, err := readAll(t, s, info)
			require.False(t, int64(len(b)) >= info.NarSize, "the last bytes are withheld")
			return err
		},
		"Verify": func(s *bucketstore.Store, info *narinfo.Info) error { return store.Verify(t.Context(), s, info) },
		"Layout": func(s *bucketstore.Store, info *narinfo.Info) error {
			_, err := store.Layout(t.Context(), s, info)
			return err
		},
		"OpenRange": func(s *bucketstore.Store, info *narinfo.Info) error {
			r, err := s.OpenRange(t.Context(), info, 0, 1)
			if err == nil {
				_, err = io.ReadAll(r)
				require.NoError(t, r.Close())
			}
			return err
		},
		"OpenArchive": func(s *bucketstore.Store, info *narinfo.Info) error {
			_, err := s.OpenArchive(t.Context(), info)
			return err
		},
	}
	for _, e := range sample().Entries() {
		info := stored(t, dir, e.Info.StorePath.HashPart())
		for way, open := range ways {
			if way == "OpenArchive" && !archives || way == "OpenRange" && info.Compression == "none" && !archives {
				continue // FileHash is what proves these
			}
			s := openQuickly(t, dir)
			require.ErrorIs(t, open(s, info), store.ErrCorrupt, way)
			requireQuarantined(t, s, info)
			require.NotErrorIs(t, open(s, info), store.ErrCorrupt, "%s: it is said once", way)
		}
	}
}

// The archives of two paths are exchanged: each is whole and decodes, and is the wrong one.
func TestSwappedFiles(t *testing.T) {
	for _, compression := range compressions {
		entries := sample().Entries()
		dir := bucket(t, compression, entries, nil)
		s := open(t, dir)
		var urls []string
		for _, e := range entries[:2] {
			info, err := s.Info(t.Context(), e.Info.StorePath.HashPart())
			require.NoError(t, err)
			file, err := s.OpenArchive(t.Context(), info)
			require.NoError(t, err, "proved once")
			require.NoError(t, file.Close())
			urls = append(urls, filepath.Join(dir, info.URL))
		}
		require.NoError(t, os.Rename(urls[0], urls[0]+".x"))
		require.NoError(t, os.Rename(urls[1], urls[0]))
		require.NoError(t, os.Rename(urls[0]+".x", urls[1]))
		for _, e := range entries[:2] {
			info := stored(t, dir, e.Info.StorePath.HashPart())
			_, err := s.OpenArchive(t.Context(), info)
			require.ErrorIs(t, err, store.ErrCorrupt)
			_, err = s.OpenFile(t.Context(), info.URL)
			require.ErrorIs(t, err, store.ErrCorrupt)
			requireQuarantined(t, s, info)
		}
	}
}

// A file that was proved changes while it is read, or before it is opened again.
func TestProvedFileChanges(t *testing.T) {
	entries := sample().Entries()
	dir := bucket(t, "none", entries, nil)
	s := openQuickly(t, dir)
	info, err := s.Info(t.Context(), entries[0].Info.StorePath.HashPart())
	require.NoError(t, err)
	name := filepath.Join(dir, info.URL)
	old := time.Now().Add(-time.Hour)
	require.NoError(t, os.Chtimes(name, old, old))

	file, err := s.OpenArchive(t.Context(), info)
	require.NoError(t, err)
	_, err = io.ReadFull(file, make([]byte, 8))
	require.NoError(t, err)
	w, err := os.OpenFile(name, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = w.WriteAt([]byte("X"), 200)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	n, err := file.Read(make([]byte, 8))
	require.ErrorIs(t, err, store.ErrCorrupt)
	require.Zero(t, n)
	require.NoError(t, file.Close())

	requireQuarantined(t, s, info)
	_, err = s.OpenArchive(t.Context(), info)
	require.ErrorIs(t, err, store.ErrNotFound)
	require.NoError(t, os.WriteFile(name, entries[0].NAR, 0o644))
	requireServedAgain(t, s, info)
	file, err = s.OpenArchive(t.Context(), info)
	require.NoError(t, err, "right again")
	require.NoError(t, file.Close())
	require.NoError(t, os.Remove(name))
	_, err = s.OpenArchive(t.Context(), info)
	require.ErrorIs(t, err, store.ErrNotFound)
	_, err = s.Open(t.Context(), info)
	require.ErrorIs(t, err, store.ErrNotFound)
}

// memory runs f and returns how many bytes it allocated.
func memory(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// Files that decode to far more than they should, or ask for more memory than any archive needs.
func TestBombs(t *testing.T) {
	zeros := make([]byte, 1<<20)
	for name, c := range map[string]struct {
		compression string
		file        []byte
		want        string
	}{
		"zstd zeros":               {"zstd", zstdZeros(64 << 20), "goes on after 1000 bytes"},
		"gzip zeros":               {"gzip", archivetest.Compress(t, "gzip", zeros), "goes on after 1000 bytes"},
		"xz zeros":                 {"xz", archivetest.Compress(t, "xz", zeros), "goes on after 1000 bytes"},
		"zstd with a giant window": {"zstd", giantWindow, "window size exceeded"},
		"xz with 4 GiB dictionary": {"xz", xzBlocks(1, 40), "dictionary size exceeds max"},
		"xz with 96 MiB":           {"xz", xzBlocks(1, 29), "dictionary size exceeds max"},
		"xz of many empty blocks":  {"xz", xzBlocks(100_000, 28), "truncated or corrupt"},
		"not zstd":                 {"zstd", []byte("not compressed"), "does not decode"},
		"not xz":                   {"xz", []byte("not compressed"), "does not decode"},
		"two xz streams":           {"xz", bytes.Repeat(archivetest.Compress(t, "xz", zeros[:500]), 2), "hash"},
	} {
		t.Run(name, func(t *testing.T) {
			m := &storetest.Memory{}
			e := storetest.Entry{Info: m.Add("bomb", storetest.Files{"": "x"})}
			dir := bucket(t, "none", []storetest.Entry{e}, func(i *narinfo.Info, b *[]byte) {
				*b = c.file
				i.URL, i.Compression, i.NarSize, i.FileHash, i.FileSize = "bomb", c.compression, 1000, narinfo.Hash{}, 0
			})
			s := open(t, dir)
			info, err := s.Info(t.Context(), e.Info.StorePath.HashPart())
			require.NoError(t, err)
			var b []byte
			used := memory(func() { b, err = readAll(t, s, info) })
			require.ErrorIs(t, err, store.ErrCorrupt)
			require.ErrorContains(t, err, c.want)
			require.Less(t, len(b), 1000)
			require.Less(t, used, uint64(200<<20), "bytes allocated")
			s = open(t, dir)
			used = memory(func() { _, err = s.OpenArchive(t.Context(), info) })
			require.ErrorIs(t, err, store.ErrCorrupt)
			require.Less(t, used, uint64(200<<20), "bytes allocated")
		})
	}
}

// giantWindow is a zstd frame that asks for a window of 1 GiB: magic, no content size, window 2^(10+20), and one raw
// last block of one byte.
var giantWindow = []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 20 << 3, 1 | 1<<3, 0, 0, 'x'}

// zstdZeros is a zstd frame of n zeros, 128 KiB for every four bytes: a window of that size and blocks of one byte
// repeated.
func zstdZeros(n int) []byte {
	const block = 128 << 10
	b := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3}
	for range n / block {
		b = append(b, 1<<1|block<<3&0xff, block<<3>>8&0xff, block<<3>>16, 0)
	}
	return append(b, 1, 0, 0) // an empty last block
}

// xzBlocks is the beginning of an xz stream with n empty blocks whose dictionaries are of a size in its coded form.
func xzBlocks(n int, dictionary byte) []byte {
	b := []byte("\xfd7zXZ\x00\x00\x00")
	b = binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b[6:8]))
	block := []byte{2, 0, 0x21, 1, dictionary, 0, 0, 0}
	block = binary.LittleEndian.AppendUint32(block, crc32.ChecksumIEEE(block))
	block = append(block, 0, 0, 0, 0) // the end of its chunks, and padding
	return append(b, bytes.Repeat(block, n)...)
}

// What is fed to the xz decoder either gives the archive that is promised or an error.
func FuzzXZ(f *testing.F) {
	f.Add(archivetest.Compress(f, "xz", []byte("hello")))
	f.Add(archivetest.Compress(f, "xz", bytes.Repeat([]byte("hello "), 100_000)))
	f.Add(xzBlocks(3, 10))
	f.Add(xzBlocks(1, 40))
	m := &storetest.Memory{}
	info := m.Add("fuzz", storetest.Files{"": "x"})
	f.Fuzz(func(t *testing.T, file []byte) {
		dir := bucket(t, "none", []storetest.Entry{{Info: info}}, func(i *narinfo.Info, b *[]byte) {
			*b = file
			i.URL, i.Compression, i.FileHash, i.FileSize = "fuzz", "xz", narinfo.Hash{}, 0
		})
		s := open(t, dir)
		now, err := s.Info(t.Context(), info.StorePath.HashPart())
		require.NoError(t, err)
		if b, err := readAll(t, s, now); err == nil {
			require.Equal(t, info.NarHash, sha(t, b))
		}
	})
}

func TestInfoOfBadNarinfos(t *testing.T) {
	m := sample()
	e := m.Entries()[0]
	good, err := put(t, bucket(t, "none", nil, nil), "none", e, nil).MarshalText()
	require.NoError(t, err)
	hash := e.Info.StorePath.HashPart()
	for name, text := range map[string]string{
		"empty":           "",
		"cut":             string(good[:len(good)/2]),
		"other hash part": strings.Replace(string(good), string(hash), strings.Repeat("0", 32), 1),
		"other store dir": strings.Replace(string(good), "/nix/store", "/gnu/store", 1),
		"large":           string(good) + "X: " + strings.Repeat("x", narinfo.MaxSize) + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			dir := bucket(t, "none", nil, nil)
			require.NoError(t, os.WriteFile(filepath.Join(dir, string(hash)+".narinfo"), []byte(text), 0o644))
			s := open(t, dir)
			_, err := s.Info(t.Context(), hash)
			require.ErrorIs(t, err, store.ErrCorrupt)
			require.NotErrorIs(t, err, store.ErrNotFound)
			for _, err := range s.Paths(t.Context()) {
				require.ErrorIs(t, err, store.ErrCorrupt)
			}
		})
	}
}

// Names in the directory that are no regular files, or lead out of it.
func TestStrangeFiles(t *testing.T) {
	entries := sample().Entries()
	outside := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(outside, entries[0].NAR, 0o644))
	dir := bucket(t, "none", entries, nil)
	s := openQuickly(t, dir)
	info, err := s.Info(t.Context(), entries[0].Info.StorePath.HashPart())
	require.NoError(t, err)
	name := filepath.Join(dir, info.URL)
	requireNoOpen := func(want error) {
		t.Helper()
		for _, open := range []func() error{
			func() error { _, err := s.Open(t.Context(), info); return err },
			func() error { _, err := s.OpenArchive(t.Context(), info); return err },
			func() error { _, err := s.OpenFile(t.Context(), info.URL); return err },
		} {
			err := open()
			require.Error(t, err)
			if want != nil {
				require.ErrorIs(t, err, want)
			}
		}
	}
	replace := func(with func() error) {
		require.NoError(t, os.RemoveAll(name))
		require.NoError(t, with())
	}
	replace(func() error { return os.Symlink(outside, name) })
	requireNoOpen(nil)
	replace(func() error { return os.Symlink("../../../../../../../../.."+outside, name) })
	requireNoOpen(nil)
	replace(func() error { return os.Symlink(filepath.Base(name), name) })
	requireNoOpen(store.ErrNotFound)
	replace(func() error { return syscall.Mkfifo(name, 0o644) })
	requireNoOpen(store.ErrNotFound)
	replace(func() error { return os.Mkdir(name, 0o755) })
	requireNoOpen(store.ErrNotFound)

	require.NoError(t, os.WriteFile(filepath.Join(dir, "nar", "target"), entries[0].NAR, 0o644))
	replace(func() error { return os.Symlink("target", name) })
	requireServedAgain(t, s, info) // a link that stays inside is followed
}

// URLs that lead nowhere within the cache.
func TestForeignURLs(t *testing.T) {
	e := sample().Entries()[0]
	for _, url := range []string{
		"https://example.org/nar/x.nar", "/etc/passwd", "../x", "nar/../../x", "./nar/x", "nar//x", "nar/", ".", "nar/x?a=b",
		strings.Repeat("x", 5000), "nix-cache-info/x",
	} {
		dir := bucket(t, "none", nil, nil)
		info := put(t, dir, "none", e, nil)
		info.URL = url
		text, err := info.MarshalText()
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, string(info.StorePath.HashPart())+".narinfo"), text, 0o644))
		_, err = open(t, dir).Open(t.Context(), info)
		require.ErrorIs(t, err, store.ErrNotFound, url)
	}
}

func TestUnknownCompression(t *testing.T) {
	e := sample().Entries()[0]
	dir := bucket(t, "none", []storetest.Entry{e}, func(i *narinfo.Info, _ *[]byte) { i.Compression = "br" })
	s := open(t, dir)
	info, err := s.Info(t.Context(), e.Info.StorePath.HashPart())
	require.NoError(t, err)
	_, err = s.Open(t.Context(), info)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.NotErrorIs(t, err, store.ErrCorrupt)
	file, err := s.OpenArchive(t.Context(), info)
	require.NoError(t, err, "handed out undecoded")
	require.NoError(t, file.Close())
}

// The first proof of an archive is abandoned when its context ends, and a reader when its own does.
func TestContextEndsWork(t *testing.T) {
	e := sample().Entries()[0]
	s := open(t, bucket(t, "zstd", []storetest.Entry{e}, nil))
	info, err := s.Info(t.Context(), e.Info.StorePath.HashPart())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := s.Open(ctx, info)
	require.NoError(t, err)
	cancel()
	_, err = r.Read(make([]byte, 10))
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, r.Close())
	_, err = r.Read(make([]byte, 10))
	require.Error(t, err)
	_, err = s.OpenArchive(ctx, info)
	require.ErrorIs(t, err, context.Canceled)
}

// TestRangesOfAWrongNARWithTheRightFileHash: a narinfo that was made over a damaged file vouches for the file alone.
func TestRangesOfAWrongNARWithTheRightFileHash(t *testing.T) {
	entries := sample().Entries()
	victim := entries[0].Info
	s := open(t, bucket(t, "none", entries, func(i *narinfo.Info, file *[]byte) {
		if i.StorePath == victim.StorePath {
			*file = bytes.Clone(*file)
			(*file)[len(*file)/2] ^= 1
			i.FileHash = sha(t, *file)
		}
	}))
	info, err := s.Info(t.Context(), victim.StorePath.HashPart())
	require.NoError(t, err)
	_, err = s.OpenRange(t.Context(), info, 0, 1)
	require.ErrorIs(t, err, store.ErrCorrupt)
}
