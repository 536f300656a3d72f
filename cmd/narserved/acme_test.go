package main_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fakeCA is as much of a certificate authority (RFC 8555) as one order needs. It proves the TLS-ALPN challenge
// (RFC 8737) as a real one does, but checks no request's signature.
type fakeCA struct {
	t      *testing.T
	url    string
	pool   *x509.CertPool
	issuer certificate
	key    *ecdsa.PrivateKey

	mu         sync.Mutex // guards all below
	target     string     // where the server for every domain is
	orders     int
	thumbprint string // of the account's key
	domain     string
	status     string // of the order
	leaf       []byte // DER
}

func newFakeCA(t *testing.T) *fakeCA {
	ca := &fakeCA{t: t, issuer: newCertificate(t, 100, time.Hour), pool: x509.NewCertPool()}
	block, _ := pem.Decode(ca.issuer.keyPEM)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	require.NoError(t, err)
	ca.key = key.(*ecdsa.PrivateKey)
	ca.pool.AddCert(ca.issuer.parsed)
	server := httptest.NewServer(http.HandlerFunc(ca.serve))
	t.Cleanup(server.Close)
	ca.url = server.URL
	return ca
}

func (ca *fakeCA) serve(w http.ResponseWriter, r *http.Request) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	w.Header().Set("Replay-Nonce", rand.Text())
	protected, payload := decodeJWS(r)
	switch r.URL.Path {
	case "/directory":
		ca.reply(w, http.StatusOK, map[string]any{
			"newNonce": ca.url + "/nonce", "newAccount": ca.url + "/account", "newOrder": ca.url + "/order",
			"revokeCert": ca.url + "/revoke", "keyChange": ca.url + "/change",
		})
	case "/account":
		ca.thumbprint = thumbprint(protected)
		w.Header().Set("Location", ca.url+"/account/1")
		ca.reply(w, http.StatusCreated, map[string]any{"status": "valid"})
	case "/order":
		var order struct{ Identifiers []struct{ Value string } }
		_ = json.Unmarshal(payload, &order)
		ca.orders++
		ca.domain, ca.status = order.Identifiers[0].Value, "pending"
		ca.replyOrder(w, http.StatusCreated)
	case "/authz":
		ca.reply(w, http.StatusOK, map[string]any{"status": ca.authorization(), "identifier": ca.identifier(),
			"challenges": []any{ca.challenge()}})
	case "/challenge":
		ca.status = "invalid"
		if err := ca.prove(); err == nil {
			ca.status = "ready"
		} else {
			ca.t.Log("challenge:", err)
		}
		ca.reply(w, http.StatusOK, ca.challenge())
	case "/order/1":
		ca.replyOrder(w, http.StatusOK)
	case "/finalize":
		ca.leaf, ca.status = ca.issue(payload), "valid"
		ca.replyOrder(w, http.StatusOK)
	case "/certificate":
		_ = pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: ca.leaf})
		_, _ = w.Write(ca.issuer.certPEM)
	}
}

func (ca *fakeCA) reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func (ca *fakeCA) replyOrder(w http.ResponseWriter, status int) {
	w.Header().Set("Location", ca.url+"/order/1")
	ca.reply(w, status, map[string]any{"status": ca.status, "identifiers": []any{ca.identifier()},
		"authorizations": []string{ca.url + "/authz"}, "finalize": ca.url + "/finalize",
		"certificate": ca.url + "/certificate"})
}

func (ca *fakeCA) identifier() map[string]string {
	return map[string]string{"type": "dns", "value": ca.domain}
}

func (ca *fakeCA) authorization() string {
	if ca.status == "ready" {
		return "valid"
	}
	return ca.status
}

func (ca *fakeCA) challenge() map[string]string {
	return map[string]string{
		"type": "tls-alpn-01", "url": ca.url + "/challenge", "token": "token", "status": ca.authorization(),
	}
}

// prove connects to the domain's server as the challenge demands.
func (ca *fakeCA) prove() error {
	conn, err := tls.Dial("tcp", ca.target, &tls.Config{
		InsecureSkipVerify: true, ServerName: ca.domain, NextProtos: []string{"acme-tls/1"},
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	sum := sha256.Sum256([]byte("token." + ca.thumbprint))
	want, _ := asn1.Marshal(sum[:])
	for _, extension := range conn.ConnectionState().PeerCertificates[0].Extensions {
		if extension.Id.String() == "1.3.6.1.5.5.7.1.31" && bytes.Equal(extension.Value, want) {
			return nil
		}
	}
	return fmt.Errorf("%s does not show the challenge's digest", ca.target)
}

func (ca *fakeCA) issue(payload []byte) []byte {
	var finalize struct{ CSR string }
	_ = json.Unmarshal(payload, &finalize)
	der, _ := base64.RawURLEncoding.DecodeString(finalize.CSR)
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil
	}
	leaf, _ := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(42), DNSNames: csr.DNSNames,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour),
	}, ca.issuer.parsed, csr.PublicKey, ca.key)
	return leaf
}

func decodeJWS(r *http.Request) (protected, payload []byte) {
	var jws struct{ Protected, Payload string }
	_ = json.NewDecoder(r.Body).Decode(&jws)
	protected, _ = base64.RawURLEncoding.DecodeString(jws.Protected)
	payload, _ = base64.RawURLEncoding.DecodeString(jws.Payload)
	return protected, payload
}

// thumbprint is that of RFC 7638 for the elliptic curve key in a JWS header.
func thumbprint(protected []byte) string {
	var header struct {
		JWK struct{ Crv, Kty, X, Y string }
	}
	_ = json.Unmarshal(protected, &header)
	k := header.JWK
	sum := sha256.Sum256(fmt.Appendf(nil, `{"crv":%q,"kty":%q,"x":%q,"y":%q}`, k.Crv, k.Kty, k.X, k.Y))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func TestACMECertificateIsFetchedOnceForTheConfiguredHostOnly(t *testing.T) {
	ca, state := newFakeCA(t), t.TempDir()
	args := []string{"--state-dir", state, "--store", newBucket(t).URI(), "--listen", "127.0.0.1:0",
		"--acme-domain", "cache.test", "--acme-email", "operator@example.org", "--acme-directory", ca.url + "/directory"}
	for _, round := range []string{"fetched", "kept over a restart"} {
		d := startDaemon(t, nil, "narserved", args...)
		address := d.says(t, `msg=listening address=(\S+) url=https://cache.test:`)[1]
		ca.mu.Lock()
		ca.target = address
		ca.mu.Unlock()

		conn, err := tls.Dial("tcp", address, &tls.Config{
			ServerName: "cache.test", RootCAs: ca.pool, NextProtos: []string{"h2"},
		})
		require.NoError(t, err, round)
		require.Equal(t, "h2", conn.ConnectionState().NegotiatedProtocol)
		require.NoError(t, conn.Close())
		_, err = tls.Dial("tcp", address, &tls.Config{ServerName: "other.test", RootCAs: ca.pool})
		require.Error(t, err, "no certificate is asked for another host")
		d.stop(t)

		ca.mu.Lock()
		require.Equal(t, 1, ca.orders, round)
		ca.mu.Unlock()
		require.FileExists(t, filepath.Join(state, "acme/cache.test"))
	}
}
