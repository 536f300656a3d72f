package bucketstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
)

// Kind is what is wrong with a file of a bucket, or with a row of its catalog: a small closed set.
type Kind string

// The kinds, and what repairing one means. A repair takes nothing away that can still be read.
const (
	// Malformed is a narinfo or nix-cache-info that cannot be read or is about something else. Repaired, a narinfo is
	// removed, so that pushing its path again mends it; a nix-cache-info is left to people.
	Malformed Kind = "malformed"
	// UnknownNarinfo is a path that the catalog has no row of. Repaired, its archive is read and the path entered, if all
	// that it refers to is there.
	UnknownNarinfo Kind = "narinfo-unknown"
	// DifferentNarinfo is a path whose row says something else. Repaired like UnknownNarinfo.
	DifferentNarinfo Kind = "narinfo-differs"
	// LostNarinfo is a row whose file is absent. Repaired, the row goes, unless something keeps the path. Pushing the path
	// again mends it in any case.
	LostNarinfo Kind = "narinfo-absent"
	// MissingReference is a path that refers to what is neither in its cache nor elsewhere. It is not repaired: push what
	// is missing, or delete the path.
	MissingReference Kind = "reference-absent"
	// LostArchive is an archive that a narinfo names, or the catalog knows, and whose file is absent. Repaired, the row of
	// one that no path needs goes. Pushing the path again mends it in any case.
	LostArchive Kind = "archive-absent"
	// WrongSize is an archive that has not the promised size. Repaired, it is removed: see LostArchive.
	WrongSize Kind = "archive-size"
	// WrongHash is an archive that has not the hash in its narinfo or its name. Repaired, it is removed: see LostArchive.
	WrongHash Kind = "archive-hash"
	// WrongContent is an archive that does not decode to its narinfo's NarSize and NarHash. Repaired, it is removed, if its
	// name is not its hash: else the narinfo is wrong, and goes as if it were malformed.
	WrongContent Kind = "archive-content"
	// Unchecked is an archive whose compression cannot be decoded here. It is not repaired.
	Unchecked Kind = "archive-unchecked"
	// Unneeded is an archive that no path refers to and the catalog has no row of. Repaired, it is removed, unless there
	// are malformed narinfos, one of which may be about it.
	Unneeded Kind = "archive-unneeded"
	// LeftOver is what somebody who died while writing has left: a part of a file, or a listing without its narinfo.
	// Repaired, it is removed.
	LeftOver Kind = "left-over"
)

// Kinds are all kinds.
func Kinds() []Kind {
	return []Kind{Malformed, UnknownNarinfo, DifferentNarinfo, LostNarinfo, MissingReference, LostArchive, WrongSize, WrongHash,
		WrongContent, Unchecked, Unneeded, LeftOver}
}

// ofAFile reports whether there is something wrong with a file rather than that there is none.
func (k Kind) ofAFile() bool { return k != LostNarinfo && k != LostArchive && k != LeftOver }

// Finding is one thing that is wrong.
type Finding struct {
	Kind     Kind
	Cache    string            // its name; "" too for what belongs to no cache
	Path     narinfo.StorePath // "" where it is not known
	Key      string            // of the file, in the bucket
	Detail   string            // one sentence
	Repaired bool
	Err      error // why it could not be repaired, nil if that was not asked for or is not possible
}

// String writes it as one line.
func (f Finding) String() string {
	line := fmt.Sprintf("%s %s: %s", f.Kind, f.Key, f.Detail)
	if f.Path != "" {
		line += " (" + string(f.Path) + ")"
	}
	switch {
	case f.Repaired:
		line += ": repaired"
	case f.Err != nil:
		line += ": not repaired: " + f.Err.Error()
	}
	return line
}

// FsckOptions say what [Fsck] does. nil and the zero value look at everything but the content of archives, and repair
// nothing.
type FsckOptions struct {
	// Content reads every archive in full, once for each promise that is made about it.
	Content bool

	// Repair are the kinds that are repaired. What a repair is each says.
	Repair []Kind

	// Elsewhere is as in [InboxOptions].
	Elsewhere func(ctx context.Context, paths []narinfo.StorePath) (missing []narinfo.StorePath, err error)

	// Stale is how long a file that is being written may lie untouched until it counts as left behind. 0: a day.
	Stale time.Duration

	// Parallel is how many files are read at a time. 0: 8.
	Parallel int
}

func (o *FsckOptions) withDefaults() FsckOptions {
	var c FsckOptions
	if o != nil {
		c = *o
	}
	if c.Stale == 0 {
		c.Stale = staleTemp
	}
	if c.Parallel <= 0 {
		c.Parallel = 8
	}
	return c
}

