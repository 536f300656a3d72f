package httpstore

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// ErrUnavailable reports that no request was made, because the cache has failed too often just before.
var ErrUnavailable = errors.New("httpstore: the cache is left alone for a while after repeated failures")

// outcome is what a request says of the cache's health.
type outcome int

const (
	healthy outcome = iota // it answered, whatever the answer
	failing
	unknown // the caller lost interest first
)

// breaker stops requests to a cache that fails. It is safe for concurrent use.
type breaker struct {
	threshold int
	min, max  time.Duration
	changed   func(open bool, err error) // must not call the breaker

	mu       sync.Mutex // guards what follows
	failures int        // in a row
	backoff  time.Duration
	until    time.Time // no request before that; zero: the breaker is closed
	probing  bool      // the one request that is tried is under way
}

// enter asks for leave to make a request, whose outcome then must be told to leave, with probe.
func (b *breaker) enter() (probe bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.until.IsZero() {
		return false, nil
	}
	if b.probing || time.Now().Before(b.until) {
		return false, ErrUnavailable
	}
	b.probing = true
	return true, nil
}

// leave tells how a request ended. after is for how long the cache asks to be left alone, 0 if it does not.
func (b *breaker) leave(probe bool, o outcome, after time.Duration, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if probe {
		b.probing = false
	}
	open := !b.until.IsZero()
	switch {
	case o == healthy:
		b.failures, b.backoff, b.until = 0, 0, time.Time{}
		if open {
			b.changed(false, nil)
		}
	case o == unknown || open && !probe: // a request from before says nothing new
	default:
		if b.failures++; b.failures < b.threshold && after == 0 {
			return
		}
		b.open(after)
		if !open {
			b.changed(true, fmt.Errorf("%d failures in a row, the last: %w", b.failures, err))
		}
	}
}

// open leaves the cache alone for twice as long as the last time.
func (b *breaker) open(after time.Duration) {
	b.backoff = min(max(2*b.backoff, b.min), b.max)
	wait := b.backoff/2 + rand.N(b.backoff/2+1)
	b.until = time.Now().Add(max(wait, min(after, b.max)))
}
