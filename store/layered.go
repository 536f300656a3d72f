package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"

	"github.com/voidnxlab/nixtrap/nar"
	"github.com/voidnxlab/nixtrap/narinfo"
)

// Layered is several stores asked as one. It is safe for concurrent use.
//
// # Order
//
// Its stores are in groups. A group is asked only when no store of the groups before it has the path: with the machine's
// own stores in the first and remote ones in the second, a path that is here makes no request. The stores of one group are
// asked at the same time, and the first of them in their order that has the path wins. It is waited for: a store that
// comes later, however slow, delays nothing, and one that comes earlier must answer first, so remote stores should have
// a time limit of their own.
//
// # Absence
//
// A store's failure does not hide what others have. What none of them has is [ErrNotFound] only if all could tell;
// otherwise it is the failures of those that could not.
//
// # What is opened
//
// Open and the methods of the optional interfaces are for an Info of this Layered, or of any of its stores. They use the
// first store, in the same order, that now has the very content that the Info describes, and if that cannot open it the
// next one. That store's own abilities are used, and where it lacks one the fallback of this package: so all optional
// interfaces are there, whatever the stores are. A path of a store that is no [ArchiveOpener] has no URL.
//
// Referrers, DerivedPaths and Paths are of the stores together, each path once, as far as they are able to tell; if none
// is, that is [ErrUnsupported].
type Layered struct {
	groups [][]Store
	dir    string
}

var (
	_ Store             = (*Layered)(nil)
	_ RangeOpener       = (*Layered)(nil)
	_ LayoutOpener      = (*Layered)(nil)
	_ ArchiveOpener     = (*Layered)(nil)
	_ FileOpener        = (*Layered)(nil)
	_ LogOpener         = (*Layered)(nil)
	_ Referrers         = (*Layered)(nil)
	_ Lister            = (*Layered)(nil)
	_ Derivers          = (*Layered)(nil)
	_ DebugInfoFinder   = (*Layered)(nil)
	_ RealisationOpener = (*Layered)(nil)
)

// NewLayered puts stores together, in groups, the nearest first. There must be at least one, and all must have the same
// store directory. They stay the caller's, who closes what is to be closed.
func NewLayered(groups ...[]Store) (*Layered, error) {
	l := &Layered{}
	for _, g := range groups {
		for _, s := range g {
			if l.dir == "" {
				l.dir = s.StoreDir()
			}
			if s.StoreDir() != l.dir {
				return nil, fmt.Errorf("store: layers of %q and %q", l.dir, s.StoreDir())
			}
		}
		if len(g) > 0 {
			l.groups = append(l.groups, append([]Store(nil), g...))
		}
	}
	if len(l.groups) == 0 {
		return nil, errors.New("store: no layers")
	}
	return l, nil
}

// StoreDir returns the directory that all the stores share.
func (l *Layered) StoreDir() string { return l.dir }

// Info returns what the nearest store that has the path says of it.
func (l *Layered) Info(ctx context.Context, hash narinfo.HashPart) (*narinfo.Info, error) {
	found, err := firstOf(ctx, l.groups, func(ctx context.Context, s Store) (*narinfo.Info, error) {
		return ownInfo(ctx, s, hash)
	})
	return found.value, err
}

// ownInfo is what a store says of a path, without a URL that nobody could open.
func ownInfo(ctx context.Context, s Store, hash narinfo.HashPart) (*narinfo.Info, error) {
	info, err := s.Info(ctx, hash)
	if err != nil {
		return nil, err
	}
	if _, ok := s.(ArchiveOpener); !ok {
		info.URL, info.Compression, info.FileHash, info.FileSize = "", "", narinfo.Hash{}, 0
	}
	return info, nil
}

// found is what a store answered.
type found[T any] struct {
	store Store
	at    int // in its group
	value T
}

