package clientcert_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/httpcache/clientcert"
)

// authority issues certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return &authority{cert, key}
}

// issue completes the template and signs it.
func (a *authority) issue(t testing.TB, template x509.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template.SerialNumber = big.NewInt(2)
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	der, err := x509.CreateCertificate(rand.Reader, &template, a.cert, key.Public(), a.key)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func parseURL(t testing.TB, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	require.NoError(t, err)
	return u
}

func request(certs ...tls.Certificate) *http.Request {
	r := httptest.NewRequest(http.MethodPut, "/a.narinfo", nil)
	r.TLS = &tls.ConnectionState{}
	for _, c := range certs {
		r.TLS.VerifiedChains = append(r.TLS.VerifiedChains, []*x509.Certificate{c.Leaf})
	}
	return r
}

func TestRules(t *testing.T) {
	const push = httpcache.ScopePush
	cert := newAuthority(t).issue(t, x509.Certificate{
		Subject:        pkix.Name{CommonName: "builder-7", Organization: []string{"ops"}},
		DNSNames:       []string{"b7.example.org", "B7.Internal"},
		URIs:           []*url.URL{parseURL(t, "spiffe://example.org/builder/7")},
		EmailAddresses: []string{"Ops@Example.org"},
	})
	for _, c := range []struct {
		name string
		rule clientcert.Rule
		want string // the identity's name, "" if there is none
	}{
		{"common name", clientcert.Rule{CommonName: "builder-7"}, "builder-7"},
		{"pattern", clientcert.Rule{CommonName: "builder-*"}, "builder-7"},
		{"another common name", clientcert.Rule{CommonName: "builder-70"}, ""},
		{"a part of it", clientcert.Rule{CommonName: "builder"}, ""},
		{"common name in another case", clientcert.Rule{CommonName: "Builder-7"}, ""},
		{"no other field of the subject", clientcert.Rule{CommonName: "ops"}, ""},
		{"host", clientcert.Rule{DNSName: "b7.example.org"}, "b7.example.org"},
		{"host pattern", clientcert.Rule{DNSName: "*.example.org"}, "b7.example.org"},
		{"second host in another case", clientcert.Rule{DNSName: "b7.INTERNAL"}, "b7.internal"},
		{"the common name is no host", clientcert.Rule{DNSName: "builder-7"}, ""},
		{"a host is no common name", clientcert.Rule{CommonName: "b7.example.org"}, ""},
		{"URI", clientcert.Rule{URI: "spiffe://example.org/builder/*"}, "spiffe://example.org/builder/7"},
		{"URI of another trust domain", clientcert.Rule{URI: "spiffe://example.com/builder/*"}, ""},
		{"mail", clientcert.Rule{Email: "Ops@example.ORG"}, "Ops@example.org"},
		{"mail in another case", clientcert.Rule{Email: "ops@example.org"}, ""},
		{"all of several", clientcert.Rule{DNSName: "b7.*", CommonName: "builder-*"}, "builder-7"},
		{"one of several does not match", clientcert.Rule{DNSName: "b8.*", CommonName: "builder-*"}, ""},
		{"a name of its own", clientcert.Rule{CommonName: "*", Name: "builders"}, "builders"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.rule.Scopes, c.rule.Caches = push, []string{"a"}
			a, err := clientcert.New([]clientcert.Rule{c.rule})
			require.NoError(t, err)
			got, err := a.Authorize(request(cert))
			if c.want == "" {
				require.ErrorIs(t, err, httpcache.ErrNoCredential)
				require.Nil(t, got)
				return
			}
			require.NoError(t, err)
			require.Equal(t, &httpcache.Identity{Name: c.want, Scopes: push, Caches: []string{"a"}}, got)
		})
	}
}

func TestACertificateWithoutNamesMatchesNoStar(t *testing.T) {
	cert := newAuthority(t).issue(t, x509.Certificate{})
	for _, rule := range []clientcert.Rule{{CommonName: "*"}, {DNSName: "*"}, {URI: "*"}, {Email: "*"}} {
		rule.Scopes = httpcache.ScopeRead
		a, err := clientcert.New([]clientcert.Rule{rule})
		require.NoError(t, err)
		_, err = a.Authorize(request(cert))
		require.ErrorIs(t, err, httpcache.ErrNoCredential)
	}
}

func TestFirstRuleDecides(t *testing.T) {
	rules := []clientcert.Rule{
		{CommonName: "admin", Scopes: httpcache.ScopeAdmin, Caches: []string{"a"}},
		{CommonName: "*", Scopes: httpcache.ScopeRead},
	}
	a, err := clientcert.New(rules)
	require.NoError(t, err)
	rules[1].Scopes, rules[0].Caches[0] = httpcache.ScopeAdmin, "b" // what was copied stays
	ca := newAuthority(t)
	admin, err := a.Authorize(request(ca.issue(t, x509.Certificate{Subject: pkix.Name{CommonName: "admin"}})))
	require.NoError(t, err)
	require.Equal(t, &httpcache.Identity{Name: "admin", Scopes: httpcache.ScopeAdmin, Caches: []string{"a"}}, admin)
	other, err := a.Authorize(request(ca.issue(t, x509.Certificate{Subject: pkix.Name{CommonName: "other"}})))
	require.NoError(t, err)
	require.Equal(t, httpcache.ScopeRead, other.Scopes)
}

