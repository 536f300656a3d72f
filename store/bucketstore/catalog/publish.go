package catalog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// Publication is what Publish publishes.
type Publication struct {
	Cache    string        // whose path it becomes
	Uploader string        // who does it, for the record
	Info     *narinfo.Info // is not changed
	Archive  string        // its archive's key in the bucket; "": Info.URL
	Lease    time.Duration // for which the path is kept from when it is live, as by Catalog.Lease; 0: not at all

	// Elsewhere returns those of the paths that are not where clients of this cache also look, an upstream that is
	// configured as complete. nil: all are missing. It is called outside of transactions, and may take its time.
	Elsewhere func(ctx context.Context, paths []narinfo.StorePath) (missing []narinfo.StorePath, err error)

	// Write stores the narinfo's file, all or nothing, durably. Its context ends early enough: it must not write after
	// that.
	Write func(ctx context.Context) error
}

// Publish makes a path part of a cache, in three steps. It checks, in one transaction, that the archive is live, held by
// the cache (else ErrNoArchive) and what the narinfo says (*MismatchError), and that all references, the path itself
// excepted, are live in this cache or elsewhere (*MissingError); what was checked is kept from then on. It calls Write. It
// makes the path live.
//
// A path that is live with the same content is written again, and one with other content is replaced: until then
// whoever asks sees the old one, and both contents' archives and references are kept. Publications of one path with the
// same content may run side by side, with other content one gets ErrPublishing. A path that is being deleted is
// ErrDeleting. Both errors pass: try again.
//
// If Write fails, or the process ends, or the last step fails, the path may be published or not. Resolve, which every
// collection begins with, finds out when the lease has run out; until then what the path needs is kept, and it can be
// published anew at once if its content is the same. Errors of Elsewhere and Write are returned wrapped.
func (c *Catalog) Publish(ctx context.Context, p Publication) error {
	if p.Archive == "" {
		p.Archive = p.Info.URL
	}
	references := others(p.Info)
	attempt, err := c.beginPublishing(ctx, &p, references)
	if err != nil {
		return err
	}
	if err := c.writeNarinfo(ctx, &p); err != nil {
		return err
	}
	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.lease/2)
	defer cancel()
	return c.do(finish, lazily, func(t *tx) error {
		var until int64
		if p.Lease > 0 {
			until = t.now + p.Lease.Milliseconds()
		}
		return t.finishPublishing(attempt, until)
	})
}

func (c *Catalog) writeNarinfo(ctx context.Context, p *Publication) error {
	ctx, cancel := context.WithTimeout(ctx, c.lease/2)
	defer cancel()
	if err := p.Write(ctx); err != nil {
		return fmt.Errorf("catalog: write the narinfo of %s: %w", p.Info.StorePath, err)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("catalog: write the narinfo of %s: %w", p.Info.StorePath, err)
	}
	return nil
}

// beginPublishing asks elsewhere for what is not here, and again if something went away meanwhile.
func (c *Catalog) beginPublishing(ctx context.Context, p *Publication, references []narinfo.StorePath) (pathRow, error) {
	row := pathRow{slot: slot{p.Cache, p.Info.StorePath.HashPart()}, refs: packed(references)}
	elsewhere := make(map[narinfo.StorePath]bool)
	for {
		err := c.do(ctx, writing, func(t *tx) error { return t.beginPublishing(c, p, &row, references, elsewhere) })
		missing, ok := errors.AsType[*MissingError](err)
		if !ok || p.Elsewhere == nil {
			return row, err
		}
		absent, err := p.Elsewhere(ctx, missing.Missing)
		if err != nil {
			return row, fmt.Errorf("catalog: look for the references of %s elsewhere: %w", p.Info.StorePath, err)
		}
		if len(absent) > 0 {
			return row, &MissingError{p.Info.StorePath, slices.Sorted(slices.Values(absent))}
		}
		for _, found := range missing.Missing {
			elsewhere[found] = true
		}
	}
}

func (t *tx) beginPublishing(
	c *Catalog, p *Publication, row *pathRow, references []narinfo.StorePath, elsewhere map[narinfo.StorePath]bool,
) error {
	if err := t.exclude(row.slot); err != nil {
		return err
	}
	a, err := t.heldArchive(p)
	if err != nil {
		return err
	}
	row.archive, row.narHash, row.path = a.id, a.NarHash.String(), string(p.Info.StorePath)
	if err := t.requireReferences(p, references, elsewhere); err != nil {
		return err
	}
	if err := t.makeWay(row); err != nil {
		return err
	}
	row.attempt = 1 + rand.Int64N(1<<62)
	_, err = t.row(`INSERT INTO paths (cache, hash, attempt, state, path, archive, nar_hash, nar_size, deriver, refs, uploader,
		created, last_used, leased_until, until) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12, 0, $13)
		RETURNING id`, []any{
		row.cache, row.hash, row.attempt, Publishing, row.path, row.archive, row.narHash, a.NarSize, string(p.Info.Deriver),
		row.refs, p.Uploader, t.now, t.now + c.lease.Milliseconds(),
	}, &row.id)
	if err != nil {
		return err
	}
	return t.refer(row)
}

