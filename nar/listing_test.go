package nar_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/nar"
)

// nixListing copies a tree into a binary cache with Nix and returns the listing that Nix writes for it.
func nixListing(t *testing.T, nix realnix.Nix, tree string) ([]byte, error) {
	t.Helper()
	dir := nix.TempDir(t)
	root, err := os.OpenRoot(nix.Host(dir))
	require.NoError(t, err)
	defer root.Close()
	require.NoError(t, nar.Unpack(root, "tree", bytes.NewReader(pack(t, tree))))
	store, cache := dir+"/store", dir+"/cache"
	path := nix.Run(t, "nix-store", "--store", store, "--add", dir+"/tree")
	cmd := nix.Command(t, "nix", "copy", "--no-check-sigs", "--from", store,
		"--to", "file://"+cache+"?write-nar-listing=true", path)
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Logf("%s", said)
		return nil, err
	}
	hash, _, _ := strings.Cut(filepath.Base(path), "-")
	return os.ReadFile(filepath.Join(nix.Host(cache), hash+".ls"))
}

func TestListingIsWhatNixWrites(t *testing.T) {
	tree := sampleTree(t)
	names := []string{"quo\"te", "back\\slash", "new\nline", "bell\a", "del\x7f", "<&>", "caf\u00e9", "\u2028"}
	for _, name := range names {
		require.NoError(t, os.WriteFile(filepath.Join(tree, name), []byte(name), 0o644))
		require.NoError(t, os.Symlink(name, filepath.Join(tree, "to "+name)))
	}
	l, _, err := nar.ScanLayout(t.Context(), tree)
	require.NoError(t, err)
	ours, err := l.AppendListing([]byte("kept"))
	require.NoError(t, err)
	ours, ok := bytes.CutPrefix(ours, []byte("kept"))
	require.True(t, ok)
	for _, nix := range realnix.All(t) {
		t.Run(nix.Release, func(t *testing.T) {
			theirs, err := nixListing(t, nix, tree)
			require.NoError(t, err)
			require.JSONEq(t, string(theirs), string(ours))
		})
	}
}

func TestListingOfWhatIsNotUTF8(t *testing.T) {
	for name, node := range map[string]string{
		"a name":   directory("caf\xe9", file("")),
		"a target": directory("a", symlink("caf\xe9")),
	} {
		t.Run(name, func(t *testing.T) {
			l, err := nar.ReadLayout(strings.NewReader(words(magic) + node))
			require.NoError(t, err)
			_, err = l.AppendListing(nil)
			require.ErrorIs(t, err, nar.ErrNotUTF8)
		})
	}
	tree := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(tree, "caf\xe9"), nil, 0o644))
	for _, nix := range realnix.All(t) {
		t.Run("Nix "+nix.Release, func(t *testing.T) {
			theirs, err := nixListing(t, nix, tree)
			if nix.Release == "2.8" {
				require.NoError(t, err)
				require.False(t, utf8.Valid(theirs), "2.8 writes the name's bytes as they are, which is not JSON")
				return
			}
			require.Error(t, err)
		})
	}
}
