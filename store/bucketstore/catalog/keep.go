package catalog

import (
	"context"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// Keep is [Catalog.Lease] for many paths at once, such as a closure: it leases those alone to which no other of them
// refers, which keeps the others too. It returns those that are not live, in the order given. A path that is leased for
// nine tenths of the time already stays as it is, so that asking again and again writes nothing.
//
// 10,000 paths of a closure take some 40 ms with SQLite, where a lease on each would take several times that.
func (c *Catalog) Keep(ctx context.Context, cache string, hashes []narinfo.HashPart, until time.Time) ([]narinfo.HashPart, error) {
	enough := until.Add(-until.Sub(c.now()) / 10)
	for range keeps {
		live, tops, err := c.tops(ctx, cache, hashes, enough)
		if err != nil {
			return nil, err
		}
		gone, err := c.leaseAll(ctx, cache, tops, until)
		if err != nil {
			return nil, err
		}
		if len(gone) == 0 {
			return without(hashes, live), nil
		}
		// One was deleted since, and with it what it kept may have been.
	}
	return c.Lease(ctx, cache, hashes, until)
}

// keeps is how often Keep tries before it leases each path by itself.
const keeps = 3

// tops returns which of the paths are live, and those of them to which no other of them refers and which are not leased
// for long enough.
func (c *Catalog) tops(
	ctx context.Context, cache string, hashes []narinfo.HashPart, enough time.Time,
) (live map[string]bool, tops []narinfo.HashPart, err error) {
	var referred map[string]bool
	var short []string // of which the lease is
	// With json_each outside, SQLite looks each path up in the index, and makes no table of what is asked for first.
	join := " CROSS JOIN "
	if c.dialect != SQLite {
		join = " JOIN "
	}
	query := `SELECT paths.hash, refs, leased_until FROM (SELECT ` + c.dialect.rows("$1") + `) AS asked` + join +
		`paths ON paths.hash = asked.hash WHERE cache = $2 AND attempt = 0 AND state = $3`
	err = c.do(ctx, reading, func(t *tx) error {
		live, referred = make(map[string]bool, len(hashes)), make(map[string]bool)
		short = nil
		var hash, refs string
		var leased int64
		return t.each(query, []any{asJSON(hashes), cache, Live}, []any{&hash, &refs, &leased}, func() error {
			live[hash] = true
			if leased < milliseconds(enough) {
				short = append(short, hash)
			}
			for ; len(refs) >= hashPartSize; refs = refs[hashPartSize:] {
				referred[refs[:hashPartSize]] = true
			}
			return nil
		})
	})
	for _, hash := range short {
		if !referred[hash] {
			tops = append(tops, narinfo.HashPart(hash))
		}
	}
	return live, tops, err
}

// leaseAll is Lease, which costs a transaction, of none for nothing.
func (c *Catalog) leaseAll(ctx context.Context, cache string, hashes []narinfo.HashPart, until time.Time) ([]narinfo.HashPart, error) {
	if len(hashes) == 0 {
		return nil, nil
	}
	return c.Lease(ctx, cache, hashes, until)
}
