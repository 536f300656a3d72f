package catalog

import (
	"cmp"
	"context"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// Found is a narinfo that lies in a bucket, together with its archive.
type Found struct {
	Cache    string
	Info     *narinfo.Info
	Archive  string // the archive's key in the bucket; "": Info.URL
	FileSize int64  // of the archive, in bytes
	Modified time.Time
}

// Rebuild fills an empty catalog with what a bucket holds, all or nothing; one that isn't empty is ErrNotEmpty. Each
// cache is taken to hold the archives of its narinfos, and each path to have been used last when it was modified. Pins,
// tokens and uploaders cannot be found that way: pins and tokens that are there stay. References are entered as they are,
// whether they are there or not. Of two narinfos of one path in one cache the first counts. It stops at found's first
// error and returns it.
//
// Nobody else should use the bucket meanwhile.
func (c *Catalog) Rebuild(ctx context.Context, found iter.Seq2[Found, error]) error {
	return c.do(ctx, writing, func(t *tx) error {
		var one int
		taken, err := t.row(`SELECT 1 FROM archives UNION ALL SELECT 1 FROM paths`, nil, &one)
		if err != nil {
			return err
		}
		if taken {
			return ErrNotEmpty
		}
		byCache := make(map[string][]referrer)
		for f, err := range found {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return err
			}
			row, err := t.enter(&f)
			if err != nil {
				return err
			}
			byCache[row.cache] = append(byCache[row.cache], referrers(row)...)
		}
		return t.enterReferrers(byCache)
	})
}

// enterReferrers adds them sorted: a tree that grows at its end alone costs a tenth.
func (t *tx) enterReferrers(byCache map[string][]referrer) error {
	const atOnce = 10_000
	for cache, all := range byCache {
		slices.SortFunc(all, func(a, b referrer) int {
			return cmp.Or(strings.Compare(string(a.hash), string(b.hash)), cmp.Compare(a.id, b.id))
		})
		for some := range slices.Chunk(all, atOnce) {
			if err := t.addReferrers(cache, some); err != nil {
				return err
			}
		}
	}
	return nil
}

// enter returns a row without references if another one has the path's place.
func (t *tx) enter(f *Found) (*pathRow, error) {
	key := f.Archive
	if key == "" {
		key = f.Info.URL
	}
	var archive int64
	modified := milliseconds(f.Modified)
	_, err := t.row(`INSERT INTO archives (key, state, file_hash, file_size, nar_hash, nar_size, compression, version,
		created, leased_until, until) VALUES ($1, $2, $3, $4, $5, $6, $7, '', $8, 0, 0)
		ON CONFLICT (key) DO UPDATE SET state = excluded.state RETURNING id`, []any{
		key, Live, f.Info.FileHash.String(), f.FileSize, f.Info.NarHash.String(), f.Info.NarSize,
		compressionOf(f.Info), modified,
	}, &archive)
	if err != nil {
		return nil, err
	}
	if err := t.hold(archive, f.Cache, ""); err != nil {
		return nil, err
	}
	row := &pathRow{slot: slot{f.Cache, f.Info.StorePath.HashPart()}, refs: packed(others(f.Info))}
	inserted, err := t.row(`INSERT INTO paths (cache, hash, attempt, state, path, archive, nar_hash, nar_size, deriver, refs,
		uploader, created, last_used, leased_until, until) VALUES ($1, $2, 0, $3, $4, $5, $6, $7, $8, $9, '', $10, $10, 0, 0)
		ON CONFLICT (cache, hash, attempt) DO NOTHING RETURNING id`, []any{
		row.cache, string(row.hash), Live, string(f.Info.StorePath), archive, f.Info.NarHash.String(), f.Info.NarSize,
		string(f.Info.Deriver), row.refs, modified,
	}, &row.id)
	if !inserted {
		row.refs = ""
	}
	return row, err
}
