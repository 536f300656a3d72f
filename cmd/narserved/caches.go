package main

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/bucketstore"
)

// CacheConfig is a cache beside the one at the root: a table [[cache]] of the configuration file. It is served at /NAME/.
type CacheConfig struct {
	// Name is 1 to 63 lower-case letters, digits and -_. after the first, and none that every cache has there, as "nar".
	Name string `toml:"name"`
	// Private serves only those with a token that may read or push here.
	Private bool `toml:"private"`
	// SignKey are the secret key files to sign with. Default: the root's.
	SignKey []string `toml:"sign-key"`
	// UploadKey takes only paths that have a signature by one of these public keys. Default: any path.
	UploadKey []string `toml:"upload-key"`
	// Priority is the cache's rank among a client's substituters. Default: the root's.
	Priority int `toml:"priority"`
}

// named serves the caches that have names, and everything else by root.
type named struct {
	root   http.Handler
	caches map[string]http.Handler
	hidden func(r *http.Request, name string) http.Handler // see server.hidden; nil where all caches are open
}

// ServeHTTP implements http.Handler. The caches see paths below their names.
func (n *named) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	cache := n.caches[name]
	if cache == nil && n.hidden != nil && bucketstore.IsCacheName(name) {
		cache = n.hidden(r, name)
	}
	if cache == nil {
		n.root.ServeHTTP(w, r)
		return
	}
	inner, at := *r, *r.URL
	at.Path, at.RawPath = "/"+rest, ""
	inner.URL = &at
	cache.ServeHTTP(w, &inner)
}

// namedCaches makes the handlers of the caches with names. rootKeys sign in those that have none of their own.
func (s *server) namedCaches(p *process, root http.Handler, rootKeys []*signing.SecretKey) (http.Handler, error) {
	n := &named{root: root, caches: make(map[string]http.Handler)}
	for _, c := range s.config.Cache {
		keys := rootKeys
		if len(c.SignKey) > 0 {
			own := *s.config
			own.SignKey, own.Unsigned = c.SignKey, false
			var err error
			if keys, _, err = own.signingKeys(p.env); err != nil {
				return nil, err
			}
		}
		inbox, err := s.source.bucket.inbox(c.Name, s.config, c.UploadKey, keys, s.up, s.log)
		if err != nil {
			return nil, err
		}
		options := &httpcache.Options{
			Keys: keys, Priority: c.Priority, Cache: c.Name, Private: c.Private, Access: s.access, Logger: s.log,
			Trace: s.traffic.trace(),
		}
		if options.Priority == 0 {
			options.Priority = s.config.Priority
		}
		takeUploads(options, inbox)
		if n.caches[c.Name], err = httpcache.New(s.source.bucket.caches[c.Name], options); err != nil {
			return nil, err
		}
	}
	if len(n.caches) == 0 {
		return root, nil
	}
	if s.config.Private || slices.ContainsFunc(s.config.Cache, func(c CacheConfig) bool { return c.Private }) {
		n.hidden = s.hidden
	}
	return n, nil
}

// hidden answers for a cache that is not there as for a private one, lest the names of those be found out by trying. For
// who may read every cache it is nil: they are told that there is none.
func (s *server) hidden(r *http.Request, name string) http.Handler {
	identity, err := s.access.Authorize(r)
	if err == nil && (identity.Allows(httpcache.ScopeRead, name) || identity.Allows(httpcache.ScopePush, name)) {
		return nil
	}
	empty := nothing{s.source.Store}
	h, err := httpcache.New(empty, &httpcache.Options{Cache: name, Private: true, Access: s.access, Receiver: empty, Deleter: empty,
		Logger: s.log, Trace: s.traffic.trace()})
	if err != nil {
		panic("narserved: internal error: " + err.Error())
	}
	return h
}

// nothing is a cache where nothing is and nothing comes. Its store tells whether the server is well.
type nothing struct{ store.Store }

// Info implements [store.Store].
func (n nothing) Info(ctx context.Context, hash narinfo.HashPart) (*narinfo.Info, error) {
	if _, err := n.Store.Info(ctx, hash); err != nil {
		return nil, err
	}
	return nil, store.ErrNotFound
}

// Receive implements [store.Receiver].
func (nothing) Receive(context.Context, string, string, io.Reader) error { return store.ErrNotFound }

// Holds implements [store.Receiver].
func (nothing) Holds(context.Context, string) (bool, error) { return false, nil }

// Missing implements [httpcache.MissingFinder].
func (nothing) Missing(context.Context, []narinfo.HashPart) ([]narinfo.HashPart, error) {
	return nil, store.ErrNotFound
}

// Delete implements [httpcache.Deleter].
func (nothing) Delete(context.Context, string, string) error { return store.ErrNotFound }
