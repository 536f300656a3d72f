package catalog

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// Remover removes a bucket's files, durably, and says nil where there is none. It must not remove after its context has
// ended: a catalog then lets others use the key. It is safe for concurrent use. bucketstore.Files is one.
//
// Of a path it is told the narinfo's key; what else belongs to a path, a listing, is the Remover's to remove with it.
type Remover interface {
	Remove(ctx context.Context, key string) error
}

// Deletion says how Delete and DeleteArchives delete.
type Deletion struct {
	Files Remover // required

	// Grace is for how long an archive outlives the last path that needs it, so that clients who have read a narinfo get
	// what it promised. 0: not at all.
	Grace time.Duration

	// BreakLeases deletes what is leased, too: a path that has leaked must go at once. Whoever the lease was for gets
	// ErrNoArchive or a *MissingError when it comes to publish, and ErrLeaseLost if it is just uploading the same archive:
	// the file that this upload leaves is nobody's then.
	BreakLeases bool

	// Parallel is how many files are removed at a time, default 8. With 1 the caller's goroutine does it.
	Parallel int
}

// Victim is a path that is to be deleted, as a Graph has it.
type Victim struct {
	ID int64
	// LastUsed is what is known of its last use: one that was used later is kept (ErrUsed). Zero: it does not matter.
	LastUsed time.Time
}

// Outcome says what became of a victim.
type Outcome struct {
	// Err is nil if it is gone: its narinfo, then its row. *KeptError, ErrUsed, ErrPublishing and ErrNotFound mean that it
	// stays; any other error that it is half deleted, and is finished by a later collection.
	Err error
	// Archive is the key of its archive if that went with it, for nothing else needed it; Freed has its bytes.
	Archive string
	Freed   int64
	// ArchiveErr is why its archive is half deleted: that is finished by a later collection.
	ArchiveErr error
}

// ErrUsed says that a path was used since it was looked at.
var ErrUsed = errors.New("catalog: used meanwhile")

// Delete deletes paths, and the archives that nothing else needs. In one transaction it looks at each anew: a path stays
// if anything refers to it, published or half published or half deleted, if it or its content is pinned or leased or
// just being published again, or was used. A group of more than one is of paths that refer to each other in a circle:
// they go all or none, and referrers within the group don't count. Then the narinfos are removed, the rows deleted, and
// after them the archives' files and rows.
//
// A victim that is half deleted, because a process died over it, is finished. There is an outcome for each victim, in
// order. The error is of the database or ctx: outcomes then say what is known.
func (c *Catalog) Delete(ctx context.Context, groups [][]Victim, d Deletion) ([]Outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, c.lease/2) // begins before the lease does, and ends long before it
	defer cancel()
	var victims []*victim
	for i, group := range groups {
		for _, v := range group {
			victims = append(victims, &victim{Victim: v, group: i, err: fmt.Errorf("%w: a path with id %d", ErrNotFound, v.ID)})
		}
	}
	outcomes := make([]Outcome, len(victims))
	err := c.do(ctx, writing, func(t *tx) error { return t.condemn(c, victims, d) })
	for i, v := range victims {
		outcomes[i].Err = v.err
		if err != nil {
			outcomes[i].Err = err
		}
	}
	if err != nil {
		return outcomes, err
	}
	removed, err := c.removeNarinfos(ctx, victims, outcomes, d)
	if len(removed) == 0 || err != nil {
		return outcomes, err
	}
	var archives []archiveRow
	err = c.do(ctx, writing, func(t *tx) (err error) {
		archives, err = t.forgetPaths(c, removed, d)
		return err
	})
	if err != nil {
		for i, v := range victims {
			if slices.Contains(removed, v) {
				outcomes[i].Err = err
			}
		}
		return outcomes, err
	}
	return outcomes, c.removeNeedless(ctx, archives, victims, outcomes, d)
}