// exclude lets no other transaction publish the same path until this one ends.
func (t *tx) exclude(s slot) error {
	if t.dialect == SQLite {
		return nil
	}
	_, err := t.exec(`SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`, NarinfoKey(s.cache, s.hash))
	return err
}

// heldArchive returns the archive if it is what the narinfo says, and lets nobody delete it until this transaction ends.
func (t *tx) heldArchive(p *Publication) (*archiveRow, error) {
	a, err := t.archive(p.Archive, t.dialect.forShare())
	if err != nil {
		return nil, err
	}
	var one int
	held := false
	if a != nil && a.State == Live {
		held, err = t.row(`SELECT 1 FROM holdings WHERE archive = $1 AND cache = $2`, []any{a.id, p.Cache}, &one)
		if err != nil {
			return nil, err
		}
	}
	if !held {
		return nil, fmt.Errorf("%w: %q", ErrNoArchive, p.Archive)
	}
	return a, a.same(p.Archive, &Archive{
		NarHash: p.Info.NarHash, NarSize: p.Info.NarSize, FileHash: p.Info.FileHash, FileSize: p.Info.FileSize,
		Compression: compressionOf(p.Info),
	})
}

func compressionOf(info *narinfo.Info) string {
	if info.Compression == "" {
		return "bzip2" // what Nix takes it for
	}
	return info.Compression
}

// requireReferences lets nobody delete the references that are live here until this transaction ends.
func (t *tx) requireReferences(p *Publication, references []narinfo.StorePath, elsewhere map[narinfo.StorePath]bool) error {
	if len(references) == 0 {
		return nil
	}
	live := make(map[string]bool)
	var path string
	hashes := make([]narinfo.HashPart, len(references))
	for i, r := range references {
		hashes[i] = r.HashPart()
	}
	err := t.each(`SELECT path FROM paths WHERE cache = $1 AND hash IN `+t.dialect.texts("$2")+` AND attempt = 0
		ORDER BY id`+t.dialect.forShare(), []any{p.Cache, asJSON(hashes)}, []any{&path}, func() error {
		live[path] = true
		return nil
	})
	if err != nil {
		return err
	}
	var missing []narinfo.StorePath
	for _, r := range references {
		if !live[string(r)] && !elsewhere[r] {
			missing = append(missing, r)
		}
	}
	if missing != nil {
		return &MissingError{p.Info.StorePath, missing}
	}
	return nil
}

// makeWay looks at what else is in the path's place. A deletion that somebody died over may have left its file, so its
// row stays, and keeps what that file promises, until there is another file.
func (t *tx) makeWay(row *pathRow) error {
	rows, err := t.inSlot(row.slot)
	if err != nil {
		return err
	}
	for i := range rows {
		switch other := &rows[i]; {
		case other.state == Deleting && other.until > t.now:
			return fmt.Errorf("%w: %s", ErrDeleting, row.path)
		case other.state == Publishing && other.until > t.now && !other.same(row):
			return fmt.Errorf("%w: %s", ErrPublishing, row.path)
		}
	}
	return nil
}

// finishPublishing makes a publication the one that is live, and leases it.
func (t *tx) finishPublishing(row pathRow, until int64) error {
	if err := t.exclude(row.slot); err != nil {
		return err
	}
	rows, err := t.inSlot(row.slot)
	if err != nil {
		return err
	}
	var mine, settled *pathRow
	for i := range rows {
		switch {
		case rows[i].state != Publishing:
			settled = &rows[i]
		case rows[i].id == row.id:
			mine = &rows[i]
		}
	}
	if mine == nil {
		if settled != nil && settled.state == Live && settled.same(&row) {
			return t.lease(settled, until) // another publication of the same has settled this one
		}
		return fmt.Errorf("%w: %s", ErrLeaseLost, row.path)
	}
	for i := range rows {
		// Of a publication that ran out nobody is at work any more, and the file is this one's.
		if r := &rows[i]; r != mine && r.state == Publishing && r.until <= t.now {
			if err := t.forgetPath(r); err != nil {
				return err
			}
		}
	}
	if settled == nil {
		_, err = t.exec(`UPDATE paths SET state = $2, attempt = 0, until = 0, leased_until = $3 WHERE id = $1`, mine.id, Live, until)
		return err
	}
	if err := t.replace(settled, mine); err != nil {
		return err
	}
	return t.lease(settled, until)
}

func (t *tx) lease(row *pathRow, until int64) error {
	_, err := t.exec(`UPDATE paths SET leased_until = $2 WHERE id = $1 AND leased_until < $2`, row.id, until)
	return err
}

