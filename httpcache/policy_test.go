package httpcache_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

type policyFunc func(*narinfo.Info) (bool, error)

func (f policyFunc) Allows(_ context.Context, i *narinfo.Info) (bool, error) { return f(i) }

func roots(paths ...narinfo.StorePath) httpcache.Roots {
	return func(context.Context) ([]narinfo.StorePath, error) { return paths, nil }
}

// Whoever asks cannot tell a path that is forbidden from one that is not there: the whole answers are compared, with a
// store that has the path and with one that has not.
func TestForbiddenIsAbsent(t *testing.T) {
	full, empty := newWorld(), &world{Memory: &storetest.Memory{}}
	nothing := policyFunc(func(*narinfo.Info) (bool, error) { return false, nil })
	forbidden := newHandler(t, full, &httpcache.Options{Policy: nothing})
	absent := newHandler(t, empty, &httpcache.Options{Policy: nothing})
	about := 0
	for name, url := range full.urls() {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			for _, headers := range [][]string{nil, {"Range", "bytes=0-0"}, {"If-None-Match", "*"}} {
				a, b := request(forbidden, method, url, headers...), request(absent, method, url, headers...)
				require.Equal(t, b.StatusCode, a.StatusCode, "%s %s %q", method, name, headers)
				require.Equal(t, b.Header, a.Header, "%s %s %q", method, name, headers)
				require.Equal(t, body(t, b), body(t, a), "%s %s %q", method, name, headers)
				if a.StatusCode == http.StatusNotFound {
					about++
				}
			}
		}
	}
	require.Equal(t, 19*2*3, about, "all but the cache info, the pages for everybody and the malformed URL")
}

func TestAllowedPathsAreServedWhole(t *testing.T) {
	w := newWorld()
	open := newHandler(t, w, nil)
	limited := newHandler(t, w, &httpcache.Options{
		Policy: httpcache.ClosureOf(w, roots(w.tool.StorePath), time.Minute)})
	for name, url := range w.urls() {
		require.Equal(t, body(t, get(open, url)), body(t, get(limited, url)), name)
	}
	for name, path := range map[string]*narinfo.Info{"root": w.tool, "reference": w.lib} {
		require.Equal(t, http.StatusOK, get(limited, narURL(path)).StatusCode, name)
	}
	require.Equal(t, http.StatusNotFound, get(limited, narURL(w.other)).StatusCode)
}

func TestALogMayBeReadWithItsDerivationOrAnOutput(t *testing.T) {
	w := newWorld()
	allow := func(path narinfo.StorePath) *httpcache.Handler {
		return newHandler(t, w, &httpcache.Options{Policy: policyFunc(func(i *narinfo.Info) (bool, error) {
			return i.StorePath == path, nil
		})})
	}
	require.Equal(t, http.StatusOK, get(allow(w.tool.StorePath), "/log/"+drvBase).StatusCode)
	require.Equal(t, http.StatusNotFound, get(allow(w.lib.StorePath), "/log/"+drvBase).StatusCode)
	w.AddInfo(&narinfo.Info{StorePath: drv()}, storetest.Archive(storetest.Files{"": "Derive()"}))
	require.Equal(t, http.StatusOK, get(allow(drv()), "/log/"+drvBase).StatusCode)
}

func TestAPolicyThatFailsIsAFault(t *testing.T) {
	w := newWorld()
	h := newHandler(t, w, &httpcache.Options{Policy: policyFunc(func(*narinfo.Info) (bool, error) {
		return true, errors.New("no idea")
	})})
	for _, name := range []string{"narinfo", "NAR", "listing", "file", "log", "realisation", "debug info"} {
		r := get(h, w.urls()[name])
		require.Equal(t, http.StatusInternalServerError, r.StatusCode, name)
		require.Equal(t, "internal error\n", body(t, r), name)
	}
}

func TestSignedByCountsTheStoresSignaturesAlone(t *testing.T) {
	w := newWorld()
	trusted, ours := newKey(t, "trusted-1"), newKey(t, "ours-1")
	signed := w.tool.Clone()
	signed.Sign(trusted)
	w.AddInfo(signed, archiveOf(t, w, w.tool))
	h := newHandler(t, w, &httpcache.Options{Keys: []*signing.SecretKey{ours},
		Policy: httpcache.SignedBy(signing.Keyring{trusted.Public(), ours.Public()})})
	require.Equal(t, http.StatusOK, get(h, narURL(w.tool)).StatusCode)
	require.Equal(t, http.StatusNotFound, get(h, narURL(w.lib)).StatusCode)
	require.Equal(t, http.StatusNotFound, get(h, "/"+string(w.lib.StorePath.HashPart())+".narinfo").StatusCode)
}

func TestClosureFollowsTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		const maxAge = 10 * time.Second
		current := []narinfo.StorePath{w.tool.StorePath}
		lookups := 0
		p := httpcache.ClosureOf(&storetest.Faults{Store: w, InfoErr: func(narinfo.HashPart) error {
			lookups++
			return nil
		}}, func(context.Context) ([]narinfo.StorePath, error) { return current, nil }, maxAge)
		allows := func(i *narinfo.Info) bool {
			ok, err := p.Allows(t.Context(), i)
			require.NoError(t, err)
			return ok
		}
		require.True(t, allows(w.tool))
		require.True(t, allows(w.lib))
		require.False(t, allows(w.other))
		require.Equal(t, 2, lookups, "computed once")

		current = []narinfo.StorePath{w.other.StorePath}
		time.Sleep(maxAge - 1)
		require.True(t, allows(w.tool), "not yet computed again")
		time.Sleep(1)
		require.False(t, allows(w.tool))
		require.False(t, allows(w.lib))
		require.True(t, allows(w.other))

		rebuilt := w.AddInfo(&narinfo.Info{StorePath: w.other.StorePath, References: []narinfo.StorePath{w.lib.StorePath}},
			storetest.Archive(storetest.Files{"": "rebuilt"}))
		require.False(t, allows(w.lib))
		require.True(t, allows(rebuilt), "other content is noticed at once")
		require.True(t, allows(w.lib), "and so are its references")
		require.False(t, allows(w.other), "the old content is allowed no more")

		w.Delete(w.other.StorePath)
		time.Sleep(maxAge)
		require.False(t, allows(rebuilt), "a root that is gone has no closure")
		require.False(t, allows(w.lib))
	})
}

func TestClosureThatCannotBeComputedAllowsNothing(t *testing.T) {
	w := newWorld()
	broken := errDisk
	p := httpcache.ClosureOf(&storetest.Faults{Store: w, InfoErr: func(narinfo.HashPart) error { return broken }},
		roots(w.tool.StorePath), time.Hour)
	_, err := p.Allows(t.Context(), w.tool)
	require.ErrorIs(t, err, errDisk)
	broken = nil
	ok, err := p.Allows(t.Context(), w.tool)
	require.NoError(t, err)
	require.True(t, ok, "the failure is not kept")
}

func TestClosureHoldsWhileItsRootsCannotBeFound(t *testing.T) {
	w := newWorld()
	var broken error
	find := func(context.Context) ([]narinfo.StorePath, error) {
		return []narinfo.StorePath{w.tool.StorePath}, broken
	}
	p := httpcache.ClosureOf(w, find, 0)
	for _, broken = range []error{nil, errDisk} {
		ok, err := p.Allows(t.Context(), w.tool)
		require.NoError(t, err)
		require.True(t, ok)
		ok, err = p.Allows(t.Context(), w.other)
		require.NoError(t, err, "an error would tell a forbidden path from an absent one")
		require.False(t, ok)
	}
}

func TestOptionsThatContradict(t *testing.T) {
	k := newKey(t, "k-1")
	for name, opts := range map[string]*httpcache.Options{
		"two keys of one name": {Keys: []*signing.SecretKey{k, newKey(t, "k-1")}},
		"no key":               {Keys: []*signing.SecretKey{nil}},
		"priority":             {Priority: -1},
		"URL without a scheme": {PublicURL: "cache.example.org"},
		"URL of a file":        {PublicURL: "file:///srv/cache"},
		"URL with a secret":    {PublicURL: "https://user:password@example.org"},
	} {
		_, err := httpcache.New(newWorld(), opts)
		require.ErrorContains(t, err, "httpcache: ", name)
		require.NotContains(t, err.Error(), "password", name)
	}
}

func TestOptionsAreCopied(t *testing.T) {
	w := newWorld()
	keys := []*signing.SecretKey{newKey(t, "first-1")}
	h := newHandler(t, w, &httpcache.Options{Keys: keys})
	keys[0] = newKey(t, "second-1")
	info, err := narinfo.Parse([]byte(body(t, get(h, w.urls()["narinfo"]))))
	require.NoError(t, err)
	require.Len(t, info.Signatures, 1)
	require.Equal(t, "first-1", info.Signatures[0].KeyName())
}
