package nar_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/nar"
)

// sampleTree makes a tree with every kind of node, names that sort differently by component than by path,
// and content sizes on both sides of the padding.
func sampleTree(t testing.TB) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "tree")
	write := func(name, content string, mode os.FileMode) {
		path := filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
		require.NoError(t, os.Chmod(path, mode))
	}
	write("bin/run", "#!/bin/sh\n", 0o755)
	write("empty", "", 0o644)
	write("foo-a", "seven b", 0o644)
	write("foo/b", "eight by", 0o600)
	write("foo/c/deep/er", "nine byte", 0o644)
	write("large", string(bytes.Repeat([]byte("0123456789abcdef"), 40<<10)), 0o644)
	require.NoError(t, os.MkdirAll(filepath.Join(root, "empty-dir/inner"), 0o755))
	require.NoError(t, os.Symlink("../bin/run", filepath.Join(root, "foo", "link")))
	require.NoError(t, os.Symlink("/dangling", filepath.Join(root, "zz")))
	return root
}

func pack(t testing.TB, path string) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, nar.Pack(t.Context(), &b, path))
	return b.Bytes()
}

// copyArchive reads an archive and writes it anew.
func copyArchive(r io.Reader, w io.Writer) error {
	nr, nw := nar.NewReader(r), nar.NewWriter(w)
	buf := make([]byte, 64<<10)
	for {
		h, err := nr.Next()
		if errors.Is(err, io.EOF) {
			return nw.Close()
		}
		if err != nil {
			return err
		}
		if err := nw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.CopyBuffer(nw, nr, buf); err != nil {
			return err
		}
	}
}

func TestRoundTrip(t *testing.T) {
	archive := pack(t, sampleTree(t))
	var again bytes.Buffer
	require.NoError(t, copyArchive(bytes.NewReader(archive), &again))
	require.True(t, bytes.Equal(archive, again.Bytes()), "reading and writing give the same archive")

	dir, err := os.OpenRoot(t.TempDir())
	require.NoError(t, err)
	defer dir.Close()
	require.NoError(t, nar.Unpack(dir, "out", bytes.NewReader(archive)))
	require.True(t, bytes.Equal(archive, pack(t, filepath.Join(dir.Name(), "out"))), "unpacking and packing do too")
}

func TestLayoutsAgree(t *testing.T) {
	root := sampleTree(t)
	archive := pack(t, root)
	scanned, ids, err := nar.ScanLayout(t.Context(), root)
	require.NoError(t, err)
	read, err := nar.ReadLayout(bytes.NewReader(archive))
	require.NoError(t, err)
	require.True(t, scanned.Equal(read))
	require.Equal(t, int64(len(archive)), scanned.Size())
	require.Len(t, ids, scanned.Len())

	nr := nar.NewReader(bytes.NewReader(archive))
	for i := range scanned.Len() {
		h, err := nr.Next()
		require.NoError(t, err)
		require.Equal(t, *h, scanned.Entry(i), "node %d", i)
		found, ok := scanned.Lookup(h.Path)
		require.True(t, ok, h.Path)
		require.Equal(t, i, found, h.Path)
	}
}

// readSegments assembles a range of an archive from the tree's files.
func readSegments(t testing.TB, l *nar.Layout, root string, off, n int64) []byte {
	t.Helper()
	var b bytes.Buffer
	for s := range l.Segments(off, n) {
		require.Positive(t, s.Length)
		if s.Bytes != nil {
			require.Len(t, s.Bytes, int(s.Length))
			b.Write(s.Bytes)
			continue
		}
		content, err := os.ReadFile(filepath.Join(root, l.Entry(s.File).Path))
		require.NoError(t, err)
		b.Write(content[s.Offset : s.Offset+s.Length])
	}
	return b.Bytes()
}

func TestSegmentsOfEveryShortRange(t *testing.T) {
	root := sampleTree(t)
	archive := pack(t, root)
	l, _, err := nar.ScanLayout(t.Context(), root)
	require.NoError(t, err)
	require.True(t, bytes.Equal(archive, readSegments(t, l, root, 0, l.Size())))
	for off := 0; off < len(archive); off++ {
		if off > 4000 && off < len(archive)-2000 && off%4099 != 0 {
			continue // within the large file
		}
		n := min(1+off%37, len(archive)-off)
		require.Equal(t, archive[off:off+n], readSegments(t, l, root, int64(off), int64(n)), "range %d+%d", off, n)
	}
	require.Panics(t, func() { l.Segments(0, l.Size()+1) })
	require.Panics(t, func() { l.Segments(-1, 1) })
}
