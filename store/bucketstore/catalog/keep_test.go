package catalog_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/catalogtest"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
)

func TestKeepingAClosureLeasesItsTopsAndTellsWhatIsMissing(t *testing.T) {
	catalogtest.OnEach(t, func(t *testing.T, db catalogtest.Database) {
		now := catalogtest.NewClock()
		c, b := db.Open(t, &catalog.Options{Now: now.Now}), catalogtest.NewBucket()
		var hashes []narinfo.HashPart
		for n := range 6 { // 1 and 4 stand alone, 0 <- 2 <- 3, 0 <- 5
			var refs []narinfo.StorePath
			switch n {
			case 2, 5:
				refs = []narinfo.StorePath{catalogtest.Path(0), catalogtest.Path(n)}
			case 3:
				refs = []narinfo.StorePath{catalogtest.Path(2)}
			}
			hashes = append(hashes, catalogtest.Path(n).HashPart())
			if n != 4 {
				require.NoError(t, b.Push(t.Context(), c, "", catalogtest.Info(catalogtest.Path(n), fmt.Sprint(n), refs...)))
			}
		}
		until := now.Now().Add(time.Hour)
		asked := []narinfo.HashPart{hashes[4], hashes[3], hashes[2], hashes[0], hashes[1], hashes[4]}
		missing, err := c.Keep(t.Context(), "", asked, until)
		require.NoError(t, err)
		require.Equal(t, []narinfo.HashPart{hashes[4], hashes[4]}, missing)
		for n, leased := range map[int]bool{0: false, 1: true, 2: false, 3: true, 5: false} {
			p, err := c.Path(t.Context(), "", hashes[n])
			require.NoError(t, err)
			require.Equal(t, leased, p.LeasedUntil.Equal(until), "path %d", n)
		}
		now.Advance(time.Minute)
		_, err = c.Keep(t.Context(), "", hashes, now.Now().Add(time.Hour))
		require.NoError(t, err)
		for n, longer := range map[int]bool{1: false, 3: false, 5: true} {
			p, err := c.Path(t.Context(), "", hashes[n])
			require.NoError(t, err)
			require.Equal(t, longer, p.LeasedUntil.After(until), "path %d: nine tenths are enough", n)
		}
		now.Advance(time.Hour / 2)
		_, err = c.Keep(t.Context(), "", hashes[3:4], now.Now().Add(time.Hour))
		require.NoError(t, err)
		p, err := c.Path(t.Context(), "", hashes[3])
		require.NoError(t, err)
		require.True(t, p.LeasedUntil.Equal(now.Now().Add(time.Hour)), "a lease that is half over is made longer")
		missing, err = c.Keep(t.Context(), "other", hashes, until)
		require.NoError(t, err)
		require.Equal(t, hashes, missing, "another cache has none of them")
		missing, err = c.Keep(t.Context(), "", nil, until)
		require.NoError(t, err)
		require.Empty(t, missing)
	})
}

// What was just published is kept for what refers to it, however it became live.
func TestAPublicationLeasesItsPath(t *testing.T) {
	catalogtest.OnEach(t, func(t *testing.T, db catalogtest.Database) {
		now := catalogtest.NewClock()
		c, b := db.Open(t, &catalog.Options{Now: now.Now}), catalogtest.NewBucket()
		path := catalogtest.Path(0)
		publish := func(content string, lease time.Duration) time.Time {
			i := catalogtest.Info(path, content)
			require.NoError(t, b.Upload(t.Context(), c, "", i, time.Minute))
			p := b.Publication("", i)
			p.Lease = lease
			require.NoError(t, c.Publish(t.Context(), p))
			got, err := c.Path(t.Context(), "", path.HashPart())
			require.NoError(t, err)
			return got.LeasedUntil
		}
		require.Zero(t, publish("one", 0))
		until := now.Now().Add(time.Hour)
		require.True(t, until.Equal(publish("one", time.Hour)), "published again")
		require.True(t, until.Equal(publish("one", time.Minute)), "a lease is never shortened")
		require.True(t, until.Add(time.Hour).Equal(publish("other", 2*time.Hour)), "replaced")
		path = catalogtest.Path(1)
		require.True(t, until.Equal(publish("new", time.Hour)))
	})
}