// replace gives a path that is live, or was left half deleted, the content of a publication of it. The row stays, and
// with it leases, and whoever waits for it finds it.
func (t *tx) replace(settled, mine *pathRow) error {
	if settled.state == Live && settled.same(mine) {
		_, err := t.exec(`UPDATE paths SET last_used = $2 WHERE id = $1 AND last_used < $2`, settled.id, mine.used)
		if err != nil {
			return err
		}
		return t.forgetPath(mine)
	}
	if err := t.unrefer(settled); err != nil {
		return err
	}
	_, err := t.exec(`UPDATE paths SET (path, archive, nar_hash, nar_size, deriver, refs, uploader, created) =
		(SELECT path, archive, nar_hash, nar_size, deriver, refs, uploader, created FROM paths AS mine WHERE mine.id = $2),
		state = $3, attempt = 0, until = 0, last_used = CASE WHEN last_used < $4 THEN $4 ELSE last_used END WHERE id = $1`,
		settled.id, mine.id, Live, mine.used)
	if err != nil {
		return err
	}
	replaced := *mine
	replaced.id = settled.id
	if err := t.refer(&replaced); err != nil {
		return err
	}
	return t.forgetPath(mine)
}

// pathRow is what a path's row says that decides about it.
type pathRow struct {
	slot
	id, archive, attempt, until int64
	used                        int64 // of one being published, when that began
	state                       State
	path, narHash, refs         string
}

// same reports whether two have the same content. Signatures are not part of it.
func (r *pathRow) same(s *pathRow) bool {
	return r.path == s.path && r.archive == s.archive && r.narHash == s.narHash && r.refs == s.refs
}

// inSlot returns all that is in a path's place, at most one of it live or being deleted. It stays until this transaction
// ends.
func (t *tx) inSlot(s slot) ([]pathRow, error) {
	r := pathRow{slot: s}
	var rows []pathRow
	err := t.each(`SELECT id, archive, attempt, until, last_used, state, path, nar_hash, refs FROM paths WHERE cache = $1 AND hash = $2
		ORDER BY id`+t.dialect.forUpdate(), []any{s.cache, string(s.hash)},
		[]any{&r.id, &r.archive, &r.attempt, &r.until, &r.used, &r.state, &r.path, &r.narHash, &r.refs}, func() error {
			rows = append(rows, r)
			return nil
		})
	return rows, err
}

// refer adds a path to the referrers of its references.
func (t *tx) refer(row *pathRow) error {
	if row.refs == "" {
		return nil
	}
	return t.addReferrers(row.cache, referrers(row))
}

// referrer is a hash part and the id of a path that refers to it.
type referrer struct {
	hash narinfo.HashPart
	id   int64
}

// MarshalJSON writes it as Dialect.pairs reads it. A hash part has nothing to escape.
func (r referrer) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, `["%s",%d]`, r.hash, r.id), nil
}

func referrers(row *pathRow) []referrer {
	var all []referrer
	for _, hash := range unpacked(row.refs) {
		all = append(all, referrer{hash, row.id})
	}
	return all
}

func (t *tx) addReferrers(cache string, all []referrer) error {
	_, err := t.exec(`INSERT INTO referrers (cache, hash, referrer) SELECT CAST($1 AS TEXT), hash, referrer FROM `+
		t.dialect.pairs("$2"), cache, asJSON(all))
	return err
}

func (t *tx) unrefer(row *pathRow) error {
	if row.refs == "" {
		return nil
	}
	_, err := t.exec(`DELETE FROM referrers WHERE cache = $1 AND hash IN `+t.dialect.texts("$2")+` AND referrer = $3`,
		row.cache, asJSON(unpacked(row.refs)), row.id)
	return err
}

func (t *tx) forgetPath(row *pathRow) error {
	if err := t.unrefer(row); err != nil {
		return err
	}
	_, err := t.exec(`DELETE FROM paths WHERE id = $1`, row.id)
	return err
}

// others are the references without the path itself, which says nothing.
func others(info *narinfo.Info) []narinfo.StorePath {
	return slices.DeleteFunc(slices.Clone(info.References), func(r narinfo.StorePath) bool { return r == info.StorePath })
}

// packed writes hash parts one after the other: a path's references are read in whole, and a row of its own for each
// would make a collection slow.
func packed(references []narinfo.StorePath) string {
	var b strings.Builder
	for _, r := range references {
		b.WriteString(string(r.HashPart()))
	}
	return b.String()
}

const hashPartSize = 32

func unpacked(refs string) []narinfo.HashPart {
	hashes := make([]narinfo.HashPart, 0, len(refs)/hashPartSize)
	for ; len(refs) >= hashPartSize; refs = refs[hashPartSize:] {
		hashes = append(hashes, narinfo.HashPart(refs[:hashPartSize]))
	}
	return hashes
}