// Fsck compares a bucket with its catalog, and its archives with what is promised of them, and yields what is wrong.
// It stops after its first error.
//
// A server may go on: whatever looks wrong is looked at again before it is yielded, and what a publication or deletion
// under way, or one that a process died over, has left is not wrong: the next collection finishes that.
// All caches of the bucket are looked at: those that have a nix-cache-info or a narinfo, or that the catalog knows.
//
// It keeps what all narinfos say in memory: some 4 kB for each, with ten references.
func Fsck(ctx context.Context, files Files, c *catalog.Catalog, o *FsckOptions) iter.Seq2[Finding, error] {
	return func(yield func(Finding, error) bool) {
		f := &fsck{files: files, catalog: c, opts: o.withDefaults(), yield: yield}
		if err := f.run(ctx); err != nil && !errors.Is(err, errStopped) {
			yield(Finding{}, err)
		}
	}
}

// errStopped says that whoever reads the findings has had enough.
var errStopped = errors.New("bucketstore: stopped")

type fsck struct {
	files   Files
	catalog *catalog.Catalog
	opts    FsckOptions
	yield   func(Finding, error) bool

	*inventory
	known *known
}

func (f *fsck) run(ctx context.Context) (err error) {
	if f.inventory, err = takeInventory(ctx, f.files, f.opts.Parallel); err != nil {
		return err
	}
	if f.known, err = readKnown(ctx, f.catalog); err != nil {
		return err
	}
	var suspects []*suspect
	suspects = append(suspects, f.malformed...)
	suspects = append(suspects, f.suspectNarinfos()...)
	suspects = append(suspects, f.suspectRows()...)
	references, err := f.suspectReferences(ctx)
	if err != nil {
		return err
	}
	suspects = append(suspects, references...)
	suspects = append(suspects, f.suspectArchives()...)
	leftovers, err := f.suspectLeftovers(ctx)
	if err != nil {
		return err
	}
	suspects = append(suspects, leftovers...)
	confirmed, err := f.confirm(ctx, suspects)
	if err != nil {
		return err
	}
	slices.SortStableFunc(confirmed, func(a, b *suspect) int {
		return cmp.Or(cmp.Compare(a.Cache, b.Cache), strings.Compare(a.Key, b.Key))
	})
	if err := f.report(ctx, confirmed); err != nil {
		return err
	}
	if !f.opts.Content {
		return nil
	}
	return f.checkContents(ctx)
}

// report repairs what is to be repaired, and yields it all.
func (f *fsck) report(ctx context.Context, findings []*suspect) error {
	f.repairAll(ctx, findings)
	for _, s := range findings {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !f.yield(s.Finding, nil) {
			return errStopped
		}
	}
	return nil
}

// suspect is a finding that may turn out to be none, for others are at work.
type suspect struct {
	Finding
	version any                                                 // of its file when it was first opened; nil: there was none
	still   func(ctx context.Context, now *known) (bool, error) // whether it is wrong even now; nil: it is
	info    *narinfo.Info                                       // of what is about a narinfo
}

// confirm looks at each suspect's file, then at the catalog, then at the file again. What was seen in passing while
// somebody was at it is not the same throughout: a row comes before its file, and goes after it.
func (f *fsck) confirm(ctx context.Context, suspects []*suspect) ([]*suspect, error) {
	if len(suspects) == 0 {
		return nil, nil
	}
	err := inParallel(ctx, len(suspects), f.opts.Parallel, func(i int) (err error) {
		suspects[i].version, err = f.version(ctx, suspects[i].Key)
		return err
	})
	if err != nil {
		return nil, err
	}
	now, err := readKnown(ctx, f.catalog)
	if err != nil {
		return nil, err
	}
	wrong := make([]bool, len(suspects))
	err = inParallel(ctx, len(suspects), f.opts.Parallel, func(i int) error {
		s := suspects[i]
		after, err := f.version(ctx, s.Key)
		if err != nil || after != s.version || after == nil && s.Kind.ofAFile() {
			return err
		}
		wrong[i] = true
		if s.still != nil {
			wrong[i], err = s.still(ctx, now)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var confirmed []*suspect
	for i, s := range suspects {
		if wrong[i] {
			confirmed = append(confirmed, s)
		}
	}
	return confirmed, nil
}

// version is that of the file under key, nil if there is none.
func (f *fsck) version(ctx context.Context, key string) (any, error) {
	o, err := f.files.Open(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	state, err := o.State()
	return state.Version, errors.Join(err, o.Close())
}

// exists reports whether there is a file under key.
func (f *fsck) exists(ctx context.Context, key string) (bool, error) {
	version, err := f.version(ctx, key)
	return version != nil, err
}
