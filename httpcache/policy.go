package httpcache

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
	"github.com/voidnxlab/nixtrap/store"
)

// Policy decides what may be served. It is safe for concurrent use.
type Policy interface {
	// Allows reports whether the path that info, fresh from the store, describes may be served.
	// An error means that it could not be told, and is answered as a fault.
	Allows(ctx context.Context, info *narinfo.Info) (bool, error)
}

// SignedBy allows the paths that the store has a signature of one of the keys for.
// The signatures that a [Handler] adds itself do not count.
func SignedBy(ring signing.Keyring) Policy { return signedBy(append(signing.Keyring(nil), ring...)) }

type signedBy signing.Keyring

func (p signedBy) Allows(_ context.Context, info *narinfo.Info) (bool, error) {
	_, ok := info.VerifiedBy(signing.Keyring(p))
	return ok, nil
}

// Roots says which paths a closure begins at. It is called again whenever the closure is computed again,
// so it may follow a profile's symlink.
type Roots func(ctx context.Context) ([]narinfo.StorePath, error)

// ClosureOf allows the roots and everything that they refer to, directly or not.
// Roots and references that the store does not hold are passed over.
//
// The closure is kept for maxAge and then computed again by the next question, at the cost of a look-up for each of
// its paths; with a maxAge of 0 at every question. So it takes up to maxAge until a path enters or leaves it.
// A path that was rebuilt is noticed at once: it is allowed only with the content that the closure was computed from.
func ClosureOf(s store.Store, roots Roots, maxAge time.Duration) Policy {
	return &closureOf{store: s, roots: roots, maxAge: maxAge}
}

type closureOf struct {
	store  store.Store
	roots  Roots
	maxAge time.Duration

	mu    sync.Mutex // guards all below, and is held while the closure is computed: one does it for all who wait
	made  time.Time
	paths map[narinfo.StorePath]narinfo.Hash // of the NAR; nil until computed
}

func (p *closureOf) Allows(ctx context.Context, info *narinfo.Info) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	hash, ok := p.paths[info.StorePath]
	rebuilt := ok && hash != info.NarHash
	if p.paths == nil || rebuilt || time.Since(p.made) >= p.maxAge {
		if err := p.refresh(ctx); err != nil {
			return false, err
		}
		hash, ok = p.paths[info.StorePath]
	}
	return ok && hash == info.NarHash, nil
}

func (p *closureOf) refresh(ctx context.Context) error {
	start := time.Now()
	queue, err := p.roots(ctx)
	if err != nil {
		return err
	}
	queue = append([]narinfo.StorePath(nil), queue...)
	paths := make(map[narinfo.StorePath]narinfo.Hash, len(p.paths))
	for len(queue) > 0 {
		path := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if _, seen := paths[path]; seen {
			continue
		}
		info, err := store.Lookup(ctx, p.store, path)
		if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrCorrupt) {
			continue
		}
		if err != nil {
			return err
		}
		paths[path] = info.NarHash
		queue = append(queue, info.References...)
	}
	p.made, p.paths = start, paths
	return nil
}
