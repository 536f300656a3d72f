package gc_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/catalogtest"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
	"github.com/voidnxlab/nixtrap/store/bucketstore/gc"
)

func TestMain(m *testing.M) { catalogtest.Main(m) }

// world is a catalog with a bucket, whose paths have a hundred bytes each unless a test says otherwise.
type world struct {
	*catalog.Catalog
	*catalogtest.Bucket
	clock *catalogtest.Clock
}

func newWorld(t *testing.T, db catalogtest.Database) *world {
	clock := catalogtest.NewClock()
	return &world{db.Open(t, &catalog.Options{Now: clock.Now}), catalogtest.NewBucket(), clock}
}

func content(n int) string { return strings.Repeat(string(rune('a'+n)), 100) }

// add pushes path n without leaving a lease, an hour after the last one.
func (w *world) add(t *testing.T, n int, references ...int) *narinfo.Info {
	t.Helper()
	var paths []narinfo.StorePath
	for _, r := range references {
		paths = append(paths, catalogtest.Path(r))
	}
	i := catalogtest.Info(catalogtest.Path(n), content(n), paths...)
	require.NoError(t, w.Push(t.Context(), w.Catalog, "", i))
	w.clock.Advance(time.Hour)
	return i
}

func (w *world) collect(t *testing.T, o gc.Options) *gc.Report {
	t.Helper()
	o.Look = w.Look
	r, err := gc.Collect(t.Context(), w.Catalog, w.Bucket, o)
	require.NoError(t, err)
	return r
}

// live says which of the first n paths are live, and that the bucket agrees and is whole.
func (w *world) live(t *testing.T, n int) []int {
	t.Helper()
	var live []int
	files := w.Files()
	for i := range n {
		hash := catalogtest.Path(i).HashPart()
		missing, err := w.Missing(t.Context(), "", []narinfo.HashPart{hash})
		require.NoError(t, err)
		_, there := files[catalog.NarinfoKey("", hash)]
		require.Equal(t, there, len(missing) == 0, "path %d", i)
		if there {
			live = append(live, i)
		}
	}
	require.Empty(t, w.Broken(""))
	return live
}

func decision(t *testing.T, r *gc.Report, n int) gc.Decision {
	t.Helper()
	for _, d := range r.Paths {
		if d.Path == catalogtest.Path(n) {
			return d
		}
	}
	t.Fatalf("no decision about path %d", n)
	return gc.Decision{}
}

func TestOldClosuresGoFirst(t *testing.T) {
	catalogtest.OnEach(t, func(t *testing.T, db catalogtest.Database) {
		w := newWorld(t, db)
		w.add(t, 0)
		w.add(t, 1)
		w.add(t, 2, 0)
		w.add(t, 3, 1, 2, 3)
		w.add(t, 4, 0)
		w.add(t, 5, 1)
		w.Touch("", catalogtest.Path(4).HashPart()) // and so path 0 was used now

		dry := w.collect(t, gc.Options{MaxSize: 450, DryRun: true})
		require.Equal(t, []int{0, 1, 2, 3, 4, 5}, w.live(t, 6))
		r := w.collect(t, gc.Options{MaxSize: 450})
		require.Equal(t, []int{0, 1, 4, 5}, w.live(t, 6))
		dry.DryRun = false
		require.Equal(t, dry.String(), r.String())
		require.Equal(t, "deleted 2 paths and 200 bytes, kept 4 paths and 400 bytes", r.String())
		require.Equal(t, gc.Used, decision(t, r, 0).Reason)
		require.Equal(t, catalogtest.Path(4), decision(t, r, 0).By)
		require.Equal(t, gc.NoRoom, decision(t, r, 2).Reason)
		require.Len(t, w.Files(), 8)

		w.clock.Advance(time.Hour)
		r = w.collect(t, gc.Options{KeepUsed: 90 * time.Minute})
		require.Equal(t, []int{0, 4}, w.live(t, 6))
		require.Equal(t, gc.TooOld, decision(t, r, 1).Reason)
	})
}

