package main

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/voidnxlab/nixtrap/store/bucketstore"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
	"github.com/voidnxlab/nixtrap/store/bucketstore/gc"
)

// lookEvery is how often a server looks whether uploads have exceeded the bound since the last collection.
const lookEvery = time.Minute

// collector deletes what is not kept, again and again.
type collector struct {
	files    bucketstore.Files
	catalog  *catalog.Catalog
	options  gc.Options
	interval time.Duration
	log      *slog.Logger
	full     atomic.Bool // what may not be deleted is more than there may be
}

func newCollector(u *bucket, c *Config, log *slog.Logger) *collector {
	g := &collector{files: u.files, catalog: u.catalog, interval: time.Duration(c.GCInterval), log: log}
	g.options = c.gcOptions(u.files)
	return g
}

// gcOptions are what the settings say about what is kept. There is no time of grace for archives: it would count as a
// lease, and a second collection within it delete as much again to get below the bound. Who has just read a narinfo has
// used the path, which so is among the last to go.
func (c *Config) gcOptions(files bucketstore.Files) gc.Options {
	return gc.Options{MaxSize: int64(c.MaxSize), KeepUsed: time.Duration(c.KeepUsed), Look: bucketstore.NewLook(files)}
}

// run collects until ctx ends: at once, every interval, and as soon as it sees that there is more than there may be.
func (g *collector) run(ctx context.Context) {
	ticker := time.NewTicker(min(g.interval, lookEvery))
	defer ticker.Stop()
	var last time.Time
	for {
		if time.Since(last) >= g.interval || g.full.Load() || g.exceeded(ctx) {
			if g.collect(ctx) {
				last = time.Now()
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (g *collector) exceeded(ctx context.Context) bool {
	if g.options.MaxSize == 0 {
		return false
	}
	usage, err := g.catalog.Usage(ctx)
	return err == nil && usage.Bytes > g.options.MaxSize
}

// collect deletes once. Another collector that is at it, in another process, does the same work, unless it has died: then
// collect is false, and only sees whether there is room.
func (g *collector) collect(ctx context.Context) (collected bool) {
	report, err := gc.Collect(ctx, g.catalog, bucketstore.NewRemover(g.files), g.options)
	locked, others := errors.AsType[*catalog.LockedError](err)
	if others {
		g.log.Info("another process collects garbage", "holder", locked.Holder)
		plan := g.options
		plan.DryRun = true
		report, err = gc.Collect(ctx, g.catalog, nil, plan)
	}
	if err == nil && ctx.Err() == nil {
		err = sweep(ctx, g.files)
	}
	if err != nil && ctx.Err() == nil {
		g.log.Error("garbage collection failed", "error", err)
	}
	if report != nil && ctx.Err() == nil {
		g.tell(report)
	}
	return !others
}

func (g *collector) tell(r *gc.Report) {
	if !r.DryRun && (r.Deleted > 0 || r.Freed > 0) {
		g.log.Info("garbage collected", "deleted", r.Deleted, "freed_bytes", r.Freed, "kept", r.Kept, "kept_bytes", r.After)
	}
	full := r.Excess > 0
	switch was := g.full.Swap(full); {
	case full && !was:
		g.log.Warn("pins and leases hold more than max-size: uploads are refused", "excess_bytes", r.Excess,
			"max_size", g.options.MaxSize)
	case was && !full:
		g.log.Info("uploads are taken again")
	}
}