// firstOf asks group after group, and the stores of each at the same time.
func firstOf[T any](ctx context.Context, groups [][]Store, ask func(context.Context, Store) (T, error)) (found[T], error) {
	var failures []error
	for _, g := range groups {
		f, errs := firstOfGroup(ctx, g, ask)
		if f.store != nil {
			return f, nil
		}
		failures = append(failures, errs...)
		if err := ctx.Err(); err != nil {
			return found[T]{}, err
		}
	}
	return found[T]{}, together(failures)
}

// together is the error of stores of which none has what was asked for.
func together(failures []error) error {
	if len(failures) == 0 {
		return fmt.Errorf("store: in no layer: %w", ErrNotFound)
	}
	return errors.Join(failures...)
}

type reply[T any] struct {
	value T
	err   error
}

// firstOfGroup returns the first hit in the group's order, or else the failures. It does not wait for stores that come
// after the hit, for that is the point: it ends their context, and their goroutines end when they notice.
func firstOfGroup[T any](ctx context.Context, group []Store, ask func(context.Context, Store) (T, error)) (found[T], []error) {
	if len(group) == 1 {
		v, err := ask(ctx, group[0])
		return judged(group, 0, reply[T]{v, err}, nil)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	replies := make([]chan reply[T], len(group))
	for n, s := range group {
		replies[n] = make(chan reply[T], 1)
		go func() {
			v, err := ask(ctx, s)
			replies[n] <- reply[T]{v, err}
		}()
	}
	var failures []error
	for n := range group {
		var f found[T]
		if f, failures = judged(group, n, <-replies[n], failures); f.store != nil {
			return f, nil
		}
	}
	return found[T]{}, failures
}

func judged[T any](group []Store, n int, r reply[T], failures []error) (found[T], []error) {
	switch {
	case r.err == nil:
		return found[T]{group[n], n, r.value}, failures
	case errors.Is(r.err, ErrNotFound):
		return found[T]{}, failures
	}
	return found[T]{}, append(failures, r.err)
}

// open calls do with the stores that have info's content, in order, until one succeeds.
func open[T any](ctx context.Context, l *Layered, info *narinfo.Info,
	do func(context.Context, Store, *narinfo.Info) (T, error),
) (T, error) {
	var failures []error
	for _, group := range l.groups {
		rest := group
		for len(rest) > 0 {
			f, errs := firstOfGroup(ctx, rest, func(ctx context.Context, s Store) (*narinfo.Info, error) {
				return sameContent(ctx, s, info)
			})
			failures = append(failures, errs...)
			if f.store == nil {
				break
			}
			v, err := do(ctx, f.store, f.value)
			if err == nil {
				return v, nil
			}
			if !errors.Is(err, ErrNotFound) {
				failures = append(failures, err)
			}
			rest = rest[f.at+1:]
		}
		if err := ctx.Err(); err != nil {
			var none T
			return none, err
		}
	}
	var none T
	return none, together(failures)
}

func sameContent(ctx context.Context, s Store, info *narinfo.Info) (*narinfo.Info, error) {
	own, err := s.Info(ctx, info.StorePath.HashPart())
	if err != nil {
		return nil, err
	}
	if own.StorePath != info.StorePath || own.NarHash != info.NarHash || own.NarSize != info.NarSize {
		return nil, fmt.Errorf("store: %q has other content: %w", info.StorePath, ErrNotFound)
	}
	return own, nil
}

// Open implements [Store].
func (l *Layered) Open(ctx context.Context, info *narinfo.Info) (io.ReadCloser, error) {
	return open(ctx, l, info, func(ctx context.Context, s Store, own *narinfo.Info) (io.ReadCloser, error) {
		return s.Open(ctx, own)
	})
}

// OpenRange implements [RangeOpener].
func (l *Layered) OpenRange(ctx context.Context, info *narinfo.Info, offset, length int64) (io.ReadCloser, error) {
	if err := CheckRange(info, offset, length); err != nil {
		return nil, err
	}
	return open(ctx, l, info, func(ctx context.Context, s Store, own *narinfo.Info) (io.ReadCloser, error) {
		return OpenRange(ctx, s, own, offset, length)
	})
}

// Layout implements [LayoutOpener].
func (l *Layered) Layout(ctx context.Context, info *narinfo.Info) (*nar.Layout, error) {
	return open(ctx, l, info, func(ctx context.Context, s Store, own *narinfo.Info) (*nar.Layout, error) {
		return Layout(ctx, s, own)
	})
}

// OpenArchive implements [ArchiveOpener]. If the stores that have the path keep no archives that is [ErrUnsupported].
func (l *Layered) OpenArchive(ctx context.Context, info *narinfo.Info) (*File, error) {
	return open(ctx, l, info, func(ctx context.Context, s Store, own *narinfo.Info) (*File, error) {
		o, ok := s.(ArchiveOpener)
		switch {
		case !ok:
			return nil, fmt.Errorf("store: the archive of %q: %w", own.StorePath, ErrUnsupported)
		case info.URL != "" && (compressionOf(info) != compressionOf(own) ||
			!info.FileHash.IsZero() && !own.FileHash.IsZero() && info.FileHash != own.FileHash):
			// Another store came to have the path meanwhile: its archive would not be what the caller expects.
			return nil, fmt.Errorf("store: the archive of %q: %w", own.StorePath, ErrNotFound)
		}
		return o.OpenArchive(ctx, own)
	})
}

// WithArchive returns what the nearest store says of info's path that has the same content and keeps its archive with
// this compression, as narinfos name it. A client may remember that archive from before a nearer store had the path.
func (l *Layered) WithArchive(ctx context.Context, info *narinfo.Info, compression string) (*narinfo.Info, error) {
	f, err := firstOf(ctx, l.groups, func(ctx context.Context, s Store) (*narinfo.Info, error) {
		own, err := sameContent(ctx, s, info)
		if err != nil {
			return nil, err
		}
		if _, ok := s.(ArchiveOpener); !ok || own.URL == "" || compressionOf(own) != compression {
			return nil, fmt.Errorf("store: %q is not kept as %s: %w", info.StorePath, compression, ErrNotFound)
		}
		return own, nil
	})
	return f.value, err
}

// compressionOf is Info's as Nix reads it.
func compressionOf(info *narinfo.Info) string {
	if info.Compression == "" {
		return "bzip2"
	}
	return info.Compression
}

// inTurn asks one store after the other; a store without the ability is as one that does not have what is asked for.
func inTurn[T, Ability any](ctx context.Context, l *Layered, do func(Ability) (T, error)) (T, error) {
	var none T
	var failures []error
	for _, group := range l.groups {
		for _, s := range group {
			able, ok := s.(Ability)
			if !ok {
				continue
			}
			v, err := do(able)
			if err == nil {
				return v, nil
			}
			if !errors.Is(err, ErrNotFound) {
				failures = append(failures, err)
			}
			if err := ctx.Err(); err != nil {
				return none, err
			}
		}
	}
	return none, together(failures)
}

// OpenFile implements [FileOpener], with the stores that do.
func (l *Layered) OpenFile(ctx context.Context, key string) (*File, error) {
	return inTurn(ctx, l, func(o FileOpener) (*File, error) { return o.OpenFile(ctx, key) })
}

// OpenLog implements [LogOpener], with the stores that do.
func (l *Layered) OpenLog(ctx context.Context, drv narinfo.StorePath) (io.ReadCloser, error) {
	return inTurn(ctx, l, func(o LogOpener) (io.ReadCloser, error) { return o.OpenLog(ctx, drv) })
}

// Realisation implements [RealisationOpener], with the stores that do, asked as Info asks.
func (l *Layered) Realisation(ctx context.Context, id string) ([]byte, error) {
	f, err := firstOf(ctx, l.groups, func(ctx context.Context, s Store) ([]byte, error) {
		if o, ok := s.(RealisationOpener); ok {
			return o.Realisation(ctx, id)
		}
		return nil, ErrNotFound
	})
	return f.value, err
}

// DebugInfo implements [DebugInfoFinder], with the stores that do.
func (l *Layered) DebugInfo(ctx context.Context, buildID string) (path narinfo.StorePath, member string, err error) {
	type place struct {
		path   narinfo.StorePath
		member string
	}
	p, err := inTurn(ctx, l, func(o DebugInfoFinder) (place, error) {
		path, member, err := o.DebugInfo(ctx, buildID)
		return place{path, member}, err
	})
	return p.path, p.member, err
}

// Referrers implements [Referrers].
func (l *Layered) Referrers(ctx context.Context, path narinfo.StorePath) iter.Seq2[narinfo.StorePath, error] {
	return l.union(func(s Store) pathSeq { return FindReferrers(ctx, s, path) })
}

// DerivedPaths implements [Derivers].
func (l *Layered) DerivedPaths(ctx context.Context, drv narinfo.StorePath) iter.Seq2[narinfo.StorePath, error] {
	return l.union(func(s Store) pathSeq { return ordered(FindDerived(ctx, s, drv)) })
}

// Paths implements [Lister].
func (l *Layered) Paths(ctx context.Context) iter.Seq2[narinfo.StorePath, error] {
	return l.union(func(s Store) pathSeq { return list(ctx, s) })
}

type pathSeq = iter.Seq2[narinfo.StorePath, error]

// ordered yields what paths yields, in order, after all of it.
func ordered(paths pathSeq) pathSeq {
	return func(yield func(narinfo.StorePath, error) bool) {
		var all []narinfo.StorePath
		for p, err := range paths {
			if err != nil {
				yield("", err)
				return
			}
			all = append(all, p)
		}
		slices.Sort(all)
		for _, p := range slices.Compact(all) {
			if !yield(p, nil) {
				return
			}
		}
	}
}

// source is one store's paths while they are merged.
type source struct {
	next func() (narinfo.StorePath, error, bool)
	stop func()
	path narinfo.StorePath // the next one
}

// union merges what the stores yield, each in order. Stores that fail with ErrUnsupported are left out, unless all do.
func (l *Layered) union(of func(Store) pathSeq) pathSeq {
	return func(yield func(narinfo.StorePath, error) bool) {
		var sources []*source
		defer func() {
			for _, s := range sources {
				s.stop()
			}
		}()
		var unable []error
		able := false
		for _, group := range l.groups {
			for _, s := range group {
				next, stop := iter.Pull2(of(s))
				src := &source{next: next, stop: stop}
				sources = append(sources, src)
				more, err := src.advance()
				if errors.Is(err, ErrUnsupported) {
					unable = append(unable, err)
				} else if able = true; err != nil {
					yield("", err)
					return
				}
				if !more {
					stop()
					sources = sources[:len(sources)-1]
				}
			}
		}
		if !able {
			yield("", unable[0])
			return
		}
		merge(sources, yield)
	}
}

// advance sets path, or reports that there is no more.
func (s *source) advance() (bool, error) {
	p, err, ok := s.next()
	if !ok || err != nil {
		return false, err
	}
	s.path = p
	return true, nil
}

// merge yields the paths of sources that each have one, in order and each once. There are few sources.
func merge(sources []*source, yield func(narinfo.StorePath, error) bool) {
	live := append([]*source(nil), sources...)
	for len(live) > 0 {
		least := live[0].path
		for _, s := range live[1:] {
			if strings.Compare(string(s.path), string(least)) < 0 {
				least = s.path
			}
		}
		if !yield(least, nil) {
			return
		}
		kept := live[:0]
		for _, s := range live {
			more := true
			var err error
			if s.path == least {
				more, err = s.advance()
			}
			if err != nil {
				yield("", err)
				return
			}
			if more {
				kept = append(kept, s)
			}
		}
		live = kept
	}
}
