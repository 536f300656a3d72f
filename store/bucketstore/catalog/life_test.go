package catalog_test

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"iter"
	"path/filepath"
	"sync"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/catalogtest"
	"github.com/voidnxlab/nixtrap/internal/pgtest"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
)

// during is a Remover that does something while a deletion is under way.
type during func(key string) error

func (d during) Remove(_ context.Context, key string) error { return d(key) }

var errDied = errors.New("died")

func TestUploadAndDeletionDoNotCross(t *testing.T) {
	catalogtest.OnEach(t, func(t *testing.T, db catalogtest.Database) {
		now := catalogtest.NewClock()
		c, f := db.Open(t, &catalog.Options{Now: now.Now, Lease: time.Minute}), catalogtest.NewBucket()
		i := catalogtest.Info(catalogtest.Path(1), "content")
		require.NoError(t, f.Upload(t.Context(), c, "", i, 0))
		require.NoError(t, c.Publish(t.Context(), f.Publication("", i)))
		hash := i.StorePath.HashPart()
		err := c.DeletePath(t.Context(), "", hash, catalog.Deletion{Parallel: 1, Files: during(func(key string) error {
			_, err := c.Path(t.Context(), "", hash)
			require.ErrorIs(t, err, catalog.ErrNotFound)
			if key == i.URL {
				require.ErrorIs(t, c.Publish(t.Context(), f.Publication("", i)), catalog.ErrNoArchive)
				_, err := c.BeginUpload(t.Context(), i.URL, time.Minute)
				require.ErrorIs(t, err, catalog.ErrDeleting)
				return errDied
			}
			require.ErrorIs(t, c.Publish(t.Context(), f.Publication("", i)), catalog.ErrDeleting)
			return f.Remove(t.Context(), key)
		})})
		require.Error(t, err)

		now.Advance(2 * time.Minute) // whoever deleted it is dead
		first, err := c.BeginUpload(t.Context(), i.URL, time.Minute)
		require.NoError(t, err)
		require.Equal(t, i.URL, first.Key())
		_, err = c.Archive(t.Context(), i.URL)
		require.ErrorIs(t, err, catalog.ErrNotFound)
		now.Advance(2 * time.Minute) // and this one is slow
		g, err := c.Graph(t.Context())
		require.NoError(t, err)
		require.Len(t, g.Archives, 1)
		_, err = c.DeleteArchives(t.Context(), []int64{g.Archives[0].ID}, catalog.Deletion{Files: f})
		require.NoError(t, err)
		second, err := c.BeginUpload(t.Context(), i.URL, time.Minute)
		require.NoError(t, err)
		err = c.AddArchive(t.Context(), first, "", "me", catalogtest.Archive(i), time.Minute)
		require.ErrorIs(t, err, catalog.ErrLeaseLost)
		require.NoError(t, c.AddArchive(t.Context(), second, "", "me", catalogtest.Archive(i), time.Minute))
		other := catalogtest.Archive(i)
		other.NarSize++
		var mismatch *catalog.MismatchError
		require.ErrorAs(t, c.AddArchive(t.Context(), second, "", "me", other, time.Minute), &mismatch)
		a, err := c.Archive(t.Context(), i.URL)
		require.NoError(t, err)
		require.Equal(t, i.NarHash, a.NarHash)
		require.Equal(t, now.Now().Add(time.Minute), a.LeasedUntil)
	})
}

