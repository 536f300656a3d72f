package oidc

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	goidc "github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/internal/background"
)

const (
	fetchTimeout   = 5 * time.Second // for discovery and keys together
	maxDocument    = 1 << 20         // bytes, decompressed
	maxKeys        = 64              // of one issuer; GitHub and GitLab have a handful
	maxRedirects   = 3
	minRSABits     = 2048
	refreshAfter   = 15 * time.Minute
	waitAfter      = time.Hour // so old keys are not used before the issuer was asked
	keysExpire     = 24 * time.Hour
	refetchAfter   = 10 * time.Second // for a kid that is not known
	firstBackoff   = time.Second
	longestBackoff = 5 * time.Minute
)

// key is a public key of an issuer.
type key struct {
	id, algorithm string // the algorithm is "" if the key is for all that suit its kind
	public        crypto.PublicKey
}

// keySource has the keys of one issuer. It is safe for concurrent use.
type keySource struct {
	issuer string
	client *http.Client
	log    *slog.Logger
	work   *background.Work

	mu       sync.Mutex // guards all below
	keys     []key
	fetched  time.Time     // when keys were, zero if never
	next     time.Time     // no fetch begins before
	failures int           // since the last success
	flight   chan struct{} // closed when the running fetch is done; nil if there is none
}

// find returns the keys that a token with this kid may be signed with, never none. Without a kid that is any key that
// suits the algorithm. It waits for a fetch if that may bring the key, or take it away.
func (s *keySource) find(ctx context.Context, id, algorithm string) ([]key, error) {
	s.mu.Lock()
	found := s.match(id, algorithm)
	var flight chan struct{}
	if age := time.Since(s.fetched); len(found) == 0 || age >= refreshAfter {
		flight = s.fetch()
		if len(found) > 0 && (age < waitAfter || s.failures > 0) {
			flight = nil // no reason to wait, or a poor chance
		}
	}
	s.mu.Unlock()
	if len(found) > 0 && flight == nil {
		return found, nil
	}
	if flight != nil {
		select {
		case <-flight:
		case <-ctx.Done():
			return nil, fmt.Errorf("oidc: keys of %q: %w", s.issuer, ctx.Err())
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if found = s.match(id, algorithm); len(found) > 0 {
		return found, nil
	}
	if s.failures > 0 || !s.usable() {
		return nil, fmt.Errorf("oidc: keys of %q are not available", s.issuer)
	}
	return nil, fmt.Errorf("%w: ID token: %q has no key %q for %s", httpcache.ErrBadCredential, s.issuer, shorten(id), algorithm)
}

// usable reports whether the keys are not too old. The caller holds mu.
func (s *keySource) usable() bool { return !s.fetched.IsZero() && time.Since(s.fetched) < keysExpire }

// match returns the keys that are meant. The caller holds mu.
func (s *keySource) match(id, algorithm string) []key {
	if !s.usable() {
		return nil
	}
	var found []key
	for _, k := range s.keys {
		if (id == "" || k.id == id) && (k.algorithm == "" || k.algorithm == algorithm) && suits(k.public, algorithm) {
			found = append(found, k)
		}
	}
	return found
}

// suits reports whether a key is of the kind that an algorithm is for.
func suits(public crypto.PublicKey, algorithm string) bool {
	switch k := public.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(algorithm, "RS") || strings.HasPrefix(algorithm, "PS")
	case *ecdsa.PublicKey:
		return algorithm == map[int]string{256: goidc.ES256, 384: goidc.ES384, 521: goidc.ES512}[k.Curve.Params().BitSize]
	case ed25519.PublicKey:
		return algorithm == goidc.EdDSA
	}
	return false
}

// fetch begins to fetch the keys unless that goes on already, and returns what is closed at the end; nil if it is not
// time for it. The caller holds mu.
func (s *keySource) fetch() chan struct{} {
	if s.flight != nil {
		return s.flight
	}
	if time.Now().Before(s.next) {
		return nil
	}
	flight := make(chan struct{})
	started := s.work.Start(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
		defer cancel()
		keys, err := s.download(ctx)
		s.done(keys, err)
		close(flight)
	})
	if !started {
		return nil
	}
	s.flight = flight
	return flight
}

// done takes in what a fetch brought.
func (s *keySource) done(keys []key, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flight = nil
	if err == nil {
		s.keys, s.fetched, s.failures = keys, time.Now(), 0
		s.next = s.fetched.Add(refetchAfter)
		return
	}
	backoff := min(firstBackoff<<min(s.failures, 16), longestBackoff)
	s.failures++
	s.next = time.Now().Add(backoff)
	s.log.Warn("keys of an OIDC issuer not fetched", "issuer", s.issuer, "error", shorten(err.Error()),
		"next_attempt_after", backoff, "failures", s.failures)
}

// download finds out where the keys are and gets them.
func (s *keySource) download(ctx context.Context) ([]key, error) {
	provider, err := goidc.NewProvider(goidc.ClientContext(ctx, s.client), s.issuer)
	if err != nil {
		return nil, fmt.Errorf("discovery: %w", err)
	}
	var document struct {
		KeysURL string `json:"jwks_uri"`
	}
	if err := provider.Claims(&document); err != nil {
		return nil, fmt.Errorf("discovery: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, document.KeysURL, nil)
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	response, err := s.client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("keys: %s", response.Status)
	}
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	return parseKeys(text)
}

// parseKeys returns the keys that signatures can be checked with, passing over others. None is an error.
func parseKeys(text []byte) ([]key, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("keys: %d are too many", len(set.Keys))
	}
	var keys []key
	for _, raw := range set.Keys {
		var k jose.JSONWebKey
		if k.UnmarshalJSON(raw) != nil || k.Use != "" && k.Use != "sig" {
			continue
		}
		suitable := func(algorithm string) bool { return suits(k.Key, algorithm) }
		small, isRSA := k.Key.(*rsa.PublicKey)
		if !slices.ContainsFunc(algorithms, suitable) || isRSA && small.N.BitLen() < minRSABits {
			continue
		}
		keys = append(keys, key{k.KeyID, k.Algorithm, k.Key})
	}
	if len(keys) == 0 {
		return nil, errors.New("keys: there is none that can check a signature")
	}
	return keys, nil
}

// newClient returns a client for issuers' documents.
func newClient(transport http.RoundTripper) *http.Client {
	return &http.Client{
		Transport: strictTransport{transport},
		Timeout:   fetchTimeout,
		CheckRedirect: func(_ *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return errors.New("too many redirects")
			}
			return nil
		},
	}
}

// strictTransport speaks HTTPS alone, redirects included, and lets no document be larger than maxDocument.
type strictTransport struct{ next http.RoundTripper }

func (t strictTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" {
		return nil, fmt.Errorf("%q is not https", r.URL.Redacted())
	}
	response, err := t.next.RoundTrip(r)
	if err == nil {
		response.Body = http.MaxBytesReader(nil, response.Body, maxDocument)
	}
	return response, err
}
