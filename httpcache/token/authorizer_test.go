package token_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/httpcache/token"
	"github.com/voidnxlab/nixtrap/store"
)

// memory is a store that counts how often it is asked.
type memory struct {
	mu      sync.Mutex
	records map[string]token.Record
	err     error
	asked   int
}

func (m *memory) put(r token.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.records == nil {
		m.records = make(map[string]token.Record)
	}
	m.records[r.ID] = r
}

func (m *memory) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

func (m *memory) Token(_ context.Context, id string) (*token.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked++
	r, ok := m.records[id]
	if m.err != nil {
		return nil, m.err
	}
	if !ok {
		return nil, fmt.Errorf("memory: %w", store.ErrNotFound)
	}
	return &r, nil
}

func request(authorization string) *http.Request {
	r := httptest.NewRequest(http.MethodPut, "/a.narinfo", nil)
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	return r
}

func bearer(t *token.Token) *http.Request { return request("Bearer " + t.Text()) }

func TestAuthorize(t *testing.T) {
	m := &memory{}
	a := token.New(m, nil)
	tok, record := generate(t, "ci", httpcache.ScopePush)
	record.Caches = []string{"a"}
	m.put(*record)
	want := &httpcache.Identity{Name: "ci", Scopes: httpcache.ScopePush, Caches: []string{"a"}}

	netrc := "Basic " + base64.StdEncoding.EncodeToString([]byte("whoever:"+tok.Text()))
	for _, authorization := range []string{"Bearer " + tok.Text(), netrc} {
		got, err := a.Authorize(request(authorization))
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	require.False(t, want.Allows(httpcache.ScopeRead, "a"))

	stranger, _ := generate(t, "stranger", httpcache.ScopeAdmin)
	secret := tok.Text()[len("nixtrap_")+len(tok.ID())+1:]
	otherSecret := stranger.Text()[len("nixtrap_")+len(stranger.ID())+1:]
	for _, c := range []struct {
		name, authorization string
		err                 error
		says                string
	}{
		{"nothing", "", httpcache.ErrNoCredential, ""},
		{"another kind of token", "Bearer eyJhbGciOiJub25lIn0.e30.", httpcache.ErrNoCredential, ""},
		{"another kind of password", "Basic " + base64.StdEncoding.EncodeToString([]byte("a:b")), httpcache.ErrNoCredential, ""},
		{"the login is no token", "Basic " + base64.StdEncoding.EncodeToString([]byte(tok.Text()+":b")), httpcache.ErrNoCredential, ""},
		{"unknown", "Bearer " + stranger.Text(), httpcache.ErrBadCredential, "no token " + stranger.ID()},
		{"the ID with another secret", "Bearer nixtrap_" + tok.ID() + "_" + otherSecret, httpcache.ErrBadCredential, "another secret"},
		{"another ID with the secret", "Bearer nixtrap_" + stranger.ID() + "_" + secret, httpcache.ErrBadCredential, "no token"},
		{"the ID alone", "Bearer nixtrap_" + tok.ID() + "_", httpcache.ErrBadCredential, "malformed"},
		{"the hash for a secret", fmt.Sprintf("Bearer nixtrap_%s_%s", tok.ID(), base64.RawURLEncoding.EncodeToString(record.Hash[:])), httpcache.ErrBadCredential, "another secret"},
		{"malformed", "Bearer nixtrap_x", httpcache.ErrBadCredential, "malformed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := a.Authorize(request(c.authorization))
			require.ErrorIs(t, err, c.err)
			require.ErrorContains(t, err, c.says)
			require.Nil(t, got)
			require.NotContains(t, err.Error(), secret)
			require.NotContains(t, err.Error(), otherSecret)
		})
	}
}

func TestExpiryIsExactAlsoForWhatIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		a := token.New(m, nil)
		tok, record := generate(t, "ci", httpcache.ScopePush)
		record.Expires = time.Now().Add(2 * time.Second)
		m.put(*record)
		_, err := a.Authorize(bearer(tok))
		require.NoError(t, err)
		time.Sleep(2*time.Second - 1)
		_, err = a.Authorize(bearer(tok))
		require.NoError(t, err)
		time.Sleep(1)
		_, err = a.Authorize(bearer(tok))
		require.ErrorIs(t, err, httpcache.ErrBadCredential)
		require.ErrorContains(t, err, "expired")
		require.Equal(t, 1, m.asked)
	})
}

func TestRevocationWorksWithinMaxAge(t *testing.T) {
	for _, c := range []struct {
		name     string
		opts     *token.Options
		lasts    time.Duration // how long a revoked token may work
		requests int           // that reach the store in the first second
	}{
		{"by default", nil, 5 * time.Second, 1},
		{"set", &token.Options{MaxAge: 2 * time.Second}, 2 * time.Second, 1},
		{"nothing kept", &token.Options{MaxAge: -1}, 0, 11},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &memory{}
				a := token.New(m, c.opts)
				tok, record := generate(t, "ci", httpcache.ScopePush)
				m.put(*record)
				for range 11 {
					_, err := a.Authorize(bearer(tok))
					require.NoError(t, err)
				}
				require.Equal(t, c.requests, m.asked)
				record.Revoked = time.Now()
				m.put(*record)
				if c.lasts > 0 {
					time.Sleep(c.lasts - 1)
					_, err := a.Authorize(bearer(tok))
					require.NoError(t, err)
					time.Sleep(1)
				}
				_, err := a.Authorize(bearer(tok))
				require.ErrorIs(t, err, httpcache.ErrBadCredential)
				require.ErrorContains(t, err, "revoked")
			})
		})
	}
}

func TestNewTokenWorksAtOnce(t *testing.T) {
	m := &memory{}
	a := token.New(m, nil)
	tok, record := generate(t, "ci", httpcache.ScopePush)
	_, err := a.Authorize(bearer(tok))
	require.ErrorIs(t, err, httpcache.ErrBadCredential)
	m.put(*record)
	_, err = a.Authorize(bearer(tok))
	require.NoError(t, err)
}

func TestAStoreThatFailsIsNoBadCredential(t *testing.T) {
	m := &memory{err: errors.New("database is down")}
	tok, record := generate(t, "ci", httpcache.ScopePush)
	m.put(*record)
	a := token.New(m, nil)
	_, err := a.Authorize(bearer(tok))
	require.ErrorContains(t, err, "database is down")
	require.NotErrorIs(t, err, httpcache.ErrBadCredential)
	require.NotErrorIs(t, err, httpcache.ErrNoCredential)
	m.fail(nil)
	_, err = a.Authorize(bearer(tok))
	require.NoError(t, err, "a failure is not kept")
}

func TestMoreTokensThanAreKept(t *testing.T) {
	m := &memory{}
	a := token.New(m, nil)
	var tokens []*token.Token
	for i := range 2500 {
		tok, record := generate(t, fmt.Sprint(i), httpcache.ScopePush)
		m.put(*record)
		tokens = append(tokens, tok)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i, tok := range tokens {
				identity, err := a.Authorize(bearer(tok))
				if err != nil || identity.Name != fmt.Sprint(i) {
					t.Errorf("token %d: %v, %v", i, identity, err)
				}
			}
		})
	}
	wg.Wait()
}

func ExampleNew() {
	tok, record, err := token.GenerateToken(nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	record.Name, record.Scopes = "ci", httpcache.ScopeRead|httpcache.ScopePush
	m := &memory{}
	m.put(*record)

	authorizer := token.New(m, nil)
	r := httptest.NewRequest(http.MethodPut, "/nar/x.nar", strings.NewReader("…"))
	r.Header.Set("Authorization", "Bearer "+tok.Text())
	identity, err := authorizer.Authorize(r)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(identity.Name, identity.Scopes, identity.Allows(httpcache.ScopePush, ""))
	// Output: ci read,push true
}
