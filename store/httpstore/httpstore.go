package httpstore

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/voidnxlab/nixtrap/internal/background"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// DefaultPriority is what a cache has whose nix-cache-info says nothing, as to Nix. Lower ones are asked first.
const DefaultPriority = 50

// ErrUntrusted reports that a path is there but neither signed by a trusted key nor proved by its content address.
var ErrUntrusted = errors.New("httpstore: no trusted signature")

// Store is a remote binary cache. It is safe for concurrent use.
type Store struct {
	base       *url.URL // ends in a slash; without a login
	opts       Options
	client     *http.Client
	breaker    breaker
	background *background.Work // look-ups, which outlive callers that leave

	mu      sync.Mutex // guards what follows
	answers answers
	flights map[narinfo.HashPart]*flight
	about   about
}

var (
	_ store.Store             = (*Store)(nil)
	_ store.ArchiveOpener     = (*Store)(nil)
	_ store.LogOpener         = (*Store)(nil)
	_ store.RealisationOpener = (*Store)(nil)
)

// New returns the binary cache at an http or https URL. Nothing is asked of it yet.
// A login in the URL becomes the store's Authorization, unless the options have one.
// The caller closes the store when nothing is read from it any more.
func New(rawURL string, o *Options) (*Store, error) {
	opts, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	base, err := url.Parse(rawURL)
	if err != nil {
		return nil, errors.New("httpstore: the cache's URL is malformed") // it may hold a password
	}
	if (base.Scheme != "http" && base.Scheme != "https") || base.Host == "" || base.RawQuery != "" || base.Fragment != "" {
		return nil, fmt.Errorf("httpstore: %q is not of the form http[s]://HOST[/PATH]", base.Redacted())
	}
	if user := base.User; user != nil && opts.Authorization == nil {
		password, _ := user.Password()
		opts.Authorization = Basic(user.Username(), password)
	}
	base.User = nil
	if !strings.HasSuffix(base.Path, "/") {
		base = base.JoinPath("/")
	}
	s := &Store{base: base, opts: opts, background: background.New(), flights: map[narinfo.HashPart]*flight{}}
	s.client = &http.Client{Transport: opts.Transport, CheckRedirect: checkRedirect}
	s.answers.limit = opts.CacheBytes
	s.breaker.threshold, s.breaker.min, s.breaker.max = opts.FailuresToOpen, opts.MinBackoff, opts.MaxBackoff
	s.breaker.changed = s.breakerChanged
	return s, nil
}

// Close stops look-ups that are under way. Readers that are still open stay usable.
func (s *Store) Close() error {
	s.background.Stop()
	s.client.CloseIdleConnections()
	return nil
}

// String returns the cache's URL, without a login.
func (s *Store) String() string { return s.base.String() }

// StoreDir returns the directory in the store's paths, "/nix/store" for most.
func (s *Store) StoreDir() string { return s.opts.StoreDir }

func (s *Store) breakerChanged(open bool, err error) {
	if open {
		s.opts.Logger.Warn("upstream left alone for a while", "upstream", s.String(), "error", err)
	} else {
		s.opts.Logger.Info("upstream answers again", "upstream", s.String())
	}
	if opened := s.opts.Trace.Opened; opened != nil {
		opened(open)
	}
}

// about is what nix-cache-info says.
type about struct {
	info    *narinfo.CacheInfo // nil: not known
	fetched time.Time
}

// CacheInfo returns what the cache's nix-cache-info says, with StoreDir and Priority filled in. It is asked for within
// the budget of a look-up and kept for PositiveTTL; a cache without one is as if it were empty.
// A store directory other than the store's is an error.
func (s *Store) CacheInfo(ctx context.Context) (narinfo.CacheInfo, error) {
	s.mu.Lock()
	known := s.about
	s.mu.Unlock()
	if known.info != nil && time.Since(known.fetched) < s.opts.PositiveTTL {
		return *known.info, nil
	}
	info, err := s.fetchCacheInfo(ctx)
	if err != nil {
		if known.info != nil && time.Since(known.fetched) < s.opts.PositiveTTL+s.opts.StaleIfError {
			return *known.info, nil
		}
		return narinfo.CacheInfo{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.about = about{info, time.Now()}
	return *info, nil
}

func (s *Store) fetchCacheInfo(ctx context.Context) (*narinfo.CacheInfo, error) {
	a, err := s.fetch(ctx, "nix-cache-info", nil, 64<<10)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	info, err := narinfo.ParseCacheInfo(a.body)
	if err != nil {
		return nil, fmt.Errorf("httpstore: %s: %w: %w", s, store.ErrCorrupt, err)
	}
	if info.StoreDir == "" {
		info.StoreDir = s.opts.StoreDir
	}
	if info.StoreDir != s.opts.StoreDir {
		return nil, fmt.Errorf("httpstore: %s is a cache of %q, not %q", s, info.StoreDir, s.opts.StoreDir)
	}
	if s.opts.Priority != 0 {
		info.Priority = s.opts.Priority
	}
	if info.Priority == 0 {
		info.Priority = DefaultPriority
	}
	return info, nil
}

// Priority returns the configured priority, or what nix-cache-info says, or [DefaultPriority].
// Only the second can fail, as [Store.CacheInfo] does; the priority is then [DefaultPriority].
func (s *Store) Priority(ctx context.Context) (int, error) {
	if s.opts.Priority != 0 {
		return s.opts.Priority, nil
	}
	info, err := s.CacheInfo(ctx)
	if err != nil {
		return DefaultPriority, err
	}
	return info.Priority, nil
}

func notFound(what string) error {
	return fmt.Errorf("httpstore: %q: %w", what[:min(len(what), 300)], store.ErrNotFound)
}
