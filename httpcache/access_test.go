package httpcache_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/httpcache"
)

func TestScopeText(t *testing.T) {
	for text, want := range map[string]httpcache.Scope{
		"read":            httpcache.ScopeRead,
		"push":            httpcache.ScopePush,
		"admin":           httpcache.ScopeAdmin,
		"read,push":       httpcache.ScopeRead | httpcache.ScopePush,
		"read,push,admin": httpcache.ScopeRead | httpcache.ScopePush | httpcache.ScopeAdmin,
	} {
		got, err := httpcache.ParseScope(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
		require.Equal(t, text, got.String())
		b, err := json.Marshal(got)
		require.NoError(t, err)
		var back httpcache.Scope
		require.NoError(t, json.Unmarshal(b, &back))
		require.Equal(t, want, back)
	}
	got, err := httpcache.ParseScope("admin,read,admin")
	require.NoError(t, err)
	require.Equal(t, "read,admin", got.String())
	for _, text := range []string{"", "Read", "read,", "read push", "write", "read, push", "*", "all"} {
		_, err := httpcache.ParseScope(text)
		require.ErrorContains(t, err, "none of read, push, admin", "%q", text)
	}
	var none httpcache.Scope
	require.NoError(t, none.UnmarshalText(nil))
	require.Empty(t, none.String())
	_, err = httpcache.Scope(0x80).MarshalText()
	require.Error(t, err)
}

func TestIdentityAllows(t *testing.T) {
	const read, push, admin = httpcache.ScopeRead, httpcache.ScopePush, httpcache.ScopeAdmin
	everywhere := &httpcache.Identity{Scopes: push}
	some := &httpcache.Identity{Scopes: read | push, Caches: []string{"a", "b"}}
	for _, c := range []struct {
		name     string
		identity *httpcache.Identity
		scope    httpcache.Scope
		cache    string
		want     bool
	}{
		{"nobody", nil, read, "", false},
		{"nothing", everywhere, 0, "", false},
		{"the scope that it has", everywhere, push, "", true},
		{"push is not read", everywhere, read, "", false},
		{"push is not admin", everywhere, admin, "", false},
		{"admin is not push", &httpcache.Identity{Scopes: admin}, push, "", false},
		{"any cache", everywhere, push, "x", true},
		{"both scopes", some, read | push, "a", true},
		{"one scope of two", some, push | admin, "a", false},
		{"another cache", some, read, "c", false},
		{"the root is a cache like others", some, read, "", false},
		{"the root, named", &httpcache.Identity{Scopes: read, Caches: []string{""}}, read, "", true},
		{"a name's beginning", some, read, "ab", false},
		{"star", &httpcache.Identity{Scopes: read, Caches: []string{"a", "*"}}, read, "z", true},
		{"an empty list is no cache", &httpcache.Identity{Scopes: read, Caches: []string{}}, read, "", false},
	} {
		t.Run(c.name, func(t *testing.T) { require.Equal(t, c.want, c.identity.Allows(c.scope, c.cache)) })
	}
}

func basic(login, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(login+":"+password))
}

func TestCredential(t *testing.T) {
	for _, c := range []struct {
		name    string
		headers []string
		want    string
		err     error
	}{
		{"none", nil, "", httpcache.ErrNoCredential},
		{"bearer", []string{"Bearer abc.d-e_f"}, "abc.d-e_f", nil},
		{"scheme in another case", []string{"bEARER abc"}, "abc", nil},
		{"more space", []string{"Bearer   abc "}, "abc", nil},
		{"netrc", []string{basic("login", "abc")}, "abc", nil},
		{"netrc without a login", []string{basic("", "abc")}, "abc", nil},
		{"a colon in the password", []string{basic("login", "a:b")}, "a:b", nil},
		{"a password that no token could be", []string{basic("login", "pässword !")}, "pässword !", nil},
		{"the login alone", []string{basic("abc", "")}, "", httpcache.ErrNoCredential},
		{"another scheme", []string{"Digest username=abc"}, "", httpcache.ErrNoCredential},
		{"empty", []string{""}, "", httpcache.ErrNoCredential},
		{"bearer of nothing", []string{"Bearer"}, "", httpcache.ErrBadCredential},
		{"bearer of two words", []string{"Bearer a b"}, "", httpcache.ErrBadCredential},
		{"bearer of what is no token", []string{"Bearer a\x00b"}, "", httpcache.ErrBadCredential},
		{"basic that is not base64", []string{"Basic !!!"}, "", httpcache.ErrBadCredential},
		{"basic without a colon", []string{"Basic YWJj"}, "", httpcache.ErrBadCredential},
		{"two headers", []string{"Bearer a", "Bearer b"}, "", httpcache.ErrBadCredential},
		{"longest", []string{"Bearer " + strings.Repeat("a", 16<<10)}, strings.Repeat("a", 16<<10), nil},
		{"too long", []string{"Bearer " + strings.Repeat("a", 16<<10+1)}, "", httpcache.ErrBadCredential},
		{"too long a password", []string{basic("", strings.Repeat("a", 16<<10+1))}, "", httpcache.ErrBadCredential},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/nix-cache-info", nil)
			for _, h := range c.headers {
				r.Header.Add("Authorization", h)
			}
			got, err := httpcache.Credential(r)
			require.ErrorIs(t, err, c.err)
			require.Equal(t, c.want, got)
		})
	}
}