func TestPinsAndLeasesWin(t *testing.T) {
	catalogtest.OnEach(t, func(t *testing.T, db catalogtest.Database) {
		w := newWorld(t, db)
		for n := range 6 {
			if n == 0 || n == 3 {
				w.add(t, n)
			} else {
				w.add(t, n, n-1)
			}
		}
		expires := w.clock.Now().Add(time.Hour)
		require.NoError(t, w.Pin(t.Context(), "", "release", catalogtest.Path(1), "me", time.Time{}))
		require.NoError(t, w.Pin(t.Context(), "", "trial", catalogtest.Path(1), "me", expires))
		missing, err := w.Lease(t.Context(), "", []narinfo.HashPart{catalogtest.Path(9).HashPart(), catalogtest.Path(4).HashPart()}, expires)
		require.NoError(t, err)
		require.Equal(t, []narinfo.HashPart{catalogtest.Path(9).HashPart()}, missing)

		r := w.collect(t, gc.Options{MaxSize: 150, KeepUsed: time.Minute})
		require.Equal(t, []int{0, 1, 3, 4}, w.live(t, 6))
		require.EqualValues(t, 250, r.Excess)
		require.Equal(t, []string{"release", "trial"}, decision(t, r, 1).Pins)
		require.Equal(t, gc.Pinned, decision(t, r, 1).Reason)
		require.Equal(t, gc.Referenced, decision(t, r, 0).Reason)
		require.Equal(t, catalogtest.Path(1), decision(t, r, 0).By)
		require.Equal(t, gc.Leased, decision(t, r, 4).Reason)

		w.clock.Advance(2 * time.Hour)
		w.collect(t, gc.Options{MaxSize: 250})
		require.Equal(t, []int{0, 1}, w.live(t, 6))
		require.NoError(t, w.Pin(t.Context(), "", "release", catalogtest.Path(0), "me", time.Time{}))
		w.collect(t, gc.Options{KeepUsed: time.Minute})
		require.Equal(t, []int{0}, w.live(t, 6))
		history, err := w.PinHistory(t.Context(), "", "release")
		require.NoError(t, err)
		require.Len(t, history, 2)
		require.Equal(t, catalogtest.Path(0), history[0].Path)
		require.True(t, history[0].Replaced.IsZero())
		require.Equal(t, w.clock.Now(), history[1].Replaced)
		require.NoError(t, w.Unpin(t.Context(), "", "release"))
		require.ErrorIs(t, w.Unpin(t.Context(), "", "release"), catalog.ErrNotFound)
		w.collect(t, gc.Options{KeepUsed: time.Minute})
		require.Empty(t, w.Files())
	})
}

func TestSharedArchives(t *testing.T) {
	catalogtest.OnEach(t, func(t *testing.T, db catalogtest.Database) {
		w := newWorld(t, db)
		i := w.add(t, 0)
		require.NoError(t, w.Push(t.Context(), w.Catalog, "other", i))
		w.clock.Advance(time.Hour)
		r := w.collect(t, gc.Options{KeepUsed: 90 * time.Minute})
		require.Equal(t, 1, r.Deleted)
		require.Zero(t, r.Freed)
		require.Empty(t, w.Broken("other"))
		require.Len(t, w.Files(), 2)
		r = w.collect(t, gc.Options{KeepUsed: time.Minute, Grace: time.Hour})
		require.Equal(t, 1, r.Deleted)
		require.Len(t, w.Files(), 1, "the archive outlives its narinfo")
		w.clock.Advance(2 * time.Hour)
		r = w.collect(t, gc.Options{})
		require.EqualValues(t, 100, r.Freed)
		require.Empty(t, w.Files())
	})
}

