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
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/httpcache/oidc"
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

// signer is one of an issuer's keys.
type signer struct {
	kid, alg string
	private  crypto.Signer
}

func rsaSigner(kid string, n int) signer { return signer{kid, "RS256", rsaKeys()[n]} }

// issuer is an OpenID Connect issuer. Without a server of its own it is an http.RoundTripper.
type issuer struct {
	url string

	mu        sync.Mutex
	keys      []jose.JSONWebKey
	discovery func(w http.ResponseWriter) // in place of the usual document
	jwks      func(w http.ResponseWriter)
	requests  map[string]int // by path
}

func newIssuer(url string, signers ...signer) *issuer {
	i := &issuer{url: url, requests: make(map[string]int)}
	i.publish(signers...)
	return i
}

func (i *issuer) publish(signers ...signer) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = nil
	for _, s := range signers {
		i.keys = append(i.keys, jose.JSONWebKey{Key: s.private.Public(), KeyID: s.kid, Algorithm: s.alg, Use: "sig"})
	}
}

// set changes what the issuer does.
func (i *issuer) set(change func(*issuer)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	change(i)
}

func (i *issuer) count(path string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.requests[path]
}

func (i *issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	i.requests[r.URL.Path]++
	discovery, jwks, keys := i.discovery, i.jwks, i.keys
	i.mu.Unlock()
	switch {
	case strings.HasSuffix(r.URL.Path, "/.well-known/openid-configuration") && discovery != nil:
		discovery(w)
	case strings.HasSuffix(r.URL.Path, "/.well-known/openid-configuration"):
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{
			"issuer": i.url, "jwks_uri": i.url + "/jwks", "id_token_signing_alg_values_supported": []string{"RS256", "HS256", "none"},
		})
	case strings.HasSuffix(r.URL.Path, "/jwks") && jwks != nil:
		jwks(w)
	case strings.HasSuffix(r.URL.Path, "/jwks"):
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: keys})
	default:
		http.NotFound(w, r)
	}
}

// RoundTrip answers without a network, so that time may be synctest's.
func (i *issuer) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	i.ServeHTTP(w, r)
	response := w.Result()
	response.Request = r
	return response, nil
}

// network leads requests to issuers by their hosts.
type network map[string]http.RoundTripper

func (n network) RoundTrip(r *http.Request) (*http.Response, error) {
	if next := n[r.URL.Host]; next != nil {
		return next.RoundTrip(r)
	}
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: fmt.Errorf("no route to %q", r.URL.Host)}
}

// authority is a CA of the tests' own.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return &authority{cert, key}
}

// transport trusts the authority alone.
func (a *authority) transport(t testing.TB) *http.Transport {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

// serve starts the issuer on a free port, with a certificate of the authority's, and sets its URL.
func (a *authority) serve(t testing.TB, i *issuer) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	require.NoError(t, err)
	server := httptest.NewUnstartedServer(i)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	i.url = server.URL
}

// b64 is base64url without padding.
func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return b
}

// compact signs with whatever function over whatever header: also what no library would.
func compact(t testing.TB, header, claims map[string]any, sign func(message []byte) []byte) string {
	t.Helper()
	message := b64(marshal(t, header)) + "." + b64(marshal(t, claims))
	return message + "." + b64(sign([]byte(message)))
}

// token is a JWT signed as the signer's algorithm has it.
func token(t testing.TB, s signer, claims map[string]any) string {
	t.Helper()
	options := (&jose.SignerOptions{}).WithType("JWT")
	if s.kid != "" {
		options = options.WithHeader("kid", s.kid)
	}
	js, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(s.alg), Key: s.private}, options)
	require.NoError(t, err)
	signed, err := js.Sign(marshal(t, claims))
	require.NoError(t, err)
	text, err := signed.CompactSerialize()
	require.NoError(t, err)
	return text
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
