package oidc_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/httpcache/oidc"
	"github.com/voidnxlab/nixtrap/internal/oidctest"
	"github.com/voidnxlab/nixtrap/internal/tlstest"
)

const iss = "https://issuer.example.org"

func requireUnavailable(t *testing.T, err error) {
	t.Helper()
	require.ErrorContains(t, err, "not available")
	require.NotErrorIs(t, err, httpcache.ErrBadCredential)
	require.NotErrorIs(t, err, httpcache.ErrNoCredential)
}

func TestKeyRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		older, newer := oidctest.NewSigner(t, "old"), oidctest.NewSigner(t, "new")
		i := oidctest.New(iss, older)
		a := newAuthorizer(t, i, rule(iss))
		_, err := a.Authorize(bearer(oidctest.Token(t, older, job(iss, nil))))
		require.NoError(t, err)

		// A key that was not there 10 s ago is fetched when a token is signed with it.
		i.Publish(older, newer)
		time.Sleep(10 * time.Second)
		_, err = a.Authorize(bearer(oidctest.Token(t, newer, job(iss, nil))))
		require.NoError(t, err)
		require.Equal(t, 2, i.Count("/jwks"))

		// A withdrawn key is used once more when the keys are due, and not after they were fetched again.
		i.Publish(newer)
		time.Sleep(15*time.Minute - 1)
		_, err = a.Authorize(bearer(oidctest.Token(t, older, job(iss, nil))))
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, 2, i.Count("/jwks"))
		time.Sleep(1)
		_, err = a.Authorize(bearer(oidctest.Token(t, older, job(iss, nil))))
		require.NoError(t, err, "the refresh is in the background")
		synctest.Wait()
		require.Equal(t, 3, i.Count("/jwks"))
		_, err = a.Authorize(bearer(oidctest.Token(t, older, job(iss, nil))))
		require.ErrorIs(t, err, httpcache.ErrBadCredential)
		_, err = a.Authorize(bearer(oidctest.Token(t, newer, job(iss, nil))))
		require.NoError(t, err)
	})
}

func TestAWithdrawnKeyDoesNotOutliveAnIdleHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		older, newer := oidctest.NewSigner(t, "old"), oidctest.NewSigner(t, "new")
		i := oidctest.New(iss, older)
		a := newAuthorizer(t, i, rule(iss))
		_, err := a.Authorize(bearer(oidctest.Token(t, older, job(iss, nil))))
		require.NoError(t, err)
		i.Publish(newer)
		time.Sleep(time.Hour)
		_, err = a.Authorize(bearer(oidctest.Token(t, older, job(iss, nil))))
		require.ErrorIs(t, err, httpcache.ErrBadCredential)
	})
}

func TestAnOutageThatHangsIsWaitedForOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := oidctest.NewSigner(t, "k1")
		routes := network{"issuer.example.org": oidctest.New(iss, key)}
		a := newAuthorizer(t, routes, rule(iss))
		_, err := a.Authorize(bearer(oidctest.Token(t, key, job(iss, nil))))
		require.NoError(t, err)
		hanging := &hangs{}
		routes["issuer.example.org"] = hanging
		time.Sleep(2 * time.Hour)
		var waited time.Duration
		for range 1000 {
			start := time.Now()
			_, err := a.Authorize(bearer(oidctest.Token(t, key, job(iss, nil))))
			require.NoError(t, err)
			waited += time.Since(start)
			time.Sleep(10 * time.Second)
			synctest.Wait()
		}
		require.Equal(t, 5*time.Second, waited)
		require.Greater(t, hanging.asked, 30, "attempts go on")
	})
}

func TestUnknownKeysAreLookedForNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := oidctest.NewSigner(t, "k1")
		i := oidctest.New(iss, key)
		a := newAuthorizer(t, i, rule(iss))
		_, err := a.Authorize(bearer(oidctest.Token(t, key, job(iss, nil))))
		require.NoError(t, err)
		for n := range 1000 { // for 100 s
			_, err := a.Authorize(bearer(oidctest.Token(t, oidctest.NewSigner(t, fmt.Sprint("forged", n)), job(iss, nil))))
			require.ErrorIs(t, err, httpcache.ErrBadCredential)
			time.Sleep(100 * time.Millisecond)
		}
		require.Equal(t, 1+9, i.Count("/jwks"))
		_, err = a.Authorize(bearer(oidctest.Token(t, key, job(iss, nil))))
		require.NoError(t, err)
	})
}

// hangs never answers.
type hangs struct {
	mu    sync.Mutex
	asked int
}

func (h *hangs) RoundTrip(r *http.Request) (*http.Response, error) {
	h.mu.Lock()
	h.asked++
	h.mu.Unlock()
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func TestAnIssuerThatHangsHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const dead = "https://dead.example.org"
		key := oidctest.NewSigner(t, "k1")
		hanging := &hangs{}
		a := newAuthorizer(t, network{"issuer.example.org": oidctest.New(iss, key), "dead.example.org": hanging}, rule(iss), rule(dead))
		start := time.Now()
		r := bearer(oidctest.Token(t, key, job(dead, nil)))
		waiting := make(chan error, 10)
		for range cap(waiting) {
			go func() {
				_, err := a.Authorize(r)
				waiting <- err
			}()
		}
		synctest.Wait()
		_, err := a.Authorize(bearer(oidctest.Token(t, key, job(iss, nil))))
		require.NoError(t, err)
		require.Equal(t, start, time.Now(), "another issuer's tokens do not wait")
		for range cap(waiting) {
			requireUnavailable(t, <-waiting)
		}
		require.Equal(t, 5*time.Second, time.Since(start), "all wait for one attempt")
		require.Equal(t, 1, hanging.asked)

		start = time.Now()
		_, err = a.Authorize(bearer(oidctest.Token(t, key, job(dead, nil))))
		requireUnavailable(t, err)
		require.Equal(t, start, time.Now(), "until the next attempt nobody waits")
	})
}

func TestARequestThatEndsWaitsNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthorizer(t, &hangs{}, rule(iss))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := a.Authorize(bearer(oidctest.Token(t, oidctest.NewSigner(t, "k1"), job(iss, nil))).WithContext(ctx))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NotErrorIs(t, err, httpcache.ErrBadCredential)
		require.Equal(t, time.Second, time.Since(start))
	})
}

func TestCloseEndsWhatIsFetched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthorizer(t, &hangs{}, rule(iss))
		start := time.Now()
		r := bearer(oidctest.Token(t, oidctest.NewSigner(t, "k1"), job(iss, nil)))
		done := make(chan error, 1)
		go func() {
			_, err := a.Authorize(r)
			done <- err
		}()
		synctest.Wait()
		require.NoError(t, a.Close())
		requireUnavailable(t, <-done)
		require.Equal(t, start, time.Now())
		time.Sleep(time.Hour)
		_, err := a.Authorize(bearer(oidctest.Token(t, oidctest.NewSigner(t, "k1"), job(iss, nil))))
		requireUnavailable(t, err)
	})
}

func TestBackoffAndRecovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := oidctest.NewSigner(t, "k1")
		i := oidctest.New(iss, key)
		i.Set(func(i *oidctest.Issuer) {
			i.Discovery = func(w http.ResponseWriter) { http.Error(w, "down", http.StatusBadGateway) }
		})
		a := newAuthorizer(t, i, rule(iss))
		var attempts []time.Duration // since the last
		last, seen := time.Now(), 0
		for range 20_000 { // for 20,000 s, with a request each
			_, err := a.Authorize(bearer(oidctest.Token(t, key, job(iss, nil))))
			requireUnavailable(t, err)
			if n := i.Count("/.well-known/openid-configuration"); n > seen {
				attempts = append(attempts, time.Since(last))
				last, seen = time.Now(), n
			}
			time.Sleep(time.Second)
			if len(attempts) == 12 {
				break
			}
		}
		const s = time.Second
		require.Equal(t, []time.Duration{0, s, 2 * s, 4 * s, 8 * s, 16 * s, 32 * s, 64 * s, 128 * s, 256 * s, 300 * s, 300 * s}, attempts)

		i.Set(func(i *oidctest.Issuer) { i.Discovery = nil })
		time.Sleep(5 * time.Minute)
		_, err := a.Authorize(bearer(oidctest.Token(t, key, job(iss, nil))))
		require.NoError(t, err)
	})
}

func TestKeysOutliveAnOutageForADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := oidctest.NewSigner(t, "k1")
		i := oidctest.New(iss, key)
		a := newAuthorizer(t, i, rule(iss))
		_, err := a.Authorize(bearer(oidctest.Token(t, key, job(iss, nil))))
		require.NoError(t, err)
		i.Set(func(i *oidctest.Issuer) {
			i.KeySet = func(w http.ResponseWriter) { http.Error(w, "down", http.StatusBadGateway) }
		})
		for range 24*60 - 1 {
			time.Sleep(time.Minute)
			_, err := a.Authorize(bearer(oidctest.Token(t, key, job(iss, nil))))
			require.NoError(t, err)
			synctest.Wait()
		}
		_, err = a.Authorize(bearer(oidctest.Token(t, oidctest.NewSigner(t, "unknown"), job(iss, nil))))
		requireUnavailable(t, err)
		time.Sleep(time.Minute)
		_, err = a.Authorize(bearer(oidctest.Token(t, key, job(iss, nil))))
		requireUnavailable(t, err)
		i.Set(func(i *oidctest.Issuer) { i.KeySet = nil })
		time.Sleep(5 * time.Minute)
		_, err = a.Authorize(bearer(oidctest.Token(t, key, job(iss, nil))))
		require.NoError(t, err)
	})
}

// zeros is a body of that many bytes.
func zeros(n int64) io.Reader { return io.LimitReader(endless{}, n) }

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestDocumentsThatAreRefused(t *testing.T) {
	ca := tlstest.New(t)
	key := oidctest.NewSigner(t, "k1")
	text := func(format string, args ...any) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { fmt.Fprintf(w, format, args...) }
	}
	for name, change := range map[string]func(*oidctest.Issuer){
		"discovery of another issuer": func(i *oidctest.Issuer) {
			i.Discovery = text(`{"issuer":"https://evil.example.org","jwks_uri":"%s/jwks"}`, i.URL)
		},
		"discovery that is no JSON": func(i *oidctest.Issuer) { i.Discovery = text(`<html>`) },
		"discovery without keys":    func(i *oidctest.Issuer) { i.Discovery = text(`{"issuer":%q}`, i.URL) },
		"keys over plain HTTP": func(i *oidctest.Issuer) {
			i.Discovery = text(`{"issuer":%q,"jwks_uri":"http://127.0.0.1:9/jwks"}`, i.URL)
		},
		"a redirect to plain HTTP": func(i *oidctest.Issuer) {
			i.KeySet = func(w http.ResponseWriter) {
				w.Header().Set("Location", "http://127.0.0.1:9/jwks")
				w.WriteHeader(http.StatusFound)
			}
		},
		"redirects without an end": func(i *oidctest.Issuer) {
			i.KeySet = func(w http.ResponseWriter) {
				w.Header().Set("Location", i.URL+"/jwks")
				w.WriteHeader(http.StatusFound)
			}
		},
		"discovery without an end": func(i *oidctest.Issuer) {
			i.Discovery = func(w http.ResponseWriter) { _, _ = io.Copy(w, zeros(4<<20)) }
		},
		"keys without an end": func(i *oidctest.Issuer) {
			i.KeySet = func(w http.ResponseWriter) { _, _ = io.Copy(w, zeros(4<<20)) }
		},
		"keys that grow when they are decompressed": func(i *oidctest.Issuer) {
			i.KeySet = func(w http.ResponseWriter) {
				w.Header().Set("Content-Encoding", "gzip")
				z := gzip.NewWriter(w)
				_, _ = io.Copy(z, zeros(64<<20))
				_ = z.Close()
			}
		},
		"keys that are none": func(i *oidctest.Issuer) { i.KeySet = text(`{"keys":[]}`) },
		"keys of other kinds": func(i *oidctest.Issuer) {
			i.KeySet = text(`{"keys":[{"kty":"oct","kid":"k1","k":"c2VjcmV0"},{"kty":"X"},1]}`)
		},
		"keys for encryption":      func(i *oidctest.Issuer) { useKeysFor(i, "enc") },
		"more keys than there are": func(i *oidctest.Issuer) { i.KeySet = text(`{"keys":[%s1]}`, strings.Repeat("1,", 64)) },
	} {
		t.Run(name, func(t *testing.T) {
			i := oidctest.New("", key)
			i.Serve(t, ca)
			i.Set(change)
			var logged bytes.Buffer
			a, err := oidc.New([]oidc.Issuer{rule(i.URL)}, &oidc.Options{
				Transport: ca.Transport(t), Logger: slog.New(slog.NewTextHandler(&logged, nil)),
			})
			require.NoError(t, err)
			_, err = a.Authorize(bearer(oidctest.Token(t, key, job(i.URL, nil))))
			requireUnavailable(t, err)
			require.NoError(t, a.Close())
			require.Contains(t, logged.String(), "keys of an OIDC issuer not fetched")
			require.Less(t, logged.Len(), 1000, "what an issuer says does not flood the log")
		})
	}
}

