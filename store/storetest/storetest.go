package storetest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// Fixture is an open store and some of what is in it.
type Fixture struct {
	Store store.Store
	// Entries are paths that the store must hold, closed under references; it may hold others.
	// Of an Info, StorePath, NarHash, NarSize, References, Deriver and CA are compared.
	// A nil NAR stands for any bytes with the right hash. At least one entry should have references.
	Entries []Entry
}

// Test checks everything that package store promises of every store, and of each optional interface that this one has.
// open is called once a subtest; what it opens it closes with t.Cleanup.
// Content must not change while a subtest runs.
func Test(t *testing.T, open func(t *testing.T) Fixture) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Fixture)
	}{
		{"Info", testInfo},
		{"InfoIsTheCallers", testInfoIsTheCallers},
		{"NotFound", testNotFound},
		{"Open", testOpen},
		{"OpenOtherContent", testOpenOtherContent},
		{"OpenRange", testOpenRange},
		{"OpenRangeOutside", testOpenRangeOutside},
		{"Layout", testLayout},
		{"Archive", testArchive},
		{"Closure", testClosure},
		{"Lister", testLister},
		{"Referrers", testReferrers},
		{"Derivers", testDerivers},
		{"OptionalNotFound", testOptionalNotFound},
		{"Cancelled", testCancelled},
		{"Concurrent", testConcurrent},
		{"CloseEarly", testCloseEarly},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := open(t)
			require.NotEmpty(t, f.Entries, "a fixture without entries tests nothing")
			c.test(t, f)
		})
	}
}

// absent returns hash parts that the fixture's entries don't have.
func absent(f Fixture) []narinfo.HashPart {
	all := []narinfo.HashPart{
		"00000000000000000000000000000000", "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz", "7rjj5jmx5vs2ay4q0sxdqfp3q5vwz8h0",
	}
	// Neighbours of one that is there find prefix and range searches that are off by one.
	p := []byte(f.Entries[0].Info.StorePath.HashPart())
	for _, c := range "0z" {
		p[len(p)-1] = byte(c)
		all = append(all, narinfo.HashPart(p))
	}
	return slices.DeleteFunc(all, func(h narinfo.HashPart) bool {
		return slices.ContainsFunc(f.Entries, func(e Entry) bool { return e.Info.StorePath.HashPart() == h })
	})
}

func testInfo(t *testing.T, f Fixture) {
	for _, e := range f.Entries {
		got, err := f.Store.Info(t.Context(), e.Info.StorePath.HashPart())
		require.NoError(t, err, "%q", e.Info.StorePath)
		require.NoError(t, sameInfo(e.Info, got))
		require.Equal(t, f.Store.StoreDir(), got.StorePath.Dir())
		require.True(t, slices.IsSorted(got.References), "%q: references are sorted", e.Info.StorePath)
	}
}

// sameInfo compares what every store knows of a path.
func sameInfo(want, got *narinfo.Info) error {
	facts := func(i *narinfo.Info) string {
		return fmt.Sprintf("%s %s %d %q %q %q", i.StorePath, i.NarHash, i.NarSize, i.References, i.Deriver, i.CA)
	}
	if facts(want) != facts(got) {
		return fmt.Errorf("info is\n%s\nnot\n%s", facts(got), facts(want))
	}
	return nil
}

func testInfoIsTheCallers(t *testing.T, f Fixture) {
	for _, e := range f.Entries {
		hash := e.Info.StorePath.HashPart()
		got, err := f.Store.Info(t.Context(), hash)
		require.NoError(t, err)
		for i := range got.References {
			got.References[i] = "spoilt"
		}
		for i := range got.Signatures {
			got.Signatures[i] = "spoilt"
		}
		got.StorePath, got.NarSize, got.URL = "spoilt", -1, "spoilt"
		again, err := f.Store.Info(t.Context(), hash)
		require.NoError(t, err)
		require.NoError(t, sameInfo(e.Info, again))
		require.NotContains(t, again.Signatures, "spoilt")
	}
}

func testNotFound(t *testing.T, f Fixture) {
	for _, hash := range absent(f) {
		info, err := f.Store.Info(t.Context(), hash)
		require.ErrorIs(t, err, store.ErrNotFound, "%q", hash)
		require.Nil(t, info)
		gone := f.Entries[0].Info.Clone()
		gone.StorePath = narinfo.StorePath(f.Store.StoreDir() + "/" + string(hash) + "-gone")
		_, err = f.Store.Open(t.Context(), gone)
		require.ErrorIs(t, err, store.ErrNotFound, "%q", gone.StorePath)
	}
}

