// Package oidctest is an OpenID Connect issuer for tests, and the tokens that it and forgers make.
//
// An [Issuer] answers over TLS with [Issuer.Serve], or without a network as an [http.RoundTripper].
package oidctest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/voidnxlab/nixtrap/internal/tlstest"
)

// Signer is one of an issuer's keys.
type Signer struct {
	KeyID, Algorithm string // the algorithm as in a token's header; published without one, a key is for all that suit it
	Private          crypto.Signer
}

// NewSigner makes a key for ES256.
func NewSigner(t testing.TB, keyID string) Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return Signer{keyID, "ES256", key}
}

// Issuer is an OpenID Connect issuer. It is safe for concurrent use once it serves, its fields by [Issuer.Set].
type Issuer struct {
	// URL is as in its tokens' iss.
	URL string
	// Keys are what it publishes.
	Keys []jose.JSONWebKey
	// Discovery and KeySet answer in place of the usual documents, unless nil.
	Discovery, KeySet func(w http.ResponseWriter)

	mu       sync.Mutex     // guards all fields, while it serves
	requests map[string]int // by path
}

// New returns an issuer that publishes the signers' public keys.
func New(url string, signers ...Signer) *Issuer {
	i := &Issuer{URL: url, requests: make(map[string]int)}
	i.Publish(signers...)
	return i
}

// Serve answers at 127.0.0.1 with a certificate of the authority's, until the test's end, and sets the URL.
func (i *Issuer) Serve(t testing.TB, a *tlstest.Authority) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(i)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{a.Certificate(t)}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	i.URL = server.URL
	return server
}

// Publish replaces the keys that it publishes.
func (i *Issuer) Publish(signers ...Signer) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.Keys = nil
	for _, s := range signers {
		i.Keys = append(i.Keys, jose.JSONWebKey{Key: s.Private.Public(), KeyID: s.KeyID, Algorithm: s.Algorithm, Use: "sig"})
	}
}

// Set changes what the issuer does.
func (i *Issuer) Set(change func(*Issuer)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	change(i)
}

// Count is how often a path was asked for.
func (i *Issuer) Count(path string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.requests[path]
}

// ServeHTTP implements [http.Handler].
func (i *Issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	i.requests[r.URL.Path]++
	discovery, keySet, keys := i.Discovery, i.KeySet, i.Keys
	i.mu.Unlock()
	switch {
	case strings.HasSuffix(r.URL.Path, "/.well-known/openid-configuration") && discovery != nil:
		discovery(w)
	case strings.HasSuffix(r.URL.Path, "/.well-known/openid-configuration"):
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{
			"issuer": i.URL, "jwks_uri": i.URL + "/jwks", "id_token_signing_alg_values_supported": []string{"RS256", "HS256", "none"},
		})
	case strings.HasSuffix(r.URL.Path, "/jwks") && keySet != nil:
		keySet(w)
	case strings.HasSuffix(r.URL.Path, "/jwks"):
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: keys})
	default:
		http.NotFound(w, r)
	}
}

// RoundTrip answers without a network, so that time may be synctest's.
func (i *Issuer) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	i.ServeHTTP(w, r)
	response := w.Result()
	response.Request = r
	return response, nil
}

// Token is a JWT signed as the signer's algorithm has it.
func Token(t testing.TB, s Signer, claims map[string]any) string {
	t.Helper()
	options := (&jose.SignerOptions{}).WithType("JWT")
	if s.KeyID != "" {
		options = options.WithHeader("kid", s.KeyID)
	}
	js, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(s.Algorithm), Key: s.Private}, options)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := js.Sign(marshal(t, claims))
	if err != nil {
		t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Compact is a JWT signed with whatever function over whatever header: also what no library would.
func Compact(t testing.TB, header, claims map[string]any, sign func(message []byte) []byte) string {
	t.Helper()
	message := Base64(marshal(t, header)) + "." + Base64(marshal(t, claims))
	return message + "." + Base64(sign([]byte(message)))
}

// Base64 is base64url without padding, as the parts of a JWT are.
func Base64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
