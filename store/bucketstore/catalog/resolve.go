package catalog

import (
	"context"
	"errors"
	"fmt"
	"path"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// Look returns what the narinfo of a path says that lies in the bucket, nil if there is none. An error means that it
// could not be told.
type Look func(ctx context.Context, cache string, hash narinfo.HashPart) (*narinfo.Info, error)

// Resolve settles publications whose process has died over them, once their lease has run out: one whose narinfo is in
// the bucket is published, any other is undone. A narinfo that neither a publication nor a live path has written is
// left to be removed by Delete. What look cannot tell stays as it is, and its errors are returned together.
func (c *Catalog) Resolve(ctx context.Context, look Look) error {
	var slots []slot
	err := c.do(ctx, reading, func(t *tx) error {
		slots = nil
		var s slot
		return t.each(`SELECT DISTINCT cache, hash FROM paths WHERE state <> 2 AND state = $1 AND until <= $2`,
			[]any{Publishing, t.now}, []any{&s.cache, &s.hash}, func() error {
				slots = append(slots, s)
				return nil
			})
	})
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range slots {
		info, err := look(ctx, s.cache, s.hash)
		if err == nil {
			err = c.do(ctx, writing, func(t *tx) error { return t.resolve(s, info) })
		} else {
			err = fmt.Errorf("catalog: look for %q: %w", NarinfoKey(s.cache, s.hash), err)
		}
		if errs = append(errs, err); ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

func (t *tx) resolve(s slot, info *narinfo.Info) error {
	if err := t.exclude(s); err != nil {
		return err
	}
	rows, err := t.inSlot(s)
	if err != nil {
		return err
	}
	settled, inDoubt := false, rows[:0:0]
	for _, r := range rows {
		switch {
		case r.state != Publishing:
			settled = true
		case r.until > t.now:
			return nil // the file is another one's by now
		default:
			inDoubt = append(inDoubt, r)
		}
	}
	for _, r := range inDoubt {
		wrote, err := t.wrote(&r, info)
		if err != nil {
			return err
		}
		if wrote {
			return t.finishPublishing(r, 0)
		}
	}
	for i, r := range inDoubt {
		if i == 0 && !settled {
			// If there is a file, it is nobody's. Somebody has to remove it before its place is free.
			_, err = t.exec(`UPDATE paths SET state = $2, attempt = -1, until = $3 WHERE id = $1`, r.id, Deleting, t.now)
		} else {
			err = t.forgetPath(&r)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// wrote reports whether a narinfo is that of a publication.
func (t *tx) wrote(r *pathRow, info *narinfo.Info) (bool, error) {
	if info == nil || string(info.StorePath) != r.path || info.NarHash.String() != r.narHash ||
		packed(others(info)) != r.refs {
		return false, nil
	}
	var key, fileHash string
	if _, err := t.row(`SELECT key, file_hash FROM archives WHERE id = $1`, []any{r.archive}, &key, &fileHash); err != nil {
		return false, err
	}
	// The URL is relative to the cache, the key to the bucket.
	return path.Base(info.URL) == path.Base(key) && (info.FileHash.IsZero() || info.FileHash.String() == fileHash), nil
}
