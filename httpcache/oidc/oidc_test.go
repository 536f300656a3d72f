package oidc_test

import (
	"crypto"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/httpcache/oidc"
	"github.com/voidnxlab/nixtrap/internal/oidctest"
	"github.com/voidnxlab/nixtrap/internal/tlstest"
)

func TestAuthorizeOverTLS(t *testing.T) {
	ca := tlstest.New(t)
	key := rsaSigner("k1", 0)
	i := oidctest.New("", key)
	i.Serve(t, ca)
	a := newAuthorizer(t, ca.Transport(t), rule(i.URL))
	text := oidctest.Token(t, key, job(i.URL, nil))
	want := &httpcache.Identity{Name: "voidnx/nixtrap", Scopes: httpcache.ScopeRead | httpcache.ScopePush, Caches: []string{"team"}}

	got, err := a.Authorize(bearer(text))
	require.NoError(t, err)
	require.Equal(t, want, got)

	netrc := httptest.NewRequest(http.MethodPut, "/", nil)
	netrc.SetBasicAuth("whoever", text)
	got, err = a.Authorize(netrc)
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.Equal(t, 1, i.Count("/jwks"), "the keys are kept")
	require.Equal(t, 1, i.Count("/.well-known/openid-configuration"))
}

func TestAnIssuerWithAnotherAuthoritysCertificateIsNotTrusted(t *testing.T) {
	key := rsaSigner("k1", 0)
	i := oidctest.New("", key)
	i.Serve(t, tlstest.New(t))
	a := newAuthorizer(t, tlstest.New(t).Transport(t), rule(i.URL))
	_, err := a.Authorize(bearer(oidctest.Token(t, key, job(i.URL, nil))))
	require.ErrorContains(t, err, "not available")
	require.NotErrorIs(t, err, httpcache.ErrBadCredential)
}

func TestAlgorithms(t *testing.T) {
	rs, ed := rsaKeys()[0], newEdKey(t)
	p256, p384, p521 := newECKey(t, elliptic.P256()), newECKey(t, elliptic.P384()), newECKey(t, elliptic.P521())
	for _, c := range []struct {
		algorithm string
		private   crypto.Signer
	}{
		{"RS256", rs}, {"RS384", rs}, {"RS512", rs}, {"PS256", rs}, {"PS384", rs}, {"PS512", rs},
		{"ES256", p256}, {"ES384", p384}, {"ES512", p521}, {"EdDSA", ed},
	} {
		t.Run(c.algorithm, func(t *testing.T) {
			s := signer("a", c.algorithm, c.private)
			published := s
			published.Algorithm = "" // for all that suit the key
			a := newAuthorizer(t, oidctest.New(iss, published), rule(iss))
			_, err := a.Authorize(bearer(oidctest.Token(t, s, job(iss, nil))))
			require.NoError(t, err)
		})
	}
	t.Run("a key for another algorithm", func(t *testing.T) {
		a := newAuthorizer(t, oidctest.New(iss, signer("a", "PS256", rs)), rule(iss))
		_, err := a.Authorize(bearer(oidctest.Token(t, signer("a", "RS256", rs), job(iss, nil))))
		require.ErrorIs(t, err, httpcache.ErrBadCredential)
	})
	t.Run("a short RSA key", func(t *testing.T) {
		short := rsaSigner("short", 2)
		a := newAuthorizer(t, oidctest.New(iss, short, rsaSigner("a", 0)), rule(iss))
		claims := job(iss, nil)
		header := map[string]any{"alg": "RS256", "kid": "short"}
		_, err := a.Authorize(bearer(oidctest.Compact(t, header, claims, func([]byte) []byte { return make([]byte, 128) })))
		require.ErrorIs(t, err, httpcache.ErrBadCredential)
		require.ErrorContains(t, err, `no key "short"`)
	})
	t.Run("a token without a kid", func(t *testing.T) {
		a := newAuthorizer(t, oidctest.New(iss, rsaSigner("a", 0), rsaSigner("b", 1)), rule(iss))
		_, err := a.Authorize(bearer(oidctest.Token(t, rsaSigner("", 1), job(iss, nil))))
		require.NoError(t, err)
	})
}

