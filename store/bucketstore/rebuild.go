package bucketstore

import (
	"context"
	"iter"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
)

// RebuildOptions say how [Rebuild] goes about it. nil is the zero value.
type RebuildOptions struct {
	// Parallel is how many narinfos are read at a time. 0: 8.
	Parallel int
}

// Rebuild fills an empty catalog with what a bucket holds, all caches of it: see [catalog.Catalog.Rebuild]. Narinfos that
// are malformed, or whose archives are absent or have another size, are left out, and archives that no path needs: [Fsck] tells
// of them afterwards. Nothing is read but narinfos. It returns how many paths were entered.
//
// Nobody should push to the bucket, or delete from it, meanwhile.
func Rebuild(ctx context.Context, files Files, c *catalog.Catalog, o *RebuildOptions) (paths int, err error) {
	parallel := 8
	if o != nil && o.Parallel > 0 {
		parallel = o.Parallel
	}
	v, err := takeInventory(ctx, files, parallel)
	if err != nil {
		return 0, err
	}
	if err := c.Rebuild(ctx, v.found(&paths)); err != nil {
		return 0, err
	}
	return paths, nil
}

// found yields the paths that can be served.
func (v *inventory) found(count *int) iter.Seq2[catalog.Found, error] {
	return func(yield func(catalog.Found, error) bool) {
		*count = 0
		for _, n := range v.narinfos {
			e, there := v.entries[n.archive]
			if size := storedSize(n.info); !there || size != 0 && size != e.Size {
				continue
			}
			*count++
			modified := v.entries[n.key].Modified
			info := n.info
			if m := archiveKey.FindStringSubmatch(n.archive); m != nil && info.FileHash.IsZero() {
				info = info.Clone()
				info.FileHash, _ = narinfo.ParseDigest(narinfo.SHA256, m[1])
			}
			if !yield(catalog.Found{Cache: n.cache, Info: info, Archive: n.archive, FileSize: e.Size, Modified: modified}, nil) {
				return
			}
		}
	}
}
