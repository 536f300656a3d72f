// Package catalogtest is the world around a catalog, for tests: databases, a bucket in memory, a clock, and paths.
package catalogtest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/voidnxlab/nixtrap/internal/pgtest"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog/postgres"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog/sqlite"
)

// Clock is a clock that a test sets.
type Clock struct{ at atomic.Int64 }

// NewClock returns one that stands still at the beginning of 2026.
func NewClock() *Clock {
	c := &Clock{}
	c.at.Store(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli())
	return c
}

// Now returns its time.
func (c *Clock) Now() time.Time { return time.UnixMilli(c.at.Load()) }

// Advance sets it forward, by at least a millisecond.
func (c *Clock) Advance(d time.Duration) { c.at.Add(d.Milliseconds()) }

// Database is one that any number of catalogs may be opened in.
type Database struct {
	// OpenWithout opens a catalog without a test; the caller calls what it returns to close it.
	OpenWithout func(ctx context.Context, o *catalog.Options) (*catalog.Catalog, func() error, error)
}

// Open opens a catalog that the test's end closes.
func (d Database) Open(t testing.TB, o *catalog.Options) *catalog.Catalog {
	t.Helper()
	c, closed, err := d.OpenWithout(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := closed(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// OnEach runs a test on each kind of database, each time on an empty one. The package's TestMain must call Main.
func OnEach(t *testing.T, test func(t *testing.T, db Database)) {
	t.Run("sqlite", func(t *testing.T) { test(t, SQLite(filepath.Join(t.TempDir(), "a catalog?.db"))) })
	t.Run("postgres", func(t *testing.T) { test(t, PostgreSQL(server(t).Database(t))) })
}

// SQLite is a file.
func SQLite(name string) Database {
	return Database{func(ctx context.Context, o *catalog.Options) (*catalog.Catalog, func() error, error) {
		c, err := sqlite.OpenFile(ctx, name, o)
		if err != nil {
			return nil, nil, err
		}
		return c.Catalog, c.Close, nil
	}}
}

// PostgreSQL is a database of a server.
func PostgreSQL(url string) Database {
	return Database{func(ctx context.Context, o *catalog.Options) (*catalog.Catalog, func() error, error) {
		c, err := postgres.Connect(ctx, url, o)
		if err != nil {
			return nil, nil, err
		}
		return c.Catalog, c.Close, nil
	}}
}

// shared is one server for all tests of a process: it takes a second to start.
var shared struct {
	sync.Mutex
	server *pgtest.Server
	life   life
}

// life is a test that ends with the process.
type life struct {
	testing.TB
	ends []func()
}

// Cleanup implements testing.TB.
func (l *life) Cleanup(f func()) { l.ends = append(l.ends, f) }

// Context implements testing.TB.
func (l *life) Context() context.Context { return context.Background() }

func server(t testing.TB) *pgtest.Server {
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil {
		shared.life.TB = t // whom a server that does not start skips or fails
		shared.server = pgtest.Start(&shared.life)
	}
	return shared.server
}

// Main runs a package's tests, and then stops the server that they shared.
func Main(m *testing.M) {
	code := m.Run()
	for _, end := range slices.Backward(shared.life.ends) {
		end()
	}
	os.Exit(code)
}

// Path is a store path named by a number.
func Path(n int) narinfo.StorePath {
	return narinfo.StorePath(fmt.Sprintf("/nix/store/%s-p%d", Sum(fmt.Sprint("path ", n)).Base32()[:32], n))
}

// Sum is the SHA-256 of a text.
func Sum(text string) narinfo.Hash {
	digest := sha256.Sum256([]byte(text))
	h, err := narinfo.NewHash(narinfo.SHA256, digest[:])
	if err != nil {
		panic(err)
	}
	return h
}

// Info is a path of some content. Its archive has as many bytes as the content.
func Info(path narinfo.StorePath, content string, references ...narinfo.StorePath) *narinfo.Info {
	file := Sum("file of " + content)
	return &narinfo.Info{
		StorePath: path, URL: "nar/" + file.Base32() + ".nar.zst", Compression: "zstd", FileHash: file,
		FileSize: int64(len(content)), NarHash: Sum(content), NarSize: int64(2 * len(content)),
		References: slices.Sorted(slices.Values(references)),
	}
}

// Archive is the archive that a narinfo promises.
func Archive(i *narinfo.Info) catalog.Archive {
	return catalog.Archive{
		Key: i.URL, FileHash: i.FileHash, FileSize: i.FileSize, NarHash: i.NarHash, NarSize: i.NarSize,
		Compression: i.Compression,
	}
}

// Bucket is a bucket's files, in memory.
type Bucket struct {
	mu    sync.Mutex
	files map[string]*narinfo.Info
}

// NewBucket returns an empty one.
func NewBucket() *Bucket { return &Bucket{files: make(map[string]*narinfo.Info)} }

// Put stores a narinfo, or an archive for which i is nil.
func (b *Bucket) Put(key string, i *narinfo.Info) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.files[key] = i
}

// Remove implements catalog.Remover.
func (b *Bucket) Remove(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.files, key)
	return nil
}

// Files returns all files at this moment.
func (b *Bucket) Files() map[string]*narinfo.Info {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.files)
}

// Look is a catalog.Look.
func (b *Bucket) Look(_ context.Context, cache string, hash narinfo.HashPart) (*narinfo.Info, error) {
	return b.Files()[catalog.NarinfoKey(cache, hash)], nil
}

// Upload uploads a path's archive.
func (b *Bucket) Upload(ctx context.Context, c *catalog.Catalog, cache string, i *narinfo.Info, lease time.Duration) error {
	u, err := c.BeginUpload(ctx, i.URL, lease)
	if err != nil {
		return err
	}
	b.Put(i.URL, nil)
	return c.AddArchive(ctx, u, cache, "somebody", Archive(i), lease)
}

// Publication is the publication of a path, whose narinfo goes into the bucket.
func (b *Bucket) Publication(cache string, i *narinfo.Info) catalog.Publication {
	return catalog.Publication{Cache: cache, Uploader: "somebody", Info: i, Write: func(ctx context.Context) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		b.Put(catalog.NarinfoKey(cache, i.StorePath.HashPart()), i)
		return nil
	}}
}

// Push uploads and publishes a path.
func (b *Bucket) Push(ctx context.Context, c *catalog.Catalog, cache string, i *narinfo.Info) error {
	if err := b.Upload(ctx, c, cache, i, time.Minute); err != nil {
		return err
	}
	return c.Publish(ctx, b.Publication(cache, i))
}

// Broken says what is wrong with the bucket to those who read it without the catalog: narinfos whose archive is absent,
// or a reference's narinfo.
func (b *Bucket) Broken(caches ...string) []string {
	var broken []string
	files := b.Files()
	for _, cache := range caches {
		for key, i := range files {
			if i == nil || key != catalog.NarinfoKey(cache, i.StorePath.HashPart()) {
				continue
			}
			if _, ok := files[i.URL]; !ok {
				broken = append(broken, fmt.Sprintf("%s has no archive %s", key, i.URL))
			}
			for _, r := range i.References {
				if _, ok := files[catalog.NarinfoKey(cache, r.HashPart())]; !ok {
					broken = append(broken, fmt.Sprintf("%s refers to %s", key, r))
				}
			}
		}
	}
	slices.Sort(broken)
	return broken
}