// useKeysFor gives all of an issuer's keys another use.
func useKeysFor(i *oidctest.Issuer, use string) {
	for n := range i.Keys {
		i.Keys[n].Use = use
	}
}

func TestOneKeyOfAnUnknownKindDoesNotHideOthers(t *testing.T) {
	key := oidctest.NewSigner(t, "k1")
	i := oidctest.New(iss, key)
	known := marshal(t, i.Keys[0])
	i.KeySet = func(w http.ResponseWriter) {
		fmt.Fprintf(w, `{"keys":[{"kty":"OKP","crv":"Ed448","kid":"x","x":"AA"},{"kty":"AKP","alg":"ML-DSA-44"},%s]}`, known)
	}
	a := newAuthorizer(t, i, rule(iss))
	_, err := a.Authorize(bearer(oidctest.Token(t, key, job(iss, nil))))
	require.NoError(t, err)
}

func TestNobodyIsAskedForTokensThatCannotBeRight(t *testing.T) {
	a := newAuthorizer(t, network{"issuer.example.org": panics{}}, rule(iss))
	key := oidctest.NewSigner(t, "k1")
	for name, text := range map[string]string{
		"another issuer": oidctest.Token(t, key, job("https://evil.example.org", nil)),
		"alg none":       oidctest.Compact(t, map[string]any{"alg": "none"}, job(iss, nil), func([]byte) []byte { return nil }),
		"no issuer":      oidctest.Token(t, key, job(iss, map[string]any{"iss": nil})),
	} {
		_, err := a.Authorize(bearer(text))
		require.ErrorIs(t, err, httpcache.ErrBadCredential, name)
	}
}

type panics struct{}

func (panics) RoundTrip(*http.Request) (*http.Response, error) { panic("asked") }

func TestManyAtOnce(t *testing.T) {
	key := oidctest.NewSigner(t, "k1")
	i := oidctest.New(iss, key)
	a := newAuthorizer(t, i, rule(iss))
	good, bad := oidctest.Token(t, key, job(iss, nil)), oidctest.Token(t, oidctest.NewSigner(t, "k1"), job(iss, nil))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if _, err := a.Authorize(bearer(good)); err != nil {
					t.Error(err)
				}
				if _, err := a.Authorize(bearer(bad)); !errors.Is(err, httpcache.ErrBadCredential) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	require.Equal(t, 1, i.Count("/jwks"))
}