// DeletePath deletes one path of a cache, however lately it was used. A path that is not live is ErrNotFound, one that
// something keeps a *KeptError, which names what refers to it.
func (c *Catalog) DeletePath(ctx context.Context, cache string, hash narinfo.HashPart, d Deletion) error {
	var v Victim
	found := false
	err := c.do(ctx, reading, func(t *tx) (err error) {
		found, err = t.row(`SELECT id FROM paths WHERE cache = $1 AND hash = $2 AND attempt = 0`,
			[]any{cache, string(hash)}, &v.ID)
		return err
	})
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("%w: path %s", ErrNotFound, NarinfoKey(cache, hash))
	}
	outcomes, err := c.Delete(ctx, [][]Victim{{v}}, d)
	if err == nil {
		err = errors.Join(outcomes[0].Err, outcomes[0].ArchiveErr)
	}
	return err
}

// victim is one in the making: err is nil once it is condemned.
type victim struct {
	Victim
	pathRow
	group  int
	leased int64
	kept   *KeptError
	err    error
}

func (v *victim) keep() *KeptError {
	if v.kept == nil {
		v.kept = &KeptError{Path: narinfo.StorePath(v.path)}
		v.err = v.kept
	}
	return v.kept
}

// condemn marks those as being deleted that nothing keeps.
func (t *tx) condemn(c *Catalog, victims []*victim, d Deletion) error {
	byID := make(map[int64]*victim, len(victims))
	ids := make([]int64, len(victims))
	for i, v := range victims {
		v.kept, v.err = nil, fmt.Errorf("%w: a path with id %d", ErrNotFound, v.ID)
		byID[v.ID], ids[i] = v, v.ID
	}
	list := asJSON(ids)
	if err := t.lockVictims(c, byID, list, d); err != nil {
		return err
	}
	if err := t.keepReferred(byID, list); err != nil {
		return err
	}
	if err := t.keepPinned(byID, list); err != nil {
		return err
	}
	broken := make(map[int]error) // groups that do not go, for whose sake
	for _, v := range victims {
		if v.err != nil && broken[v.group] == nil {
			broken[v.group] = v.err
		}
	}
	var condemned []int64
	for _, v := range victims {
		if v.err == nil {
			v.err = broken[v.group]
		}
		if v.err == nil {
			condemned = append(condemned, v.ID)
		}
	}
	if condemned == nil {
		return nil
	}
	_, err := t.exec(`UPDATE paths SET state = $2, attempt = -1, until = $3 WHERE id IN `+t.dialect.numbers("$1"), asJSON(condemned), Deleting,
		t.now+c.lease.Milliseconds())
	return err
}

// lockVictims reads the rows, which from then on nobody else can refer to, pin, lease, use or replace.
func (t *tx) lockVictims(c *Catalog, byID map[int64]*victim, list string, d Deletion) error {
	var r victim
	err := t.each(`SELECT id, cache, hash, archive, attempt, until, state, path, refs, last_used, leased_until FROM paths
		WHERE id IN `+t.dialect.numbers("$1")+` ORDER BY id`+t.dialect.forUpdate(), []any{list},
		[]any{&r.id, &r.cache, &r.hash, &r.archive, &r.attempt, &r.until, &r.state, &r.path, &r.refs, &r.used, &r.leased},
		func() error {
			v := byID[r.id]
			v.pathRow, v.used, v.leased, v.err = r.pathRow, r.used, r.leased, nil
			switch {
			case v.state == Publishing:
				v.err = fmt.Errorf("%w: %s", ErrPublishing, v.path)
			case v.state == Deleting && v.until > t.now:
				v.err = fmt.Errorf("%w: %s", ErrDeleting, v.path)
			case v.state == Deleting:
			case v.leased > t.now && !d.BreakLeases:
				v.keep().Leased = true
			case !v.LastUsed.IsZero() && max(v.used, milliseconds(c.lastTouched(v.slot))) > milliseconds(v.LastUsed):
				v.err = fmt.Errorf("%w: %s", ErrUsed, v.path)
			}
			return nil
		})
	if err != nil {
		return err
	}
	var id int64
	return t.each(`SELECT v.id FROM paths v JOIN paths p ON p.cache = v.cache AND p.hash = v.hash AND p.attempt > 0
		WHERE v.id IN `+t.dialect.numbers("$1"), []any{list}, []any{&id}, func() error {
		if v := byID[id]; v.err == nil {
			v.err = fmt.Errorf("%w: %s", ErrPublishing, v.path)
		}
		return nil
	})
}

