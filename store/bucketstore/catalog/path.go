package catalog

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// Path is a live path of a cache.
type Path struct {
	Cache       string
	StorePath   narinfo.StorePath
	Archive     string // its key in the bucket
	NarHash     narinfo.Hash
	NarSize     int64 // bytes
	FileSize    int64 // bytes of the archive
	Deriver     narinfo.StorePath
	References  []narinfo.HashPart // but itself, sorted
	Uploader    string
	Created     time.Time
	LastUsed    time.Time
	LeasedUntil time.Time // zero: never leased
}

const selectPaths = `SELECT paths.id, paths.cache, paths.path, archives.key, paths.nar_hash, paths.nar_size, archives.file_size,
	paths.deriver, paths.refs, paths.uploader, paths.created, paths.last_used, paths.leased_until
	FROM paths JOIN archives ON archives.id = paths.archive WHERE paths.attempt = 0`

func (t *tx) paths(conditions string, args []any, f func(id int64, p *Path) error) error {
	var id, created, used, leased int64
	var path, hash, deriver, refs string
	p := Path{}
	dest := []any{&id, &p.Cache, &path, &p.Archive, &hash, &p.NarSize, &p.FileSize, &deriver, &refs, &p.Uploader, &created,
		&used, &leased}
	return t.each(selectPaths+conditions, args, dest, func() (err error) {
		q := p
		q.StorePath, q.Deriver, q.References = narinfo.StorePath(path), narinfo.StorePath(deriver), unpacked(refs)
		q.Created, q.LastUsed, q.LeasedUntil = fromMilliseconds(created), fromMilliseconds(used), fromMilliseconds(leased)
		if q.NarHash, err = parseHash(hash); err != nil {
			return err
		}
		return f(id, &q)
	})
}

// Path returns what is known of a live path, else ErrNotFound.
func (c *Catalog) Path(ctx context.Context, cache string, hash narinfo.HashPart) (*Path, error) {
	var found *Path
	err := c.do(ctx, reading, func(t *tx) error {
		return t.paths(` AND paths.cache = $1 AND paths.hash = $2`, []any{cache, string(hash)}, func(_ int64, p *Path) error {
			found = p
			return nil
		})
	})
	if err == nil && found == nil {
		err = fmt.Errorf("%w: path %s", ErrNotFound, NarinfoKey(cache, hash))
	}
	return found, err
}

// pageSize is how many paths are read at a time.
const pageSize = 250

// Paths yields the live paths of a cache, ordered by hash part, after the one given; "" is before all. It reads them in
// pages, so that no transaction stays open while the caller works: a path that comes or goes meanwhile may be in it or
// not, and none comes twice.
func (c *Catalog) Paths(ctx context.Context, cache string, after narinfo.HashPart) iter.Seq2[*Path, error] {
	return func(yield func(*Path, error) bool) {
		for {
			var page []*Path
			err := c.do(ctx, reading, func(t *tx) error {
				page = page[:0]
				return t.paths(` AND paths.cache = $1 AND paths.hash > $2 ORDER BY paths.hash LIMIT $3`,
					[]any{cache, string(after), pageSize}, func(_ int64, p *Path) error {
						page = append(page, p)
						return nil
					})
			})
			if err != nil {
				yield(nil, err)
				return
			}
			for _, p := range page {
				if !yield(p, nil) {
					return
				}
			}
			if len(page) < pageSize {
				return
			}
			after = page[len(page)-1].StorePath.HashPart()
		}
	}
}

// Missing returns those of the hash parts that are not live paths of the cache, in the order given.
func (c *Catalog) Missing(ctx context.Context, cache string, hashes []narinfo.HashPart) ([]narinfo.HashPart, error) {
	live := make(map[string]bool, len(hashes))
	sorted := slices.Sorted(slices.Values(hashes)) // neighbours in the index are on one page
	err := c.do(ctx, reading, func(t *tx) error {
		var hash string
		return t.each(`SELECT hash FROM paths WHERE cache = $1 AND hash IN `+t.dialect.texts("$2")+` AND attempt = 0`,
			[]any{cache, asJSON(sorted)}, []any{&hash}, func() error {
				live[hash] = true
				return nil
			})
	})
	if err != nil {
		return nil, err
	}
	return without(hashes, live), nil
}

func without(hashes []narinfo.HashPart, live map[string]bool) []narinfo.HashPart {
	var missing []narinfo.HashPart
	for _, h := range hashes {
		if !live[string(h)] {
			missing = append(missing, h)
		}
	}
	return missing
}

// Referrers returns the live paths of the cache that refer to a hash part, itself excepted, sorted.
func (c *Catalog) Referrers(ctx context.Context, cache string, hash narinfo.HashPart) ([]narinfo.StorePath, error) {
	var found []narinfo.StorePath
	err := c.do(ctx, reading, func(t *tx) error {
		found = nil
		var path narinfo.StorePath
		return t.each(`SELECT paths.path FROM referrers JOIN paths ON paths.id = referrers.referrer
			WHERE referrers.cache = $1 AND referrers.hash = $2 AND paths.state = $3`, []any{cache, string(hash), Live},
			[]any{&path}, func() error {
				found = append(found, path)
				return nil
			})
	})
	slices.Sort(found)
	return found, err
}

// Usage is what a bucket holds.
type Usage struct {
	Archives int64 // live ones
	Bytes    int64 // of their files; each counts once, however many caches and paths share it
	Unneeded int64 // bytes of live archives that no path needs: uploads under way, and what the next collection removes
	Caches   map[string]CacheUsage
}

// CacheUsage is what one cache holds.
type CacheUsage struct {
	Paths    int64 // live ones
	Bytes    int64 // of their archives' files; each counts once, but in every cache that has it
	NarBytes int64 // of their NARs
}

// Usage counts.
func (c *Catalog) Usage(ctx context.Context) (Usage, error) {
	var u Usage
	err := c.do(ctx, reading, func(t *tx) error {
		u = Usage{Caches: make(map[string]CacheUsage)}
		_, err := t.row(`SELECT COUNT(*), CAST(COALESCE(SUM(file_size), 0) AS BIGINT) FROM archives WHERE state = $1`, []any{Live},
			&u.Archives, &u.Bytes)
		if err != nil {
			return err
		}
		_, err = t.row(`SELECT CAST(COALESCE(SUM(file_size), 0) AS BIGINT) FROM archives WHERE state = $1 AND NOT EXISTS
			(SELECT 1 FROM paths WHERE paths.archive = archives.id)`, []any{Live}, &u.Unneeded)
		if err != nil {
			return err
		}
		var cache string
		var of CacheUsage
		return t.each(`SELECT cache, CAST(SUM(n) AS BIGINT), CAST(SUM(file_size) AS BIGINT), CAST(SUM(nar) AS BIGINT) FROM
			(SELECT paths.cache AS cache, COUNT(*) AS n, MAX(archives.file_size) AS file_size, SUM(paths.nar_size) AS nar
			FROM paths JOIN archives ON archives.id = paths.archive WHERE paths.state = $1
			GROUP BY paths.cache, paths.archive) AS each_archive GROUP BY cache`, []any{Live},
			[]any{&cache, &of.Paths, &of.Bytes, &of.NarBytes}, func() error {
				u.Caches[cache] = of
				return nil
			})
	})
	return u, err
}