func TestCredentialInTheURLIsNone(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "http://login:secret@cache.example.org/nix-cache-info?token=secret&access_token=secret", nil)
	require.NotNil(t, r.URL.User, "the request line may carry one")
	_, err := httpcache.Credential(r)
	require.ErrorIs(t, err, httpcache.ErrNoCredential)
}

// answers is an authorizer that says the same to everybody.
type answers struct {
	identity *httpcache.Identity
	err      error
	asked    int
}

func (a *answers) Authorize(*http.Request) (*httpcache.Identity, error) {
	a.asked++
	return a.identity, a.err
}

func TestAnyOf(t *testing.T) {
	alice := &httpcache.Identity{Name: "alice"}
	broken := errors.New("database is down")
	for _, c := range []struct {
		name  string
		order []*answers
		asked []int
		want  *httpcache.Identity
		err   error
	}{
		{"nobody to ask", nil, nil, nil, httpcache.ErrNoCredential},
		{"the second knows", []*answers{{err: httpcache.ErrNoCredential}, {identity: alice}}, []int{1, 1}, alice, nil},
		{"the first knows", []*answers{{identity: alice}, {err: httpcache.ErrBadCredential}}, []int{1, 0}, alice, nil},
		{"bad is a decision", []*answers{{err: httpcache.ErrBadCredential}, {identity: alice}}, []int{1, 0}, nil, httpcache.ErrBadCredential},
		{"a fault is a decision", []*answers{{err: broken}, {identity: alice}}, []int{1, 0}, nil, broken},
		{"nobody knows", []*answers{{err: httpcache.ErrNoCredential}, {err: httpcache.ErrNoCredential}}, []int{1, 1}, nil, httpcache.ErrNoCredential},
	} {
		t.Run(c.name, func(t *testing.T) {
			var authorizers []httpcache.Authorizer
			for _, a := range c.order {
				authorizers = append(authorizers, a)
			}
			got, err := httpcache.AnyOf(authorizers...).Authorize(httptest.NewRequest(http.MethodGet, "/", nil))
			require.ErrorIs(t, err, c.err)
			require.Equal(t, c.want, got)
			for i, a := range c.order {
				require.Equal(t, c.asked[i], a.asked, "authorizer %d", i)
			}
		})
	}
}

// A client is told what is the matter with its credential, and an authorizer's own words are for the log.
func TestAnswersSayWhetherACredentialIsWantedWrongOrUnchecked(t *testing.T) {
	for name, row := range map[string]struct {
		access   answers
		status   int
		sentence string
	}{
		"none":      {answers{err: httpcache.ErrNoCredential}, 401, "a credential is needed\n"},
		"bad":       {answers{err: fmt.Errorf("%w: why", httpcache.ErrBadCredential)}, 401, "the credential is not valid here, or not any more\n"},
		"unchecked": {answers{err: errors.New("why")}, 503, "the credential cannot be checked now\n"},
		"no right":  {answers{identity: &httpcache.Identity{Name: "why"}}, 403, "forbidden: this credential lacks the scope read in the cache at the root\n"},
	} {
		h := newHandler(t, newWorld(), &httpcache.Options{Access: &row.access, Private: true})
		r := get(h, "/nix-cache-info")
		require.Equal(t, row.status, r.StatusCode, name)
		require.Equal(t, row.sentence, string(body(t, r)), name)
		require.Equal(t, row.status == 401, r.Header.Get("WWW-Authenticate") != "", name)
		require.Equal(t, row.status == 503, r.Header.Get("Retry-After") != "", name)
	}
}

// office knows everybody who says the word.
type office struct{}

func (office) Authorize(r *http.Request) (*httpcache.Identity, error) {
	secret, err := httpcache.Credential(r)
	switch {
	case err != nil:
		return nil, err
	case !strings.HasPrefix(secret, "office-"):
		return nil, httpcache.ErrNoCredential
	case secret != "office-friend":
		return nil, httpcache.ErrBadCredential
	}
	return &httpcache.Identity{Name: "office", Scopes: httpcache.ScopeRead, Caches: []string{"team"}}, nil
}

func ExampleAnyOf() {
	authorizer := httpcache.AnyOf(office{})
	for _, secret := range []string{"office-friend", "office-fiend", "something else"} {
		r := httptest.NewRequest(http.MethodGet, "/team/nix-cache-info", nil)
		r.SetBasicAuth("", secret)
		identity, err := authorizer.Authorize(r)
		fmt.Println(identity.Allows(httpcache.ScopeRead, "team"), err)
	}
	// Output:
	// true <nil>
	// false httpcache: bad credential
	// false httpcache: no credential
}