func testOpen(t *testing.T, f Fixture) {
	for _, e := range f.Entries {
		require.NoError(t, checkOpen(t.Context(), f.Store, e), "%q", e.Info.StorePath)
		require.NoError(t, store.Verify(t.Context(), f.Store, info(t, f, e)))
	}
}

// info returns what the store says of an entry, which is what its other methods want to be given.
func info(t *testing.T, f Fixture, e Entry) *narinfo.Info {
	t.Helper()
	i, err := f.Store.Info(t.Context(), e.Info.StorePath.HashPart())
	require.NoError(t, err, "%q", e.Info.StorePath)
	return i
}

// checkOpen reads an entry whole, by Read and where there is one by WriteTo.
func checkOpen(ctx context.Context, s store.Store, e Entry) error {
	i, err := s.Info(ctx, e.Info.StorePath.HashPart())
	if err != nil {
		return err
	}
	for _, copyAll := range []func(io.Writer, io.Reader) (int64, error){
		io.Copy,
		func(w io.Writer, r io.Reader) (int64, error) {
			return io.CopyBuffer(w, struct{ io.Reader }{r}, make([]byte, 1009))
		},
	} {
		r, err := s.Open(ctx, i)
		if err != nil {
			return err
		}
		if err := errors.Join(checkContent(e, r, copyAll), r.Close()); err != nil {
			return err
		}
	}
	return nil
}

func checkContent(e Entry, r io.Reader, copyAll func(io.Writer, io.Reader) (int64, error)) error {
	h := sha256.New()
	n, err := copyAll(h, r)
	if err != nil {
		return fmt.Errorf("after %d bytes: %w", n, err)
	}
	if n != e.Info.NarSize {
		return fmt.Errorf("%d bytes, not %d", n, e.Info.NarSize)
	}
	if got, err := narinfo.NewHash(narinfo.SHA256, h.Sum(nil)); err != nil || got != e.Info.NarHash {
		return fmt.Errorf("bytes that hash to %s, not %s", got, e.Info.NarHash)
	}
	if k, err := r.Read(make([]byte, 1)); k != 0 || err != io.EOF {
		return fmt.Errorf("a read after the end gives %d, %w", k, err)
	}
	return nil
}

// testOpenOtherContent asks for what the path once was, or never: a path rebuilt has another hash.
func testOpenOtherContent(t *testing.T, f Fixture) {
	i := info(t, f, f.Entries[0])
	digest := i.NarHash.Digest()
	digest[0] ^= 1
	var err error
	i.NarHash, err = narinfo.NewHash(narinfo.SHA256, digest)
	require.NoError(t, err)
	_, err = f.Store.Open(t.Context(), i)
	require.ErrorIs(t, err, store.ErrNotFound)
	_, err = store.OpenRange(t.Context(), f.Store, i, 0, 1)
	require.ErrorIs(t, err, store.ErrNotFound)
	_, err = store.Layout(t.Context(), f.Store, i)
	require.ErrorIs(t, err, store.ErrNotFound)
}

func testLister(t *testing.T, f Fixture) {
	l, ok := f.Store.(store.Lister)
	if !ok {
		return
	}
	var listed []narinfo.StorePath
	for p, err := range l.Paths(t.Context()) {
		require.NoError(t, err)
		listed = append(listed, p)
	}
	requireStrictlySorted(t, listed)
	for _, e := range f.Entries {
		_, found := slices.BinarySearch(listed, e.Info.StorePath)
		require.True(t, found, "%q is listed", e.Info.StorePath)
	}
	for _, p := range listed[:min(len(listed), 500)] {
		_, err := store.Lookup(t.Context(), f.Store, p)
		require.NoError(t, err, "what is listed is there")
	}
	for _, err := range l.Paths(t.Context()) {
		require.NoError(t, err)
		break // must not panic, and not hold on to anything
	}
	found, err := store.Search(t.Context(), f.Store, strings.ToUpper(f.Entries[0].Info.StorePath.Name()), 0)
	require.NoError(t, err)
	require.Contains(t, found, f.Entries[0].Info.StorePath)
}

func requireStrictlySorted(t *testing.T, paths []narinfo.StorePath) {
	t.Helper()
	for i := 1; i < len(paths); i++ {
		require.Less(t, paths[i-1], paths[i], "ordered by path, each once")
	}
}
