package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/nar"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

var errBoom = errors.New("boom")

// one returns a store with one path of about a thousand bytes, and that path.
func one() (*storetest.Memory, storetest.Entry) {
	m := &storetest.Memory{}
	m.Add("one", storetest.Files{"a": strings.Repeat("a", 500), "b": strings.Repeat("b", 300)})
	return m, m.Entries()[0]
}

func TestOpenRangeOfPlainStore(t *testing.T) {
	m, e := one()
	s := storetest.Plain(m)
	r, err := store.OpenRange(t.Context(), s, e.Info, 100, 50)
	require.NoError(t, err)
	require.NoError(t, iotest.TestReader(r, e.NAR[100:150]))
	for off := range e.Info.NarSize {
		r, err := store.OpenRange(t.Context(), s, e.Info, off, e.Info.NarSize-off)
		require.NoError(t, err)
		got, err := io.ReadAll(iotest.OneByteReader(r))
		require.NoError(t, err)
		require.True(t, bytes.Equal(e.NAR[off:], got), "from %d", off)
	}
}

// A range is let go only when the whole NAR has proved itself.
func TestOpenRangeWithholdsUnprovedBytes(t *testing.T) {
	m, e := one()
	size := e.Info.NarSize
	for name, c := range map[string]struct {
		read   func(context.Context, io.ReadCloser) io.ReadCloser
		off, n int64
		want   error
	}{
		"failure before the range": {storetest.FailAt(10, errBoom), 100, 50, errBoom},
		"failure in the range":     {storetest.FailAt(120, errBoom), 100, 50, errBoom},
		"failure at its end":       {storetest.FailAt(150, errBoom), 100, 50, errBoom},
		"failure after the range":  {storetest.FailAt(size-1, errBoom), 100, 50, errBoom},
		"failure in place of end":  {storetest.FailAt(size, errBoom), 100, 50, errBoom},
		"failure at the very end":  {storetest.FailAt(size, errBoom), size - 1, 1, errBoom},
		"cut before the range":     {storetest.CutAt(10), 100, 50, io.ErrUnexpectedEOF},
		"cut in the range":         {storetest.CutAt(120), 100, 50, io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			s := &storetest.Faults{Store: m, Read: c.read}
			r, err := store.OpenRange(t.Context(), s, e.Info, c.off, c.n)
			require.NoError(t, err)
			got, err := io.ReadAll(r)
			require.ErrorIs(t, err, c.want)
			require.Less(t, int64(len(got)), c.n)
			_, err = r.Read(make([]byte, 1))
			require.ErrorIs(t, err, c.want, "the error stays")
		})
	}
	s := &storetest.Faults{Store: m, Read: storetest.FailAt(0, errBoom)}
	_, err := store.OpenRange(t.Context(), s, e.Info, 0, size+1)
	require.ErrorContains(t, err, fmt.Sprintf("%d bytes from 0 are not within the %d of %q", size+1, size,
		e.Info.StorePath))
}

type rangeStore struct {
	store.Store
	asked []int64
}

func (s *rangeStore) OpenRange(_ context.Context, _ *narinfo.Info, off, n int64) (io.ReadCloser, error) {
	s.asked = []int64{off, n}
	return nil, errBoom
}

func (s *rangeStore) Layout(context.Context, *narinfo.Info) (*nar.Layout, error) { return nil, errBoom }

func TestAbilitiesOfTheStoreComeFirst(t *testing.T) {
	m, e := one()
	s := &rangeStore{Store: m}
	_, err := store.OpenRange(t.Context(), s, e.Info, 7, 8)
	require.ErrorIs(t, err, errBoom)
	require.Equal(t, []int64{7, 8}, s.asked)
	_, err = store.Layout(t.Context(), s, e.Info)
	require.ErrorIs(t, err, errBoom)
}

