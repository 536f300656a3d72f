package upload_test

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/internal/catalogtest"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/bucketstore"
	"github.com/voidnxlab/nixtrap/store/httpstore/upload"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

// recorder notes the requests that a server gets, and may answer some itself.
type recorder struct {
	next http.Handler

	mu       sync.Mutex // guards all below
	requests []string   // "METHOD /path"
	answer   func(w http.ResponseWriter, r *http.Request) bool
}

func (c *recorder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	c.requests = append(c.requests, r.Method+" "+r.URL.Path)
	answer := c.answer
	c.mu.Unlock()
	if answer != nil && answer(w, r) {
		return
	}
	c.next.ServeHTTP(w, r)
}

// take returns the requests since the last time.
func (c *recorder) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.requests
	c.requests = nil
	return all
}

// of returns those requests that begin so.
func of(requests []string, prefix string) (some []string) {
	for _, r := range requests {
		if strings.HasPrefix(r, prefix) {
			some = append(some, r)
		}
	}
	return some
}

// cache is a server of package httpcache over a bucket in a directory.
type cache struct {
	*recorder
	url    string
	bucket *bucketstore.Store
}

// keyholder lets those in who have the token "secret".
type keyholder struct{}

func (keyholder) Authorize(r *http.Request) (*httpcache.Identity, error) {
	switch secret, err := httpcache.Credential(r); {
	case err != nil:
		return nil, err
	case secret == "secret":
		return &httpcache.Identity{Name: "tester", Scopes: httpcache.ScopePush}, nil
	case secret == "reader":
		return &httpcache.Identity{Name: "reader", Scopes: httpcache.ScopeRead}, nil
	}
	return nil, httpcache.ErrBadCredential
}

func newCache(t *testing.T, o *bucketstore.InboxOptions) *cache {
	t.Helper()
	c := catalogtest.SQLite(filepath.Join(t.TempDir(), "catalog.sqlite")).Open(t, nil)
	bucket, err := bucketstore.Create(t.TempDir(), narinfo.CacheInfo{}, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, bucket.Close()) })
	inbox := bucketstore.NewInbox(bucket, c, o)
	h, err := httpcache.New(bucket, &httpcache.Options{Access: keyholder{}, Receiver: inbox, Pushers: inbox.View()})
	require.NoError(t, err)
	r := &recorder{next: h}
	return &cache{recorder: r, url: serve(t, r), bucket: bucket}
}

func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// quick are options whose pauses take no time to speak of.
func quick(token string) *upload.Options {
	o := &upload.Options{MinBackoff: time.Millisecond, MaxBackoff: 2 * time.Millisecond}
	o.Authorization = bearer(token)
	return o
}

func newClient(t *testing.T, url string, o *upload.Options) *upload.Client {
	t.Helper()
	c, err := upload.New(url, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// sources is a store with a few paths: top refers to a and b, both to base, which has more than 1 MiB compressed.
type sources struct {
	*storetest.Memory
	base, a, b, top, lone *narinfo.Info
}

func newSources() *sources {
	s := &sources{Memory: &storetest.Memory{}}
	s.base = s.Add("base", storetest.Files{"noise": noise(3 << 19)})
	s.a = s.Add("a", storetest.Files{"bin/a": "#!/bin/sh\n"}, s.base.StorePath)
	s.b = s.Add("b", storetest.Files{"b": strings.Repeat("b", 100_000)}, s.base.StorePath)
	s.top = s.Add("top", storetest.Files{"": "top"}, s.a.StorePath, s.b.StorePath)
	s.lone = s.Add("lone", storetest.Files{"": "lone"})
	return s
}

func noise(n int) string {
	b := make([]byte, n)
	x := uint32(1)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return string(b)
}

// requireSame reads paths from a store to their ends.
func requireSame(t *testing.T, s store.Store, infos ...*narinfo.Info) {
	t.Helper()
	for _, want := range infos {
		got, err := s.Info(t.Context(), want.StorePath.HashPart())
		require.NoError(t, err, want.StorePath)
		require.Equal(t, want.NarHash, got.NarHash)
		require.Equal(t, want.References, got.References)
		require.NoError(t, store.Verify(t.Context(), s, got), want.StorePath)
	}
}
