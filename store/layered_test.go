package store_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

func layered(t testing.TB, groups ...[]store.Store) *store.Layered {
	t.Helper()
	l, err := store.NewLayered(groups...)
	require.NoError(t, err)
	return l
}

// scattered is a closed set of paths, and three stores that have them between them, some more than once.
func scattered() (entries []storetest.Entry, stores []store.Store) {
	all := &storetest.Memory{}
	lib := all.Add("lib", storetest.Files{"lib": strings.Repeat("lib ", 500)})
	tool := all.Add("tool", storetest.Files{"bin/tool": "#!/bin/sh\n"}, lib.StorePath)
	all.Add("all", storetest.Files{"": "-> tool"}, lib.StorePath, tool.StorePath)
	parts := []*storetest.Memory{{}, {}, {}}
	for n, e := range all.Entries() {
		parts[n%3].AddInfo(e.Info, e.NAR)
		parts[(n+1)%3].AddInfo(e.Info, e.NAR)
	}
	return all.Entries(), []store.Store{parts[0], storetest.Plain(parts[1]), parts[2]} // each path is in one that lists
}

func TestConformanceOfLayered(t *testing.T) {
	entries, stores := scattered()
	for name, groups := range map[string][][]store.Store{
		"one group": {stores}, "three groups": {stores[:1], stores[1:2], stores[2:]}, "mixed": {stores[:2], {}, stores[2:]},
		"within another": {{layered(t, stores[:1], stores[1:])}},
	} {
		t.Run(name, func(t *testing.T) {
			storetest.Test(t, func(t *testing.T) storetest.Fixture {
				return storetest.Fixture{Store: layered(t, groups...), Entries: entries}
			})
		})
	}
}

func TestLayersMustFit(t *testing.T) {
	_, err := store.NewLayered()
	require.ErrorContains(t, err, "no layers")
	_, err = store.NewLayered([]store.Store{&storetest.Memory{}}, []store.Store{&storetest.Memory{Dir: "/gnu/store"}})
	require.ErrorContains(t, err, `layers of "/nix/store" and "/gnu/store"`)
}

// slow answers after a while, or when its context ends.
type slow struct {
	store.Store
	after time.Duration
	asked *int
}

func (s slow) Info(ctx context.Context, hash narinfo.HashPart) (*narinfo.Info, error) {
	if s.asked != nil {
		*s.asked++
	}
	select {
	case <-time.After(s.after):
		return s.Store.Info(ctx, hash)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func deriver(m *storetest.Memory, e storetest.Entry, drv byte) *storetest.Memory {
	info := e.Info.Clone()
	info.Deriver = path(drv) + ".drv"
	m.AddInfo(info, e.NAR)
	return m
}

func TestTheNearestStoreThatHasThePathWins(t *testing.T) {
	_, e := one()
	a, b := deriver(&storetest.Memory{}, e, 'a'), deriver(&storetest.Memory{}, e, 'b')
	empty := &storetest.Memory{}
	down := &storetest.Faults{Store: empty, InfoErr: func(narinfo.HashPart) error { return errBoom }}
	second := time.Second
	for name, c := range map[string]struct {
		groups [][]store.Store
		want   byte // the deriver tells who answered; 0: nobody
		err    error
		took   time.Duration
	}{
		"first of a group":          {[][]store.Store{{a, b}}, 'a', nil, 0},
		"the other has it":          {[][]store.Store{{empty, b}}, 'b', nil, 0},
		"next group":                {[][]store.Store{{empty}, {b}}, 'b', nil, 0},
		"a later one is slow":       {[][]store.Store{{a, slow{b, second, nil}}}, 'a', nil, 0},
		"an earlier one is slow":    {[][]store.Store{{slow{a, second, nil}, b}}, 'a', nil, second},
		"an earlier one has not":    {[][]store.Store{{slow{empty, second, nil}, b}}, 'b', nil, second},
		"side by side":              {[][]store.Store{{slow{empty, second, nil}, slow{empty, second, nil}, slow{b, second, nil}}}, 'b', nil, second},
		"one after the other":       {[][]store.Store{{slow{empty, second, nil}}, {slow{b, second, nil}}}, 'b', nil, 2 * second},
		"an earlier one is down":    {[][]store.Store{{down, b}}, 'b', nil, 0},
		"an earlier group is down":  {[][]store.Store{{down}, {b}}, 'b', nil, 0},
		"absent":                    {[][]store.Store{{empty, empty}, {empty}}, 0, store.ErrNotFound, 0},
		"absent, and one down":      {[][]store.Store{{empty, down}, {empty}}, 0, errBoom, 0},
		"absent, one down at last":  {[][]store.Store{{empty}, {down}}, 0, errBoom, 0},
		"a later group is not slow": {[][]store.Store{{a}, {slow{b, second, nil}}}, 'a', nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := layered(t, c.groups...)
				start := time.Now()
				info, err := l.Info(t.Context(), e.Info.StorePath.HashPart())
				require.Equal(t, c.took, time.Since(start))
				if c.want == 0 {
					require.ErrorIs(t, err, c.err)
					require.Equal(t, errors.Is(c.err, store.ErrNotFound), errors.Is(err, store.ErrNotFound))
					_, err = l.Open(t.Context(), e.Info)
					require.ErrorIs(t, err, c.err)
					return
				}
				require.NoError(t, err)
				require.Equal(t, path(c.want)+".drv", info.Deriver)
				r, err := l.Open(t.Context(), info)
				require.NoError(t, err)
				got, err := io.ReadAll(r)
				require.NoError(t, err)
				require.Equal(t, e.NAR, got)
			})
		})
	}
}

