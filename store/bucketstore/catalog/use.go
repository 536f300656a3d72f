package catalog

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// Touch notes that a path was used, now. It does not block: Run, or Flush, writes it down. A deletion in this process
// counts what was touched up to then; one in another process may be a second behind.
func (c *Catalog) Touch(cache string, hash narinfo.HashPart) {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.touched[slot{cache, hash}] = now
}

// Run writes down what was touched, once a second, until ctx ends, and then once more. What it cannot write it keeps
// for the next time. It returns the last attempt's error, nil after a clean end.
func (c *Catalog) Run(ctx context.Context) error {
	ticker := time.NewTicker(c.flushEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if err := c.Flush(ctx); err != nil && ctx.Err() == nil {
				c.log.Error("catalog could not note what was used", "error", err)
			}
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), ending)
			defer cancel()
			return c.Flush(last)
		}
	}
}

// Flush writes down what was touched since the last time. What it cannot write stays for the next one.
func (c *Catalog) Flush(ctx context.Context) error {
	c.flush.Lock()
	defer c.flush.Unlock()
	c.mu.Lock()
	touched := c.touched
	c.touched, c.flushing = make(map[slot]time.Time), touched
	c.mu.Unlock()
	var err error
	if len(touched) > 0 {
		err = c.do(ctx, lazily, func(t *tx) error { return t.touch(touched) })
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flushing = nil
	if err == nil {
		return nil
	}
	for s, at := range touched {
		if at.After(c.touched[s]) {
			c.touched[s] = at
		}
	}
	return err
}

// lastTouched is when a path was used that is not yet written down, zero if it is or never was.
func (c *Catalog) lastTouched(s slot) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.touched[s]
	if earlier := c.flushing[s]; earlier.After(at) {
		at = earlier
	}
	return at
}

// touch takes the latest time of each cache's paths for all of them: they are a flush's interval apart.
func (t *tx) touch(touched map[slot]time.Time) error {
	hashes := make(map[string][]narinfo.HashPart)
	latest := make(map[string]int64)
	for s, at := range touched {
		hashes[s.cache] = append(hashes[s.cache], s.hash)
		latest[s.cache] = max(latest[s.cache], milliseconds(at))
	}
	for _, cache := range slices.Sorted(maps.Keys(hashes)) {
		_, err := t.exec(`UPDATE paths SET last_used = $1 WHERE id IN (SELECT id FROM paths WHERE cache = $2 AND hash IN `+
			t.dialect.texts("$3")+` AND attempt = 0 AND last_used < $1 ORDER BY id`+t.dialect.forUpdate()+`)`,
			latest[cache], cache, asJSON(hashes[cache]))
		if err != nil {
			return err
		}
	}
	return nil
}

// Lease keeps paths, and so all that they refer to, from being deleted before a time, and returns those that are not
// live, in the order given. It is done when it returns: what a pusher was told is there stays until it has pushed what
// refers to it. A lease is never shortened.
func (c *Catalog) Lease(ctx context.Context, cache string, hashes []narinfo.HashPart, until time.Time) ([]narinfo.HashPart, error) {
	var leased map[string]bool
	err := c.do(ctx, lazily, func(t *tx) error {
		leased = make(map[string]bool, len(hashes))
		var hash string
		return t.each(`UPDATE paths SET leased_until = CASE WHEN leased_until < $1 THEN $1 ELSE leased_until END WHERE id IN
			(SELECT id FROM paths WHERE cache = $2 AND hash IN `+t.dialect.texts("$3")+` AND attempt = 0
			ORDER BY id`+t.dialect.forUpdate()+`) RETURNING hash`,
			[]any{milliseconds(until), cache, asJSON(hashes)}, []any{&hash}, func() error {
				leased[hash] = true
				return nil
			})
	})
	if err != nil {
		return nil, err
	}
	return without(hashes, leased), nil
}
