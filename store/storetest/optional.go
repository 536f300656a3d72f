package storetest

import (
	"context"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

func testReferrers(t *testing.T, f Fixture) {
	if !canQuery[store.Referrers](f.Store) {
		return
	}
	for _, e := range f.Entries {
		target := e.Info.StorePath
		got := collect(t, store.FindReferrers(t.Context(), f.Store, target))
		requireStrictlySorted(t, got)
		for _, other := range f.Entries {
			refers := other.Info.StorePath != target && slices.Contains(other.Info.References, target)
			require.Equal(t, refers, slices.Contains(got, other.Info.StorePath), "%q refers to %q", other.Info.StorePath,
				target)
		}
		for _, p := range got {
			i, err := store.Lookup(t.Context(), f.Store, p)
			require.NoError(t, err)
			require.Contains(t, i.References, target)
		}
	}
	require.Empty(t, collect(t, store.FindReferrers(t.Context(), f.Store, nowhere(f, ""))))
}

// canQuery is true for a store with an optional ability or with a list to make up for it.
func canQuery[Ability any](s store.Store) bool {
	_, able := s.(Ability)
	_, lists := s.(store.Lister)
	return able || lists
}

func collect(t *testing.T, paths iter.Seq2[narinfo.StorePath, error]) (all []narinfo.StorePath) {
	t.Helper()
	for p, err := range paths {
		require.NoError(t, err)
		all = append(all, p)
	}
	return all
}

// nowhere returns a path that the store doesn't hold.
func nowhere(f Fixture, suffix string) narinfo.StorePath {
	return narinfo.StorePath(f.Store.StoreDir() + "/" + string(absent(f)[0]) + "-nowhere" + suffix)
}

func testDerivers(t *testing.T, f Fixture) {
	if !canQuery[store.Derivers](f.Store) {
		return
	}
	for _, e := range f.Entries {
		if e.Info.Deriver != "" {
			require.Contains(t, collect(t, store.FindDerived(t.Context(), f.Store, e.Info.Deriver)), e.Info.StorePath)
		}
	}
	require.Empty(t, collect(t, store.FindDerived(t.Context(), f.Store, nowhere(f, ".drv"))))
}

// testOptionalNotFound asks each optional interface for what isn't there.
func testOptionalNotFound(t *testing.T, f Fixture) {
	ctx, gone := t.Context(), f.Entries[0].Info.Clone()
	gone.StorePath = nowhere(f, "")
	if o, ok := f.Store.(store.RangeOpener); ok {
		_, err := o.OpenRange(ctx, gone, 0, 1)
		require.ErrorIs(t, err, store.ErrNotFound, "OpenRange")
	}
	if o, ok := f.Store.(store.LayoutOpener); ok {
		_, err := o.Layout(ctx, gone)
		require.ErrorIs(t, err, store.ErrNotFound, "Layout")
	}
	if o, ok := f.Store.(store.LogOpener); ok {
		_, err := o.OpenLog(ctx, nowhere(f, ".drv"))
		require.ErrorIs(t, err, store.ErrNotFound, "OpenLog")
	}
	if o, ok := f.Store.(store.RealisationOpener); ok {
		_, err := o.Realisation(ctx, "sha256:"+strings.Repeat("0", 64)+"!out")
		require.ErrorIs(t, err, store.ErrNotFound, "Realisation")
	}
	if o, ok := f.Store.(store.DebugInfoFinder); ok {
		_, _, err := o.DebugInfo(ctx, strings.Repeat("0", 40))
		require.ErrorIs(t, err, store.ErrNotFound, "DebugInfo")
	}
	if o, ok := f.Store.(store.FileOpener); ok {
		testFilesNotFound(ctx, t, f, o)
	}
}

func testFilesNotFound(ctx context.Context, t *testing.T, f Fixture, o store.FileOpener) {
	hash := string(absent(f)[0])
	for _, key := range []string{
		"", ".", "/", "..", "../x", "a/../b", "//", "nar", "nar/", "nar/x", "nar/" + hash + ".nar.xz",
		"nar/" + strings.Repeat("0", 52) + ".nar", hash + ".narinfo", hash + ".ls", "log/" + hash + "-x.drv", "log",
		"debuginfo/" + strings.Repeat("0", 40), "realisations/x.doi", "/etc/passwd", "etc/passwd", "\x00", "nar\x00",
		strings.Repeat("x", 5000), strings.Repeat("x/", 5000),
	} {
		_, err := o.OpenFile(ctx, key)
		require.ErrorIs(t, err, store.ErrNotFound, "%q", key[:min(len(key), 100)])
	}
}