// A NAR that is damaged where its structure is may fail to parse long before its proof fails: what counts is the proof.
func TestLayoutOfDamagedStructure(t *testing.T) {
	m, e := one()
	read := func(ctx context.Context, r io.ReadCloser) io.ReadCloser {
		return storetest.FailAt(e.Info.NarSize, store.ErrCorrupt)(ctx, storetest.FlipAt(10)(ctx, r))
	}
	_, err := store.Layout(t.Context(), &storetest.Faults{Store: m, Read: read}, e.Info)
	require.ErrorIs(t, err, store.ErrCorrupt)
}

func TestLayoutReportsFaults(t *testing.T) {
	m, e := one()
	for want, read := range map[error]func(context.Context, io.ReadCloser) io.ReadCloser{
		errBoom:             storetest.FailAt(e.Info.NarSize, errBoom),
		io.ErrUnexpectedEOF: storetest.CutAt(100),
	} {
		_, err := store.Layout(t.Context(), &storetest.Faults{Store: m, Read: read}, e.Info)
		require.ErrorIs(t, err, want)
		require.ErrorContains(t, err, string(e.Info.StorePath))
	}
}

func TestVerify(t *testing.T) {
	m, e := one()
	require.NoError(t, store.Verify(t.Context(), m, e.Info))
	for name, c := range map[string]struct {
		read func(context.Context, io.ReadCloser) io.ReadCloser
		want error
	}{
		"first byte wrong": {storetest.FlipAt(0), store.ErrCorrupt},
		"last byte wrong":  {storetest.FlipAt(e.Info.NarSize - 1), store.ErrCorrupt},
		"cut":              {storetest.CutAt(e.Info.NarSize - 1), store.ErrCorrupt},
		"empty":            {storetest.CutAt(0), store.ErrCorrupt},
		"failure":          {storetest.FailAt(50, errBoom), errBoom},
	} {
		err := store.Verify(t.Context(), &storetest.Faults{Store: m, Read: c.read}, e.Info)
		require.ErrorIs(t, err, c.want, name)
		require.ErrorContains(t, err, string(e.Info.StorePath), name)
	}
	long := e.Info.Clone()
	long.NarSize--
	require.ErrorIs(t, store.Verify(t.Context(), m, long), store.ErrCorrupt)
	long.NarSize = math.MaxInt64
	failing := &storetest.Faults{Store: m, Read: storetest.FailAt(50, errBoom)}
	require.ErrorIs(t, store.Verify(t.Context(), failing, long), errBoom, "it is read however large it should be")
	m.Delete(e.Info.StorePath)
	require.ErrorIs(t, store.Verify(t.Context(), m, e.Info), store.ErrNotFound)
}

func TestVerifyEndsWithItsContext(t *testing.T) {
	m, e := one()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := &storetest.Faults{Store: ignoreContext{m}, Read: storetest.BlockAt(5)}
	err := store.Verify(ctx, s, e.Info)
	require.ErrorIs(t, err, context.Canceled)
}

// ignoreContext opens even when the context has ended.
type ignoreContext struct{ store.Store }

func (s ignoreContext) Open(ctx context.Context, i *narinfo.Info) (io.ReadCloser, error) {
	return s.Store.Open(context.WithoutCancel(ctx), i)
}

// path makes a path's name up from a letter.
func path(letter byte) narinfo.StorePath {
	return narinfo.StorePath("/nix/store/" + strings.Repeat(string(letter), 32) + "-" + string(letter))
}

// graph makes a store from lines of "a: b c", each path and what it refers to.
func graph(lines string) *storetest.Memory {
	m := &storetest.Memory{}
	for line := range strings.Lines(lines) {
		name, references, _ := strings.Cut(strings.TrimSpace(line), ":")
		info := &narinfo.Info{StorePath: path(name[0])}
		for r := range strings.FieldsSeq(references) {
			info.References = append(info.References, path(r[0]))
		}
		m.AddInfo(info, []byte("no archive, for nobody reads it"))
	}
	return m
}

func letters(paths []narinfo.StorePath) string {
	var b strings.Builder
	for _, p := range paths {
		b.WriteString(p.Name())
	}
	return b.String()
}