const maxNamed = 100

func (t *tx) keepReferred(byID map[int64]*victim, list string) error {
	var id, referrer int64
	var path narinfo.StorePath
	err := t.each(`SELECT v.id, r.referrer, p.path FROM paths v JOIN referrers r ON r.cache = v.cache AND r.hash = v.hash
		JOIN paths p ON p.id = r.referrer WHERE v.id IN `+t.dialect.numbers("$1"), []any{list}, []any{&id, &referrer, &path},
		func() error {
			v, other := byID[id], byID[referrer]
			if v.ID == referrer || other != nil && other.group == v.group {
				return nil
			}
			if k := v.keep(); len(k.Referrers) < maxNamed {
				k.Referrers = append(k.Referrers, path)
			}
			return nil
		})
	for _, v := range byID {
		if v.kept != nil {
			slices.Sort(v.kept.Referrers)
			v.kept.Referrers = slices.Compact(v.kept.Referrers)
		}
	}
	return err
}

func (t *tx) keepPinned(byID map[int64]*victim, list string) error {
	var id int64
	var name string
	return t.each(`SELECT v.id, pins.name FROM paths v JOIN pins ON pins.cache = v.cache AND pins.hash = v.hash
		AND pins.replaced = 0 AND (pins.expires = 0 OR pins.expires > $2) WHERE v.id IN `+t.dialect.numbers("$1")+`
		AND v.state = $3 ORDER BY pins.name`, []any{list, t.now, Live}, []any{&id, &name}, func() error {
		k := byID[id].keep()
		k.Pins = append(k.Pins, name)
		return nil
	})
}

// removeNarinfos returns those whose files are gone.
func (c *Catalog) removeNarinfos(ctx context.Context, victims []*victim, outcomes []Outcome, d Deletion) ([]*victim, error) {
	var condemned []int
	for i, v := range victims {
		if v.err == nil {
			condemned = append(condemned, i)
		}
	}
	d.inParallel(len(condemned), func(n int) {
		i := condemned[n]
		outcomes[i].Err = d.remove(ctx, NarinfoKey(victims[i].cache, victims[i].hash))
	})
	// Members of a circle go together: while one narinfo is there, the others' rows are what a later run finishes by.
	failed := make(map[int]error)
	for _, i := range condemned {
		if outcomes[i].Err != nil {
			failed[victims[i].group] = outcomes[i].Err
		}
	}
	var removed []*victim
	for _, i := range condemned {
		if outcomes[i].Err = failed[victims[i].group]; outcomes[i].Err == nil {
			removed = append(removed, victims[i])
		}
	}
	return removed, ctx.Err()
}

func (d *Deletion) remove(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := d.Files.Remove(ctx, key); err != nil {
		return fmt.Errorf("catalog: remove %q: %w", key, err)
	}
	return nil
}

