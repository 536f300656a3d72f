package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/bucketstore"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
)

// runDelete deletes one path, and prints what was deleted.
func (p *process) runDelete(ctx context.Context, cmd *command, args []string) error {
	var cache string
	var referrers bool
	c, words, err := p.bucketConfig(cmd, args, func(_ *Config, set *flag.FlagSet) {
		cacheFlag(set, &cache)
		set.BoolVar(&referrers, "with-referrers", false, "delete all that refers to it, too")
	})
	if err != nil {
		return err
	}
	if len(words) != 1 {
		return cmd.misuse("takes one PATH")
	}
	b, err := c.openOperated(ctx)
	if err != nil {
		return err
	}
	defer b.Close()
	hash, err := b.path(ctx, cache, words[0])
	if err != nil {
		return err
	}
	d := &deletion{bucket: b, cache: cache}
	if err := d.find(ctx, hash, referrers); err != nil {
		return err
	}
	if d.paths == nil {
		return b.unknownPath(ctx, cache, hash, words[0])
	}
	err = d.delete(ctx)
	for _, path := range d.deleted {
		if _, err := fmt.Fprintln(p.stdout, path); err != nil {
			return err
		}
	}
	for _, archive := range d.staying {
		fmt.Fprintf(p.stderr, "The archive %s stays, for another path has the same content.\n", archive)
	}
	return deletionError(err)
}

// unknownPath tells a path that is not there from one that is, and that the catalog does not know.
func (b *openedBucket) unknownPath(ctx context.Context, cache string, hash narinfo.HashPart, argument string) error {
	err := fmt.Errorf("delete: %q is not in this cache", argument)
	f, openErr := b.files.Open(ctx, catalog.NarinfoKey(cache, hash))
	if openErr != nil {
		return hint(err, "--cache names another cache")
	}
	return errors.Join(hint(fmt.Errorf("delete: the catalog does not know %q", argument), "narserved fsck --repair enters it, then it can be deleted"),
		f.Close())
}

// deletionError is what a person is told.
func deletionError(err error) error {
	kept, ok := errors.AsType[*catalog.KeptError](err)
	if !ok {
		return err
	}
	var why []string
	advice := "try again"
	if len(kept.Pins) > 0 {
		why = append(why, "is pinned as "+strings.Join(kept.Pins, ", "))
		advice = "narserved pin remove NAME first"
	}
	if len(kept.Referrers) > 0 {
		names := make([]string, len(kept.Referrers))
		for i, r := range kept.Referrers {
			names[i] = "\n  " + string(r)
		}
		why = append(why, "is referred to by"+strings.Join(names, ""))
		if len(kept.Pins) == 0 {
			advice = "--with-referrers deletes them and all that refers to them, too"
		}
	}
	return hint(fmt.Errorf("delete: %s %s", kept.Path, strings.Join(why, " and ")), advice)
}

// deletion is of a path, and maybe of all that refers to it.
type deletion struct {
	bucket *openedBucket
	cache  string

	paths   map[narinfo.HashPart]*catalog.GraphPath
	archive map[narinfo.HashPart]string

	deleted []narinfo.StorePath
	staying []string // archives that others need
}

// find looks up the path and, if that is wanted, all that leads to it.
func (d *deletion) find(ctx context.Context, hash narinfo.HashPart, referrers bool) error {
	g, err := d.bucket.catalog.Graph(ctx)
	if err != nil {
		return err
	}
	live := make(map[narinfo.HashPart]*catalog.GraphPath)
	referring := make(map[narinfo.HashPart][]narinfo.HashPart)
	for i := range g.Paths {
		q := &g.Paths[i]
		if q.Cache != d.cache || q.State == catalog.Publishing {
			continue
		}
		live[q.Path.HashPart()] = q
		for _, r := range referencesOf(q) {
			referring[r] = append(referring[r], q.Path.HashPart())
		}
	}
	if live[hash] == nil {
		return nil
	}
	d.paths, d.archive = make(map[narinfo.HashPart]*catalog.GraphPath), make(map[narinfo.HashPart]string)
	for todo := []narinfo.HashPart{hash}; len(todo) > 0; {
		at := todo[0]
		todo = todo[1:]
		if d.paths[at] != nil {
			continue
		}
		d.paths[at], d.archive[at] = live[at], g.Archives[live[at].Archive].Key
		if referrers {
			todo = append(todo, referring[at]...)
		}
	}
	return nil
}

func referencesOf(p *catalog.GraphPath) []narinfo.HashPart {
	const size = 32
	var all []narinfo.HashPart
	for refs := p.References; len(refs) >= size; refs = refs[size:] {
		all = append(all, narinfo.HashPart(refs[:size]))
	}
	return all
}

// delete deletes level by level, what nothing refers to first. What refers to itself in a circle goes at once.
func (d *deletion) delete(ctx context.Context) error {
	if len(d.paths) > 1 {
		if err := d.checkPins(ctx); err != nil {
			return err
		}
	}
	for len(d.paths) > 0 {
		referred := make(map[narinfo.HashPart]bool)
		for _, p := range d.paths {
			for _, r := range referencesOf(p) {
				referred[r] = true
			}
		}
		var level []*catalog.GraphPath
		for hash, p := range d.paths {
			if !referred[hash] {
				level = append(level, p)
			}
		}
		circle := len(level) == 0
		for _, p := range d.paths {
			if circle {
				level = append(level, p)
			}
		}
		if err := d.deleteLevel(ctx, level, circle); err != nil {
			return err
		}
	}
	return nil
}

// checkPins sees to it that a pin somewhere up keeps all of it, rather than what is below it alone.
func (d *deletion) checkPins(ctx context.Context) error {
	pins, err := d.bucket.catalog.Pins(ctx, d.cache)
	if err != nil {
		return err
	}
	now := d.bucket.catalog.Now()
	for _, pin := range pins {
		if d.paths[pin.Path.HashPart()] != nil && (pin.Expires.IsZero() || pin.Expires.After(now)) {
			return &catalog.KeptError{Path: pin.Path, Pins: []string{pin.Name}}
		}
	}
	return nil
}

func (d *deletion) deleteLevel(ctx context.Context, level []*catalog.GraphPath, circle bool) error {
	var groups [][]catalog.Victim
	for i, p := range level {
		v := catalog.Victim{ID: p.ID}
		if circle && i > 0 {
			groups[0] = append(groups[0], v)
			continue
		}
		groups = append(groups, []catalog.Victim{v})
	}
	// What has leaked must go at once: neither leases nor a time of grace keep it.
	outcomes, err := d.bucket.catalog.Delete(ctx, groups, catalog.Deletion{
		Files: bucketstore.NewRemover(d.bucket.files), BreakLeases: true,
	})
	errs := []error{err}
	for i, o := range outcomes {
		p := level[i]
		if o.Err != nil {
			errs = append(errs, o.Err)
			continue
		}
		hash := p.Path.HashPart()
		d.deleted = append(d.deleted, p.Path)
		if o.ArchiveErr == nil && o.Archive == "" {
			d.staying = append(d.staying, d.archive[hash])
		}
		errs = append(errs, o.ArchiveErr)
		delete(d.paths, hash)
	}
	return errors.Join(errs...)
}
