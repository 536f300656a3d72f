package gc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
)

// Options say what is kept. The zero value keeps every path.
type Options struct {
	// MaxSize is how many bytes the archives may have together. 0: no limit.
	MaxSize int64

	// KeepUsed is for how long after its last use a path is kept. 0: for ever.
	KeepUsed time.Duration

	// DryRun deletes nothing, settles nothing, and takes no lock: the report says what would be done.
	DryRun bool

	// Look tells what became of publications whose process has died: see catalog.Resolve. nil: they stay undecided, and
	// keep what they need.
	Look catalog.Look

	// Grace is for how long an archive outlives its last path, for clients who have just read the narinfo; a later
	// collection removes it. Until then it counts as leased. 0: not at all.
	Grace time.Duration

	// Batch is how many paths are deleted in one transaction, default 256.
	Batch int

	// Parallel is how many files are removed at a time, default 8.
	Parallel int
}

const (
	lockName     = "collector"
	defaultBatch = 256
)

// Collect deletes what the options do not keep: see the package comment. If another collection is under way the error is
// a *catalog.LockedError.
//
// The report says for every path what was done and why. Files that could not be removed are an error, after everything
// else was done; with any other error the report covers what was done until then.
func Collect(ctx context.Context, c *catalog.Catalog, files catalog.Remover, o Options) (*Report, error) {
	if o.MaxSize < 0 || o.KeepUsed < 0 || o.Grace < 0 || o.Batch < 0 || o.Parallel < 0 {
		return nil, errors.New("gc: an option is negative")
	}
	if o.Batch == 0 {
		o.Batch = defaultBatch
	}
	var unresolved error
	if !o.DryRun {
		held, release, err := c.Lock(ctx, lockName)
		if err != nil {
			return nil, err
		}
		defer release()
		ctx = held
		if o.Look != nil {
			unresolved = c.Resolve(ctx, o.Look)
		}
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
	}
	if err := c.Flush(ctx); err != nil {
		return nil, err
	}
	g, err := c.Graph(ctx)
	if err != nil {
		return nil, err
	}
	p := newPlan(g, &o)
	r := p.report(&o)
	if o.DryRun {
		return r, nil
	}
	d := catalog.Deletion{Files: files, Grace: o.Grace, Parallel: o.Parallel}
	err = p.execute(ctx, c, &o, d, r)
	r.After = r.Before - r.Freed
	if err == nil && r.Failed > 0 {
		err = fmt.Errorf("gc: %d of %d could not be removed: %w", r.Failed, r.Failed+r.Deleted, r.firstFailure())
	}
	return r, errors.Join(err, unresolved)
}

// execute deletes level by level, and writes into the report what became of it.
func (p *plan) execute(ctx context.Context, c *catalog.Catalog, o *Options, d catalog.Deletion, r *Report) (err error) {
	r.Deleted, r.Freed = 0, 0
	defer func() {
		if err != nil {
			r.unreached(err)
		}
	}()
	var batch [][]catalog.Victim
	var members []int32
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		outcomes, err := c.Delete(ctx, batch, d)
		for i, outcome := range outcomes {
			r.note(members[i], outcome)
		}
		batch, members = batch[:0], members[:0]
		if cause := context.Cause(ctx); err != nil && cause != nil {
			err = cause
		}
		return err
	}
	level := int32(0)
	for _, comp := range p.victims {
		if p.level[comp] != level || len(members) >= o.Batch {
			if err := flush(); err != nil {
				return err
			}
			level = p.level[comp]
		}
		var group []catalog.Victim
		for _, n := range p.members(comp) {
			v := &p.g.Paths[n]
			group = append(group, catalog.Victim{ID: v.ID, LastUsed: time.UnixMilli(v.LastUsed)})
			members = append(members, n)
		}
		batch = append(batch, group)
	}
	if err := flush(); err != nil {
		return err
	}
	return p.sweep(ctx, c, o, d, r)
}

// sweep deletes archives that no path needed when the plan was made.
func (p *plan) sweep(ctx context.Context, c *catalog.Catalog, o *Options, d catalog.Deletion, r *Report) error {
	var errs []error
	for batch := range slices.Chunk(p.needless, o.Batch) {
		freed, err := c.DeleteArchives(ctx, batch, d)
		r.Freed += freed
		if err != nil {
			errs = append(errs, fmt.Errorf("gc: archives that no path needs: %w", err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}