// inParallel calls f(0) … f(n-1).
func (d *Deletion) inParallel(n int, f func(int)) {
	workers := d.Parallel
	if workers <= 0 {
		workers = 8
	}
	if workers = min(workers, n); workers <= 1 {
		for i := range n {
			f(i)
		}
		return
	}
	next := make(chan int)
	var running sync.WaitGroup
	for range workers {
		running.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	running.Wait()
}

// forgetPaths deletes rows, and marks the archives that nothing needs any more as being deleted.
func (t *tx) forgetPaths(c *Catalog, removed []*victim, d Deletion) ([]archiveRow, error) {
	var archives, ids []int64
	for _, v := range removed {
		// Somebody else may have come for the row since, if this process was stopped for the length of the lease.
		found, err := t.row(`SELECT id FROM paths WHERE id = $1 AND state = $2`+t.dialect.forUpdate(), []any{v.ID, Deleting}, &v.id)
		if err != nil {
			return nil, err
		}
		if !found {
			continue
		}
		if err := t.forgetPath(&v.pathRow); err != nil {
			return nil, err
		}
		archives, ids = append(archives, v.archive), append(ids, v.ID)
	}
	if d.Grace > 0 && len(ids) > 0 {
		_, err := t.exec(`UPDATE archives SET leased_until = $2 WHERE id IN `+t.dialect.numbers("$1")+` AND leased_until < $2`,
			asJSON(archives), t.now+d.Grace.Milliseconds())
		if err != nil {
			return nil, err
		}
	}
	return t.condemnArchives(c, archives, d)
}

// condemnArchives marks those as being deleted that no path needs and no lease keeps, and returns them.
func (t *tx) condemnArchives(c *Catalog, ids []int64, d Deletion) ([]archiveRow, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	// First the locks, then the look at who needs them: a publication that has come in between is seen.
	var id int64
	err := t.each(`SELECT id FROM archives WHERE id IN `+t.dialect.numbers("$1")+` ORDER BY id`+t.dialect.forUpdate(),
		[]any{asJSON(ids)}, []any{&id}, func() error { return nil })
	if err != nil {
		return nil, err
	}
	leased := t.now // leases up to then are over
	if d.BreakLeases {
		leased = math.MaxInt64
	}
	var condemned []archiveRow
	var a archiveRow
	err = t.each(`UPDATE archives SET state = $2, until = $3 WHERE id IN `+t.dialect.numbers("$1")+`
		AND (state <> $2 AND leased_until <= $5 OR state = $2 AND until <= $4)
		AND NOT EXISTS (SELECT 1 FROM paths WHERE paths.archive = archives.id) RETURNING id, key, file_size`,
		[]any{asJSON(ids), Deleting, t.now + c.lease.Milliseconds(), t.now, leased}, []any{&a.id, &a.Key, &a.FileSize}, func() error {
			condemned = append(condemned, a)
			return nil
		})
	return condemned, err
}

// removeNeedless removes condemned archives and writes them into the outcomes of their paths.
func (c *Catalog) removeNeedless(
	ctx context.Context, archives []archiveRow, victims []*victim, outcomes []Outcome, d Deletion,
) error {
	errs, err := c.removeArchives(ctx, archives, d)
	for n, a := range archives {
		for i, v := range victims {
			if v.archive != a.id || outcomes[i].Err != nil {
				continue
			}
			if outcomes[i].ArchiveErr = errs[n]; errs[n] == nil {
				outcomes[i].Archive, outcomes[i].Freed = a.Key, a.FileSize
			}
			break // of several paths one has freed it
		}
	}
	return err
}

func (c *Catalog) removeArchives(ctx context.Context, archives []archiveRow, d Deletion) ([]error, error) {
	errs := make([]error, len(archives))
	d.inParallel(len(archives), func(i int) { errs[i] = d.remove(ctx, archives[i].Key) })
	var gone []int64
	for i, a := range archives {
		if errs[i] == nil {
			gone = append(gone, a.id)
		}
	}
	if len(gone) == 0 {
		return errs, ctx.Err()
	}
	err := c.do(ctx, lazily, func(t *tx) error { return t.forgetArchives(gone) })
	for i := range errs {
		if errs[i] == nil {
			errs[i] = err
		}
	}
	return errs, err
}

// DeleteArchives deletes those of the archives that no path needs and no lease keeps, and finishes those that are half
// deleted. It returns the bytes that were freed, and an error for each that could not be removed, joined.
func (c *Catalog) DeleteArchives(ctx context.Context, ids []int64, d Deletion) (freed int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.lease/2)
	defer cancel()
	var archives []archiveRow
	err = c.do(ctx, writing, func(t *tx) (err error) {
		archives, err = t.condemnArchives(c, ids, d)
		return err
	})
	if err != nil {
		return 0, err
	}
	errs, err := c.removeArchives(ctx, archives, d)
	for i, a := range archives {
		if errs[i] == nil {
			freed += a.FileSize
		}
	}
	if err != nil {
		return freed, err
	}
	return freed, errors.Join(errs...)
}