func TestOnlyVerifiedChainsCount(t *testing.T) {
	a, err := clientcert.New([]clientcert.Rule{{CommonName: "*", Scopes: httpcache.ScopePush}})
	require.NoError(t, err)
	cert := newAuthority(t).issue(t, x509.Certificate{Subject: pkix.Name{CommonName: "forged"}})
	plain := httptest.NewRequest(http.MethodGet, "/", nil)
	plain.TLS = nil
	presented := request()
	presented.TLS.PeerCertificates = []*x509.Certificate{cert.Leaf}
	header := request()
	header.Header.Set("X-Ssl-Client-S-Dn", "CN=forged")
	for name, r := range map[string]*http.Request{"no TLS": plain, "no certificate": request(), "presented": presented, "a header": header} {
		_, err := a.Authorize(r)
		require.ErrorIs(t, err, httpcache.ErrNoCredential, name)
	}
}

func TestCertificateExpiresDuringAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, err := clientcert.New([]clientcert.Rule{{CommonName: "*", Scopes: httpcache.ScopePush}})
		require.NoError(t, err)
		cert := newAuthority(t).issue(t, x509.Certificate{
			Subject: pkix.Name{CommonName: "ci"}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Minute),
		})
		r := request(cert)
		_, err = a.Authorize(r)
		require.NoError(t, err)
		time.Sleep(time.Minute + time.Second)
		_, err = a.Authorize(r)
		require.ErrorIs(t, err, httpcache.ErrBadCredential)
	})
}

func TestRulesThatAreNone(t *testing.T) {
	_, err := clientcert.New(nil)
	require.ErrorContains(t, err, "no rule")
	_, err = clientcert.New([]clientcert.Rule{{Name: "a", Scopes: httpcache.ScopeRead}})
	require.ErrorContains(t, err, "rule 1 has no pattern")
	_, err = clientcert.New([]clientcert.Rule{{CommonName: "a", Scopes: httpcache.ScopeRead}, {CommonName: "b"}})
	require.ErrorContains(t, err, "rule 2 has no scope")
}

// A real server's handshakes: of its own authority, of another one, and without a certificate.
func TestOverTLS(t *testing.T) {
	a, err := clientcert.New([]clientcert.Rule{{CommonName: "ci", Scopes: httpcache.ScopePush}})
	require.NoError(t, err)
	ca := newAuthority(t)
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	for _, c := range []struct {
		name  string
		mode  tls.ClientAuthType
		certs []tls.Certificate
		want  string // "": the handshake fails
	}{
		{"verified", tls.VerifyClientCertIfGiven, []tls.Certificate{ca.issue(t, x509.Certificate{Subject: pkix.Name{CommonName: "ci"}})}, "ci"},
		{"none", tls.VerifyClientCertIfGiven, nil, "none"},
		{"of another authority", tls.VerifyClientCertIfGiven, []tls.Certificate{newAuthority(t).issue(t, x509.Certificate{Subject: pkix.Name{CommonName: "ci"}})}, ""},
		{"not verified by the server", tls.RequireAnyClientCert, []tls.Certificate{newAuthority(t).issue(t, x509.Certificate{Subject: pkix.Name{CommonName: "ci"}})}, "none"},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				identity, err := a.Authorize(r)
				if errors.Is(err, httpcache.ErrNoCredential) {
					fmt.Fprint(w, "none")
					return
				}
				fmt.Fprint(w, identity.Name)
			}))
			server.TLS = &tls.Config{ClientAuth: c.mode, ClientCAs: pool}
			server.Config.ErrorLog = log.New(io.Discard, "", 0)
			server.StartTLS()
			defer server.Close()
			client := server.Client()
			// GetClientCertificate, for a client on its own presents no certificate that the server won't accept.
			client.Transport.(*http.Transport).TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				if len(c.certs) == 0 {
					return &tls.Certificate{}, nil
				}
				return &c.certs[0], nil
			}
			response, err := client.Get(server.URL)
			if c.want == "" {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			require.NoError(t, err)
			require.Equal(t, c.want, string(body))
		})
	}
}

func ExampleNew() {
	authorizer, err := clientcert.New([]clientcert.Rule{
		{URI: "spiffe://example.org/builder/*", Scopes: httpcache.ScopeRead | httpcache.ScopePush},
		{CommonName: "*.office.example.org", Scopes: httpcache.ScopeRead, Caches: []string{"team"}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	leaf := &x509.Certificate{
		Subject: pkix.Name{CommonName: "desk.office.example.org"}, NotAfter: time.Now().Add(time.Hour),
	}
	r := httptest.NewRequest(http.MethodGet, "/team/nix-cache-info", nil)
	r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{leaf}}}
	identity, err := authorizer.Authorize(r)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(identity.Name, identity.Scopes, identity.Allows(httpcache.ScopeRead, "other"))
	// Output: desk.office.example.org read false
}
