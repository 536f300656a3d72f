package localstore_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// TestAnswersAreKeptUntilACommit looks at what no answer shows: that the database was not asked.
func TestAnswersAreKeptUntilACommit(t *testing.T) {
	for name, wal := range map[string]bool{"immutable": false, "a writer": true} {
		t.Run(name, func(t *testing.T) {
			m := newMadeStore(t, "wal")
			first, second := m.add("first", tree{"": "x"}), m.add("second", tree{"": "y"})
			s := m.open(nil)
			var w *writer
			if wal {
				w = m.writer()
				w.exec("update ValidPaths set registrationTime = 2")
			}
			ask := func(hash narinfo.HashPart, want error) {
				t.Helper()
				_, err := s.Info(t.Context(), hash)
				require.ErrorIs(t, err, want)
			}
			absent := narinfo.HashPart("11111111111111111111111111111111")
			for range 3 {
				ask(first.StorePath.HashPart(), nil)
				ask(second.StorePath.HashPart(), nil)
				ask(absent, store.ErrNotFound)
				require.Contains(t, []int{3, 4}, s.KeptInfos(), "with the one that Open asked for, unless it is old")
			}
			info, err := s.Info(t.Context(), first.StorePath.HashPart())
			require.NoError(t, err)
			info.NarSize, info.References = 1, append(info.References, second.StorePath)
			again, err := s.Info(t.Context(), first.StorePath.HashPart())
			require.NoError(t, err)
			require.Equal(t, first.NarSize, again.NarSize, "what is kept is nobody's to change")

			if wal {
				w.exec("update ValidPaths set registrationTime = 3")
			} else {
				m.change(func(w *writer) { w.exec("update ValidPaths set registrationTime = 3") })
			}
			ask(second.StorePath.HashPart(), nil)
			require.Equal(t, 1, s.KeptInfos(), "a commit makes all of it old")
		})
	}
}