// Everything that a forger might try, each one change away from a token that is right.
func TestForgeries(t *testing.T) {
	const other = "https://other.example.org"
	key, stranger, otherKey := rsaSigner("k1", 0), rsaSigner("k1", 1), signer("o1", "ES256", newECKey(t, elliptic.P256()))
	a := newAuthorizer(t, network{"issuer.example.org": oidctest.New(iss, key), "other.example.org": oidctest.New(other, otherKey)},
		rule(iss), rule(other))
	_, err := a.Authorize(bearer(oidctest.Token(t, key, job(iss, nil))))
	require.NoError(t, err)
	_, err = a.Authorize(bearer(oidctest.Token(t, otherKey, job(other, nil))))
	require.NoError(t, err)

	good := oidctest.Token(t, key, job(iss, nil))
	parts := strings.Split(good, ".")
	public := rsaKeys()[0].Public().(*rsa.PublicKey)
	pkix, err := x509.MarshalPKIXPublicKey(public)
	require.NoError(t, err)
	pemText := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pkix})
	nothing := func([]byte) []byte { return nil }
	now := time.Now().Unix()
	claim := func(name string, value any) string {
		return oidctest.Token(t, key, job(iss, map[string]any{name: value}))
	}
	attackersKey := newECKey(t, elliptic.P256())

	for _, c := range []struct{ name, text, says string }{
		{"another key under the same kid", oidctest.Token(t, stranger, job(iss, nil)), "signature"},
		{"an unknown kid", oidctest.Token(t, rsaSigner("k2", 1), job(iss, nil)), `no key "k2"`},
		{"alg none", oidctest.Compact(t, map[string]any{"alg": "none", "kid": "k1"}, job(iss, nil), nothing), `signed by "none"`},
		{"alg NonE", oidctest.Compact(t, map[string]any{"alg": "NonE"}, job(iss, nil), nothing), `signed by "NonE"`},
		{"the signature taken off", parts[0] + "." + parts[1] + ".", "signature"},
		{"HS256 with the modulus", oidctest.Compact(t, map[string]any{"alg": "HS256", "kid": "k1"}, job(iss, nil), hmacSHA256(public.N.Bytes())), `signed by "HS256"`},
		{"HS256 with the key as PEM", oidctest.Compact(t, map[string]any{"alg": "HS256", "kid": "k1"}, job(iss, nil), hmacSHA256(pemText)), `signed by "HS256"`},
		{"HS256 with the key as DER", oidctest.Compact(t, map[string]any{"alg": "HS256", "kid": "k1"}, job(iss, nil), hmacSHA256(pkix)), `signed by "HS256"`},
		{"RS256 whose signature is an HMAC", oidctest.Compact(t, map[string]any{"alg": "RS256", "kid": "k1"}, job(iss, nil), hmacSHA256(pemText)), "signature"},
		{"a key of its own in the header", ownKey(t, signer("k1", "ES256", attackersKey), job(iss, nil)), ""},
		{"claims changed after signing", parts[0] + "." + oidctest.Base64(marshal(t, job(iss, map[string]any{"repository": "voidnx/other"}))) + "." + parts[2], "signature"},
		{"issuer confusion: signed by the other", oidctest.Token(t, otherKey, job(iss, nil)), `no key "o1"`},
		{"issuer confusion: named the other", oidctest.Token(t, key, job(other, nil)), `no key "k1"`},
		{"issuer confusion: the other's kid", oidctest.Token(t, signer("o1", "RS256", rsaKeys()[0]), job(other, nil)), `no key "o1"`},
		{"an issuer that nobody knows", oidctest.Token(t, key, job("https://evil.example.org", nil)), "no issuer"},
		{"an issuer with a slash more", oidctest.Token(t, key, job(iss+"/", nil)), "no issuer"},
		{"an issuer in another case", oidctest.Token(t, key, job(strings.ToUpper(iss), nil)), "no issuer"},
		{"no issuer", claim("iss", nil), "no issuer"},
		{"an issuer that is a list", claim("iss", []string{iss}), "no issuer"},
		{"another audience", claim("aud", "https://other.example.org"), `it is for "https://other.example.org"`},
		{"an audience that contains ours", claim("aud", audience+".evil"), "it is for"},
		{"no audience", claim("aud", nil), "absent"},
		{"a list of others' audiences", claim("aud", []string{"a", "b"}), "it is for"},
		{"another repository", claim("repository", "evil/nixtrap"), `its repository is "evil/nixtrap"`},
		{"a similar repository", claim("repository", "voidnxx/nixtrap"), "its repository"},
		{"the pattern in the middle", claim("repository", "evil/voidnx/nixtrap"), "its repository"},
		{"no repository", claim("repository", nil), "its repository is absent"},
		{"a repository that is an object", claim("repository", map[string]any{"voidnx/nixtrap": 1}), "its repository is absent"},
		{"the claim in another case", oidctest.Token(t, key, job(iss, map[string]any{"repository": nil, "Repository": "voidnx/nixtrap"})), "absent"},
		{"expired", claim("exp", now-61), "expired"},
		{"never expiring", claim("exp", nil), "never expires"},
		{"expiry null", oidctest.Token(t, key, nullClaim(job(iss, nil), "exp")), ""},
		{"expiry in words", claim("exp", "tomorrow"), ""},
		{"not yet valid", claim("nbf", now+90), "nbf is to come"},
		{"issued in time to come", claim("iat", now+90), "iat is to come"},
		{"issued in a time that overflows", claim("iat", 1e300), ""},
		{"never issued", claim("iat", nil), "when it was issued"},
		{"another type", oidctest.Compact(t, map[string]any{"alg": "RS256", "kid": "k1", "typ": "logout+jwt"}, job(iss, nil), nothing), `type "logout+jwt"`},
		{"claims that are no object", parts[0] + "." + oidctest.Base64([]byte(`["a"]`)) + "." + parts[2], "no JSON object"},
	} {
		t.Run(c.name, func(t *testing.T) {
			identity, err := a.Authorize(bearer(c.text))
			require.ErrorIs(t, err, httpcache.ErrBadCredential)
			require.ErrorContains(t, err, c.says)
			require.Nil(t, identity)
			require.NotContains(t, err.Error(), parts[2], "no error holds a token")
		})
	}
}

