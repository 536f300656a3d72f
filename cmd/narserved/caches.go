package main

import (
	"net/http"
	"strings"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/signing"
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
}

// ServeHTTP implements http.Handler. The caches see paths below their names.
func (n *named) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	cache, ok := n.caches[name]
	if !ok {
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
	return n, nil
}
