package bucketstore

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// Paths yields the paths that have a narinfo, those in quarantine too, ordered by path.
// It reads each narinfo, for its name is only there.
// A narinfo that vanishes meanwhile is skipped; one that can't be read ends the list with its error.
func (s *Store) Paths(ctx context.Context) iter.Seq2[narinfo.StorePath, error] {
	return func(yield func(narinfo.StorePath, error) bool) {
		hashes, err := s.hashParts(ctx)
		if err != nil {
			yield("", err)
			return
		}
		for _, hash := range hashes {
			info, err := s.readInfo(ctx, hash)
			if err == nil {
				err = ctx.Err()
			}
			if errors.Is(err, store.ErrNotFound) {
				continue
			}
			if err != nil {
				yield("", err)
				return
			}
			if !yield(info.StorePath, nil) {
				return
			}
		}
	}
}

// hashParts lists the narinfo files, sorted, which with one store directory is the order of their paths.
func (s *Store) hashParts(ctx context.Context) ([]narinfo.HashPart, error) {
	var hashes []narinfo.HashPart
	prefix := s.key("x")
	prefix = prefix[:len(prefix)-1]
	for e, err := range s.files.List(ctx, prefix) {
		if err != nil {
			return nil, err
		}
		hash, ok := narinfoKey(strings.TrimPrefix(e.Key, prefix))
		if ok {
			hashes = append(hashes, hash)
		}
	}
	slices.Sort(hashes)
	return hashes, nil
}