// ownKey is a token whose header brings the key that checks it.
func ownKey(t *testing.T, s oidctest.Signer, claims map[string]any) string {
	key := s.Private.Public()
	header := map[string]any{"alg": s.Algorithm, "kid": s.KeyID, "jwk": jwk(key), "jku": "https://evil.example.org/jwks"}
	return oidctest.Compact(t, header, claims, func(message []byte) []byte { return signES256(t, s.Private, message) })
}

func nullClaim(claims map[string]any, name string) map[string]any {
	claims[name] = nil
	return claims
}

// Truncated and mangled tokens are refused: as bad ones or, where they are no JWT any more, as none.
func TestMangledTokensAreRefused(t *testing.T) {
	key := signer("k1", "ES256", newECKey(t, elliptic.P256()))
	a := newAuthorizer(t, oidctest.New(iss, key), rule(iss))
	text := oidctest.Token(t, key, job(iss, nil))
	for n := range text {
		_, err := a.Authorize(bearer(text[:n]))
		require.Error(t, err, "cut to %d bytes", n)
		if n == len(text)-1 {
			break // the last character holds bits that are not used: with others it is the same signature
		}
		mangled := []byte(text)
		mangled[n] = map[bool]byte{true: 'B', false: 'A'}[mangled[n] == 'A']
		_, err = a.Authorize(bearer(string(mangled)))
		require.Error(t, err, "byte %d", n)
	}
}

