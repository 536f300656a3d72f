package bucketstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
)

// enterLease is how long an archive that is entered into the catalog waits for its path.
const enterLease = 10 * time.Minute

// errNoRepair says that nothing can be done about a finding here.
var errNoRepair = errors.New("there is no repair for this")

// repairAll repairs what is to be repaired, and writes into the findings what became of it.
func (f *fsck) repairAll(ctx context.Context, findings []*suspect) {
	var unknown []*suspect
	for _, s := range findings {
		if !slices.Contains(f.opts.Repair, s.Kind) || ctx.Err() != nil {
			continue
		}
		if s.Kind == UnknownNarinfo || s.Kind == DifferentNarinfo {
			unknown = append(unknown, s)
			continue
		}
		s.settle(f.repair(ctx, s))
	}
	f.enterAll(ctx, unknown)
}

func (s *suspect) settle(err error) {
	s.Repaired, s.Err = err == nil, err
	if errors.Is(err, errNoRepair) {
		s.Err = nil
	}
}

func (f *fsck) repair(ctx context.Context, s *suspect) error {
	switch s.Kind {
	case Malformed:
		if _, name, _ := splitKey(s.Key); name == cacheInfoName {
			return errNoRepair
		}
		return f.remove(ctx, s)
	case LostNarinfo:
		return f.catalog.DeletePath(ctx, s.Cache, s.Path.HashPart(), catalog.Deletion{Files: NewRemover(f.files)})
	case LostArchive, WrongSize:
		if s.Path == "" {
			// What the lease promised is not there.
			return f.removeUnneeded(ctx, s.Key, catalog.Deletion{Files: NewRemover(f.files), BreakLeases: true})
		}
		if s.Kind == LostArchive {
			return errNoRepair
		}
		return f.remove(ctx, s)
	case WrongHash:
		return f.remove(ctx, s)
	case WrongContent:
		if archiveKey.MatchString(s.Key) {
			// The file is what its name says: other narinfos may be right about it.
			narinfoOf := *s
			narinfoOf.Key = catalog.NarinfoKey(s.Cache, s.Path.HashPart())
			var err error
			if narinfoOf.version, err = f.version(ctx, narinfoOf.Key); err != nil {
				return err
			}
			return f.remove(ctx, &narinfoOf)
		}
		return f.remove(ctx, s)
	case Unneeded:
		if len(f.malformed) > 0 {
			return errors.New("it may belong to a malformed narinfo: see to those first")
		}
		return f.removeUnneeded(ctx, s.Key, catalog.Deletion{Files: NewRemover(f.files)})
	case LeftOver:
		if l, ok := f.files.(leaver); ok && !isKey(s.Key) {
			return l.removeLeftover(s.Key)
		}
		return f.remove(ctx, s)
	}
	return errNoRepair
}

// remove removes a file if it is what was looked at.
func (f *fsck) remove(ctx context.Context, s *suspect) error {
	now, err := f.version(ctx, s.Key)
	if err != nil {
		return err
	}
	if now != s.version {
		return errors.New("it has changed")
	}
	return f.files.Remove(ctx, s.Key)
}

// removeUnneeded has the catalog delete an archive, so that an upload of the same cannot be in the way.
func (f *fsck) removeUnneeded(ctx context.Context, key string, d catalog.Deletion) error {
	if _, err := f.catalog.BeginUpload(ctx, key, 0); err != nil {
		return err
	}
	k, err := readKnown(ctx, f.catalog)
	if err != nil {
		return err
	}
	a := k.archives[key]
	if a == nil {
		return nil // a collection was quicker
	}
	if _, err := f.catalog.DeleteArchives(ctx, []int64{a.ID}, d); err != nil {
		return err
	}
	if there, err := f.exists(ctx, key); err != nil || !there {
		return err
	}
	return errors.New("it is leased to an upload")
}

// enterAll enters paths into the catalog, what is referred to first.
func (f *fsck) enterAll(ctx context.Context, pending []*suspect) {
	for len(pending) > 0 {
		var waiting []*suspect
		for _, s := range pending {
			err := f.enter(ctx, s)
			if _, missing := errors.AsType[*catalog.MissingError](err); missing {
				waiting = append(waiting, s)
			}
			s.settle(err)
		}
		if len(waiting) == len(pending) {
			return
		}
		pending = waiting
	}
}

// enter reads a path's archive, and makes it a path as if it had been pushed.
func (f *fsck) enter(ctx context.Context, s *suspect) error {
	n := f.byKey[s.Key]
	key := n.archive
	upload, err := f.catalog.BeginUpload(ctx, key, enterLease)
	if err != nil {
		return err
	}
	c, err := readContent(ctx, f.files, key, n.info)
	if errors.Is(err, store.ErrNotFound) {
		return errors.New("its archive is absent")
	}
	if err != nil {
		return err
	}
	if kind, detail := c.judge(n); kind != "" || c.changed {
		return fmt.Errorf("%s: %s", key, detail)
	}
	err = f.catalog.AddArchive(ctx, upload, n.cache, "", catalog.Archive{
		Key: key, FileHash: c.fileHash, FileSize: c.state.Size, NarHash: n.info.NarHash, NarSize: n.info.NarSize,
		Compression: compressionOf(n.info),
	}, enterLease)
	if err != nil {
		return err
	}
	return f.catalog.Publish(ctx, catalog.Publication{
		Cache: n.cache, Info: n.info, Archive: key, Elsewhere: f.opts.Elsewhere,
		Write: func(ctx context.Context) error {
			now, err := f.readNarinfo(ctx, f.files, n.key)
			if err == nil && !now.info.Equal(n.info) {
				err = errors.New("it has changed")
			}
			return err
		},
	})
}

// remover removes what lies beside a narinfo, too.
type remover struct{ files Files }

// NewRemover returns what deletes a bucket's files for its catalog: with a narinfo the path's listing, after it. Logs,
// realisations and debug information are not a path's alone, and stay.
func NewRemover(files Files) catalog.Remover { return remover{files} }

// Remove implements catalog.Remover.
func (r remover) Remove(ctx context.Context, key string) error {
	if err := r.files.Remove(ctx, key); err != nil {
		return err
	}
	if _, name, _ := splitKey(key); name != "" {
		if _, ok := narinfoKey(name); ok {
			return r.files.Remove(ctx, siblingOf(key, ".ls"))
		}
	}
	return nil
}

// NewLook returns what tells a catalog of the narinfos that lie in a bucket. A malformed one is as none.
func NewLook(files Files) catalog.Look {
	return func(ctx context.Context, cache string, hash narinfo.HashPart) (*narinfo.Info, error) {
		text, err := (&Store{files: files}).readFile(ctx, catalog.NarinfoKey(cache, hash), narinfo.MaxSize)
		if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrCorrupt) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		info, err := narinfo.Parse(text)
		if err != nil {
			return nil, nil //nolint:nilerr // nobody can read it
		}
		return info, nil
	}
}