func TestReplacing(t *testing.T) {
	catalogtest.OnEach(t, func(t *testing.T, db catalogtest.Database) {
		now := catalogtest.NewClock()
		c, f := db.Open(t, &catalog.Options{Now: now.Now, Lease: time.Minute}), catalogtest.NewBucket()
		one := catalogtest.Info(catalogtest.Path(1), "one")
		other := catalogtest.Info(catalogtest.Path(1), "other")
		require.NoError(t, f.Push(t.Context(), c, "", one))
		require.NoError(t, f.Push(t.Context(), c, "", one))
		require.NoError(t, f.Upload(t.Context(), c, "", other, time.Minute))
		p := f.Publication("", other)
		write := p.Write
		p.Write = func(ctx context.Context) error {
			require.ErrorIs(t, c.Publish(ctx, f.Publication("", one)), catalog.ErrPublishing)
			require.ErrorIs(t, c.DeletePath(ctx, "", one.StorePath.HashPart(), catalog.Deletion{Files: f}), catalog.ErrPublishing)
			known, err := c.Path(ctx, "", one.StorePath.HashPart())
			require.NoError(t, err)
			require.Equal(t, one.NarHash, known.NarHash)
			require.NoError(t, c.Publish(ctx, f.Publication("", other)), "the same content, side by side")
			return write(ctx)
		}
		require.NoError(t, c.Publish(t.Context(), p))
		known, err := c.Path(t.Context(), "", one.StorePath.HashPart())
		require.NoError(t, err)
		require.Equal(t, other.NarHash, known.NarHash)
		require.Equal(t, other.URL, known.Archive)

		// Whoever publishes dies, before or after the narinfo was written.
		for _, written := range []bool{false, true} {
			p := f.Publication("", one)
			write := p.Write
			p.Write = func(ctx context.Context) error {
				if written {
					require.NoError(t, write(ctx))
				}
				return errDied
			}
			require.ErrorIs(t, c.Publish(t.Context(), p), errDied)
			require.NoError(t, c.Resolve(t.Context(), f.Look))
			require.ErrorIs(t, c.Publish(t.Context(), f.Publication("", other)), catalog.ErrPublishing, "it may yet be alive")
			now.Advance(2 * time.Minute)
			require.NoError(t, c.Resolve(t.Context(), f.Look))
			known, err := c.Path(t.Context(), "", one.StorePath.HashPart())
			require.NoError(t, err)
			require.Equal(t, written, known.NarHash == one.NarHash)
		}
		p = f.Publication("", other)
		p.Write = func(context.Context) error { return errDied }
		require.ErrorIs(t, c.Publish(t.Context(), p), errDied)
		now.Advance(2 * time.Minute)
		err = c.Resolve(t.Context(), func(context.Context, string, narinfo.HashPart) (*narinfo.Info, error) { return nil, errDied })
		require.ErrorIs(t, err, errDied)
		require.NoError(t, c.Resolve(t.Context(), f.Look))
	})
}

func TestTouchIsWrittenDown(t *testing.T) {
	catalogtest.OnEach(t, func(t *testing.T, db catalogtest.Database) {
		now := catalogtest.NewClock()
		c, f := db.Open(t, &catalog.Options{Now: now.Now, FlushEvery: time.Millisecond}), catalogtest.NewBucket()
		other := db.Open(t, &catalog.Options{Now: now.Now})
		i := catalogtest.Info(catalogtest.Path(1), "one")
		require.NoError(t, f.Push(t.Context(), c, "", i))
		used := func() time.Time {
			p, err := other.Path(t.Context(), "", i.StorePath.HashPart())
			require.NoError(t, err)
			return p.LastUsed
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- c.Run(ctx) }()
		now.Advance(time.Hour)
		c.Touch("", i.StorePath.HashPart())
		c.Touch("", catalogtest.Path(2).HashPart())
		require.Eventually(t, func() bool { return used().Equal(now.Now()) }, 10*time.Second, time.Millisecond)
		now.Advance(time.Hour)
		c.Touch("", i.StorePath.HashPart())
		cancel()
		require.NoError(t, <-ended)
		require.Equal(t, now.Now(), used())
	})
}