func TestWhatIsNoJWTIsNoCredentialOfThisKind(t *testing.T) {
	a := newAuthorizer(t, network{}, rule("https://issuer.example.org"))
	plain := httptest.NewRequest(http.MethodGet, "/", nil)
	password := httptest.NewRequest(http.MethodGet, "/", nil)
	password.SetBasicAuth("a", "one.two.three")
	for name, r := range map[string]*http.Request{
		"nothing": plain, "password": password, "our own token": bearer("nixtrap_aaaaaaaaaa_bbbb"), "two dots": bearer("a.b.c"),
		"JWE": bearer(oidctest.Base64([]byte(`{"alg":"RSA-OAEP"}`)) + ".a.b.c.d"),
	} {
		_, err := a.Authorize(r)
		require.ErrorIs(t, err, httpcache.ErrNoCredential, name)
	}
}

func TestClaims(t *testing.T) {
	key := signer("k1", "ES256", newECKey(t, elliptic.P256()))
	i := oidctest.New(iss, key)
	now := time.Now().Unix()
	for _, c := range []struct {
		name    string
		bound   map[string][]string
		changes map[string]any
		want    bool
	}{
		{"exact", map[string][]string{"repository": {"voidnx/nixtrap"}}, nil, true},
		{"second pattern", map[string][]string{"repository": {"a/b", "voidnx/*"}}, nil, true},
		{"a star over slashes", map[string][]string{"ref": {"refs/heads/*"}}, map[string]any{"ref": "refs/heads/feature/x"}, true},
		{"all must hold", map[string][]string{"repository": {"voidnx/*"}, "ref": {"refs/tags/*"}}, nil, false},
		{"all hold", map[string][]string{"repository": {"voidnx/*"}, "ref": {"refs/heads/*"}}, nil, true},
		{"a star for one of two", map[string][]string{"repository": {"voidnx/*"}, "ref": {"*"}}, nil, true},
		{"a star needs the claim", map[string][]string{"repository": {"voidnx/*"}, "environment": {"*"}}, nil, false},
		{"a long number, as it is written", map[string][]string{"run_id": {"1234567890123456789"}}, nil, true},
		{"another long number", map[string][]string{"run_id": {"1234567890123456788"}}, nil, false},
		{"a boolean", map[string][]string{"ref_protected": {"true"}}, map[string]any{"ref_protected": true}, true},
		{"false is not true", map[string][]string{"ref_protected": {"true"}}, map[string]any{"ref_protected": false}, false},
		{"an element of a list", map[string][]string{"groups": {"ops/*"}}, map[string]any{"groups": []any{"dev", "ops/cache"}}, true},
		{"no element of a list", map[string][]string{"groups": {"ops/*"}}, map[string]any{"groups": []any{"dev", []any{"ops/x"}, nil}}, false},
		{"an empty list", map[string][]string{"groups": {"ops/*"}}, map[string]any{"groups": []any{}}, false},
		{"one of several audiences", map[string][]string{"repository": {"voidnx/*"}}, map[string]any{"aud": []string{"a", audience}}, true},
		{"just expired, within the leeway", map[string][]string{"repository": {"voidnx/*"}}, map[string]any{"exp": now - 30}, true},
		{"a clock that is ahead, within the leeway", map[string][]string{"repository": {"voidnx/*"}}, map[string]any{"iat": now + 30, "nbf": now + 30}, true},
		{"no nbf", map[string][]string{"repository": {"voidnx/*"}}, map[string]any{"nbf": nil}, true},
		{"times with a fraction", map[string][]string{"repository": {"voidnx/*"}}, map[string]any{"exp": float64(now) + 60.5}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := rule(iss)
			r.Claims = c.bound
			a := newAuthorizer(t, i, r)
			_, err := a.Authorize(bearer(oidctest.Token(t, key, job(iss, c.changes))))
			if c.want {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, httpcache.ErrBadCredential)
		})
	}
}

