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
// its paths; with a maxAge of 0 at every question. So it takes up to maxAge until a path enters or leaves it,
// and longer while the roots cannot be found: the last closure holds as long.
// A path that was rebuilt is noticed at once: it is allowed only with the content that the closure was computed from.
func ClosureOf(s store.Store, roots Roots, maxAge time.Duration) Policy {
	return &closureOf{store: s, roots: roots, maxAge: maxAge}
}

type closureOf struct {
	store  store.Store
	roots  Roots
	maxAge time.Duration

	mu     sync.Mutex // guards all below
	made   time.Time
	paths  map[narinfo.StorePath]narinfo.Hash // of the NAR; nil until computed
	flight *closureFlight                     // the computation that is under way, nil if none
}

// closureFlight is one computation of a closure, which one caller makes for all who wait.
type closureFlight struct {
	done chan struct{} // closed when err is set
	err  error
}

func (p *closureOf) Allows(ctx context.Context, info *narinfo.Info) (bool, error) {
	p.mu.Lock()
	hash, ok := p.paths[info.StorePath]
	rebuilt := ok && hash != info.NarHash
	fresh := p.paths != nil && !rebuilt && time.Since(p.made) < p.maxAge
	p.mu.Unlock()
	if fresh {
		return ok, nil
	}
	err := p.refresh(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.paths == nil {
		return false, err
	}
	// A closure that cannot be computed again stays as it was: a failure that absent paths don't share would tell
	// that a forbidden one exists.
	hash, ok = p.paths[info.StorePath]
	return ok && hash == info.NarHash, nil
}

// refresh computes the closure, or waits for who does. Who does goes on when its own client has left, lest a closure
// that takes longer than clients wait is never done.
func (p *closureOf) refresh(ctx context.Context) error {
	p.mu.Lock()
	flight := p.flight
	if flight != nil {
		p.mu.Unlock()
		select {
		case <-flight.done:
			return flight.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	flight = &closureFlight{done: make(chan struct{})}
	p.flight = flight
	p.mu.Unlock()

	start := time.Now()
	paths, err := p.compute(context.WithoutCancel(ctx))
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.made, p.paths = start, paths
	}
	p.flight, flight.err = nil, err
	close(flight.done)
	return err
}

func (p *closureOf) compute(ctx context.Context) (map[narinfo.StorePath]narinfo.Hash, error) {
	queue, err := p.roots(ctx)
	if err != nil {
		return nil, err
	}
	queue = append([]narinfo.StorePath(nil), queue...)
	paths := make(map[narinfo.StorePath]narinfo.Hash)
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
			return nil, err
		}
		paths[path] = info.NarHash
		queue = append(queue, info.References...)
	}
	return paths, nil
}