// Nothing in a narinfo proves that there is no circle.
func TestCircles(t *testing.T) {
	catalogtest.OnEach(t, func(t *testing.T, db catalogtest.Database) {
		w := newWorld(t, db)
		w.add(t, 0)
		w.add(t, 1, 0)
		w.add(t, 2, 1)
		w.add(t, 3, 2)
		replaced := catalogtest.Info(catalogtest.Path(1), "other content", catalogtest.Path(0), catalogtest.Path(2))
		require.NoError(t, w.Push(t.Context(), w.Catalog, "", replaced))
		w.clock.Advance(time.Hour)
		w.collect(t, gc.Options{})
		require.Equal(t, []int{0, 1, 2, 3}, w.live(t, 4))
		require.NotContains(t, w.Files(), catalogtest.Info(catalogtest.Path(1), content(1)).URL, "the archive that was replaced")
		w.clock.Advance(time.Hour)
		w.collect(t, gc.Options{MaxSize: 250})
		require.Equal(t, []int{0, 1, 2}, w.live(t, 4))
		w.collect(t, gc.Options{MaxSize: 100})
		require.Equal(t, []int{0}, w.live(t, 4))
		w.collect(t, gc.Options{KeepUsed: time.Minute})
		require.Empty(t, w.Files())
	})
}

func TestTwoCollectorsDoNotMeet(t *testing.T) {
	catalogtest.OnEach(t, func(t *testing.T, db catalogtest.Database) {
		w := newWorld(t, db)
		w.add(t, 0)
		other := db.Open(t, &catalog.Options{Now: w.clock.Now, Holder: "the other"})
		_, release, err := other.Lock(t.Context(), "collector")
		require.NoError(t, err)
		_, err = gc.Collect(t.Context(), w.Catalog, w.Bucket, gc.Options{KeepUsed: time.Minute})
		var locked *catalog.LockedError
		require.ErrorAs(t, err, &locked)
		require.Contains(t, locked.Holder, "the other")
		_, err = gc.Collect(t.Context(), w.Catalog, w.Bucket, gc.Options{KeepUsed: time.Minute, DryRun: true})
		require.NoError(t, err)
		release()
		release()
		w.collect(t, gc.Options{KeepUsed: time.Minute})
		require.Empty(t, w.Files())

		_, abandoned, err := other.Lock(t.Context(), "collector")
		require.NoError(t, err)
		defer abandoned()
		w.clock.Advance(2 * time.Minute) // its holder died
		w.collect(t, gc.Options{})
	})
}

type failing struct {
	catalog.Remover
	key string
}

func (f failing) Remove(ctx context.Context, key string) error {
	if key == f.key {
		return context.DeadlineExceeded
	}
	return f.Remover.Remove(ctx, key)
}

func TestWhatCannotBeRemovedIsTriedAgain(t *testing.T) {
	catalogtest.OnEach(t, func(t *testing.T, db catalogtest.Database) {
		w := newWorld(t, db)
		lib := w.add(t, 0)
		app := w.add(t, 1, 0)
		for _, key := range []string{catalog.NarinfoKey("", app.StorePath.HashPart()), lib.URL} {
			r, err := gc.Collect(t.Context(), w.Catalog, failing{w.Bucket, key}, gc.Options{KeepUsed: time.Minute})
			require.ErrorContains(t, err, key)
			require.Contains(t, w.Files(), key)
			require.Empty(t, w.Broken(""))
			if key == lib.URL {
				require.Equal(t, 1, r.Failed)
				require.Equal(t, 1, r.Deleted)
			}
			w.clock.Advance(time.Hour)
		}
		w.collect(t, gc.Options{})
		require.Empty(t, w.Files())
	})
}

func TestReport(t *testing.T) {
	w := newWorld(t, catalogtest.SQLite(t.TempDir()+"/catalog.db"))
	w.add(t, 0)
	w.add(t, 1, 0)
	w.add(t, 2)
	require.NoError(t, w.Pin(t.Context(), "", "release", catalogtest.Path(1), "me", time.Time{}))
	var text strings.Builder
	_, err := w.collect(t, gc.Options{MaxSize: 150}).WriteTo(&text)
	require.NoError(t, err)
	p := func(n int) string { return string(catalogtest.Path(n)) }
	require.ElementsMatch(t, []string{
		"keep " + p(0) + " (100 bytes): referred to by " + p(1),
		"keep " + p(1) + " (100 bytes): pinned as release",
		"delete " + p(2) + " (100 bytes): no room, last used 2026-01-01 02:00:00",
		"deleted 1 paths and 100 bytes, kept 2 paths and 200 bytes; pins and leases hold 50 bytes too many", "",
	}, strings.Split(text.String(), "\n"))
}
