package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// FindReferrers yields the paths whose references include target, target itself excepted, ordered by path:
// with the store's [Referrers], or by looking at every path of a [Lister].
// A store that is neither fails with [ErrUnsupported].
func FindReferrers(ctx context.Context, s Store, target narinfo.StorePath) iter.Seq2[narinfo.StorePath, error] {
	if r, ok := s.(Referrers); ok {
		return r.Referrers(ctx, target)
	}
	return filter(ctx, s, func(i *narinfo.Info) bool {
		return i.StorePath != target && slices.Contains(i.References, target)
	})
}

// FindDerived yields the paths whose deriver is drv: with the store's [Derivers], or by looking at every path of a
// [Lister]. A store that is neither fails with [ErrUnsupported].
func FindDerived(ctx context.Context, s Store, drv narinfo.StorePath) iter.Seq2[narinfo.StorePath, error] {
	if d, ok := s.(Derivers); ok {
		return d.DerivedPaths(ctx, drv)
	}
	return filter(ctx, s, func(i *narinfo.Info) bool { return i.Deriver == drv })
}

// filter yields the listed paths whose metadata satisfies keep. Paths that vanish meanwhile are skipped.
func filter(ctx context.Context, s Store, keep func(*narinfo.Info) bool) iter.Seq2[narinfo.StorePath, error] {
	return func(yield func(narinfo.StorePath, error) bool) {
		for p, err := range list(ctx, s) {
			if err != nil {
				yield("", err)
				return
			}
			info, err := s.Info(ctx, p.HashPart())
			switch {
			case errors.Is(err, ErrNotFound):
			case err != nil:
				yield("", err)
				return
			case keep(info) && !yield(p, nil):
				return
			}
		}
	}
}

func list(ctx context.Context, s Store) iter.Seq2[narinfo.StorePath, error] {
	if l, ok := s.(Lister); ok {
		return l.Paths(ctx)
	}
	return func(yield func(narinfo.StorePath, error) bool) {
		yield("", fmt.Errorf("store: listing paths: %w", ErrUnsupported))
	}
}

// Search returns the paths of a [Lister] whose name matches query, in its order: at most limit of them, or all if limit
// is 0. A store that is no Lister fails with [ErrUnsupported].
//
// The name is what follows the hash part, and case does not matter. A query with any of the characters *, ? and [ is a
// pattern that must fit the whole name, in the syntax of [path.Match]; any other must be a part of it.
func Search(ctx context.Context, s Store, query string, limit int) ([]narinfo.StorePath, error) {
	match, err := matcher(query)
	if err != nil {
		return nil, err
	}
	var found []narinfo.StorePath
	for p, err := range list(ctx, s) {
		if err != nil {
			return nil, err
		}
		if !match(strings.ToLower(p.Name())) {
			continue
		}
		found = append(found, p)
		if len(found) == limit {
			break
		}
	}
	return found, nil
}

func matcher(query string) (func(lowerName string) bool, error) {
	lower := strings.ToLower(query)
	if !strings.ContainsAny(query, "*?[") {
		return func(name string) bool { return strings.Contains(name, lower) }, nil
	}
	if _, err := path.Match(lower, ""); err != nil {
		return nil, fmt.Errorf("store: search pattern %q: %w", query, err)
	}
	return func(name string) bool {
		ok, _ := path.Match(lower, name)
		return ok
	}, nil
}
