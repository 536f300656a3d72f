package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"time"

	"github.com/voidnxlab/nixtrap/store/bucketstore"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
	"github.com/voidnxlab/nixtrap/store/bucketstore/gc"
)

// runGC collects once, and prints what was deleted and why.
func (p *process) runGC(ctx context.Context, cmd *command, args []string) error {
	var dryRun, all bool
	var grace duration
	c, words, err := p.bucketConfig(cmd, args, func(c *Config, set *flag.FlagSet) {
		c.keepFlags(set)
		set.BoolVar(&dryRun, "dry-run", false, "delete nothing, print what would be")
		set.BoolVar(&all, "all", false, "print what is kept and why, too")
		set.Var(&grace, "grace", "how long archives outlive their paths, as `TIME` with a unit; they count as leased")
	})
	if err != nil {
		return err
	}
	if len(words) > 0 {
		return cmd.misuse(fmt.Sprintf("takes no arguments, but got %q", words[0]))
	}
	if grace < 0 {
		return cmd.misuse("--grace is negative")
	}
	b, err := c.openOperated(ctx)
	if err != nil {
		return err
	}
	defer b.Close()
	options := c.gcOptions(b.files)
	options.DryRun, options.Grace = dryRun, time.Duration(grace)
	report, err := gc.Collect(ctx, b.catalog, bucketstore.NewRemover(b.files), options)
	if locked, ok := errors.AsType[*catalog.LockedError](err); ok {
		return hint(fmt.Errorf("gc: %s collects garbage just now", locked.Holder),
			"wait for it; if it has died another may begin within a minute. --dry-run need not wait")
	}
	if report != nil {
		if err := p.printReport(report, all); err != nil {
			return err
		}
	}
	if err == nil && !dryRun {
		err = sweep(ctx, b.files)
	}
	return err
}

// printReport prints a line for each path that goes, or that was to go and stays, and sums up.
func (p *process) printReport(r *gc.Report, all bool) error {
	shown := *r
	if !all {
		shown.Paths = nil
		for _, d := range r.Paths {
			if !d.Kept || d.Reason == gc.Changed {
				shown.Paths = append(shown.Paths, d)
			}
		}
	}
	_, err := shown.WriteTo(p.stdout)
	return err
}
