package nar_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/nar"
)

func TestPackIsWhatNixDumps(t *testing.T) {
	for _, nix := range realnix.All(t) {
		t.Run(nix.Release, func(t *testing.T) {
			dir := nix.TempDir(t)
			tree := filepath.Join(dir, "tree")
			root, err := os.OpenRoot(nix.Host(dir))
			require.NoError(t, err)
			defer root.Close()
			require.NoError(t, nar.Unpack(root, "tree", bytes.NewReader(pack(t, sampleTree(t)))))
			for _, path := range []string{tree, tree + "/large", tree + "/zz", tree + "/empty"} {
				dump, err := nix.Command(t, "nix-store", "--dump", path).Output()
				require.NoError(t, err)
				require.True(t, bytes.Equal(dump, pack(t, nix.Host(path))), path)
			}
		})
	}
}

func TestPackRefusesWhatNoArchiveCanHold(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"named pipe": func(path string) error { return syscall.Mkfifo(path, 0o644) },
		"socket": func(path string) error {
			l, err := net.Listen("unix", path)
			if err == nil {
				t.Cleanup(func() { l.Close() })
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, make(filepath.Join(dir, "odd")))
			require.ErrorContains(t, nar.Pack(t.Context(), io.Discard, dir), name)
			require.ErrorContains(t, nar.Pack(t.Context(), io.Discard, dir), "odd")
			_, _, err := nar.ScanLayout(t.Context(), dir)
			require.ErrorContains(t, err, name)
		})
	}
}

func TestPackOfNothing(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	for _, path := range []string{missing, ""} {
		require.ErrorIs(t, nar.Pack(t.Context(), io.Discard, path), os.ErrNotExist, "%q", path)
		_, _, err := nar.ScanLayout(t.Context(), path)
		require.ErrorIs(t, err, os.ErrNotExist, "%q", path)
	}
}

func TestPackHonoursItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, nar.Pack(ctx, io.Discard, sampleTree(t)), context.Canceled)
}

// growing changes a file as soon as its first bytes have come.
type growing struct {
	file string
	size int64
}

func (g *growing) Write(p []byte) (int, error) { return len(p), os.Truncate(g.file, g.size) }

func TestPackNoticesAFileThatChangesSize(t *testing.T) {
	for name, size := range map[string]int64{"shrinking": 1, "growing": 2 << 20} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "file")
			require.NoError(t, os.WriteFile(file, make([]byte, 1<<20), 0o644))
			require.Error(t, nar.Pack(t.Context(), &growing{file, size}, file))
		})
	}
}

// growingAll gives every file of a directory a byte as soon as the archive's first bytes have come.
type growingAll struct {
	t   *testing.T
	dir string
}

func (g growingAll) Write(p []byte) (int, error) {
	entries, err := os.ReadDir(g.dir)
	require.NoError(g.t, err)
	for _, e := range entries {
		require.NoError(g.t, os.Truncate(filepath.Join(g.dir, e.Name()), 1))
	}
	return len(p), nil
}

func TestPackNoticesAnEmptyFileThatGrows(t *testing.T) {
	dir := t.TempDir()
	for i := range 1000 { // more than the Writer's buffer holds, so that one is open when bytes come
		require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o644))
	}
	require.ErrorContains(t, nar.Pack(t.Context(), growingAll{t, dir}, dir), "grew")
}

func TestFileIDChangesWithTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, []byte("content"), 0o644))
	_, before, err := nar.ScanLayout(t.Context(), file)
	require.NoError(t, err)
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	same, err := nar.FileIDOf(f)
	require.NoError(t, err)
	require.Equal(t, before[0], same)

	require.NoError(t, os.Chmod(file, 0o600)) // any change of the inode changes its ctime
	require.Eventually(t, func() bool {
		require.NoError(t, os.WriteFile(file, []byte("CONTENT"), 0o644))
		now, err := nar.FileIDOf(f)
		require.NoError(t, err)
		return now != before[0]
	}, 1e9, 1e6, "the clock moves on")
}

// manyFiles makes a directory of n small files.
func manyFiles(b *testing.B, n int) (root string, size int64) {
	root = b.TempDir()
	for i := range n {
		dir := filepath.Join(root, fmt.Sprintf("dir%02d", i%50))
		require.NoError(b, os.MkdirAll(dir, 0o755))
		content := make([]byte, rand.IntN(8<<10))
		require.NoError(b, os.WriteFile(filepath.Join(dir, fmt.Sprint("file", i)), content, 0o644))
	}
	l, _, err := nar.ScanLayout(b.Context(), root)
	require.NoError(b, err)
	return root, l.Size()
}

func BenchmarkPackSmallFiles(b *testing.B) {
	root, size := manyFiles(b, 2000)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		require.NoError(b, nar.Pack(b.Context(), io.Discard, root))
	}
}

func BenchmarkPackLargeFile(b *testing.B) {
	file := filepath.Join(b.TempDir(), "file")
	require.NoError(b, os.WriteFile(file, make([]byte, 64<<20), 0o644))
	b.SetBytes(64 << 20)
	b.ReportAllocs()
	for b.Loop() {
		require.NoError(b, nar.Pack(b.Context(), io.Discard, file))
	}
}

func BenchmarkScanLayout(b *testing.B) {
	root, size := manyFiles(b, 2000)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		_, _, err := nar.ScanLayout(b.Context(), root)
		require.NoError(b, err)
	}
}

func BenchmarkReader(b *testing.B) {
	root, size := manyFiles(b, 2000)
	archive := pack(b, root)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		require.NoError(b, readAll(bytes.NewReader(archive)))
	}
}

func BenchmarkSegments(b *testing.B) {
	root, size := manyFiles(b, 2000)
	l, _, err := nar.ScanLayout(b.Context(), root)
	require.NoError(b, err)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		var n int64
		for s := range l.Segments(0, size) {
			n += s.Length
		}
		require.Equal(b, size, n)
	}
}

// BenchmarkSegmentsOfARange is what a request for 64 KiB out of the middle costs beside reading them.
func BenchmarkSegmentsOfARange(b *testing.B) {
	root, size := manyFiles(b, 2000)
	l, _, err := nar.ScanLayout(b.Context(), root)
	require.NoError(b, err)
	const length = 64 << 10
	b.SetBytes(length)
	b.ReportAllocs()
	for b.Loop() {
		var n int64
		for s := range l.Segments(size/2, length) {
			n += s.Length
		}
		require.EqualValues(b, length, n)
	}
}

func BenchmarkReadLayout(b *testing.B) {
	root, size := manyFiles(b, 2000)
	archive := pack(b, root)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		_, err := nar.ReadLayout(bytes.NewReader(archive))
		require.NoError(b, err)
	}
}

func BenchmarkAppendListing(b *testing.B) {
	root, _ := manyFiles(b, 2000)
	l, _, err := nar.ScanLayout(b.Context(), root)
	require.NoError(b, err)
	var text []byte
	b.ReportAllocs()
	for b.Loop() {
		text, err = l.AppendListing(text[:0])
		require.NoError(b, err)
	}
	b.SetBytes(int64(len(text)))
}