func TestLaterGroupsAreNotBothered(t *testing.T) {
	m, e := one()
	asked := 0
	l := layered(t, []store.Store{m}, []store.Store{slow{m, 0, &asked}})
	info, err := l.Info(t.Context(), e.Info.StorePath.HashPart())
	require.NoError(t, err)
	require.NoError(t, store.Verify(t.Context(), l, info))
	require.Zero(t, asked)
}

func TestLayeredEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, e := one()
		l := layered(t, []store.Store{slow{m, time.Hour, nil}, slow{m, time.Hour, nil}}, []store.Store{m})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := l.Info(ctx, e.Info.StorePath.HashPart())
		require.ErrorIs(t, err, context.DeadlineExceeded)
		_, err = l.Open(ctx, e.Info)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

// broken has a path but cannot open it.
type broken struct{ store.Store }

func (broken) Open(context.Context, *narinfo.Info) (io.ReadCloser, error) { return nil, errBoom }

func TestWhatOneCannotOpenAnotherMay(t *testing.T) {
	m, e := one()
	for _, groups := range [][][]store.Store{{{broken{m}, m}}, {{broken{m}}, {m}}} {
		require.NoError(t, store.Verify(t.Context(), layered(t, groups...), e.Info))
	}
	_, err := layered(t, []store.Store{broken{m}}, []store.Store{&storetest.Memory{}}).Open(t.Context(), e.Info)
	require.ErrorIs(t, err, errBoom)
}

// Another content under the same name, in a nearer store, is not what was asked for.
func TestLayeredOpensTheContentThatWasAskedFor(t *testing.T) {
	m, e := one()
	other := &storetest.Memory{}
	other.AddInfo(&narinfo.Info{StorePath: e.Info.StorePath}, storetest.Archive(storetest.Files{"": "rebuilt"}))
	l := layered(t, []store.Store{other, m})
	require.NoError(t, store.Verify(t.Context(), l, e.Info))
	info, err := l.Info(t.Context(), e.Info.StorePath.HashPart())
	require.NoError(t, err)
	require.NotEqual(t, e.Info.NarHash, info.NarHash)
	require.NoError(t, store.Verify(t.Context(), l, info))
}

// archives keeps archives, of which none is compressed.
type archives struct {
	*storetest.Memory
	compression string
}

type nopSeeker struct{ *bytes.Reader }

func (nopSeeker) Close() error { return nil }

func (a archives) Info(ctx context.Context, hash narinfo.HashPart) (*narinfo.Info, error) {
	info, err := a.Memory.Info(ctx, hash)
	if err == nil {
		info.URL, info.Compression = "nar/"+a.compression, a.compression
	}
	return info, err
}

func (a archives) OpenArchive(_ context.Context, info *narinfo.Info) (*store.File, error) {
	return &store.File{ReadSeekCloser: nopSeeker{bytes.NewReader([]byte(info.URL))}}, nil
}

