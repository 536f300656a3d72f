package localstore_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/localstore"
)

// Each row changes something between two runs of a program with the same proof file.
func TestProofsOutliveARestart(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(m *madeStore, root, proofs string)
		hashes int64 // in the second run
		err    error
	}{
		{"nothing", func(*madeStore, string, string) {}, 0, nil},
		{"a byte", func(_ *madeStore, root, _ string) {
			require.NoError(t, os.WriteFile(filepath.Join(root, "a"), []byte("X"), 0o644))
		}, 1, store.ErrCorrupt},
		{"a file replaced by the same", func(_ *madeStore, root, _ string) {
			require.NoError(t, os.WriteFile(filepath.Join(root, "new"), []byte("a"), 0o644))
			require.NoError(t, os.Rename(filepath.Join(root, "new"), filepath.Join(root, "a")))
		}, 1, nil},
		{"a symlink", func(_ *madeStore, root, _ string) {
			require.NoError(t, os.Remove(filepath.Join(root, "link")))
			require.NoError(t, os.Symlink("z", filepath.Join(root, "link")))
		}, 1, store.ErrCorrupt},
		{"the executable bit", func(_ *madeStore, root, _ string) {
			require.NoError(t, os.Chmod(filepath.Join(root, "same-size-either-way"), 0o644))
		}, 0, store.ErrCorrupt},
		{"an empty file replaced by an empty one", func(_ *madeStore, root, _ string) {
			require.NoError(t, os.WriteFile(filepath.Join(root, "new"), nil, 0o644))
			require.NoError(t, os.Rename(filepath.Join(root, "new"), filepath.Join(root, "empty")))
		}, 1, nil},
		{"the proof file is damaged", func(_ *madeStore, _, proofs string) {
			require.NoError(t, os.WriteFile(proofs, []byte("this is no database, and long enough to be none ........"), 0o600))
		}, 1, nil},
		{"the proof file is gone", func(_ *madeStore, _, proofs string) { require.NoError(t, os.Remove(proofs)) }, 1, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			m := newMadeStore(t, "wal")
			info := m.add("a", tree{"a": "a", "b": big, "empty": "", "link": "->a", "same-size-either-way": "#!x"})
			proofs := filepath.Join(t.TempDir(), "proofs.sqlite")
			run := func() (hashes int64, err error) {
				var c counter
				o := m.options()
				o.ProofFile, o.Trace = proofs, c.trace()
				s, err := localstore.Open(t.Context(), o)
				require.NoError(t, err)
				for range 2 {
					if _, err = read(t, s, info); err != nil {
						break
					}
				}
				require.NoError(t, s.Close())
				return c.hashed.Load(), err
			}
			hashes, err := run()
			require.NoError(t, err)
			require.EqualValues(t, 1, hashes)
			row.change(m, m.file(info.StorePath, ""), proofs)
			hashes, err = run()
			require.ErrorIs(t, err, row.err)
			require.Equal(t, row.hashes, hashes)
		})
	}
}

func TestProofFileIsPrivate(t *testing.T) {
	m := newMadeStore(t, "wal")
	o := m.options()
	o.ProofFile = filepath.Join(t.TempDir(), "proofs.sqlite")
	m.open(o)
	st, err := os.Stat(o.ProofFile)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), st.Mode().Perm())

	o.ProofFile = filepath.Join(t.TempDir(), "no/such/folder")
	_, err = localstore.Open(t.Context(), o)
	require.ErrorContains(t, err, "proof file")
}

func TestLayoutCacheIsBounded(t *testing.T) {
	m := newMadeStore(t, "wal")
	var c counter
	scans := 0
	o := m.options()
	o.LayoutCache, o.Trace = 1000, c.trace()
	o.Trace.Scanned = func(narinfo.StorePath, error) { scans++ }
	s := m.open(o)
	a, b := m.add("a", tree{"": "a"}), m.add("b", tree{"": "b"})
	c1 := m.add("c", tree{"": "c"})
	for range 2 {
		_, err := read(t, s, a)
		require.NoError(t, err)
	}
	require.Equal(t, 1, scans)
	for _, info := range []*narinfo.Info{b, c1, a} {
		_, err := read(t, s, info)
		require.NoError(t, err)
	}
	require.Equal(t, 4, scans, "a was forgotten meanwhile")
	require.EqualValues(t, 3, c.hashed.Load(), "its proof was not")
}