func TestClosureOrder(t *testing.T) {
	for name, c := range map[string]struct{ graph, roots, want string }{
		"no roots":          {"a:", "", ""},
		"alone":             {"a:\nb:", "a", "a"},
		"chain":             {"a: b\nb: c\nc:", "a", "cba"},
		"diamond":           {"a: b c\nb: d\nc: d\nd:", "a", "dbca"},
		"itself":            {"a: a b\nb: b", "a", "ba"},
		"roots overlap":     {"a: b\nb:\nc: b", "cab", "bca"},
		"root twice":        {"a:", "aa", "a"},
		"late shared":       {"a: b z\nb: z\nz:", "a", "zba"},
		"circle of two":     {"a: b\nb: a", "a", "ba"},
		"circle further on": {"a: b\nb: c\nc: d\nd: b", "a", "dcba"},
	} {
		t.Run(name, func(t *testing.T) {
			var roots []narinfo.StorePath
			for i := range len(c.roots) {
				roots = append(roots, path(c.roots[i]))
			}
			infos, err := store.Closure(t.Context(), graph(c.graph), roots...)
			require.NoError(t, err)
			var got []narinfo.StorePath
			for _, i := range infos {
				got = append(got, i.StorePath)
			}
			require.Equal(t, c.want, letters(got))
		})
	}
}

func TestClosureOfALongChain(t *testing.T) {
	const n = 20_000
	m := &storetest.Memory{}
	at := func(i int) narinfo.StorePath { return narinfo.StorePath(fmt.Sprintf("/nix/store/%032d-x", i)) }
	for i := range n {
		m.AddInfo(&narinfo.Info{StorePath: at(i), References: []narinfo.StorePath{at(min(i+1, n-1))}}, nil)
	}
	infos, err := store.Closure(t.Context(), m, at(0))
	require.NoError(t, err)
	require.Len(t, infos, n)
	require.Equal(t, at(n-1), infos[0].StorePath)
}

func TestClosureNamesWhatIsMissing(t *testing.T) {
	m := graph("a: b\nb: c")
	_, err := store.Closure(t.Context(), m, path('a'))
	require.ErrorIs(t, err, store.ErrNotFound)
	require.ErrorContains(t, err, fmt.Sprintf("store: closure: %q refers to %q", path('b'), path('c')))
	_, err = store.Closure(t.Context(), m, path('x'))
	require.ErrorIs(t, err, store.ErrNotFound)
	require.ErrorContains(t, err, fmt.Sprintf("store: closure: %q", path('x')))

	// The hash part is there, under another name.
	other := path('b') + "-other"
	_, err = store.Closure(t.Context(), m, other)
	require.ErrorIs(t, err, store.ErrNotFound)
	require.ErrorContains(t, err, fmt.Sprintf("%q: only %q has its hash part", other, path('b')))

	s := &storetest.Faults{Store: m, InfoErr: func(h narinfo.HashPart) error {
		if h == path('b').HashPart() {
			return errBoom
		}
		return nil
	}}
	_, err = store.Closure(t.Context(), s, path('a'))
	require.ErrorIs(t, err, errBoom)
	require.NotErrorIs(t, err, store.ErrNotFound)
}

func collect(t *testing.T, s store.Store, find func(context.Context, store.Store, narinfo.StorePath) pathSeq,
	p narinfo.StorePath,
) (string, error) {
	t.Helper()
	var got []narinfo.StorePath
	for p, err := range find(t.Context(), s, p) {
		if err != nil {
			return letters(got), err
		}
		got = append(got, p)
	}
	return letters(got), nil
}

type pathSeq = func(yield func(narinfo.StorePath, error) bool)

func referrers(ctx context.Context, s store.Store, p narinfo.StorePath) pathSeq {
	return store.FindReferrers(ctx, s, p)
}

func derived(ctx context.Context, s store.Store, p narinfo.StorePath) pathSeq {
	return store.FindDerived(ctx, s, p)
}