func TestNames(t *testing.T) {
	key := signer("k1", "ES256", newECKey(t, elliptic.P256()))
	i := oidctest.New(iss, key)
	for _, c := range []struct {
		name, template string
		changes        map[string]any
		want           string // "": the token is bad
	}{
		{"subject by default", "", nil, "repo:voidnx/nixtrap:ref:refs/heads/main"},
		{"text alone", "github", nil, "github"},
		{"claims and text", "gh:{repository}@{ref}!", nil, "gh:voidnx/nixtrap@refs/heads/main!"},
		{"a number", "{run_id}", nil, "1234567890123456789"},
		{"absent", "{environment}", nil, ""},
		{"empty", "{ref}", map[string]any{"ref": ""}, ""},
		{"a list", "{ref}", map[string]any{"ref": []string{"a"}}, ""},
		{"what cannot be printed", "{ref}", map[string]any{"ref": "a\nb\x1b[31mc\u202ed"}, "a?b?[31mc?d"},
		{"braces in a value", "{ref}", map[string]any{"ref": "{sub}"}, "{sub}"},
		{"a long one", "{ref}", map[string]any{"ref": strings.Repeat("ä", 300)}, strings.Repeat("ä", 200)},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := rule(iss)
			r.Name = c.template
			a := newAuthorizer(t, i, r)
			got, err := a.Authorize(bearer(oidctest.Token(t, key, job(iss, c.changes))))
			if c.want == "" {
				require.ErrorIs(t, err, httpcache.ErrBadCredential)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, got.Name)
		})
	}
}

func TestSeveralRulesForOneIssuer(t *testing.T) {
	key := signer("k1", "ES256", newECKey(t, elliptic.P256()))
	i := oidctest.New(iss, key)
	pushes, reads := rule(iss), rule(iss)
	pushes.Claims = map[string][]string{"repository": {"voidnx/*"}, "ref": {"refs/heads/main"}}
	reads.Scopes, reads.Audience = httpcache.ScopeRead, "reading"
	a := newAuthorizer(t, i, pushes, reads)
	got, err := a.Authorize(bearer(oidctest.Token(t, key, job(iss, nil))))
	require.NoError(t, err)
	require.True(t, got.Allows(httpcache.ScopePush, "team"))
	got, err = a.Authorize(bearer(oidctest.Token(t, key, job(iss, map[string]any{"aud": []string{"reading", audience}, "ref": "refs/pull/1"}))))
	require.NoError(t, err)
	require.Equal(t, httpcache.ScopeRead, got.Scopes)
	_, err = a.Authorize(bearer(oidctest.Token(t, key, job(iss, map[string]any{"ref": "refs/pull/1"}))))
	require.ErrorIs(t, err, httpcache.ErrBadCredential)
	require.ErrorContains(t, err, "its ref", "each rule's reason is for the log")
	require.ErrorContains(t, err, `not for "reading"`)
	require.Equal(t, 1, i.Count("/jwks"), "they share keys")
}

