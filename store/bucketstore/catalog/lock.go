package catalog

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Lock takes a lock that one process at a time may hold, and returns a context that ends when it is lost or released;
// the caller calls release. Where somebody else holds it the error is *LockedError. A lock whose holder has died is free
// a minute later.
//
// A lock saves work that would be done twice. Nothing in a catalog is in danger where two believe to hold one: each
// deletion and publication has a lease of its own.
func (c *Catalog) Lock(ctx context.Context, name string) (held context.Context, release func(), err error) {
	if err := c.takeLock(ctx, name); err != nil {
		return nil, nil, err
	}
	held, cancel := context.WithCancelCause(ctx)
	var beating sync.WaitGroup
	beating.Go(func() { c.beat(held, name, cancel) })
	return held, sync.OnceFunc(func() {
		cancel(context.Canceled)
		beating.Wait()
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), ending)
		defer cancel()
		err := c.do(last, lazily, func(t *tx) error {
			_, err := t.exec(`DELETE FROM locks WHERE name = $1 AND holder = $2`, name, c.holder)
			return err
		})
		if err != nil {
			c.log.Warn("catalog could not release a lock, which expires", "lock", name, "error", err)
		}
	}), nil
}

const (
	lockFor   = time.Minute
	heartbeat = lockFor / 6
)

func (c *Catalog) takeLock(ctx context.Context, name string) error {
	return c.do(ctx, lazily, func(t *tx) error {
		n, err := t.exec(`INSERT INTO locks (name, holder, since, expires) VALUES ($1, $2, $3, $4) ON CONFLICT (name) DO UPDATE
			SET holder = excluded.holder, since = excluded.since, expires = excluded.expires WHERE locks.expires <= $3`,
			name, c.holder, t.now, t.now+lockFor.Milliseconds())
		if err != nil || n > 0 {
			return err
		}
		locked := &LockedError{Name: name}
		if _, err := t.row(`SELECT holder FROM locks WHERE name = $1`, []any{name}, &locked.Holder); err != nil {
			return err
		}
		return locked
	})
}

// beat says again and again that the holder is alive, until ctx ends. When it could not for half of the lock's time, or
// somebody else has the lock, it is lost.
func (c *Catalog) beat(ctx context.Context, name string, lose context.CancelCauseFunc) {
	ticker := time.NewTicker(heartbeat)
	defer ticker.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		mine := int64(0)
		err := c.do(ctx, lazily, func(t *tx) (err error) {
			mine, err = t.exec(`UPDATE locks SET expires = $3 WHERE name = $1 AND holder = $2`, name, c.holder,
				t.now+lockFor.Milliseconds())
			return err
		})
		switch {
		case err == nil && mine > 0:
			last = time.Now()
		case err == nil || time.Since(last) > lockFor/2:
			lose(fmt.Errorf("catalog: lock %q was lost: %v", name, err))
			return
		}
	}
}
