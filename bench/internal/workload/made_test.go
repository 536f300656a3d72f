package workload

import (
	"bytes"
	"compress/flate"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSmallFilesAreAlwaysTheSame(t *testing.T) {
	a, b := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	require.NoError(t, writeSmallFiles(a, 700))
	require.NoError(t, writeSmallFiles(b, 700))
	var files, total int64
	require.NoError(t, filepath.WalkDir(a, func(name string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		one, err := os.ReadFile(name)
		require.NoError(t, err)
		rel, err := filepath.Rel(a, name)
		require.NoError(t, err)
		other, err := os.ReadFile(filepath.Join(b, rel))
		require.NoError(t, err)
		require.Equal(t, one, other, rel)
		require.LessOrEqual(t, len(one), 8<<10)
		files, total = files+1, total+int64(len(one))
		return nil
	}))
	require.EqualValues(t, 700, files)
	require.InDelta(t, 4<<10, total/files, 400)
}

func TestTextCompressesLikeSource(t *testing.T) {
	content := text(rand.New(rand.NewPCG(3, 4)), 1<<20)
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, 6)
	require.NoError(t, err)
	_, err = w.Write(content)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.Greater(t, b.Len(), 1<<20/4)
	require.Less(t, b.Len(), 1<<20*6/10)
}

func TestConcatenate(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a"), []byte("aaaa"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "b"), []byte("bbbb"), 0o644))
	var b bytes.Buffer
	require.NoError(t, concatenate(&b, []Path{{Path: dir}}, 6))
	require.Equal(t, "aaaabb", b.String())
	require.Error(t, concatenate(&b, []Path{{Path: dir}}, 9), "too little")
}
