package token

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/store"
)

// DefaultMaxAge is how long a record is trusted after it was read.
const DefaultMaxAge = 5 * time.Second

// maxKept bounds how many records are kept, in each of two generations.
const maxKept = 1024

// Store keeps the records of tokens. It is safe for concurrent use.
type Store interface {
	// Token returns the record of the token with that ID, revoked and expired ones included, which nobody changes
	// afterwards. If there is none the error is [store.ErrNotFound]; any other means that it could not be told.
	Token(ctx context.Context, id string) (*Record, error)
}

// Options are the settings of an [Authorizer]. The zero value, like nil, is a sensible default.
type Options struct {
	// MaxAge is how long a record is trusted after it was read, and so how long a token may work after it was revoked.
	// 0: [DefaultMaxAge]; negative: the store is asked for each request.
	MaxAge time.Duration
}

// Authorizer knows the senders of requests by their tokens. It is safe for concurrent use.
type Authorizer struct {
	store  Store
	maxAge time.Duration

	mu         sync.Mutex // guards the generations
	young, old map[string]kept
}

// kept is a record and when the store began to look for it.
type kept struct {
	record *Record
	asked  time.Time
}

var _ httpcache.Authorizer = (*Authorizer)(nil)

// New returns an Authorizer over the store, which stays the caller's to close.
func New(s Store, opts *Options) *Authorizer {
	a := &Authorizer{store: s, maxAge: DefaultMaxAge}
	if opts != nil && opts.MaxAge != 0 {
		a.maxAge = opts.MaxAge
	}
	return a
}

// Authorize implements [httpcache.Authorizer]. What does not begin with "nixtrap_" is no credential of its kind.
func (a *Authorizer) Authorize(r *http.Request) (*httpcache.Identity, error) {
	text, err := httpcache.Credential(r)
	if err != nil {
		return nil, err
	}
	t, err := parse(text)
	if errors.Is(err, errNotOurs) {
		return nil, httpcache.ErrNoCredential
	}
	if err != nil {
		return nil, fmt.Errorf("%w: malformed token: %w", httpcache.ErrBadCredential, err)
	}
	record, err := a.record(r.Context(), t.id)
	known := err == nil
	if !known && !errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("token: %w", err)
	}
	if !known {
		record = &Record{} // compared all the same, lest an unknown ID be told by the time
	}
	hash := t.Hash()
	right := subtle.ConstantTimeCompare(hash[:], record.Hash[:]) == 1
	switch {
	case !known:
		return nil, fmt.Errorf("%w: no token %s", httpcache.ErrBadCredential, t.id)
	case !right:
		return nil, fmt.Errorf("%w: token %s has another secret", httpcache.ErrBadCredential, t.id)
	}
	// Only who has the secret gets to know this.
	if state := record.State(time.Now()); state != Active {
		return nil, fmt.Errorf("%w: token %s is %s", httpcache.ErrBadCredential, t.id, state)
	}
	return &httpcache.Identity{Name: record.Name, Scopes: record.Scopes, Caches: record.Caches}, nil
}

// record returns the store's record, or the one that was read not long ago. What is not there is not remembered, so
// that a new token works at once and nobody fills the memory with made-up IDs.
func (a *Authorizer) record(ctx context.Context, id string) (*Record, error) {
	now := time.Now()
	if record := a.recall(id, now); record != nil {
		return record, nil
	}
	record, err := a.store.Token(ctx, id)
	if err == nil && a.maxAge > 0 {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.young == nil || len(a.young) >= maxKept {
			a.young, a.old = make(map[string]kept), a.young
		}
		a.young[id] = kept{record, now}
	}
	return record, err
}

func (a *Authorizer) recall(id string, now time.Time) *Record {
	a.mu.Lock()
	defer a.mu.Unlock()
	k, ok := a.young[id]
	if !ok {
		k = a.old[id]
	}
	if k.record == nil || now.Sub(k.asked) >= a.maxAge {
		return nil
	}
	return k.record
}
