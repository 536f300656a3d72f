package nar_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	gonix "github.com/nix-community/go-nix/pkg/nar"
	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/nar"
)

func addVectors(f *testing.F) {
	for _, v := range vectors {
		f.Add([]byte(v.archive))
	}
}

// FuzzReader wants each archive that is accepted to be the only spelling of what it holds,
// and go-nix, an independent reader, to find the same nodes in it.
// The other way round does not hold: go-nix accepts deeper trees, longer names and targets, and trailing bytes.
func FuzzReader(f *testing.F) {
	addVectors(f)
	f.Fuzz(func(t *testing.T, archive []byte) {
		var again bytes.Buffer
		if copyArchive(bytes.NewReader(archive), &again) != nil {
			return
		}
		require.Equal(t, archive, again.Bytes())

		l, err := nar.ReadLayout(bytes.NewReader(archive))
		require.NoError(t, err)
		require.Equal(t, int64(len(archive)), l.Size())

		theirs, err := gonix.NewReader(bytes.NewReader(archive))
		require.NoError(t, err)
		defer theirs.Close()
		for i := range l.Len() {
			h, err := theirs.Next()
			require.NoError(t, err, "node %d", i)
			ours := l.Entry(i)
			require.Equal(t, "/"+ours.Path, h.Path)
			require.Equal(t, ours.Type.String(), string(h.Type))
			require.Equal(t, ours.Size, h.Size)
			require.Equal(t, ours.Executable, h.Executable)
			require.Equal(t, ours.Target, h.LinkTarget)
		}
		_, err = theirs.Next()
		require.ErrorIs(t, err, io.EOF)
	})
}

// FuzzUnpack wants an archive to be restored whole or not at all, and never outside.
func FuzzUnpack(f *testing.F) {
	addVectors(f)
	f.Fuzz(func(t *testing.T, archive []byte) {
		outer := t.TempDir()
		inner := filepath.Join(outer, "inner")
		require.NoError(t, os.Mkdir(inner, 0o755))
		root, err := os.OpenRoot(inner)
		require.NoError(t, err)
		defer root.Close()
		err = nar.Unpack(root, "out", bytes.NewReader(archive))
		if err == nil {
			require.True(t, bytes.Equal(archive, pack(t, filepath.Join(inner, "out"))))
		}
		entries, readErr := os.ReadDir(inner)
		require.NoError(t, readErr)
		require.Equal(t, err == nil, len(entries) == 1, "entries: %v, error: %v", entries, err)
		entries, readErr = os.ReadDir(outer)
		require.NoError(t, readErr)
		require.Len(t, entries, 1)
	})
}

func TestUnpackOverSomethingIsRefused(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	require.NoError(t, err)
	defer root.Close()
	require.NoError(t, root.Symlink("/etc", "out"))
	err = nar.Unpack(root, "out", bytes.NewReader([]byte(words(magic)+directory("passwd", file("x")))))
	require.True(t, errors.Is(err, os.ErrExist), "%v", err)
	target, err := root.Readlink("out")
	require.NoError(t, err)
	require.Equal(t, "/etc", target)
}

// making creates a directory when it is first read from.
type making struct {
	io.Reader
	dir string
}

func (m making) Read(p []byte) (int, error) {
	if err := os.Mkdir(m.dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return 0, err
	}
	return m.Reader.Read(p)
}

func TestUnpackLeavesAloneWhatAnotherMade(t *testing.T) {
	for name, node := range map[string]string{"file": file("x"), "directory": directory(), "symlink": symlink("x")} {
		t.Run(name, func(t *testing.T) {
			root, err := os.OpenRoot(t.TempDir())
			require.NoError(t, err)
			defer root.Close()
			other := filepath.Join(root.Name(), "out")
			err = nar.Unpack(root, "out", making{bytes.NewReader([]byte(words(magic) + node)), other})
			require.ErrorIs(t, err, os.ErrExist)
			require.DirExists(t, other)
		})
	}
}