func TestTokens(t *testing.T) {
	catalogtest.OnEach(t, func(t *testing.T, db catalogtest.Database) {
		now := catalogtest.NewClock()
		c := db.Open(t, &catalog.Options{Now: now.Now})
		token := catalog.Token{
			ID: "t1", Hash: sha256.Sum256([]byte("secret")), Name: "ci", Caches: []string{"", "team"}, Scopes: []string{"push"},
			Expires: now.Now().Add(time.Hour),
		}
		require.NoError(t, c.AddToken(t.Context(), token))
		require.Error(t, c.AddToken(t.Context(), token))
		require.NoError(t, c.AddToken(t.Context(), catalog.Token{ID: "t2", Hash: sha256.Sum256([]byte("other"))}))
		got, err := c.Token(t.Context(), "t1")
		require.NoError(t, err)
		token.Created = now.Now()
		require.Equal(t, &token, got)
		require.Equal(t, `token t1 ("ci")`, got.String())
		_, err = c.Token(t.Context(), "t3")
		require.ErrorIs(t, err, catalog.ErrNotFound)
		require.NoError(t, c.RevokeToken(t.Context(), "t2"))
		require.ErrorIs(t, c.RevokeToken(t.Context(), "t3"), catalog.ErrNotFound)
		revoked := now.Now()
		now.Advance(time.Hour)
		require.NoError(t, c.RevokeToken(t.Context(), "t2"), "again")
		got, err = c.Token(t.Context(), "t2")
		require.NoError(t, err)
		require.Equal(t, revoked, got.Revoked, "it stays as it was")
		got, err = c.Token(t.Context(), "t1")
		require.NoError(t, err)
		require.Equal(t, now.Now(), got.Expires, "an expired one is there, too")
		all, err := c.Tokens(t.Context())
		require.NoError(t, err)
		require.Len(t, all, 2)
	})
}

func TestRebuild(t *testing.T) {
	catalogtest.OnEach(t, func(t *testing.T, db catalogtest.Database) {
		c, f := db.Open(t, nil), catalogtest.NewBucket()
		modified := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
		lib := catalogtest.Info(catalogtest.Path(1), "lib")
		app := catalogtest.Info(catalogtest.Path(2), "app", catalogtest.Path(1), catalogtest.Path(2), catalogtest.Path(3))
		found := []catalog.Found{
			{Cache: "", Info: lib, FileSize: 3, Modified: modified}, {Cache: "", Info: app, FileSize: 3, Modified: modified},
			{Cache: "team", Info: lib, FileSize: 3, Modified: modified}, {Cache: "", Info: app, FileSize: 3},
		}
		all := func(end error) iter.Seq2[catalog.Found, error] {
			return func(yield func(catalog.Found, error) bool) {
				for _, one := range found {
					if !yield(one, nil) {
						return
					}
				}
				if end != nil {
					yield(catalog.Found{}, end)
				}
			}
		}
		require.ErrorIs(t, c.Rebuild(t.Context(), all(errDied)), errDied)
		require.NoError(t, c.Rebuild(t.Context(), all(nil)))
		require.ErrorIs(t, c.Rebuild(t.Context(), all(nil)), catalog.ErrNotEmpty)
		referrers, err := c.Referrers(t.Context(), "", lib.StorePath.HashPart())
		require.NoError(t, err)
		require.Equal(t, []narinfo.StorePath{app.StorePath}, referrers)
		usage, err := c.Usage(t.Context())
		require.NoError(t, err)
		require.Equal(t, catalog.Usage{
			Archives: 2, Bytes: 6, Caches: map[string]catalog.CacheUsage{"": {2, 6, 12}, "team": {1, 3, 6}},
		}, usage)
		p, err := c.Path(t.Context(), "", app.StorePath.HashPart())
		require.NoError(t, err)
		require.True(t, p.LastUsed.Equal(modified))
		held, err := c.Holds(t.Context(), "team", lib.URL)
		require.NoError(t, err)
		require.True(t, held)
		require.NoError(t, f.Push(t.Context(), c, "team", lib), "it goes on from there")
	})
}

func TestPathsAreInOrder(t *testing.T) {
	catalogtest.OnEach(t, func(t *testing.T, db catalogtest.Database) {
		c := db.Open(t, nil)
		const n = 300 // more than a page
		require.NoError(t, c.Rebuild(t.Context(), func(yield func(catalog.Found, error) bool) {
			for i := range n {
				if !yield(catalog.Found{Info: catalogtest.Info(catalogtest.Path(i), "same")}, nil) {
					return
				}
			}
		}))
		var last narinfo.HashPart
		count := 0
		for p, err := range c.Paths(t.Context(), "", "") {
			require.NoError(t, err)
			require.Less(t, last, p.StorePath.HashPart())
			last = p.StorePath.HashPart()
			count++
		}
		require.Equal(t, n, count)
		for p, err := range c.Paths(t.Context(), "", last) {
			require.NoError(t, err)
			t.Fatalf("%s is after the last", p.StorePath)
		}
	})
}