func TestLayeredArchives(t *testing.T) {
	m, e := one()
	hash := e.Info.StorePath.HashPart()
	l := layered(t, []store.Store{archives{m, "xz"}}, []store.Store{m})
	info, err := l.Info(t.Context(), hash)
	require.NoError(t, err)
	f, err := l.OpenArchive(t.Context(), info)
	require.NoError(t, err)
	text, err := io.ReadAll(f)
	require.NoError(t, err)
	require.Equal(t, "nar/xz", string(text), "asked with its own URL")

	// A store that came to have the path since, in another form, is passed over.
	l = layered(t, []store.Store{m}, []store.Store{archives{m, "zstd"}}, []store.Store{archives{m, "xz"}})
	f, err = l.OpenArchive(t.Context(), info)
	require.NoError(t, err)
	text, err = io.ReadAll(f)
	require.NoError(t, err)
	require.Equal(t, "nar/xz", string(text))

	// Whoever has no archives has no URL.
	info, err = l.Info(t.Context(), hash)
	require.NoError(t, err)
	require.Empty(t, info.URL+info.Compression)
	_, err = layered(t, []store.Store{m}).OpenArchive(t.Context(), info)
	require.ErrorIs(t, err, store.ErrUnsupported)
}

func TestLayeredTexts(t *testing.T) {
	a, b := &storetest.Memory{}, &storetest.Memory{}
	drv := path('d') + ".drv"
	b.AddLog(drv, "built")
	b.AddRealisation("sha256:x!out", "{}")
	l := layered(t, []store.Store{storetest.Plain(a), a}, []store.Store{b})
	r, err := l.OpenLog(t.Context(), drv)
	require.NoError(t, err)
	text, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, "built", string(text))
	doc, err := l.Realisation(t.Context(), "sha256:x!out")
	require.NoError(t, err)
	require.Equal(t, "{}", string(doc))
	_, err = l.Realisation(t.Context(), "sha256:y!out")
	require.ErrorIs(t, err, store.ErrNotFound)
	_, err = l.OpenFile(t.Context(), "log/x")
	require.ErrorIs(t, err, store.ErrNotFound)
}

func TestLayeredQueries(t *testing.T) {
	a, b := graph("a: c\nc:"), graph("b: c\nc:\na: c")
	for _, m := range []*storetest.Memory{a, b} {
		m.AddInfo(&narinfo.Info{StorePath: path('z'), Deriver: path('d') + ".drv"}, nil)
	}
	plain := storetest.Plain(graph("x: c\nc:"))
	l := layered(t, []store.Store{plain, a}, []store.Store{b})
	got, err := collect(t, l, referrers, path('c'))
	require.NoError(t, err)
	require.Equal(t, "ab", got)
	got, err = collect(t, l, derived, path('d')+".drv")
	require.NoError(t, err)
	require.Equal(t, "z", got)
	found, err := store.Search(t.Context(), l, "", 0)
	require.NoError(t, err)
	require.Equal(t, "abcz", letters(found))
	for range l.Paths(t.Context()) {
		break
	}
	_, err = store.Search(t.Context(), layered(t, []store.Store{plain}), "", 0)
	require.ErrorIs(t, err, store.ErrUnsupported)
	failing := vanishing{graph("b: x\nx:\nz: x")}
	_, err = collect(t, layered(t, []store.Store{a}, []store.Store{failing}), referrers, path('x'))
	require.ErrorIs(t, err, errBoom)
}

func TestLocalOnlyIsToldToEveryLayer(t *testing.T) {
	require.False(t, store.IsLocalOnly(t.Context()))
	m, e := one()
	remote := remoteOnly{m}
	l := layered(t, []store.Store{remote})
	_, err := l.Info(t.Context(), e.Info.StorePath.HashPart())
	require.NoError(t, err)
	_, err = l.Info(store.LocalOnly(t.Context()), e.Info.StorePath.HashPart())
	require.ErrorIs(t, err, store.ErrNotFound)
}

type remoteOnly struct{ store.Store }

func (r remoteOnly) Info(ctx context.Context, hash narinfo.HashPart) (*narinfo.Info, error) {
	if store.IsLocalOnly(ctx) {
		return nil, store.ErrNotFound
	}
	return r.Store.Info(ctx, hash)
}
