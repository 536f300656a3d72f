package localstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/voidnxlab/nixtrap/store"
)

const proveAttempts = 3 // how often a path that changes under the hashing is hashed before that is left

// prove returns the path's object with a proof, made if there is none, once for all who ask.
// It has none still if the files are too young for one, or change all the time; then they were right a moment ago.
func (s *Store) prove(ctx context.Context, sub subject) (*object, error) {
	o, err := s.object(ctx, sub)
	if err != nil || o.proved.Load() {
		return o, err
	}
	return s.proving.do(ctx, s.background, sub.key(), func(ctx context.Context) (*object, error) {
		return s.proveNow(ctx, sub)
	})
}

func (s *Store) proveNow(ctx context.Context, sub subject) (*object, error) {
	for attempt := 1; ; attempt++ {
		o, err := s.object(ctx, sub)
		if err != nil || o.proved.Load() {
			return o, err
		}
		start := time.Now()
		err = s.hashWhole(ctx, o)
		switch {
		case errors.Is(err, errWrongHash):
			err = s.blame(ctx, sub, o.sum, "wrong hash")
		case errors.Is(err, store.ErrCorrupt):
			err = s.blame(ctx, sub, proofSum{}, "changed while it was read")
		case err != nil:
			return nil, err
		case o.proved.Load() || !o.settledBefore(start, s.options.ages.proof) || attempt == proveAttempts:
			return o, nil
		default: // right, but not the files that the walk found
			s.objects.remove(o)
			continue
		}
		return nil, fmt.Errorf("%w (%w)", err, store.ErrNotFound)
	}
}

// hashWhole hashes all of a path's files. It fails with errWrongHash if they are wrong and did not change meanwhile.
func (s *Store) hashWhole(ctx context.Context, o *object) error {
	r, err := s.newStream(ctx, o, 0, o.narSize)
	if err != nil {
		return err
	}
	defer r.Close()
	r.quiet = true
	_, err = r.WriteTo(io.Discard)
	return err
}
