package catalog_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/catalogtest"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
)

func TestMain(m *testing.M) { catalogtest.Main(m) }

func has(b *catalogtest.Bucket, key string) bool {
	_, ok := b.Files()[key]
	return ok
}

func TestPushAndDelete(t *testing.T) {
	catalogtest.OnEach(t, func(t *testing.T, db catalogtest.Database) {
		now := catalogtest.NewClock()
		c, f := db.Open(t, &catalog.Options{Now: now.Now}), catalogtest.NewBucket()
		lib, app := catalogtest.Info(catalogtest.Path(1), "lib"), catalogtest.Info(catalogtest.Path(2), "app", catalogtest.Path(1), catalogtest.Path(2))
		require.NoError(t, f.Upload(t.Context(), c, "", lib, 0))
		require.NoError(t, c.Publish(t.Context(), f.Publication("", lib)))
		require.NoError(t, f.Upload(t.Context(), c, "", app, 0))
		require.NoError(t, c.Publish(t.Context(), f.Publication("", app)))

		got, err := c.Path(t.Context(), "", app.StorePath.HashPart())
		require.NoError(t, err)
		require.Equal(t, &catalog.Path{
			StorePath: app.StorePath, Archive: app.URL, NarHash: app.NarHash, NarSize: app.NarSize, FileSize: app.FileSize,
			References: []narinfo.HashPart{lib.StorePath.HashPart()}, Uploader: "somebody", Created: now.Now(), LastUsed: now.Now(),
		}, got)
		missing, err := c.Missing(t.Context(), "", []narinfo.HashPart{
			catalogtest.Path(3).HashPart(), lib.StorePath.HashPart(), app.StorePath.HashPart(), catalogtest.Path(4).HashPart(),
		})
		require.NoError(t, err)
		require.Equal(t, []narinfo.HashPart{catalogtest.Path(3).HashPart(), catalogtest.Path(4).HashPart()}, missing)
		missing, err = c.Missing(t.Context(), "other", []narinfo.HashPart{lib.StorePath.HashPart()})
		require.NoError(t, err)
		require.Len(t, missing, 1)
		referrers, err := c.Referrers(t.Context(), "", lib.StorePath.HashPart())
		require.NoError(t, err)
		require.Equal(t, []narinfo.StorePath{app.StorePath}, referrers)
		usage, err := c.Usage(t.Context())
		require.NoError(t, err)
		require.Equal(t, catalog.Usage{Archives: 2, Bytes: 6, Caches: map[string]catalog.CacheUsage{"": {2, 6, 12}}}, usage)

		d := catalog.Deletion{Files: f}
		err = c.DeletePath(t.Context(), "", lib.StorePath.HashPart(), d)
		var kept *catalog.KeptError
		require.ErrorAs(t, err, &kept)
		require.Equal(t, []narinfo.StorePath{app.StorePath}, kept.Referrers)
		require.NoError(t, c.DeletePath(t.Context(), "", app.StorePath.HashPart(), d))
		require.False(t, has(f, app.URL))
		require.ErrorIs(t, c.DeletePath(t.Context(), "", app.StorePath.HashPart(), d), catalog.ErrNotFound)
		require.NoError(t, c.DeletePath(t.Context(), "", lib.StorePath.HashPart(), d))
		require.Empty(t, f.Files())
		usage, err = c.Usage(t.Context())
		require.NoError(t, err)
		require.Equal(t, catalog.Usage{Caches: map[string]catalog.CacheUsage{}}, usage)
	})
}

func TestPublishRefuses(t *testing.T) {
	catalogtest.OnEach(t, func(t *testing.T, db catalogtest.Database) {
		c, f := db.Open(t, nil), catalogtest.NewBucket()
		lib := catalogtest.Info(catalogtest.Path(1), "lib")
		app := catalogtest.Info(catalogtest.Path(2), "app", catalogtest.Path(1), catalogtest.Path(3))
		require.ErrorIs(t, c.Publish(t.Context(), f.Publication("", lib)), catalog.ErrNoArchive)
		require.NoError(t, f.Upload(t.Context(), c, "one", lib, time.Hour))
		require.ErrorIs(t, c.Publish(t.Context(), f.Publication("two", lib)), catalog.ErrNoArchive, "held by another cache")
		held, err := c.Holds(t.Context(), "two", lib.URL)
		require.NoError(t, err)
		require.False(t, held)
		held, err = c.Holds(t.Context(), "one", lib.URL)
		require.NoError(t, err)
		require.True(t, held)

		for field, spoil := range map[string]func(*narinfo.Info){
			"NarHash":     func(i *narinfo.Info) { i.NarHash = catalogtest.Sum("other") },
			"NarSize":     func(i *narinfo.Info) { i.NarSize++ },
			"FileHash":    func(i *narinfo.Info) { i.FileHash = catalogtest.Sum("other") },
			"FileSize":    func(i *narinfo.Info) { i.FileSize++ },
			"Compression": func(i *narinfo.Info) { i.Compression = "xz" },
		} {
			other := lib.Clone()
			spoil(other)
			var mismatch *catalog.MismatchError
			require.ErrorAs(t, c.Publish(t.Context(), f.Publication("one", other)), &mismatch, field)
			require.Equal(t, field, mismatch.Field)
		}
		bare := lib.Clone()
		bare.FileHash, bare.FileSize = narinfo.Hash{}, 0
		require.NoError(t, c.Publish(t.Context(), f.Publication("one", bare)), "both are optional")

		require.NoError(t, f.Upload(t.Context(), c, "one", app, time.Hour))
		var missing *catalog.MissingError
		require.ErrorAs(t, c.Publish(t.Context(), f.Publication("one", app)), &missing)
		require.Equal(t, []narinfo.StorePath{catalogtest.Path(3)}, missing.Missing)
		require.False(t, has(f, catalog.NarinfoKey("one", app.StorePath.HashPart())))
		p := f.Publication("one", app)
		p.Elsewhere = func(_ context.Context, asked []narinfo.StorePath) ([]narinfo.StorePath, error) {
			require.Equal(t, []narinfo.StorePath{catalogtest.Path(3)}, asked)
			return asked, nil
		}
		require.ErrorAs(t, c.Publish(t.Context(), p), &missing)
		p.Elsewhere = func(context.Context, []narinfo.StorePath) ([]narinfo.StorePath, error) { return nil, nil }
		require.NoError(t, c.Publish(t.Context(), p))
		require.True(t, has(f, catalog.NarinfoKey("one", app.StorePath.HashPart())))
	})
}
