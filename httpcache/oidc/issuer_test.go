package oidc_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/httpcache/oidc"
	"github.com/voidnxlab/nixtrap/internal/oidctest"
)

// rsaKeys are made once, for that takes long.
var rsaKeys = sync.OnceValue(func() (keys [3]*rsa.PrivateKey) {
	for i, bits := range []int{2048, 2048, 1024} {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			panic(err)
		}
		keys[i] = key
	}
	return keys
})

func signer(kid, alg string, private crypto.Signer) oidctest.Signer {
	return oidctest.Signer{KeyID: kid, Algorithm: alg, Private: private}
}

func rsaSigner(kid string, n int) oidctest.Signer {
	return signer(kid, "RS256", rsaKeys()[n])
}

// network leads requests to issuers by their hosts.
type network map[string]http.RoundTripper

func (n network) RoundTrip(r *http.Request) (*http.Response, error) {
	if next := n[r.URL.Host]; next != nil {
		return next.RoundTrip(r)
	}
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: fmt.Errorf("no route to %q", r.URL.Host)}
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return b
}

func hmacSHA256(secret []byte) func([]byte) []byte {
	return func(message []byte) []byte {
		mac := hmac.New(sha256.New, secret)
		mac.Write(message)
		return mac.Sum(nil)
	}
}

const audience = "https://cache.example.org"

// job is the claims of a token that is right in every way, with changes; a nil value takes a claim away.
func job(iss string, changes map[string]any) map[string]any {
	now := time.Now().Unix()
	claims := map[string]any{
		"iss": iss, "aud": audience, "sub": "repo:voidnx/nixtrap:ref:refs/heads/main", "repository": "voidnx/nixtrap",
		"ref": "refs/heads/main", "run_id": 1234567890123456789, "iat": now, "nbf": now - 5, "exp": now + 300,
	}
	maps.Copy(claims, changes)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	return claims
}

// rule is a rule for such jobs.
func rule(iss string) oidc.Issuer {
	return oidc.Issuer{
		URL: iss, Audience: audience, Claims: map[string][]string{"repository": {"voidnx/*"}},
		Scopes: httpcache.ScopeRead | httpcache.ScopePush, Caches: []string{"team"}, Name: "{repository}",
	}
}

func newAuthorizer(t testing.TB, transport http.RoundTripper, issuers ...oidc.Issuer) *oidc.Authorizer {
	t.Helper()
	a, err := oidc.New(issuers, &oidc.Options{Transport: transport})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, a.Close()) })
	return a
}

func bearer(text string) *http.Request {
	r := httptest.NewRequest(http.MethodPut, "/a.narinfo", nil)
	r.Header.Set("Authorization", "Bearer "+text)
	return r
}

func newECKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	require.NoError(t, err)
	return key
}

func newEdKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	return key
}

func jwk(public crypto.PublicKey) jose.JSONWebKey { return jose.JSONWebKey{Key: public} }

func signES256(t testing.TB, private crypto.Signer, message []byte) []byte {
	t.Helper()
	digest := sha256.Sum256(message)
	r, s, err := ecdsa.Sign(rand.Reader, private.(*ecdsa.PrivateKey), digest[:])
	require.NoError(t, err)
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return signature
}