func TestSettingsThatAreRefused(t *testing.T) {
	const github, gitlab = "https://token.actions.githubusercontent.com", "https://gitlab.com"
	with := func(url string, claims map[string][]string) oidc.Issuer {
		r := rule(url)
		r.Claims = claims
		return r
	}
	change := func(f func(*oidc.Issuer)) oidc.Issuer {
		r := rule("https://issuer.example.org")
		f(&r)
		return r
	}
	for name, c := range map[string]struct {
		issuer oidc.Issuer
		says   string // "": it is fine
	}{
		"fine":                     {rule("https://issuer.example.org"), ""},
		"http":                     {rule("http://issuer.example.org"), "not https"},
		"no URL":                   {rule(""), "not https"},
		"a password in the URL":    {rule("https://a:b@issuer.example.org"), "not https"},
		"a query in the URL":       {rule("https://issuer.example.org?x"), "not https"},
		"no audience":              {change(func(i *oidc.Issuer) { i.Audience = "" }), "no audience"},
		"no scope":                 {change(func(i *oidc.Issuer) { i.Scopes = 0 }), "no scope"},
		"no claims":                {change(func(i *oidc.Issuer) { i.Claims = nil }), "no bound claims"},
		"a claim without patterns": {change(func(i *oidc.Issuer) { i.Claims["ref"] = nil }), `"ref" has no pattern`},
		"stars alone":              {with("https://issuer.example.org", map[string][]string{"sub": {"*"}, "ref": {"**"}}), "fit every token"},
		"a star beside a pattern":  {with("https://issuer.example.org", map[string][]string{"sub": {"a", "*"}}), "fit every token"},
		"an open brace":            {change(func(i *oidc.Issuer) { i.Name = "{sub" }), "braces"},
		"a closing brace":          {change(func(i *oidc.Issuer) { i.Name = "sub}" }), "braces"},
		"braces around nothing":    {change(func(i *oidc.Issuer) { i.Name = "{}" }), "braces"},
		"braces in braces":         {change(func(i *oidc.Issuer) { i.Name = "{{sub}}" }), "braces"},

		"GitHub by branch alone":              {with(github, map[string][]string{"ref": {"refs/heads/main"}}), "everybody can have its tokens"},
		"GitHub by reusable workflow alone":   {with(github, map[string][]string{"job_workflow_ref": {"voidnx/x/.github/workflows/y@*"}}), "everybody"},
		"GitHub by owner":                     {with(github, map[string][]string{"repository_owner": {"voidnx"}}), ""},
		"GitHub by the beginning of an owner": {with(github, map[string][]string{"repository_owner": {"voidnx*"}}), "everybody"},
		"GitHub by repositories of an owner":  {with(github, map[string][]string{"repository": {"voidnx/*"}}), ""},
		"GitHub by similar owners":            {with(github, map[string][]string{"repository": {"voidnx*"}}), "everybody"},
		"GitHub by any owner's repository":    {with(github, map[string][]string{"repository": {"*/nixtrap"}}), "everybody"},
		"GitHub by one good and one loose":    {with(github, map[string][]string{"repository": {"voidnx/*", "void*"}}), "everybody"},
		"GitHub by subject":                   {with(github, map[string][]string{"sub": {"repo:voidnx/nixtrap:*"}}), ""},
		"GitHub by any subject":               {with(github, map[string][]string{"sub": {"repo:*:ref:refs/heads/main"}}), "everybody"},
		"GitLab by project":                   {with(gitlab, map[string][]string{"project_path": {"voidnx/*"}, "ref": {"main"}}), ""},
		"GitLab by branch":                    {with(gitlab, map[string][]string{"ref": {"main"}}), "everybody"},
		"a GitLab of one's own by branch":     {with("https://gitlab.example.org", map[string][]string{"ref": {"main"}}), ""},
	} {
		t.Run(name, func(t *testing.T) {
			a, err := oidc.New([]oidc.Issuer{c.issuer}, nil)
			if c.says == "" {
				require.NoError(t, err)
				require.NoError(t, a.Close())
				return
			}
			require.ErrorContains(t, err, c.says)
		})
	}
	_, err := oidc.New(nil, nil)
	require.ErrorContains(t, err, "no issuer")
}

func TestSettingsAreCopied(t *testing.T) {
	key := signer("k1", "ES256", newECKey(t, elliptic.P256()))
	r := rule(iss)
	a := newAuthorizer(t, oidctest.New(iss, key), r)
	r.Claims["repository"][0], r.Caches[0] = "nobody/*", "other"
	delete(r.Claims, "repository")
	got, err := a.Authorize(bearer(oidctest.Token(t, key, job(iss, nil))))
	require.NoError(t, err)
	require.Equal(t, []string{"team"}, got.Caches)
}