// Processes open an empty database side by side, and push the same closure.
func TestSideBySide(t *testing.T) {
	catalogtest.OnEach(t, func(t *testing.T, db catalogtest.Database) {
		f := catalogtest.NewBucket()
		var working sync.WaitGroup
		errs := make(chan error, 8)
		for range 8 {
			working.Go(func() {
				c, closed, err := db.OpenWithout(t.Context(), nil)
				if err != nil {
					errs <- err
					return
				}
				var paths []narinfo.StorePath
				for n := range 15 {
					err = errors.Join(err, f.Push(t.Context(), c, "", catalogtest.Info(catalogtest.Path(n), "x", paths...)))
					paths = append(paths, catalogtest.Path(n))
				}
				errs <- errors.Join(err, closed())
			})
		}
		working.Wait()
		for range 8 {
			require.NoError(t, <-errs)
		}
		require.Empty(t, f.Broken(""))
	})
}

func TestNewerSchemaIsRefused(t *testing.T) {
	name := filepath.Join(t.TempDir(), "catalog.db")
	catalogtest.SQLite(name).Open(t, nil)
	db, err := sql.Open("sqlite", name)
	require.NoError(t, err)
	defer db.Close()
	_, err = db.ExecContext(t.Context(), `UPDATE schema_version SET version = 99`)
	require.NoError(t, err)
	_, _, err = catalogtest.SQLite(name).OpenWithout(t.Context(), nil)
	require.ErrorContains(t, err, "version 99 of the schema, and this program knows up to 1: a newer release has opened it")
	_, err = catalog.Open(t.Context(), db, catalog.Dialect(7), nil)
	require.ErrorContains(t, err, "no such dialect")
	_, _, err = catalogtest.PostgreSQL("postgres://me:hush@host:port/x").OpenWithout(t.Context(), nil)
	require.Error(t, err)
	require.NotContains(t, err.Error(), "hush")
}

// A server that is restarted in the middle of it costs an error, and nothing that was acknowledged.
func TestPostgreSQLRestarts(t *testing.T) {
	server := pgtest.Start(t)
	c, f := catalogtest.PostgreSQL(server.Database(t)).Open(t, nil), catalogtest.NewBucket()
	lib, app := catalogtest.Info(catalogtest.Path(1), "lib"), catalogtest.Info(catalogtest.Path(2), "app", catalogtest.Path(1))
	require.NoError(t, f.Push(t.Context(), c, "", lib))
	server.Restart(t)
	require.NoError(t, f.Push(t.Context(), c, "", app), "broken connections are replaced")

	require.NoError(t, f.Upload(t.Context(), c, "", catalogtest.Info(catalogtest.Path(3), "x"), time.Minute))
	p := f.Publication("", catalogtest.Info(catalogtest.Path(3), "x", catalogtest.Path(2)))
	write := p.Write
	p.Write = func(ctx context.Context) error {
		server.Restart(t)
		return write(ctx)
	}
	require.NoError(t, c.Publish(t.Context(), p), "between two transactions")
	_, err := c.BeginUpload(t.Context(), "nar/x", time.Minute)
	require.NoError(t, err)
	server.Stop(t)
	_, err = c.BeginUpload(t.Context(), "nar/x", time.Minute)
	var down *catalog.DatabaseError
	require.ErrorAs(t, err, &down)
	c.Touch("", lib.StorePath.HashPart())
	require.ErrorAs(t, c.Flush(t.Context()), &down)
	server.Again(t)
	require.NoError(t, c.Flush(t.Context()))
	missing, err := c.Missing(t.Context(), "", []narinfo.HashPart{
		lib.StorePath.HashPart(), app.StorePath.HashPart(), catalogtest.Path(3).HashPart(),
	})
	require.NoError(t, err)
	require.Empty(t, missing)
}
