package catalog

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// State is what is happening to an archive or a path.
type State int

// Uploading is an archive's alone, Publishing a path's.
const (
	Uploading  State = 1 // the archive is not there yet
	Publishing State = 1 // the metadata may be there or not
	Live       State = 2
	Deleting   State = 3 // its file may be there or not
)

// Archive is one file of compressed or plain NAR, which all caches share.
type Archive struct {
	Key         string       // in the bucket, such as nar/FILEHASH.nar.zst
	FileHash    narinfo.Hash // of the file
	FileSize    int64        // bytes
	NarHash     narinfo.Hash
	NarSize     int64  // bytes
	Compression string // "none", "zstd", "xz" …
	Version     string // the bucket's own name for this content of the file, if it has such; not interpreted

	// The following are set by the catalog.
	State       State
	Created     time.Time
	LeasedUntil time.Time // before which it is kept whether it is needed or not
}

// Upload is the right to store an archive's bytes: see BeginUpload.
type Upload struct {
	key string
	id  int64
}

// Key returns the archive's key.
func (u Upload) Key() string { return u.key }

// BeginUpload says that bytes will be stored under an archive's key, and must come before that. Until lease has passed
// nobody deletes what is there. Called again it prolongs the lease. Any number of uploads of one key may be under way.
//
// While the key is just being deleted the error is ErrDeleting, and has to be answered with 503 or waited out: an upload
// and a deletion of one key never cross. An upload that is given up needs no call: once its lease has passed, a
// collection removes what may lie there.
func (c *Catalog) BeginUpload(ctx context.Context, key string, lease time.Duration) (Upload, error) {
	u := Upload{key: key}
	if key == "" {
		return u, fmt.Errorf("catalog: an archive without a key")
	}
	err := c.do(ctx, lazily, func(t *tx) error {
		until := t.now + lease.Milliseconds()
		for range 2 {
			_, err := t.exec(`INSERT INTO archives (key, state, file_hash, file_size, nar_hash, nar_size, compression, version,
				created, leased_until, until) VALUES ($1, $2, '', 0, '', 0, '', '', $3, $4, 0)
				ON CONFLICT (key) DO NOTHING`, key, Uploading, t.now, until)
			if err != nil {
				return err
			}
			var state State
			var deleting int64
			_, err = t.row(`SELECT id, state, until FROM archives WHERE key = $1`+t.dialect.forUpdate(), []any{key},
				&u.id, &state, &deleting)
			if err != nil {
				return err
			}
			if state != Deleting {
				_, err = t.exec(`UPDATE archives SET leased_until = $2 WHERE id = $1 AND leased_until < $2`, u.id, until)
				return err
			}
			if deleting > t.now {
				return ErrDeleting
			}
			// Whoever deleted it died over it. The bytes that come overwrite what may be left.
			if err := t.forgetArchives([]int64{u.id}); err != nil {
				return err
			}
		}
		return ErrDeleting
	})
	return u, err
}

// AddArchive says that the bytes of an upload are stored, durably, and that the cache has uploaded them whole. Until
// lease has passed the archive is kept without being needed by a path. An archive that another upload has added before
// must be the same (*MismatchError), and keeps its Version. If the upload's lease ran out and what it stored was deleted
// since, the error is ErrLeaseLost, and nothing is added: upload again.
func (c *Catalog) AddArchive(ctx context.Context, u Upload, cache, uploader string, a Archive, lease time.Duration) error {
	return c.do(ctx, lazily, func(t *tx) error {
		known, err := t.archive(u.key, t.dialect.forUpdate())
		if err != nil {
			return err
		}
		if known == nil || known.id != u.id || known.State == Deleting {
			return fmt.Errorf("%w: archive %q", ErrLeaseLost, u.key)
		}
		if known.State == Live {
			if err := known.same(u.key, &a); err != nil {
				return err
			}
		}
		_, err = t.exec(`UPDATE archives SET state = $2, file_hash = $3, file_size = $4, nar_hash = $5, nar_size = $6,
			compression = $7, version = $8 WHERE id = $1 AND state <> $2`,
			u.id, Live, a.FileHash.String(), a.FileSize, a.NarHash.String(), a.NarSize, a.Compression, a.Version)
		if err != nil {
			return err
		}
		until := t.now + lease.Milliseconds()
		if _, err = t.exec(`UPDATE archives SET leased_until = $2 WHERE id = $1 AND leased_until < $2`, u.id, until); err != nil {
			return err
		}
		return t.hold(u.id, cache, uploader)
	})
}

