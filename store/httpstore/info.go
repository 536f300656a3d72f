package httpstore

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// flight is a look-up that somebody waits for.
type flight struct {
	done chan struct{} // closed when what follows is set
	info *narinfo.Info // shared: to be cloned
	err  error
}

// Info returns the metadata of a path, from memory or from the cache, within the budget. All who ask for a path at the
// same time share one request, which goes on when they leave.
// What the cache does not have, or has without a signature that counts ([ErrUntrusted]), is [store.ErrNotFound]. A
// narinfo that is malformed or about another path is [store.ErrCorrupt].
// Under [store.LocalOnly] everything is [store.ErrNotFound].
func (s *Store) Info(ctx context.Context, hash narinfo.HashPart) (*narinfo.Info, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if _, err := narinfo.ParseHashPart(string(hash)); err != nil || store.IsLocalOnly(ctx) {
		return nil, notFound(string(hash))
	}
	s.mu.Lock()
	old := s.answers.find(hash)
	if old != nil && s.fresh(old) {
		s.mu.Unlock()
		s.trace(ResultCached, 0)
		return old.result()
	}
	f := s.flights[hash]
	if f == nil {
		f = s.start(hash, old)
	}
	s.mu.Unlock()
	select {
	case <-f.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if f.err != nil {
		return nil, f.err
	}
	return f.info.Clone(), nil
}

func (s *Store) fresh(k *known) bool {
	ttl := s.opts.PositiveTTL
	if k.info == nil {
		ttl = s.opts.NegativeTTL
	}
	return time.Since(k.checked) < ttl
}

func (k *known) result() (*narinfo.Info, error) {
	if k.info == nil {
		return nil, k.why
	}
	return k.info.Clone(), nil
}

func (s *Store) trace(r Result, d time.Duration) {
	if lookup := s.opts.Trace.Lookup; lookup != nil {
		lookup(r, d)
	}
}

// start begins a look-up. It is called with the mutex held.
func (s *Store) start(hash narinfo.HashPart, old *known) *flight {
	f := &flight{done: make(chan struct{})}
	run := func(ctx context.Context) {
		began := time.Now()
		info, err := s.lookUp(ctx, hash, old)
		result := resultOf(err)
		if err != nil && !errors.Is(err, store.ErrNotFound) && s.good(old) {
			info, err, result = old.info, nil, ResultStale
		}
		s.mu.Lock()
		delete(s.flights, hash)
		s.mu.Unlock()
		f.info, f.err = info, err
		close(f.done)
		s.trace(result, time.Since(began))
	}
	if !s.background.Start(run) {
		f.err = errors.New("httpstore: the store is closed")
		close(f.done)
		return f
	}
	s.flights[hash] = f
	return f
}

func resultOf(err error) Result {
	switch {
	case err == nil:
		return ResultFound
	case errors.Is(err, store.ErrNotFound):
		return ResultAbsent
	case errors.Is(err, ErrUnavailable):
		return ResultRefused
	}
	return ResultFailed
}

// good reports whether old metadata will do where the cache cannot be asked.
func (s *Store) good(old *known) bool {
	stale := max(s.opts.StaleIfError, 0) + max(s.opts.PositiveTTL, 0)
	return old != nil && old.info != nil && s.opts.StaleIfError > 0 && time.Since(old.checked) < stale
}

// lookUp asks the cache, and remembers what it says.
func (s *Store) lookUp(ctx context.Context, hash narinfo.HashPart, old *known) (*narinfo.Info, error) {
	a, err := s.fetch(ctx, key(string(hash)+".narinfo"), conditions(old), narinfo.MaxSize)
	k := &known{hash: hash, checked: time.Now(), etag: a.etag, modified: a.modified, size: int64(len(a.body))}
	switch {
	case err == nil && a.unchanged:
		*k = *old
		k.checked = time.Now()
	case err == nil:
		k.info, k.why = s.accept(hash, a.body)
	case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrCorrupt):
		k.why = err
	default:
		return nil, err
	}
	if k.info == nil {
		k.etag, k.modified, k.size = "", "", 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers.add(k)
	return k.info, k.why
}

// conditions ask for a narinfo only if it is another than the one that is known.
func conditions(old *known) http.Header {
	switch {
	case old == nil || old.info == nil:
		return nil
	case old.etag != "":
		return http.Header{"If-None-Match": {old.etag}}
	case old.modified != "":
		return http.Header{"If-Modified-Since": {old.modified}}
	}
	return nil
}

// accept reads a narinfo that came for a hash part.
func (s *Store) accept(hash narinfo.HashPart, text []byte) (*narinfo.Info, error) {
	info, err := narinfo.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("httpstore: %s: %q: %w: %w", s, hash, store.ErrCorrupt, err)
	}
	if info.StorePath.HashPart() != hash || info.StorePath.Dir() != s.opts.StoreDir {
		return nil, fmt.Errorf("httpstore: %s: %q is about %q: %w", s, hash, info.StorePath, store.ErrCorrupt)
	}
	if !s.trusted(info) {
		s.opts.Logger.Warn("path not trusted", "upstream", s.String(), "path", info.StorePath)
		return nil, fmt.Errorf("%w: %w", ErrUntrusted, notFound(string(info.StorePath)))
	}
	return info, nil
}

// condemn makes a path absent for a while whose archive is not what the metadata promise, unless the cache has said
// something else of it since. Metadata that are not quite new may be what is wrong, for the path may have been rebuilt:
// they are only forgotten.
func (s *Store) condemn(info *narinfo.Info, why error) {
	if errors.Is(why, store.ErrCorrupt) {
		s.opts.Logger.Warn("damaged path", "upstream", s.String(), "path", info.StorePath, "error", why)
		if damaged := s.opts.Trace.Damaged; damaged != nil {
			damaged(info.StorePath)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.answers.find(info.StorePath.HashPart())
	if now != nil && (now.info == nil || !now.info.Equal(info)) {
		return
	}
	if now != nil && time.Since(now.checked) > max(s.opts.NegativeTTL, 0) {
		s.answers.remove(now.hash)
		return
	}
	gone := fmt.Errorf("%w (%w)", notFound(string(info.StorePath)), why)
	s.answers.add(&known{hash: info.StorePath.HashPart(), why: gone, checked: time.Now()})
}
