package catalog_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/catalogtest"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
)

func TestLeasesGiveWayWhereTheyAreTold(t *testing.T) {
	catalogtest.OnEach(t, func(t *testing.T, db catalogtest.Database) {
		c, f := db.Open(t, nil), catalogtest.NewBucket()
		lib := catalogtest.Info(catalogtest.Path(1), "lib")
		require.NoError(t, f.Push(t.Context(), c, "", lib)) // leases the archive
		hash := lib.StorePath.HashPart()
		_, err := c.Lease(t.Context(), "", []narinfo.HashPart{hash}, c.Now().Add(time.Hour))
		require.NoError(t, err)
		var kept *catalog.KeptError
		require.ErrorAs(t, c.DeletePath(t.Context(), "", hash, catalog.Deletion{Files: f}), &kept)
		require.True(t, kept.Leased)
		require.NoError(t, c.DeletePath(t.Context(), "", hash, catalog.Deletion{Files: f, BreakLeases: true}))
		require.Empty(t, f.Files(), "its archive is gone, too")
		require.NoError(t, f.Push(t.Context(), c, "", lib))
	})
}

func TestHistoryOfAllPins(t *testing.T) {
	catalogtest.OnEach(t, func(t *testing.T, db catalogtest.Database) {
		c, f := db.Open(t, nil), catalogtest.NewBucket()
		lib, app := catalogtest.Info(catalogtest.Path(1), "lib"), catalogtest.Info(catalogtest.Path(2), "app")
		require.NoError(t, f.Push(t.Context(), c, "", lib))
		require.NoError(t, f.Push(t.Context(), c, "", app))
		require.NoError(t, c.Pin(t.Context(), "", "one", lib.StorePath, "ann", time.Time{}))
		require.NoError(t, c.Pin(t.Context(), "", "other", app.StorePath, "ann", time.Time{}))
		require.NoError(t, c.Unpin(t.Context(), "", "one"))
		all, err := c.PinHistory(t.Context(), "", "")
		require.NoError(t, err)
		require.Len(t, all, 2)
		require.Equal(t, "other", all[0].Name)
		require.False(t, all[1].Replaced.IsZero())
		one, err := c.PinHistory(t.Context(), "", "one")
		require.NoError(t, err)
		require.Equal(t, all[1:], one)
	})
}