func (t *tx) hold(archive int64, cache, uploader string) error {
	_, err := t.exec(`INSERT INTO holdings (archive, cache, uploader, created) VALUES ($1, $2, $3, $4)
		ON CONFLICT (archive, cache) DO NOTHING`, archive, cache, uploader, t.now)
	return err
}

// same compares what is said of an archive with what is known. A hash or size that is not said is not compared.
func (a *archiveRow) same(key string, said *Archive) error {
	for _, f := range []struct{ field, known, said string }{
		{"NarHash", a.NarHash.String(), said.NarHash.String()},
		{"NarSize", strconv.FormatInt(a.NarSize, 10), strconv.FormatInt(said.NarSize, 10)},
		{"FileHash", a.FileHash.String(), said.FileHash.String()},
		{"FileSize", strconv.FormatInt(a.FileSize, 10), strconv.FormatInt(said.FileSize, 10)},
		{"Compression", a.Compression, said.Compression},
	} {
		optional := f.field == "FileHash" || f.field == "FileSize"
		if f.known != f.said && (!optional || f.said != "" && f.said != "0") {
			return &MismatchError{Key: key, Field: f.field, Known: f.known, Said: f.said}
		}
	}
	return nil
}

// Archive returns what is known of a live archive, else ErrNotFound.
func (c *Catalog) Archive(ctx context.Context, key string) (*Archive, error) {
	var found *archiveRow
	err := c.do(ctx, reading, func(t *tx) (err error) {
		found, err = t.archive(key, "")
		return err
	})
	if err != nil {
		return nil, err
	}
	if found == nil || found.State != Live {
		return nil, fmt.Errorf("%w: archive %q", ErrNotFound, key)
	}
	return &found.Archive, nil
}

// Holds reports whether the cache has uploaded the archive whole and it is live: only then may it be read from or
// referred to by this cache.
func (c *Catalog) Holds(ctx context.Context, cache, key string) (bool, error) {
	var held bool
	err := c.do(ctx, reading, func(t *tx) (err error) {
		var one int
		held, err = t.row(`SELECT 1 FROM archives JOIN holdings ON holdings.archive = archives.id
			WHERE archives.key = $1 AND archives.state = $2 AND holdings.cache = $3`, []any{key, Live, cache}, &one)
		return err
	})
	return held, err
}

type archiveRow struct {
	Archive
	id int64
}

// archive returns nil if there is none. lock ends the statement.
func (t *tx) archive(key, lock string) (*archiveRow, error) {
	a := &archiveRow{Archive: Archive{Key: key}}
	var fileHash, narHash string
	var created, leased int64
	found, err := t.row(`SELECT id, state, file_hash, file_size, nar_hash, nar_size, compression, version, created, leased_until
		FROM archives WHERE key = $1`+lock, []any{key},
		&a.id, &a.State, &fileHash, &a.FileSize, &narHash, &a.NarSize, &a.Compression, &a.Version, &created, &leased)
	if err != nil || !found {
		return nil, err
	}
	if a.FileHash, err = parseHash(fileHash); err != nil {
		return nil, err
	}
	if a.NarHash, err = parseHash(narHash); err != nil {
		return nil, err
	}
	a.Created, a.LeasedUntil = fromMilliseconds(created), fromMilliseconds(leased)
	return a, nil
}

func parseHash(s string) (narinfo.Hash, error) {
	if s == "" {
		return narinfo.Hash{}, nil
	}
	h, err := narinfo.ParseHash(s)
	if err != nil {
		return h, &DatabaseError{fmt.Errorf("a damaged row: %w", err)}
	}
	return h, nil
}

// forgetArchives deletes rows whose files are gone, or will be overwritten.
func (t *tx) forgetArchives(ids []int64) error {
	if _, err := t.exec(`DELETE FROM holdings WHERE archive IN `+t.dialect.numbers("$1"), asJSON(ids)); err != nil {
		return err
	}
	_, err := t.exec(`DELETE FROM archives WHERE id IN `+t.dialect.numbers("$1"), asJSON(ids))
	return err
}