func TestFindReferrers(t *testing.T) {
	m := graph("a: b c\nb: c\nc: c\nd:")
	for p, want := range map[byte]string{'a': "", 'b': "a", 'c': "ab", 'd': "", 'x': ""} {
		got, err := collect(t, m, referrers, path(p))
		require.NoError(t, err)
		require.Equal(t, want, got, "referrers of %c", p)
	}
	for range store.FindReferrers(t.Context(), m, path('c')) {
		break // an early end is no panic
	}
}

func TestFindDerived(t *testing.T) {
	m := graph("a:\nb:\nc:")
	drv := path('d') + ".drv"
	for _, c := range "ac" {
		m.AddInfo(&narinfo.Info{StorePath: path(byte(c)), Deriver: drv}, nil)
	}
	got, err := collect(t, m, derived, drv)
	require.NoError(t, err)
	require.Equal(t, "ac", got)
	got, err = collect(t, m, derived, path('e')+".drv")
	require.NoError(t, err)
	require.Empty(t, got)
}

// vanishing lists a path that is gone when its metadata is asked for.
type vanishing struct{ *storetest.Memory }

func (s vanishing) Info(ctx context.Context, h narinfo.HashPart) (*narinfo.Info, error) {
	if h == path('a').HashPart() {
		return nil, store.ErrNotFound
	}
	if h == path('z').HashPart() {
		return nil, errBoom
	}
	return s.Memory.Info(ctx, h)
}

func TestScansSkipWhatVanishesAndReportTrouble(t *testing.T) {
	got, err := collect(t, vanishing{graph("a: x\nb: x\nx:")}, referrers, path('x'))
	require.NoError(t, err)
	require.Equal(t, "b", got)
	got, err = collect(t, vanishing{graph("b: x\nx:\nz: x")}, referrers, path('x'))
	require.ErrorIs(t, err, errBoom)
	require.Equal(t, "b", got)
}

func TestQueriesNeedALister(t *testing.T) {
	s := storetest.Plain(graph("a: b\nb:"))
	_, err := collect(t, s, referrers, path('b'))
	require.ErrorIs(t, err, store.ErrUnsupported)
	_, err = collect(t, s, derived, path('b'))
	require.ErrorIs(t, err, store.ErrUnsupported)
	_, err = store.Search(t.Context(), s, "", 0)
	require.ErrorIs(t, err, store.ErrUnsupported)
}

func TestSearch(t *testing.T) {
	m := &storetest.Memory{}
	for i, name := range []string{"Python-3.12", "python3-pip", "glibc-2.37", "glibc-2.37-dev", "what?"} {
		m.AddInfo(&narinfo.Info{StorePath: narinfo.StorePath(fmt.Sprintf("/nix/store/%032d-%s", i, name))}, nil)
	}
	for query, want := range map[string][]string{
		"":           {"Python-3.12", "python3-pip", "glibc-2.37", "glibc-2.37-dev", "what?"},
		"python":     {"Python-3.12", "python3-pip"},
		"PYTHON":     {"Python-3.12", "python3-pip"},
		"2.37":       {"glibc-2.37", "glibc-2.37-dev"},
		"glibc-*":    {"glibc-2.37", "glibc-2.37-dev"},
		"glibc-?.37": {"glibc-2.37"},
		"GLIBC-*dev": {"glibc-2.37-dev"},
		"ibc*":       nil,
		"[pw]*":      {"Python-3.12", "python3-pip", "what?"},
		`what\?`:     {"what?"},
		"0000":       nil, // the hash part is no part of the name
		"nix/store":  nil,
	} {
		paths, err := store.Search(t.Context(), m, query, 0)
		require.NoError(t, err, query)
		var got []string
		for _, p := range paths {
			got = append(got, p.Name())
		}
		require.Equal(t, want, got, "query %q", query)
		limited, err := store.Search(t.Context(), m, query, 1)
		require.NoError(t, err)
		require.Equal(t, paths[:min(1, len(paths))], limited, "query %q", query)
	}
	_, err := store.Search(t.Context(), m, "[", 0)
	require.ErrorContains(t, err, `store: search pattern "["`)
}
