package localstore_test

import (
	"testing"
	"time"

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

// While nobody has the database open for writing, and its -wal is empty, SQLite sees changes where there are none.
func TestAnswersAreKeptWhileNobodyWrites(t *testing.T) {
	m := newMadeStore(t, "wal")
	first, second := m.add("first", tree{"": "x"}), m.add("second", tree{"": "y"})
	w := m.writer()
	w.exec("pragma wal_checkpoint(truncate)") // an empty -wal is what Nix leaves
	w.kill()
	s := m.open(nil)
	ask := func(info *narinfo.Info) {
		_, err := s.Info(t.Context(), info.StorePath.HashPart())
		require.NoError(t, err)
	}
	kept := func() bool {
		ask(first)
		ask(second)
		return s.KeptInfos() >= 2
	}
	require.Eventually(t, kept, 20*time.Second, 100*time.Millisecond, "once the clock has ticked")

	w = m.writer()
	ask(first)
	w.exec("update ValidPaths set narSize = 5 where path = ?", first.StorePath)
	info, err := s.Info(t.Context(), first.StorePath.HashPart())
	require.NoError(t, err)
	require.EqualValues(t, 5, info.NarSize)
	require.True(t, kept(), "beside a writer")
	w.exec("update ValidPaths set narSize = 6 where path = ?", first.StorePath)
	w.exec("pragma wal_checkpoint(truncate)")
	w.kill()
	info, err = s.Info(t.Context(), first.StorePath.HashPart())
	require.NoError(t, err)
	require.EqualValues(t, 6, info.NarSize)
	require.Eventually(t, kept, 20*time.Second, 100*time.Millisecond)
}
